//! The store of finished stages, addressed by content, and the work folder of a stage that runs.
//!
//! ```text
//! <root>/cache/<kind>-<key>/            a finished stage: its outputs and, last of all, manifest.json
//! <root>/cache/work/<kind>-<key>/       a running or interrupted one: outputs so far, checkpoint.safetensors, lock
//! <root>/runs/<study>.<profile>/        record.json and the report
//! ```
//!
//! A key is SHA-256 over canonical JSON (keys sorted, no spaces) of everything that the outputs depend on. A finished
//! folder appears by one rename after every file in it is on the disk, so a process killed at any moment leaves either
//! nothing or all of it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::Kind;
use crate::{Error, Result};

/// Everything a stage's outputs depend on; its hash is the stage's key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ingredients {
    /// "sample", "train", "evaluate".
    pub kind: String,
    /// Raised by whoever changes what the stage computes.
    pub code: u32,
    /// The stage's specification.
    pub spec: Value,
    /// SHA-256 of weight files and keys of earlier stages, by role.
    pub inputs: BTreeMap<String, String>,
}

impl Ingredients {
    /// 64 hexadecimal digits.
    pub fn key(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or(Value::Null);
        sha256_hex(canonical(&value).as_bytes())
    }

    /// What differs from `other`, one line each, as "recipe.distance: \"mse\" instead of \"norm_sample\"".
    pub fn differences(&self, other: &Ingredients) -> Vec<String> {
        let mut lines = Vec::new();
        if self.code != other.code {
            lines.push(format!("the stage's code: version {} instead of {}", self.code, other.code));
        }
        compare("", &other.spec, &self.spec, &mut lines);
        for (role, sha) in &self.inputs {
            match other.inputs.get(role) {
                Some(theirs) if theirs == sha => {}
                Some(_) => lines.push(format!("{role} is another")),
                None => lines.push(format!("{role} is new")),
            }
        }
        lines
    }
}

fn compare(path: &str, old: &Value, new: &Value, lines: &mut Vec<String>) {
    let join = |k: &str| if path.is_empty() { k.to_string() } else { format!("{path}.{k}") };
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            for (k, v) in b {
                compare(&join(k), a.get(k).unwrap_or(&Value::Null), v, lines);
            }
            for k in a.keys().filter(|k| !b.contains_key(*k)) {
                lines.push(format!("{} is gone", join(k)));
            }
        }
        (a, b) if a == b => {}
        (Value::Null, b) => lines.push(format!("{path}: {} is new", short(b))),
        (a, b) => lines.push(format!("{path}: {} instead of {}", short(b), short(a))),
    }
}

