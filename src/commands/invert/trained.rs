//! The encoder to invert with: named by its folder, that of a finished run, or one that ships with the mini networks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use crate::inverters::baseline::Baseline;
use crate::record::store::{Finished, Manifest, Store, sha256_file};
use crate::record::summary::Grid;
use crate::record::{ArmInfo, Record, stats};
use crate::spec::{Card, files};
use crate::stages::{BaselineSpec, EncoderMethod, Networks, TrainSpec};
use crate::zoo::encoders;
use crate::{Error, Result};

/// What to do when there is none.
const TRAIN: &str = "`mtv-bench run ablation_mtv` trains five (ten to twenty minutes on two cores), or name one with --encoder, \
    or take one that ships with --method psp";

/// A trained encoder.
pub struct Trained {
    pub networks: Networks,
    pub what: What,
    /// The profile of its run; "mini" for one that was named by its folder and does not say.
    pub profile: String,
    /// The file.
    pub place: String,
    /// One line for people.
    pub about: String,
    home: Home,
}

/// Where its parameters are.
enum Home {
    Training {
        folder: PathBuf,
        manifest: Manifest,
    },
    /// They ship.
    Card(Card),
}

/// What was trained.
pub enum What {
    Mtv(Box<EncoderMethod>),
    /// With the bound on its widths.
    Baseline(Baseline, Option<usize>),
}

const FILE: &str = "encoder.safetensors";

impl Trained {
    /// Its parameters, verified.
    ///
    /// Errors (corrupt): the file is not the one that the training wrote, or that the card names.
    pub fn tensors(&self, device: &Device) -> Result<BTreeMap<String, Tensor>> {
        let (folder, manifest) = match &self.home {
            Home::Card(card) => return encoders::tensors(card),
            Home::Training { folder, manifest } => (folder, manifest),
        };
        let path = folder.join(FILE);
        let wanted = manifest.files.get(FILE).map(|f| f.sha256.as_str());
        if wanted != Some(sha256_file(&path)?.as_str()) {
            return Err(Error::corrupt(format!("{}: not the encoder that its manifest.json describes", path.display())));
        }
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, "reading", e))?;
        Ok(candle_core::safetensors::load_buffer(&bytes, device)?.into_iter().collect())
    }
}

/// The encoder of `encoder`, or of the arm `method` of the run `run`, or the best of the latest run. Without `run` a `method` that the
/// latest run does not have may be one that ships.
pub fn find(store: &Store, run: Option<&str>, method: Option<&str>, encoder: Option<&Path>) -> Result<Trained> {
    if let Some(path) = encoder {
        return in_folder(path);
    }
    let (name, record) = match run {
        Some(name) => (name.to_string(), named_run(store, name)?),
        None => {
            let latest = latest(store);
            let known = |method: &str| latest.as_ref().is_ok_and(|(name, record)| arm(record, name, Some(method)).is_ok());
            if let Some(method) = method.filter(|m| !known(m))
                && let Some(shipped) = shipped(method)?
            {
                return Ok(shipped);
            }
            latest?
        }
    };
    let arm = arm(&record, &name, method)?;
    let (seed, done) = training(store, &record, arm).ok_or_else(|| {
        Error::missing(format!("the run {name} has no encoder of {} in {}: {TRAIN}", arm.label, store.root().join("cache").display()))
    })?;
    let about = format!("{} of {name}, seed {seed}", arm.label);
    let (folder, manifest) = (done.path("").to_path_buf(), done.manifest);
    of(folder, manifest, record.profile.clone(), about)
}

/// The encoder that ships under this name, for example "psp" or "mini/psp".
fn shipped(method: &str) -> Result<Option<Trained>> {
    let name = format!("mini/{}", method.trim_start_matches("mini/"));
    if !Card::names().contains(&name) {
        return Ok(None);
    }
    let card = Card::load(&name)?;
    let Some(shape) = encoders::shape(&card) else { return Ok(None) };
    let (baseline, width) = (shape.baseline, shape.width);
    Ok(Some(Trained {
        networks: encoders::networks(shape.generator),
        what: What::Baseline(baseline, width),
        profile: "mini".into(),
        place: format!("baselines/{name}"),
        about: format!("{} of {name}, for {}", baseline.title(), shape.generator),
        home: Home::Card(card),
    }))
}

fn of(folder: PathBuf, manifest: Manifest, profile: String, about: String) -> Result<Trained> {
    let place = folder.join(FILE).display().to_string();
    let spec = || manifest.ingredients.spec.clone();
    let (networks, what) = match (serde_json::from_value::<TrainSpec>(spec()), serde_json::from_value::<BaselineSpec>(spec())) {
        (Ok(t), _) => (t.networks, What::Mtv(Box::new(EncoderMethod { recipe: t.recipe, seed: t.seed, refine: None }))),
        (_, Ok(b)) => (b.networks, What::Baseline(b.baseline, b.width)),
        _ => return Err(Error::usage(format!("{place}: not an encoder that this version trains"))),
    };
    let about = format!("{about}, for {}", networks.generator);
    Ok(Trained { networks, what, profile, place, about, home: Home::Training { folder, manifest } })
}

