//! A profile: the sizes at which a study runs, and which networks stand in for the paper's (`experiments/profiles/<name>.toml`).

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};

use serde::{Deserialize, Serialize};

use super::document::Document;
use super::experiment::Set;
use super::files;
use crate::{Error, Result};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The file's name without ".toml".
    pub name: String,
    /// One line for people.
    pub title: String,
    /// True only for the paper's own sizes and networks: any other number is never shown as a reproduction of a published one.
    #[serde(default)]
    pub reproduction: bool,
    /// How many seeds; they are 1, 2, ... unless `--seed` says where to start.
    pub seeds: NonZeroU64,
    /// Optimizer iterations per arm and seed.
    pub steps: NonZeroU64,
    /// Images per iteration.
    pub batch: NonZeroUsize,
    /// Share of the iterations, at the end, in which the learning rate falls to zero.
    pub decay: f64,
    pub evaluation_seed: u64,
    pub evaluation_batch: NonZeroUsize,
    pub images: Images,
    pub curve: Curve,
    /// Side in pixels at which images are compared.
    pub metric_size: NonZeroUsize,
    /// What "lpips" means here, for example "lpips-vgg-v0.1".
    pub lpips: String,
    /// Seconds between two checkpoints of a training.
    pub checkpoint_seconds: f64,
    /// Whether trainings forget the inner maps of every block and compute them again in the backward pass: less memory for one more forward
    /// pass, the same result bit by bit.
    #[serde(default)]
    pub recompute: bool,
    /// The card that stands in for a card of the paper.
    #[serde(default)]
    pub cards: BTreeMap<String, String>,
    pub cost: Cost,
}

/// Evaluation images per set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Images {
    pub synthesized: NonZeroUsize,
    pub real: NonZeroUsize,
}

impl Images {
    pub fn of(&self, set: Set) -> usize {
        match set {
            Set::Synthesized => self.synthesized.get(),
            Set::Real => self.real.get(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curve {
    pub points: NonZeroU64,
    pub images: NonZeroUsize,
}

/// What a stage was measured to cost, used for estimates until this machine has measured its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Seconds per training image.
    pub train_seconds: f64,
    /// Seconds per evaluated image.
    pub evaluate_seconds: f64,
    /// Resident memory of a training: a fixed part and a part per image of the batch, in MB.
    pub memory_fixed_mb: f64,
    pub memory_per_image_mb: f64,
    /// Disk per arm and seed: encoder, checkpoint and reconstructions, in MB.
    pub disk_per_arm_mb: f64,
    /// Where these numbers come from; `plan` says it.
    #[serde(default)]
    pub measured: String,
    /// The same on the CPU for single generators, by the name of the card that is opened.
    #[serde(default)]
    pub cpu: BTreeMap<String, GeneratorCost>,
}

/// What inverting one generator was measured to cost: as in [`Cost`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratorCost {
    pub train_seconds: f64,
    pub evaluate_seconds: f64,
    pub memory_fixed_mb: f64,
    pub memory_per_image_mb: f64,
    /// The part per image of a training that recomputes; absent where it was not measured.
    #[serde(default)]
    pub recomputed_per_image_mb: Option<f64>,
}

impl Cost {
    /// The cost of a generator's card on a backend ("cpu", "cuda" or "cuda-tf32"); that of the profile where it has none of its own.
    pub fn of(&self, card: &str, backend: &str) -> GeneratorCost {
        self.cpu.get(card).copied().filter(|_| backend == "cpu").unwrap_or(GeneratorCost {
            train_seconds: self.train_seconds,
            evaluate_seconds: self.evaluate_seconds,
            memory_fixed_mb: self.memory_fixed_mb,
            memory_per_image_mb: self.memory_per_image_mb,
            recomputed_per_image_mb: None,
        })
    }
}

impl Profile {
    /// The profile of this name.
    ///
    /// Errors: there is none (with the nearest name), or it is not valid.
    pub fn load(name: &str) -> Result<Profile> {
        let Some(document) = Document::open(&format!("experiments/profiles/{name}.toml"))? else {
            let all = Profile::names();
            let hint = files::suggestion(name, all.iter().map(String::as_str));
            return Err(Error::usage(format!("there is no profile \"{name}\"{hint}")));
        };
        let profile: Profile = document.parse()?;
        if profile.name != name {
            return Err(document.error(&["name"], &format!("the profile's name must be the name of its file, \"{name}\"")));
        }
        if !(0.0..=1.0).contains(&profile.decay) {
            return Err(document.error(&["decay"], "the share of the iterations lies between 0 and 1"));
        }
        if !(profile.checkpoint_seconds >= 0.0 && profile.checkpoint_seconds <= 1e6) {
            return Err(document.error(&["checkpoint_seconds"], "a number of seconds between 0 and 1000000 is expected"));
        }
        Ok(profile)
    }

    /// The names of all profiles, sorted.
    pub fn names() -> Vec<String> {
        let strip = |p: String| p.trim_start_matches("experiments/profiles/").trim_end_matches(".toml").to_string();
        files::list("experiments/profiles", ".toml").into_iter().map(strip).collect()
    }

    /// The card that is used where a study names `card`.
    pub fn card<'a>(&'a self, card: &'a str) -> &'a str {
        self.cards.get(card).map_or(card, String::as_str)
    }

    /// The full protocol name of a study's measure: "psnr" becomes "psnr@64".
    pub fn metric(&self, measure: &str) -> String {
        let measure = if measure == "lpips" { &self.lpips } else { measure };
        format!("{measure}@{}", self.metric_size)
    }

    /// The seeds of the runs.
    pub fn seeds(&self, first: Option<u64>) -> Vec<u64> {
        let first = first.unwrap_or(1);
        (0..self.seeds.get()).map(|i| first.wrapping_add(i)).collect()
    }
}
