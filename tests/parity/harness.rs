//! The parity harness: runs every fixture of every folder through the check that knows it and prints one line per file.
//!
//! How to add checks for your area (encoders.rs, metrics.rs, ...):
//!
//! ```text
//! pub const CHECKS: &[Check] = &[blur_encoder];            // mod.rs collects the CHECKS of every area file
//!
//! fn blur_encoder(f: &Fixture) -> Option<Outcome> {
//!     if f.area != "mtv_tsa" || !f.text("module").starts_with("model/E/E_Blur.py") {
//!         return None;                                      // not mine: another check may know it
//!     }
//!     Some(Outcome::of(|o| {                                // an Err or a panic inside is a failure of this file
//!         let t = f.tensors()?;                             // every tensor of the safetensors file, f32 on the CPU
//!         let startf = f.arg("ctor", "startf")?;            // constructor arguments come from the manifest, not from the name
//!         o.relative("forward", "out.image", &got, &t["out.image"], 1e-4)?;
//!         o.relative("grad", "grad.image", &got, &t["grad.image"], 1e-3)
//!     }))
//! }
//! ```
//!
//! - `f.area` is the folder's name (mtv_tsa, paper_recipe, generators, metrics, baselines), `f.file` the path inside it, `f.entry`
//!   the file's own entry of MANIFEST.json, `f.manifest` the whole of it (formats differ: each area reads its own).
//! - `relative`: max|a-b| over max|b| (absolute where b is all zero); `close`: atol + rtol|b|, shown as a share of 1; `number` for
//!   scalars; `equal` for what must be exact. Give the name that the tensor has in the file: expected tensors
//!   (out.*, mid.*, grad.*, train.out.*) that were never compared are counted in the printed line.
//! - `gradient` instead of `relative` for gradients through leaky ReLU and the like: it knows about kinks.
//! - A file that is only read together with another one: `Some(Outcome::companion("fid/frechet.json"))`.
//!
//! Folders: tests/fixtures/*, and those of `MTV_PARITY_DIR` (same layout) when it is set. A file that no check knows is named as
//! not covered, so is one that its manifest does not list. A missing or empty folder, or a file whose sha256 differs, fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

pub type Error = Box<dyn std::error::Error>;
pub type Check = fn(&Fixture) -> Option<Outcome>;

/// One file that a manifest lists.
pub struct Fixture {
    /// The folder's name, such as "generators".
    pub area: String,
    /// Path inside the folder.
    pub file: String,
    pub folder: PathBuf,
    /// The file's entry in the manifest.
    pub entry: Value,
    pub manifest: Rc<Value>,
}

impl Fixture {
    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.file)
    }

    /// A string of the entry, "" where it has none.
    pub fn text(&self, key: &str) -> &str {
        self.entry[key].as_str().unwrap_or("")
    }

    /// A whole number of the entry's table `table` ("constructor", "ctor", "args").
    pub fn arg(&self, table: &str, key: &str) -> Result<usize, Error> {
        self.opt(table, key).ok_or_else(|| format!("the manifest gives no {table}.{key}").into())
    }

    /// As [`Fixture::arg`], None where the manifest has no such key.
    pub fn opt(&self, table: &str, key: &str) -> Option<usize> {
        self.entry[table][key].as_u64().map(|v| v as usize)
    }

    /// Every tensor of this safetensors file: floats as f32, the rest as stored.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>, Error> {
        self.tensors_of(&self.file)
    }

    /// Every tensor of another file of the same folder.
    pub fn tensors_of(&self, file: &str) -> Result<BTreeMap<String, Tensor>, Error> {
        let tensors = candle_core::safetensors::load(self.folder.join(file), &Device::Cpu)?;
        let float = |t: Tensor| if t.dtype().is_float() { t.to_dtype(DType::F32) } else { Ok(t) };
        tensors.into_iter().map(|(name, t)| Ok((name, float(t)?))).collect()
    }
}

