//! The networks of the mini zoo: what `mtv-bench zoo train` can train, by the name of its card.

use std::path::Path;

use candle_core::{DType, Device};

use super::checkpoint;
use super::classifier::{self, Classifier};
use super::faces::{Source, Split};
use super::gan::{self, Trainer};
use super::judge::Judge;
use super::measure::mean_w;
use super::pool::Pool;
use super::supervised::{self, Task};
use crate::generators::stylegan1::{self, StyleGan1};
use crate::generators::{Generator, Target};
use crate::params::Params;
use crate::perceptual::Vgg16;
use crate::spec::card;
use crate::{Error, Result};

/// The seed of the faces that every network of the zoo sees.
pub const SOURCE_SEED: u64 = 1;

/// Latents over which the mean w is taken.
const CENTRE_LATENTS: usize = 10_000;

/// How a network is trained.
#[derive(Clone)]
pub enum Training {
    Generator { recipe: gan::Recipe, build: gan::Build },
    Classifier(supervised::Recipe),
    Judge(supervised::Recipe),
}

/// One network of the zoo.
#[derive(Clone)]
pub struct Network {
    /// The name of its card, such as "mini/stylegan1".
    pub name: &'static str,
    pub title: &'static str,
    pub training: Training,
}

/// StyleGANv1 at this resolution with this latent and width.
fn stylegan1(resolution: usize, latent: usize, fmaps_base: usize, mapping_layers: usize) -> stylegan1::Config {
    stylegan1::Config {
        z_dim: latent,
        w_dim: latent,
        fmaps_base,
        fmaps_max: 64,
        mapping_layers,
        mapping_fmaps: latent,
        ..stylegan1::Config::paper(resolution)
    }
}

fn mini_stylegan1(p: &Params) -> candle_core::Result<Box<gan::Network>> {
    Ok(Box::new(StyleGan1::new(&stylegan1(64, 128, 1024, 8), p)?))
}

fn tiny_stylegan1(p: &Params) -> candle_core::Result<Box<gan::Network>> {
    Ok(Box::new(StyleGan1::new(&stylegan1(16, 32, 256, 4), p)?))
}

fn classifier(seed: u64) -> Training {
    Training::Classifier(supervised::Recipe { seed, images: 30_000, batch: 32, shards: 2, lr: 1e-3, pool: 40_000 })
}

/// Every network, in the order in which they are best trained.
pub fn all() -> Vec<Network> {
    let adversarial = |stages: &[u64], gamma: &[(u64, f64)], pool: usize| gan::Recipe {
        seed: 1,
        batch: 16,
        lr: 3e-3,
        stages: stages.to_vec(),
        fade: 10_000,
        gamma: gamma.to_vec(),
        decay: 0.25,
        pool,
    };
    vec![
        Network {
            name: "mini/judge",
            title: "Factor regressor of the procedural faces, 64 px: the independent judge of the model cards",
            training: Training::Judge(supervised::Recipe { seed: 11, images: 40_000, batch: 32, shards: 2, lr: 1.5e-3, pool: 40_000 }),
        },
        Network {
            name: "mini/vgg16",
            title: "VGG16 topology, narrow, classifier of the procedural faces (seed 1): losses and Grad-CAM",
            training: classifier(1),
        },
        Network {
            name: "mini/vgg16_judge",
            title: "VGG16 topology, narrow, classifier of the procedural faces (seed 2): LPIPS, evaluation only",
            training: classifier(2),
        },
        Network {
            name: "mini/stylegan1_tiny",
            title: "StyleGANv1 on procedural faces, 16 px, for tests",
            training: Training::Generator {
                recipe: adversarial(&[24_000, 36_000], &[(0, 0.375), (24_000, 0.75)], 10_000),
                build: tiny_stylegan1,
            },
        },
        Network {
            name: "mini/stylegan1",
            title: "StyleGANv1 on procedural faces, 64 px",
            training: Training::Generator {
                recipe: adversarial(
                    &[40_000, 70_000, 98_464, 180_000],
                    &[(0, 0.375), (40_000, 0.75), (110_000, 1.5), (225_000, 1.0), (290_000, 0.6)],
                    40_000,
                ),
                build: mini_stylegan1,
            },
        },
    ]
}

