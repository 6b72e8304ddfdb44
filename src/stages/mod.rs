//! The stages of a run. A stage is a function of its specification and its inputs; it writes named outputs and nothing else:
//!
//! | stage | function | inputs (roles) | outputs |
//! |---|---|---|---|
//! | sample | `sample::run(&SampleSpec, &mut StageContext) -> Result<()>` | - | `images.json`: `Vec<ImageInfo>`; `images.safetensors` |
//! | train | `train::run(&TrainSpec, &mut StageContext) -> Result<()>` | - | `encoder.safetensors`, `curves.json`: `Vec<CurveRow>` |
//! | train (a baseline's encoder) | `train_baseline::run(&BaselineSpec, &mut StageContext) -> Result<()>` | - | as train |
//! | evaluate | `evaluate::run(&EvaluateSpec, &mut StageContext) -> Result<()>` | "sample", "train" (not for reference rows) | `scores.json`: `Vec<ScoreRow>`; `reconstructions.safetensors`; `worst.safetensors`; where asked for `traces.json`: `Vec<TraceRow>` and `times.json`: `Vec<TimeRow>` |
//! | identity | `identity::run(&IdentitySpec, &mut StageContext) -> Result<()>` | as evaluate | `scores.json`: `Vec<ScoreRow>` |
//! | frechet | `frechet::run(&FrechetSpec, &mut StageContext) -> Result<()>` | "train" (not for reference rows) | `frechet.json`: `Vec<record::frechet::Frechet>` |
//! | factors | `factors::run(&FactorsSpec, &mut StageContext) -> Result<()>` | "sample" | `factors.json`: `Vec<record::factors::Factors>` |
//! | directions | `directions::run(&DirectionsSpec, &mut StageContext) -> Result<()>` | - | `directions.safetensors`, `directions.json`: `Vec<record::edit::Direction>`, `scales.json`: `Scales` |
//! | edit | `edit::run(&EditStageSpec, &mut StageContext) -> Result<()>` | "sample", "directions", "train" (not for own w) | `edits.json`: `Vec<record::edit::Edit>`; `edits.safetensors` |
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
//!
//! Longer than other files: the specifications of all stages, whose canonical JSON is their key, stand in one place.

pub mod directions;
pub mod edit;
pub mod evaluate;
pub mod external;
pub mod factors;
pub mod fetch;
pub mod frechet;
pub mod identity;
pub mod inversion;
pub mod open;
pub mod progress;
pub mod protocol;
pub mod reconstruct;
pub mod render;
pub mod sample;
pub mod train;
pub mod train_baseline;

use std::collections::BTreeMap;
use std::time::Duration;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::editing::Rows;
use crate::editing::svm::Loss;
use crate::inverters::baseline::Baseline;
use crate::objective::{Recipe, SamplingTable};
use crate::record::store::{Checkpoint, Finished, Work};
use crate::{Error, Result};
use progress::Progress;

/// Version of what each stage computes; part of its key.
pub const SAMPLE_CODE: u32 = 1;
pub const TRAIN_CODE: u32 = 1;
pub const BASELINE_CODE: u32 = 1;
pub const EVALUATE_CODE: u32 = 2;
pub const IDENTITY_CODE: u32 = 1;
pub const FRECHET_CODE: u32 = 1;
pub const FACTORS_CODE: u32 = 1;
pub const DIRECTIONS_CODE: u32 = 1;
pub const EDIT_CODE: u32 = 1;

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
    /// How many images may be optimised at the same time, each with a network of its own, as far as cores and memory go.
    pub side_by_side: usize,
    /// Whether a training computes inner maps again instead of keeping them: a matter of memory, not of the result.
    pub recompute: bool,
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

/// The encoder of a baseline on the study's generator, by that method's own losses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineSpec {
    pub networks: Networks,
    pub baseline: Baseline,
    /// A bound on the widths of the layers that hold most of the parameters; None as wide as the generator suggests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// Training pictures of a procedural source, by its card, in place of the generator's images: as the methods are published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pictures: Option<String>,
    /// How the training images are drawn: as those of the paper's encoders.
    pub sampling: SamplingTable,
    pub steps: u64,
    pub batch: usize,
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
    /// Only the first images of each set, where a method is too slow for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<usize>,
    /// How targets and reconstructions get to the metrics; as they are if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<Protocol>,
    /// The side at which all methods are stored when matched, where their own sizes differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common_side: Option<usize>,
    /// Metrics of the way from the first to the last step; with it the times are kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trace: Vec<String>,
}

impl EvaluateSpec {
    pub fn inverting(&self) -> reconstruct::Inverting<'_> {
        reconstruct::Inverting { networks: &self.networks, method: &self.method, seed: self.seed }
    }
}

/// How a picture gets to a method, and a reconstruction to the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// The same for every method: one resampler, one stored size, lossless.
    Matched,
    /// As the paper's scripts do for Table III: each method's own resampler, stored size and file format.
    #[serde(rename = "paper-table3")]
    PaperTable3,
}