/// A value in a message: whole tables are only named by their keys.
fn short(value: &Value) -> String {
    match value {
        Value::Object(map) => format!("{{{}}}", map.keys().map(String::as_str).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// JSON with sorted keys and no spaces: one text per value.
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            let items: Vec<String> = keys.into_iter().map(|k| format!("{}:{}", Value::String(k.clone()), canonical(&map[k]))).collect();
            format!("{{{}}}", items.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// SHA-256 of `bytes` in lower-case hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// SHA-256 of a file.
pub fn sha256_file(path: &Path) -> Result<String> {
    let read = |e| Error::io(path, "reading", e);
    let mut file = File::open(path).map_err(read)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(read)? {
            0 => return Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// Writes `bytes` to `path` so that the file is either the old one or the whole new one, also after a power cut.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let result = write_synced(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path).map_err(|e| Error::io(path, "renaming", e)))
        .and_then(|()| sync_folder(folder_of(path)));
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// The folder of a file; that of a bare name is the current one.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = |e| Error::io(path, "writing", e);
    let mut file = File::create(path).map_err(write)?;
    file.write_all(bytes).map_err(write)?;
    file.sync_all().map_err(write)
}

fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|f| f.sync_all()).map_err(|e| Error::io(path, "syncing the folder", e))
}

pub fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::io(path, "creating the folder", e))
}

/// What stands in a finished stage's folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub key: String,
    pub ingredients: Ingredients,
    /// Wall time of the work in seconds; after an interruption, with the time up to the checkpoint from which it went on.
    pub seconds: f64,
    pub peak_memory_bytes: u64,
    pub files: BTreeMap<String, FileInfo>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileInfo {
    pub bytes: u64,
    pub sha256: String,
}

/// The store below one root folder (`results`, or `--out`).
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Store { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a run's record and report.
    pub fn run_folder(&self, run: &str) -> PathBuf {
        self.root.join("runs").join(run)
    }

    fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    fn name(kind: &str, key: &str) -> String {
        format!("{kind}-{}", &key[..key.len().min(20)])
    }

    /// The finished stage under these ingredients; `None` when there is none, the reason when there is a damaged one.
    pub fn find(&self, ingredients: &Ingredients) -> Result<Finished, Option<String>> {
        let key = ingredients.key();
        let folder = self.cache().join(Self::name(&ingredients.kind, &key));
        let Ok(text) = fs::read_to_string(folder.join("manifest.json")) else { return Err(None) };
        let manifest: Manifest = serde_json::from_str(&text).map_err(|_| Some("its cached manifest is damaged".to_string()))?;
        if manifest.key != key {
            return Err(Some("its cached manifest belongs to another key".into()));
        }
        for (name, info) in &manifest.files {
            match fs::metadata(folder.join(name)) {
                Ok(m) if m.len() == info.bytes => {}
                _ => return Err(Some(format!("its cached file {name} is missing or has another size"))),
            }
        }
        Ok(Finished { folder, manifest })
    }

    /// The finished stage of this kind and key, if it is here and whole.
    pub fn with_key(&self, kind: &str, key: &str) -> Option<Finished> {
        let text = fs::read_to_string(self.cache().join(Self::name(kind, key)).join("manifest.json")).ok()?;
        let manifest: Manifest = serde_json::from_str(&text).ok()?;
        self.find(&manifest.ingredients).ok().filter(|f| f.manifest.key == key)
    }

    /// Every finished stage of this kind, to explain why a stage is not cached.
    pub fn all(&self, kind: &str) -> Vec<Manifest> {
        let Ok(entries) = fs::read_dir(self.cache()) else { return Vec::new() };
        let mut found: Vec<(String, Manifest)> = entries
            .flatten()
            .filter_map(|e| {
                let name = e.file_name().to_string_lossy().into_owned();
                name.strip_prefix(kind)?.strip_prefix('-')?;
                let text = fs::read_to_string(e.path().join("manifest.json")).ok()?;
                Some((name, serde_json::from_str(&text).ok()?))
            })
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found.into_iter().map(|(_, m)| m).collect()
    }

    /// Opens the work folder of a stage, as an interrupted process left it or empty.
    ///
    /// Errors: Busy if another process works on the same stage; Resource if the folder can't be written.
    pub fn begin(&self, ingredients: &Ingredients) -> Result<Work> {
        let name = Self::name(&ingredients.kind, &ingredients.key());
        let folder = self.cache().join("work").join(&name);
        create_folder(&folder)?;
        let lock = Lock::take(&folder.join("lock"), &format!("the stage {name}"))?;
        // What a killed process was writing is never valid.
        for entry in fs::read_dir(&folder).map_err(|e| Error::io(&folder, "reading", e))?.flatten() {
            if entry.file_name().to_string_lossy().ends_with(".tmp") {
                let _ = fs::remove_file(entry.path());
            }
        }
        let earlier = [CHECKPOINT, PREVIOUS].iter().find_map(|name| {
            let state = checkpoint_state(&fs::read(folder.join(name)).ok()?)?;
            state.get("seconds")?.as_f64()
        });
        let (earlier, started) = (earlier.unwrap_or(0.0), Instant::now());
        Ok(Work { folder, target: self.cache().join(&name), ingredients: ingredients.clone(), earlier, started, _lock: lock })
    }

    /// True if an interrupted process left a checkpoint of this stage.
    pub fn interrupted(&self, ingredients: &Ingredients) -> bool {
        let folder = self.cache().join("work").join(Self::name(&ingredients.kind, &ingredients.key()));
        folder.join(CHECKPOINT).exists() || folder.join(PREVIOUS).exists()
    }
}

/// A finished stage.
#[derive(Debug, Clone)]
pub struct Finished {
    folder: PathBuf,
    pub manifest: Manifest,
}

impl Finished {
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// The verified bytes of one output.
    ///
    /// Errors: Corrupt if the file is missing or its SHA-256 is not the one in the manifest.
    pub fn bytes(&self, file: &str) -> Result<Vec<u8>> {
        let path = self.path(file);
        let Some(info) = self.manifest.files.get(file) else {
            return Err(Error::internal(format!("{}: the finished stage has no output {file}", self.folder.display())));
        };
        let bytes = fs::read(&path).map_err(|e| Error::corrupt(format!("{}: can't be read: {e}", path.display())))?;
        if sha256_hex(&bytes) != info.sha256 {
            return Err(Error::corrupt(format!("{}: the cached result is damaged; remove its folder and run again", path.display())));
        }
        Ok(bytes)
    }

    pub fn json<T: DeserializeOwned>(&self, file: &str) -> Result<T> {
        serde_json::from_slice(&self.bytes(file)?).map_err(|e| Error::corrupt(format!("{}: {e}", self.path(file).display())))
    }

    pub fn tensors(&self, file: &str, device: &Device) -> Result<BTreeMap<String, Tensor>> {
        Ok(candle_core::safetensors::load_buffer(&self.bytes(file)?, device)?.into_iter().collect())
    }
}

/// The folder of a running stage: outputs and checkpoint.
#[derive(Debug)]
pub struct Work {
    folder: PathBuf,
    target: PathBuf,
    ingredients: Ingredients,
    /// Seconds that earlier processes worked up to the last checkpoint.
    earlier: f64,
    started: Instant,
    _lock: Lock,
}

const CHECKPOINT: &str = "checkpoint.safetensors";
const PREVIOUS: &str = "checkpoint.previous.safetensors";

impl Work {
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes an output file.
    pub fn put(&self, file: &str, bytes: &[u8]) -> Result<()> {
        write_atomic(&self.folder.join(file), bytes)
    }

    pub fn put_json(&self, file: &str, value: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(value).map_err(|e| Error::internal(format!("{file}: {e}")))?;
        text.push(b'\n');
        self.put(file, &text)
    }

    pub fn put_tensors(&self, file: &str, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        self.put(file, &to_safetensors(tensors, None)?)
    }

    /// Seconds of work so far, those of an interrupted process included.
    fn seconds(&self) -> f64 {
        self.earlier + self.started.elapsed().as_secs_f64()
    }

    /// Turns the work folder into a finished stage: manifest last, then one rename.
    pub fn finish(self, peak_memory_bytes: u64) -> Result<Finished> {
        let seconds = self.seconds();
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.folder).map_err(|e| Error::io(&self.folder, "reading", e))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if matches!(name.as_str(), "lock" | "manifest.json" | CHECKPOINT | PREVIOUS) {
                continue;
            }
            let bytes = entry.metadata().map_err(|e| Error::io(&entry.path(), "reading", e))?.len();
            files.insert(name, FileInfo { bytes, sha256: sha256_file(&entry.path())? });
        }
        let manifest = Manifest { key: self.ingredients.key(), ingredients: self.ingredients.clone(), seconds, peak_memory_bytes, files };
        self.put_json("manifest.json", &manifest)?;
        for leftover in ["lock", CHECKPOINT, PREVIOUS] {
            let _ = fs::remove_file(self.folder.join(leftover));
        }
        if self.target.exists() {
            // Only a damaged stage can stand here: `find` did not accept it.
            fs::remove_dir_all(&self.target).map_err(|e| Error::io(&self.target, "removing the damaged stage", e))?;
        }
        fs::rename(&self.folder, &self.target).map_err(|e| Error::io(&self.target, "renaming", e))?;
        sync_folder(self.target.parent().unwrap_or(Path::new(".")))?;
        Ok(Finished { folder: self.target, manifest })
    }
}