impl Network {
    /// The network of this name; "mini/" may be left out.
    ///
    /// Errors: there is none, with the names that there are.
    pub fn named(name: &str) -> Result<Network> {
        let all = all();
        let names: Vec<&str> = all.iter().map(|n| n.name).collect();
        let found = all.iter().find(|n| n.name == name || n.name.strip_prefix("mini/") == Some(name));
        found.cloned().ok_or_else(|| Error::usage(format!("the zoo has no network \"{name}\"; it has {}", names.join(", "))))
    }

    /// The same network from another seed.
    pub fn with_seed(mut self, seed: u64) -> Self {
        match &mut self.training {
            Training::Generator { recipe, .. } => recipe.seed = seed,
            Training::Classifier(recipe) | Training::Judge(recipe) => recipe.seed = seed,
        }
        self
    }

    pub fn seed(&self) -> u64 {
        match &self.training {
            Training::Generator { recipe, .. } => recipe.seed,
            Training::Classifier(recipe) | Training::Judge(recipe) => recipe.seed,
        }
    }

    pub fn images(&self) -> u64 {
        match &self.training {
            Training::Generator { recipe, .. } => recipe.total(),
            Training::Classifier(recipe) | Training::Judge(recipe) => recipe.images,
        }
    }

    /// What the card says of the network's shape.
    pub fn shape(&self) -> card::Network {
        let shape = |family: &str| card::Network { family: family.into(), layout: "native".into(), ..Default::default() };
        let generator = |c: stylegan1::Config| card::Network {
            latent: Some(c.z_dim),
            fmaps_base: Some(c.fmaps_base),
            fmaps_max: Some(c.fmaps_max),
            mapping_layers: Some(c.mapping_layers),
            truncation_psi: Some(0.7),
            truncation_layers: Some(c.blocks()),
            ..shape("stylegan1")
        };
        match (&self.training, self.name) {
            (Training::Generator { .. }, "mini/stylegan1_tiny") => generator(stylegan1(16, 32, 256, 4)),
            (Training::Generator { .. }, _) => generator(stylegan1(64, 128, 1024, 8)),
            (Training::Classifier(_), _) => {
                card::Network { widths: classifier::WIDTHS.to_vec(), classes: Some(classifier::CLASSES), ..shape("vgg16") }
            }
            (Training::Judge(_), _) => shape("judge"),
        }
    }

    /// Trains, with its state in `folder`; then writes the weights there as "weights.safetensors". `minutes` shortens or lengthens
    /// the training of a generator to about this time, by the measured speed of this machine.
    ///
    /// Errors: divergence, an unusable folder, a device on which training is not possible.
    pub fn train(&self, folder: &Path, resume: bool, minutes: Option<f64>, device: &Device, mut report: impl FnMut(&str)) -> Result<()> {
        if !device.is_cpu() {
            return Err(Error::usage("the zoo trains on the CPU: use --device cpu"));
        }
        let source = Source::new(SOURCE_SEED);
        let draw = |count: usize| Pool::draw(&source, Split::Train, count);
        report(&format!("training {} (seed {}, {} images), state in {}", self.name, self.seed(), self.images(), folder.display()));
        let (tensors, about) = match &self.training {
            Training::Generator { recipe, build } => {
                let mut trainer = if resume {
                    Trainer::resume(folder, |_| (), *build, |recipe| draw(recipe.pool), device)?
                } else {
                    let recipe = match minutes {
                        Some(minutes) => recipe.scaled(minutes * 60.0 / self.estimate(recipe, *build, draw(64), device)?),
                        None => recipe.clone(),
                    };
                    report(&format!("images per stage: {:?}", recipe.stages));
                    Trainer::new(recipe.clone(), *build, draw(recipe.pool), device)?
                };
                trainer.run(folder, 180.0, &mut report)?;
                let (generator, params) = trainer.average();
                let mut tensors = params.snapshot()?;
                tensors.insert("center_tensor".into(), mean_w(generator, trainer.recipe().seed, CENTRE_LATENTS, device)?);
                (tensors, about(self.name, trainer.recipe(), trainer.shown(), trainer.seconds())?)
            }
            Training::Classifier(recipe) => {
                supervised_weights::<Classifier>(self.name, recipe, &draw(recipe.pool), folder, resume, device, report)?
            }
            Training::Judge(recipe) => supervised_weights::<Judge>(self.name, recipe, &draw(recipe.pool), folder, resume, device, report)?,
        };
        checkpoint::save(&folder.join(WEIGHTS), &tensors, &about)
    }