impl Protocol {
    /// The name of a set of images compared in this way: "real" as matched, "real (paper-table3)".
    pub fn set(self, set: &str) -> String {
        match self {
            Protocol::Matched => set.into(),
            Protocol::PaperTable3 => format!("{set} (paper-table3)"),
        }
    }
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
    /// A method that the paper compares with.
    Baseline(Box<BaselineMethod>),
    /// A method that lives elsewhere.
    External(Box<external::ExternalMethod>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderMethod {
    pub recipe: Recipe,
    pub seed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refine: Option<Refinement>,
}

/// A baseline: published networks, or the encoder of the input "train" on the study's generator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineMethod {
    pub baseline: Baseline,
    /// Cards of the published networks: encoder, decoder, features, as far as the method has them in files of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub published: BTreeMap<String, String>,
    /// Of the training; 0 where there is none.
    pub seed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refine: Option<Refinement>,
}

/// What is optimised for each image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refinement {
    Latent(LatentRefinement),
    Encoder(EncoderRefinement),
}

impl Refinement {
    pub fn steps(&self) -> u64 {
        match self {
            Refinement::Latent(l) => l.steps,
            Refinement::Encoder(e) => e.steps,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentRefinement {
    pub steps: u64,
    pub lr: f64,
    pub terms: LatentTerms,
}

/// The loss under which w+ moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatentTerms {
    /// In-Domain's: pixels, features, encoder.
    Guided(Features),
    Image2stylegan,
    /// The image loss of the arm's recipe.
    Recipe,
}

/// The feature network of In-Domain's second term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Features {
    /// The released one: BGR from 0 to 255 with the mean subtracted.
    Keras,
    /// The study's VGG16, normalised as torchvision does; the weight of the term makes up for the other scale.
    Torchvision,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderRefinement {
    pub steps: u64,
    pub lr: f64,
    /// Losses and optimizer.
    pub recipe: Recipe,
}

impl Method {
    pub fn refine(&self) -> Option<&Refinement> {
        match self {
            Method::Encoder(m) => m.refine.as_ref(),
            Method::Baseline(m) => m.refine.as_ref(),
            Method::MeanImage | Method::MeanLatent | Method::External(_) => None,
        }
    }
}

/// Whether the reconstructions of one row and seed show the same persons as their targets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentitySpec {
    pub networks: Networks,
    pub method: Method,
    /// Seed of the evaluation images.
    pub seed: u64,
    /// The card of the network that tells persons apart.
    pub identity: String,
    /// Only the first images of each set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<usize>,
    /// Images per forward pass.
    pub batch: usize,
}

/// Fréchet distances of a generator's images and of one arm's reconstructions of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrechetSpec {
    pub networks: Networks,
    pub method: Method,
    /// Seed of the evaluation images.
    pub seed: u64,
    /// The generator's set: it chooses the noise.
    pub set: String,
    /// Images on each side.
    pub images: usize,
    /// The card of the pictures that the generator learned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The card of the network whose features are compared.
    pub features: String,
    /// Images per forward pass.
    pub batch: usize,
}

/// What the evaluation images show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactorsSpec {
    pub sets: Vec<FactorSet>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactorSet {
    pub set: String,
    /// The card of the source of the pictures, or of those that the generator learned from.
    pub data: String,
    pub origin: crate::record::factors::Origin,
}

/// The directions of a generator's w, learned with one seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectionsSpec {
    pub generator: String,
    pub seed: u64,
    pub directions: Vec<WantedDirection>,
    /// How those are learned that no file gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learn: Option<LearnSpec>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedDirection {
    pub name: String,
    pub source: DirectionSource,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DirectionSource {
    /// The file of this card.
    Card(String),
    /// From images whose factor the network of the card `reader` reads.
    Learned { reader: String, factor: String },
}

impl DirectionSource {
    /// The card that it needs.
    pub fn card(&self) -> &str {
        match self {
            DirectionSource::Card(card) => card,
            DirectionSource::Learned { reader, .. } => reader,
        }
    }
}

/// InterFaceGAN's procedure ([`crate::editing::boundary`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnSpec {
    /// Generated images.
    pub samples: u64,
    pub ratio: f64,
    pub split: f64,
    pub loss: Loss,
    pub c: f64,
}

/// Edits of the first images of each set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditStageSpec {
    pub networks: Networks,
    pub source: EditSource,
    /// Seed of the evaluation images: their noise enters the reconstruction too.
    pub seed: u64,
    pub images: usize,
    /// Names of directions, and the factor that each is meant to move, if a network reads it.
    pub directions: Vec<(String, Option<String>)>,
    pub alphas: Vec<f64>,
    pub variants: Vec<Variant>,
    /// The card of the network that reads the factors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader: Option<String>,
    /// Full name of the LPIPS that says how far a picture moved.
    pub lpips: String,
    /// How many images of each set keep their pictures for the figure: the first ones.
    pub figure_images: usize,
    /// Images per forward pass.
    pub batch: usize,
}

/// Whose latents are edited.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EditSource {
    /// Those of the encoder of the input "train".
    Encoder(Box<EncoderMethod>),
    /// The true ones of generated images.
    Own,
}

/// One way of applying a direction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    pub rows: Rows,
    /// Whether the direction is freed of the others first.
    pub conditional: bool,
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

/// A score on the way of an optimisation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceRow {
    pub set: String,
    pub image: String,
    /// Updates so far; 0 is where the method itself puts the image.
    pub step: u64,
    pub metric: String,
    pub value: f64,
}

/// What the images of one set took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeRow {
    pub set: String,
    pub images: usize,
    /// How many were worked on at the same time.
    pub side_by_side: usize,
    /// Wall time per image of what comes before the first step: inversion and decoding.
    pub start_seconds: f64,
    /// Wall time per image and step; 0 without steps.
    pub step_seconds: f64,
}