fn to_safetensors(tensors: &BTreeMap<String, Tensor>, state: Option<String>) -> Result<Vec<u8>> {
    let metadata = state.map(|s| HashMap::from([("state".to_string(), s)]));
    safetensors::serialize(tensors, metadata).map_err(|e| Error::internal(format!("writing tensors: {e}")))
}

/// The state of an interrupted stage.
pub struct Saved {
    pub step: u64,
    pub tensors: BTreeMap<String, Tensor>,
    /// Whatever else the stage needs to go on, for example its curve so far.
    pub state: Value,
}

/// Saves and loads the state of one running stage. One file holds tensors and state together, so they can't disagree; the
/// one before is kept until the new one is on the disk.
pub struct Checkpoint<'a> {
    work: &'a Work,
    every: Duration,
    last: Instant,
}

impl<'a> Checkpoint<'a> {
    pub fn new(work: &'a Work, every: Duration) -> Self {
        Checkpoint { work, every, last: Instant::now() }
    }

    /// True when it is time to save again. Results never depend on when.
    pub fn due(&self) -> bool {
        self.last.elapsed() >= self.every
    }

    pub fn save(&mut self, step: u64, tensors: &BTreeMap<String, Tensor>, state: &impl Serialize) -> Result<()> {
        let state = serde_json::to_value(state).map_err(|e| Error::internal(e.to_string()))?;
        let state = serde_json::json!({ "step": step, "seconds": self.work.seconds(), "state": state });
        let bytes = to_safetensors(tensors, Some(state.to_string()))?;
        let (current, previous) = (self.work.folder.join(CHECKPOINT), self.work.folder.join(PREVIOUS));
        if current.exists() {
            fs::rename(&current, &previous).map_err(|e| Error::io(&previous, "renaming", e))?;
        }
        write_atomic(&current, &bytes)?;
        self.last = Instant::now();
        Ok(())
    }