struct Deviation {
    kind: &'static str,
    name: String,
    value: f64,
    tolerance: f64,
}

/// What the check of one file found.
#[derive(Default)]
pub struct Outcome {
    deviations: Vec<Deviation>,
    failures: Vec<String>,
    companion: Option<String>,
}

impl Outcome {
    /// Runs a check; its error or panic becomes this file's failure.
    pub fn of(check: impl FnOnce(&mut Outcome) -> Result<(), Error>) -> Outcome {
        let mut outcome = Outcome::default();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&mut outcome)));
        match result {
            Ok(Ok(())) => {}
            Ok(Err(e)) => outcome.failures.push(e.to_string().lines().next().unwrap_or("error").to_string()),
            Err(_) => outcome.failures.push("the check panicked (message above)".into()),
        }
        if outcome.deviations.is_empty() && outcome.failures.is_empty() {
            outcome.failures.push("the check compared nothing".into());
        }
        outcome
    }

    /// This file is read by the check of `other`.
    pub fn companion(other: impl Display) -> Outcome {
        Outcome { companion: Some(other.to_string()), ..Outcome::default() }
    }

    pub fn fail(&mut self, message: impl Display) {
        self.failures.push(message.to_string());
    }

    fn push(&mut self, kind: &'static str, name: &str, value: f64, tolerance: f64) -> Result<(), Error> {
        let value = if value.is_nan() { f64::INFINITY } else { value };
        self.deviations.push(Deviation { kind, name: name.to_string(), value, tolerance });
        Ok(())
    }

    /// max|got - want| / max|want| within `tolerance`; absolute where `want` is all zero.
    pub fn relative(&mut self, kind: &'static str, name: &str, got: &Tensor, want: &Tensor, tolerance: f64) -> Result<(), Error> {
        let (a, b) = pair(name, got, want)?;
        let scale = b.iter().fold(0f64, |m, v| m.max(v.abs()));
        let worst = worst(a.iter().zip(&b).map(|(a, b)| (a - b).abs()));
        self.push(kind, name, worst / if scale > 0.0 { scale } else { 1.0 }, tolerance)
    }

    /// A gradient, computed by `run` in f32. Where a kinked activation's input lies within rounding of zero, f32 may take the
    /// other slope than the reference did; so one that misses its tolerance is judged in f64 (the references were checked to agree
    /// with their own f64 runs), if it is off by no more than such a slope can explain, and its line says "f64".
    pub fn gradient(
        &mut self,
        name: &str,
        want: &Tensor,
        tolerance: f64,
        run: impl Fn(DType) -> Result<Tensor, Error>,
    ) -> Result<(), Error> {
        let mut single = Outcome::default();
        single.relative("grad", name, &run(DType::F32)?, want, tolerance)?;
        if single.deviations.iter().all(|d| d.value <= tolerance || d.value > 0.05) {
            self.deviations.append(&mut single.deviations);
            return Ok(());
        }
        self.relative("grad in f64, as f32 crosses a kink,", name, &run(DType::F64)?, want, tolerance)
    }

    /// |got - want| within atol + rtol * |want| everywhere; the deviation is the largest share of that, tolerance 1.
    pub fn close(&mut self, kind: &'static str, name: &str, got: &Tensor, want: &Tensor, atol: f64, rtol: f64) -> Result<(), Error> {
        let (a, b) = pair(name, got, want)?;
        let share = |(a, b): (&f64, &f64)| if a == b { 0.0 } else { (a - b).abs() / (atol + rtol * b.abs()) };
        self.push(kind, name, worst(a.iter().zip(&b).map(share)), 1.0)
    }

    /// Two scalars, |got - want| within `tolerance` (infinities and NaN must be equal).
    pub fn number(&mut self, kind: &'static str, name: &str, got: f64, want: f64, tolerance: f64) -> Result<(), Error> {
        let same = got == want || (got.is_nan() && want.is_nan());
        self.push(kind, name, if same { 0.0 } else { (got - want).abs() }, tolerance)
    }

    /// Anything that must be exact.
    pub fn equal<T: PartialEq + std::fmt::Debug>(&mut self, kind: &'static str, name: &str, got: T, want: T) -> Result<(), Error> {
        if got != want {
            let short = |v: &T| format!("{v:?}").chars().take(120).collect::<String>();
            self.failures.push(format!("{name}: {} instead of {}", short(&got), short(&want)));
        }
        self.push(kind, name, 0.0, 0.0)
    }

    fn passed(&self) -> bool {
        self.failures.is_empty() && self.deviations.iter().all(|d| d.value <= d.tolerance)
    }

    /// The worst deviation of each kind beside its tolerance.
    fn summary(&self, expected: &BTreeSet<String>) -> String {
        let mut parts = Vec::new();
        let kinds: BTreeSet<&str> = self.deviations.iter().map(|d| d.kind).collect();
        for kind in kinds {
            let of_kind = self.deviations.iter().filter(|d| d.kind == kind);
            let share = |d: &Deviation| if d.value == 0.0 { 0.0 } else { d.value / d.tolerance };
            if let Some(d) = of_kind.clone().max_by(|a, b| share(a).total_cmp(&share(b))) {
                let (count, name) = (of_kind.count(), &d.name);
                parts.push(match d.tolerance {
                    0.0 => format!("{kind} exact ({count} compared)"),
                    tolerance => format!("{kind} {:.1e} of {tolerance:.0e} ({count} compared, worst {name})", d.value),
                });
            }
        }
        let done: BTreeSet<&str> = self.deviations.iter().map(|d| d.name.as_str()).collect();
        let left = expected.iter().filter(|name| !done.contains(name.as_str())).count();
        if left > 0 {
            parts.push(format!("{left} of {} expected tensors not compared", expected.len()));
        }
        parts.extend(self.failures.iter().map(|f| format!("FAILURE: {f}")));
        parts.join("; ")
    }
}

