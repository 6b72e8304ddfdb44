//! What a run leaves behind: scores per image, curves, provenance; and what is computed from them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

pub mod compare;
pub mod edit;
pub mod factors;
pub mod frechet;
pub mod golden;
pub mod stats;
pub mod store;
pub mod summary;
pub mod views;

/// A packed record that unpacks to more than this is refused.
const MAX_BYTES: u64 = 1 << 30;

/// The record of one study in one profile. `scores` and `curves` depend on the specification and the seeds only;
/// whatever differs between two equal runs (times, memory, host) stands in `provenance`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Version of this format.
    pub format: u32,
    pub study: String,
    pub profile: String,
    /// The study as it was run: profile applied, every default written out.
    pub spec: serde_json::Value,
    pub arms: Vec<ArmInfo>,
    pub seeds: Vec<u64>,
    pub images: Vec<ImageInfo>,
    pub scores: Vec<Score>,
    pub curves: Vec<CurvePoint>,
    /// Scores on the way of the optimisations, for the studies that ask for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traces: Vec<TracePoint>,
    /// What was measured on edits; absent where nothing was edited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edits: Option<edit::Edits>,
    /// Distances of whole sets, for the studies that ask for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frechet: Vec<frechet::Frechet>,
    /// What the images show, for the studies that ask for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub factors: Vec<factors::Factors>,
    pub provenance: Provenance,
}

impl Record {
    /// Reads a record.json, or one that is packed with gzip, as the committed ones are.
    ///
    /// Errors: missing, unreadable, or not a record.
    pub fn read(path: &Path) -> Result<Record> {
        let bytes = std::fs::read(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::missing(format!("{}: no such record", path.display())),
            _ => Error::io(path, "reading", e),
        })?;
        let corrupt = |e: &dyn std::fmt::Display| Error::corrupt(format!("{}: not a record: {e}", path.display()));
        let mut text = Vec::new();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let limited = flate2::read::GzDecoder::new(&bytes[..]).take(MAX_BYTES);
            std::io::BufReader::new(limited).read_to_end(&mut text).map_err(|e| corrupt(&e))?;
        } else {
            text = bytes;
        }
        serde_json::from_slice(&text).map_err(|e| corrupt(&e))
    }
}

/// A row of the study's table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmInfo {
    /// The name used in files and on the command line, for example "w_zn".
    pub name: String,
    /// The name printed in tables and figures, for example "w + z_n".
    pub label: String,
    /// True for the rows that no training produced: "mean image" and "G(mean w)".
    pub reference: bool,
}

/// One evaluation image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageInfo {
    /// "synthesized" (made by the generator) or "real" (a held-out picture).
    pub set: String,
    pub id: String,
    /// SHA-256 of the 8-bit RGB pixels, row by row.
    pub sha256: String,
    /// What this picture wears or does that the generator never saw, or empty.
    #[serde(default)]
    pub unseen: Vec<String>,
}

/// One number: one metric of one image of one arm and seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    pub arm: String,
    pub seed: u64,
    pub set: String,
    pub image: String,
    /// The full protocol name of the metric, for example "ssim-uniform7@64".
    pub metric: String,
    /// `null` in JSON stands for +infinity (PSNR of identical images).
    #[serde(with = "infinite_as_null")]
    pub value: f64,
}

/// One point of a convergence curve: the mean of a metric over a fixed set of held-out images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurvePoint {
    pub arm: String,
    pub seed: u64,
    pub set: String,
    /// Training images seen so far.
    pub images: u64,
    pub metric: String,
    pub value: f64,
}

/// A score of one image after so many updates of an optimisation; 0 is where the method itself puts it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracePoint {
    pub arm: String,
    pub seed: u64,
    pub set: String,
    pub image: String,
    pub step: u64,
    pub metric: String,
    pub value: f64,
}

/// What inverting an image took.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    pub arm: String,
    pub seed: u64,
    pub set: String,
    pub images: usize,
    /// How many images were worked on at the same time.
    pub side_by_side: usize,
    /// Wall time per image before the first update.
    pub start_seconds: f64,
    /// Wall time per image and update.
    pub step_seconds: f64,
}

/// Where and how the numbers were made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    pub version: String,
    pub git_commit: String,
    pub git_dirty: bool,
    pub device: String,
    pub cpu: String,
    pub threads: usize,
    pub dtype: String,
    pub date: String,
    /// SHA-256 of every weight file by the name of its card.
    pub weights: BTreeMap<String, String>,
    /// Licences of the weights that restrict the use of the results, by card.
    pub licences: BTreeMap<String, String>,
    pub image_list_sha256: String,
    /// Wall time in seconds, peak memory in bytes, by stage.
    pub stages: Vec<StageCost>,
    /// Seconds per image, for the studies that ask for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timings: Vec<Timing>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageCost {
    pub stage: String,
    pub key: String,
    pub cached: bool,
    pub seconds: f64,
    pub peak_memory_bytes: u64,
}

mod infinite_as_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, s: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() { value.serialize(s) } else { s.serialize_none() }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(d)?.unwrap_or(f64::INFINITY))
    }
}