fn in_folder(path: &Path) -> Result<Trained> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    if !folder.join(FILE).is_file() {
        return Err(Error::missing(format!("{}: there is no {FILE}; {TRAIN}", folder.display())));
    }
    let manifest = folder.join("manifest.json");
    let text = std::fs::read_to_string(&manifest).map_err(|_| {
        Error::missing(format!(
            "{}: the manifest.json that a training leaves beside its encoder is missing: it says which generator and which latents",
            folder.display()
        ))
    })?;
    let manifest: Manifest =
        serde_json::from_str(&text).map_err(|e| Error::corrupt(format!("{}: not a manifest: {e}", manifest.display())))?;
    // Tiny networks have cards of their own; whatever else is here was trained in a profile with the mini zoo's or the paper's.
    let generator = manifest.ingredients.spec.pointer("/networks/generator").and_then(|g| g.as_str()).unwrap_or_default();
    let profile = match generator.split_once('/') {
        Some(("tiny", _)) => "tiny",
        Some(_) => "mini",
        None => "paper",
    };
    of(folder.to_path_buf(), manifest, profile.into(), folder.display().to_string())
}

fn named_run(store: &Store, name: &str) -> Result<Record> {
    let path = store.run_folder(name).join("record.json");
    if !path.exists() {
        let all = runs(store);
        let hint = files::suggestion(name, all.iter().map(String::as_str));
        let hint = if all.is_empty() { format!("; there is none: {TRAIN}") } else { hint };
        return Err(Error::missing(format!("{}: no finished run \"{name}\"{hint}", store.root().join("runs").display())));
    }
    Record::read(&path)
}

fn runs(store: &Store) -> Vec<String> {
    let entries = std::fs::read_dir(store.root().join("runs")).into_iter().flatten().flatten();
    let with_record = entries.filter(|e| e.path().join("record.json").exists());
    let mut names: Vec<String> = with_record.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The run that was written last among those that left an encoder that can be edited.
fn latest(store: &Store) -> Result<(String, Record)> {
    let mut dated: Vec<(std::time::SystemTime, String)> = runs(store)
        .into_iter()
        .filter_map(|name| Some((std::fs::metadata(store.run_folder(&name).join("record.json")).ok()?.modified().ok()?, name)))
        .collect();
    dated.sort();
    for (_, name) in dated.into_iter().rev() {
        let Ok(record) = Record::read(&store.run_folder(&name).join("record.json")) else { continue };
        if usable(&record).any(|arm| training(store, &record, arm).is_some()) {
            return Ok((name, record));
        }
    }
    Err(Error::missing(format!("no trained encoder in {}: {TRAIN}", store.root().display())))
}

/// The arms on the study's own generator: the one that takes pictures of faces.
fn usable(record: &Record) -> impl Iterator<Item = &ArmInfo> {
    record.arms.iter().filter(|a| !a.reference)
}

/// The arm of this name, or the one with the best mean LPIPS (PSNR where there is none), on real images where the record has any. PSNR
/// would take a blurred reconstruction whose w lies where the generator has no faces, and edits of that do nothing.
fn arm<'a>(record: &'a Record, run: &str, method: Option<&str>) -> Result<&'a ArmInfo> {
    if let Some(method) = method {
        return usable(record).find(|a| a.name == method || a.label == method).ok_or_else(|| {
            let names: Vec<&str> = usable(record).map(|a| a.name.as_str()).collect();
            let hint = files::suggestion(method, names.iter().copied());
            Error::usage(format!("the run {run} has no method \"{method}\"{hint}"))
        });
    }
    let set = if record.images.iter().any(|i| i.set == "real") { "real" } else { record.images.first().map_or("", |i| i.set.as_str()) };
    let named = |measure: &str| record.scores.iter().map(|s| s.metric.as_str()).find(|m| m.starts_with(measure));
    let (metric, sign) = named("lpips").map_or((named("psnr").unwrap_or_default(), 1.0), |lpips| (lpips, -1.0));
    let score = |arm: &ArmInfo| Grid::of(record, &arm.name, set, metric).ok().flatten().map(|g| sign * stats::mean(&g.by_image()));
    let best = usable(record).filter_map(|a| Some((score(a)?, a))).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, arm)| arm)
        .or_else(|| usable(record).next())
        .ok_or_else(|| Error::missing(format!("the run {run} trained nothing: {TRAIN}")))
}

/// The first seed's training of an arm, if the store still has it.
fn training(store: &Store, record: &Record, arm: &ArmInfo) -> Option<(u64, Finished)> {
    record.seeds.iter().find_map(|seed| {
        let title = format!("train {}, seed {seed}", arm.label);
        let stage = record.provenance.stages.iter().find(|s| s.stage == title)?;
        let found = ["train", "train-baseline"].iter().find_map(|kind| store.with_key(kind, &stage.key));
        Some((*seed, found?))
    })
}