fn pair(name: &str, got: &Tensor, want: &Tensor) -> Result<(Vec<f64>, Vec<f64>), Error> {
    if got.dims() != want.dims() {
        return Err(format!("{name}: shape {:?} instead of {:?}", got.dims(), want.dims()).into());
    }
    let flat = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    Ok((flat(got)?, flat(want)?))
}

fn worst(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |m, v| if v.is_nan() { f64::INFINITY } else { m.max(v) })
}

/// tests/fixtures, and MTV_PARITY_DIR where it is set.
fn roots() -> Vec<PathBuf> {
    let mut roots = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")];
    roots.extend(std::env::var_os("MTV_PARITY_DIR").map(PathBuf::from));
    roots
}

/// The folders of a root that have a manifest, by name.
fn folders(root: &Path) -> BTreeMap<String, PathBuf> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let found = entries.map(|e| e.path()).filter(|p| p.join("MANIFEST.json").is_file());
    found.map(|p| (p.file_name().unwrap_or_default().to_string_lossy().into_owned(), p)).collect()
}

/// Every file that a manifest lists, whatever its format: the lists or tables "files", "fixtures" and "containers".
fn listed(area: &str, folder: &Path) -> Result<Vec<Fixture>, Error> {
    let manifest: Rc<Value> = Rc::new(serde_json::from_slice(&std::fs::read(folder.join("MANIFEST.json"))?)?);
    let mut found = Vec::new();
    let mut add = |file: &str, entry: &Value| {
        let (area, file, folder, entry) = (area.to_string(), file.to_string(), folder.to_path_buf(), entry.clone());
        found.push(Fixture { area, file, folder, entry, manifest: manifest.clone() });
    };
    for key in ["files", "fixtures", "containers"] {
        match &manifest[key] {
            Value::Array(entries) => {
                for entry in entries {
                    add(entry["file"].as_str().ok_or("an entry of the manifest has no file")?, entry);
                }
            }
            Value::Object(entries) => entries.iter().for_each(|(file, entry)| add(file, entry)),
            _ => {}
        }
    }
    Ok(found)
}