    /// The last saved state, if any; an unreadable file is passed over for the one before.
    pub fn load(&self, device: &Device) -> Result<Option<Saved>> {
        for name in [CHECKPOINT, PREVIOUS] {
            let Ok(bytes) = fs::read(self.work.folder.join(name)) else { continue };
            if let Some(saved) = read_checkpoint(&bytes, device) {
                return Ok(Some(saved));
            }
        }
        Ok(None)
    }
}

fn checkpoint_state(bytes: &[u8]) -> Option<Value> {
    let (_, header) = safetensors::SafeTensors::read_metadata(bytes).ok()?;
    serde_json::from_str(header.metadata().as_ref()?.get("state")?).ok()
}

fn read_checkpoint(bytes: &[u8], device: &Device) -> Option<Saved> {
    let all = checkpoint_state(bytes)?;
    let tensors = candle_core::safetensors::load_buffer(bytes, device).ok()?.into_iter().collect();
    Some(Saved { step: all.get("step")?.as_u64()?, tensors, state: all.get("state")?.clone() })
}

/// A lock that the system drops when its process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock file `path`; `what` names the thing in the message.
    ///
    /// Errors: Busy, naming the process that has it; Resource if the file can't be written.
    pub fn take(path: &Path, what: &str) -> Result<Lock> {
        let open = |e| Error::io(path, "opening the lock", e);
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(open)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = file.read_to_string(&mut owner);
                let owner = if owner.trim().is_empty() { "another process".into() } else { format!("process {}", owner.trim()) };
                return Err(Error::new(Kind::Busy, format!("{owner} works on {what}; wait for it, or choose another folder with --out")));
            }
            Err(TryLockError::Error(e)) => return Err(open(e)),
        }
        file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(open)?;
        Ok(Lock { _file: file })
    }
}
