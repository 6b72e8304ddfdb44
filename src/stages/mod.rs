//! The stages of a run. A stage is a function of its specification and its inputs; it writes named outputs and nothing else:
//!
//! | stage | function | inputs (roles) | outputs |
//! |---|---|---|---|
//! | sample | `sample::run(&SampleSpec, &mut StageContext) -> Result<()>` | - | `images.json`: `Vec<ImageInfo>`; `images.safetensors` |
//! | train | `train::run(&TrainSpec, &mut StageContext) -> Result<()>` | - | `encoder.safetensors`, `curves.json`: `Vec<CurveRow>` |
//! | evaluate | `evaluate::run(&EvaluateSpec, &mut StageContext) -> Result<()>` | "sample", "train" (not for reference rows) | `scores.json`: `Vec<ScoreRow>`; `reconstructions.safetensors`; `worst.safetensors` |
//! | render | `render::run(&Record, ...)` | all | tables and figures in the run's folder |
//!
//! How a stage is written:
//! - Networks are opened by card name (`spec.networks.generator`); the runner has hashed them already, the hash is part of the key.
//! - `context.input("sample")?.json("images.json")?` and `.tensors("images.safetensors", device)?` read a finished stage, verified.
//! - `context.work.put_json(...)`, `put_tensors(...)` write outputs; the runner makes the stage finished when the function returns Ok.
//! - A long stage asks `context.checkpoint().load(device)?` first and goes on from `step`; in its loop
//!   `if checkpoint.due() { checkpoint.save(step, &tensors, &state)? }`. Results must not depend on when that happens.
//! - `let bar = context.progress.bar(steps, "train w, seed 1")`, then `bar.advance(n, "psnr 21.3")`, `bar.finish()`.
//! - NaN or infinity: `Err(Error::new(Kind::Diverged, "step 120: the loss term \"kl\" is NaN"))`; the runner keeps the checkpoint.
//! - Specifications hold everything that the outputs depend on, and nothing else: no labels, no thread counts, no checkpoint times.
//!   They are serialised into the key, so a new field changes every key: give it `#[serde(skip_serializing_if = ...)]` at its old meaning.
//! - Raise the stage's code version below when its outputs change for the same specification.

pub mod evaluate;
pub mod fetch;
pub mod inversion;
pub mod open;
pub mod progress;
pub mod render;
pub mod sample;
pub mod train;

use std::collections::BTreeMap;
use std::time::Duration;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::objective::Recipe;
use crate::record::store::{Checkpoint, Finished, Work};
use crate::{Error, Result};
use progress::Progress;

/// Version of what each stage computes; part of its key.
pub const SAMPLE_CODE: u32 = 1;
pub const TRAIN_CODE: u32 = 1;
pub const EVALUATE_CODE: u32 = 2;

/// What a stage may use besides its specification.
pub struct StageContext<'a> {
    pub device: &'a Device,
    pub progress: &'a Progress,
    /// The folder that takes the outputs.
    pub work: &'a Work,
    /// Finished stages by role: "sample", "train".
    pub inputs: BTreeMap<String, Finished>,
    /// How often to save a checkpoint.
    pub checkpoint_every: Duration,
}

impl<'a> StageContext<'a> {
    /// The finished stage in this role.
    pub fn input(&self, role: &str) -> Result<&Finished> {
        self.inputs.get(role).ok_or_else(|| Error::internal(format!("the stage was started without its input \"{role}\"")))
    }

    pub fn checkpoint(&self) -> Checkpoint<'a> {
        Checkpoint::new(self.work, self.checkpoint_every)
    }
}

/// The cards that a stage opens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Networks {
    /// The frozen generator that is inverted.
    pub generator: String,
    /// The VGG16 of the training loss (LPIPS term) and of Grad-CAM.
    pub features: String,
    /// The network behind the LPIPS of the evaluation; in the mini zoo not the one that the loss uses.
    pub judge: String,
}

/// The evaluation images: drawn once per study and profile, the same for every arm and seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleSpec {
    pub networks: Networks,
    /// Seed of the evaluation images, not of the training.
    pub seed: u64,
    pub sets: Vec<ImageSet>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSet {
    /// "synthesized" (made by the generator) or "real" (held-out pictures).
    pub set: String,
    pub images: usize,
    /// Where real pictures come from: the card of a data set, for example "mini/faces".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// One encoder: Algorithm 1 for one arm and seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSpec {
    pub networks: Networks,
    /// Every value written out; `recipe.latents.types` is the arm of Fig. 9.
    pub recipe: Recipe,
    /// Optimizer iterations.
    pub steps: u64,
    pub batch: usize,
    /// Share of the iterations, at the end, in which the learning rate falls linearly to zero; 0 keeps it constant as the paper does.
    pub decay: f64,
    pub seed: u64,
    pub curve: CurveSpec,
}

/// The convergence curve: metrics on a few held-out images every so many iterations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurveSpec {
    /// Iterations between two points; the first point is before training, the last after it.
    pub every: u64,
    /// The images: the first ones of each set of the study's sample, drawn anew by this specification.
    pub sample: SampleSpec,
    pub metrics: Vec<String>,
}

/// One row of the table for one seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluateSpec {
    pub networks: Networks,
    pub method: Method,
    /// Seed of the evaluation images: their noise enters the reconstruction too.
    pub seed: u64,
    /// Full protocol names, for example "psnr@64".
    pub metrics: Vec<String>,
    /// How many images of each set keep their reconstruction for the figure: the first ones.
    pub figure_images: usize,
    /// Images per forward pass. Not a matter of the result, but kept so that memory can be estimated.
    pub batch: usize,
}

/// What makes the reconstruction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The encoder of the input "train", decoded as the recipe says.
    Encoder(Box<EncoderMethod>),
    /// The mean of many generated images, for every image.
    MeanImage,
    /// G(mean w), for every image.
    MeanLatent,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderMethod {
    pub recipe: Recipe,
    pub seed: u64,
}

/// A score without arm and seed: the runner adds them, so that renaming an arm recomputes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreRow {
    pub set: String,
    pub image: String,
    pub metric: String,
    /// `None` stands for infinity.
    pub value: Option<f64>,
}

/// A point of a curve without arm and seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurveRow {
    pub set: String,
    /// Training images seen so far.
    pub images: u64,
    pub metric: String,
    pub value: f64,
}