/// Names of the tensors that a file expects as results.
fn expected(f: &Fixture) -> BTreeSet<String> {
    let is_result =
        |name: &str| ["out.", "mid.", "grad.", "train.out."].iter().any(|p| name.starts_with(p) || name.contains(&format!(".{p}")));
    f.entry["tensors"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).filter(|n| is_result(n)).collect()
}

fn intact(f: &Fixture) -> Result<(), Error> {
    use sha2::{Digest, Sha256};
    let bytes = std::fs::read(f.path()).map_err(|e| format!("listed in the manifest but not readable: {e}"))?;
    let Some(want) = f.entry["sha256"].as_str() else { return Ok(()) };
    let got: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    if got == want { Ok(()) } else { Err("its sha256 is not that of the manifest".into()) }
}

/// Files of the folder that the manifest neither lists nor names anywhere (an expected-values file may be named by another entry).
fn unlisted(folder: &Path, listed: &[Fixture]) -> Vec<String> {
    let text = listed.first().map(|f| f.manifest.to_string()).unwrap_or_default();
    let (mut found, mut open) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(dir) = open.pop() {
        for path in std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()) {
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if name != "MANIFEST.json" && !text.contains(name.as_ref()) {
                    found.push(path.strip_prefix(folder).unwrap_or(&path).display().to_string());
                }
            }
        }
    }
    found.sort();
    found
}

/// Prints past libtest's capture: the lines are part of what the test is for.
fn say(line: String) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Runs the folders called `area` of every root. Panics (fails the test) on any deviation beyond its tolerance.
pub fn judge(area: &str, checks: &[Check]) {
    let (mut failed, mut seen) = (Vec::new(), 0);
    for root in roots() {
        let Some(folder) = folders(&root).remove(area) else { continue };
        let fixtures = listed(area, &folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        assert!(!fixtures.is_empty(), "{}: the manifest lists no file", folder.display());
        seen += fixtures.len();
        let (mut covered, mut companions, mut uncovered) = (0, 0, Vec::new());
        for f in &fixtures {
            let name = format!("{area}/{}", f.file);
            if let Err(e) = intact(f) {
                failed.push(name.clone());
                say(format!("FAIL  {name}: {e}"));
                continue;
            }
            let Some(outcome) = checks.iter().find_map(|check| check(f)) else {
                uncovered.push(f.file.clone());
                continue;
            };
            if let Some(other) = &outcome.companion {
                companions += 1;
                say(format!("with  {name}: read together with {other}"));
                continue;
            }
            covered += 1;
            let verdict = if outcome.passed() { "ok  " } else { "FAIL" };
            say(format!("{verdict}  {name}: {}", outcome.summary(&expected(f))));
            if !outcome.passed() {
                failed.push(name);
            }
        }
        let extra = unlisted(&folder, &fixtures);
        say(format!(
            "{area} in {}: {covered} files checked, {companions} read beside them, {} not covered{}, {} not in the manifest{}",
            root.display(),
            uncovered.len(),
            uncovered.iter().map(|f| format!("\n      not covered: {area}/{f}")).collect::<String>(),
            extra.len(),
            extra.iter().map(|f| format!("\n      not listed: {area}/{f}")).collect::<String>(),
        ));
    }
    assert!(seen > 0, "no folder {area} with fixtures in {:?}", roots());
    assert!(failed.is_empty(), "{area}: {} files failed: {}", failed.len(), failed.join(", "));
}

/// The folders of all roots, and the roots that have none.
pub fn areas() -> (BTreeSet<String>, Vec<PathBuf>) {
    let empty = roots().into_iter().filter(|r| folders(r).is_empty()).collect();
    (roots().iter().flat_map(|r| folders(r).into_keys()).collect(), empty)
}