    /// Seconds that the recipe takes on this machine, from a few steps at each resolution.
    fn estimate(&self, recipe: &gan::Recipe, build: gan::Build, pool: Pool, device: &Device) -> Result<f64> {
        let mut first = 0;
        let mut seconds = 0.0;
        let mut pool = Some(pool);
        for (place, &images) in recipe.stages.iter().enumerate() {
            let mut stages = vec![0; recipe.stages.len()];
            stages[place] = 1 << 40;
            let probe = gan::Recipe { stages, ..recipe.clone() };
            let mut trainer =
                Trainer::new(probe, build, pool.take().unwrap_or_else(|| Pool::draw(&Source::new(SOURCE_SEED), Split::Train, 64)), device)?;
            trainer.step()?;
            let start = std::time::Instant::now();
            (0..8).try_for_each(|_| trainer.step().map(|_| ()))?;
            seconds += start.elapsed().as_secs_f64() / (8 * recipe.batch) as f64 * images as f64;
            first += images;
        }
        debug_assert_eq!(first, recipe.total());
        Ok(seconds)
    }
}

/// The file of the finished weights in the state folder.
pub const WEIGHTS: &str = "weights.safetensors";

fn supervised_weights<T: Task>(
    name: &str,
    recipe: &supervised::Recipe,
    pool: &Pool,
    folder: &Path,
    resume: bool,
    device: &Device,
    report: impl FnMut(&str),
) -> Result<(std::collections::BTreeMap<String, candle_core::Tensor>, serde_json::Value)> {
    let (_, params, seconds) = supervised::train::<T>(recipe, pool, folder, resume, device, report)?;
    Ok((params.snapshot()?, about(name, recipe, recipe.images, seconds)?))
}

/// What a file of weights says of itself.
fn about(name: &str, recipe: &impl serde::Serialize, images: u64, seconds: f64) -> Result<serde_json::Value> {
    let recipe = serde_json::to_value(recipe).map_err(|e| Error::internal(e.to_string()))?;
    Ok(serde_json::json!({
        "name": name,
        "images": images,
        "seconds": seconds.round(),
        "recipe": recipe,
        "source": format!("faces, seed {SOURCE_SEED}"),
        "version": env!("CARGO_PKG_VERSION"),
        "machine": crate::machine::cpu(),
        "licence": "MIT OR Apache-2.0",
    }))
}

/// The shipped generator in these bytes, frozen.
pub fn open_generator(bytes: &[u8], origin: &str, device: &Device) -> Result<Box<dyn Generator>> {
    let (tensors, _) = checkpoint::read(bytes, origin, device)?;
    crate::generators::open(tensors, &Target::new(DType::F32, device, origin))
}

/// The shipped classifier in these bytes, frozen.
pub fn open_classifier(bytes: &[u8], origin: &str, device: &Device) -> Result<Vgg16> {
    let (tensors, _) = checkpoint::read(bytes, origin, device)?;
    let params = Params::frozen(tensors, DType::F32, device, origin);
    let network = Vgg16::new(&classifier::config(), &params)?;
    params.finish()?;
    Ok(network)
}

/// The shipped judge in these bytes, frozen.
pub fn open_judge(bytes: &[u8], origin: &str, device: &Device) -> Result<Judge> {
    let (tensors, _) = checkpoint::read(bytes, origin, device)?;
    let params = Params::frozen(tensors, DType::F32, device, origin);
    let network = Judge::new(&params)?;
    params.finish()?;
    Ok(network)
}
