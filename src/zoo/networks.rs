//! The networks of the mini zoo: what `mtv-bench zoo train` can train, by the name of its card.
//!
//! Longer than other files: the recipe of every network stands here, and what turns a recipe into a file.

use std::path::Path;

use candle_core::{DType, Device};

use super::adversarial::Objective;
use super::checkpoint;
use super::classifier::{self, Classifier, ObjectClassifier};
use super::drawing::{SIZE, Split};
use super::encoders;
use super::form::Form;
use super::identity::Identity;
use super::judge::{FaceTask, Judge, ObjectTask};
use super::objects;
use super::phases;
use super::pool::Pool;
use super::schedule::{Recipe, Start};
use super::source::{self, Source, Subject};
use super::supervised::{self, Task};
use crate::generators::biggan::{self, BigGan, Truncation};
use crate::generators::{Generator, Target};
use crate::inverters::alae::{self, Alae};
use crate::inverters::baseline::Baseline;
use crate::params::Params;
use crate::perceptual::Vgg16;
use crate::spec::card;
use crate::{Error, Result};

/// The least magnitude of a noise strength where it is kept alive, a little above what the model cards ask for.
const LEAST_NOISE: f64 = 0.0125;

/// How a network is trained.
#[derive(Clone)]
pub enum Training {
    /// Of this subject.
    Generator {
        recipe: Recipe,
        form: Form,
        subject: Subject,
    },
    Classifier(supervised::Recipe),
    ObjectClassifier(supervised::Recipe),
    Judge(supervised::Recipe),
    ObjectJudge(supervised::Recipe),
    Identity(supervised::Recipe),
    /// Of a compared method, on a generator of the zoo.
    Encoder(encoders::Recipe),
}

/// One network of the zoo.
#[derive(Clone)]
pub struct Network {
    /// The name of its card, such as "mini/stylegan1".
    pub name: &'static str,
    pub title: &'static str,
    pub training: Training,
}

fn object_classifier(seed: u64, images: u64) -> Training {
    Training::ObjectClassifier(supervised::Recipe { seed, images, batch: 32, shards: 2, lr: 1e-3, pool: 20_000 })
}

fn classifier(seed: u64) -> Training {
    Training::Classifier(supervised::Recipe { seed, images: 30_000, batch: 32, shards: 2, lr: 1e-3, pool: 40_000 })
}

fn encoder(baseline: Baseline, width: Option<usize>) -> encoders::Recipe {
    let generator = "mini/stylegan1".to_string();
    encoders::Recipe { baseline, generator, pictures: None, width, seed: 1, images: 48_000, batch: 8, decay: 0.3 }
}

/// As its method is published: of pictures, on a generator of its own.
fn native(baseline: Baseline, generator: &str, width: usize) -> Training {
    let (generator, pictures) = (generator.to_string(), Some("mini/faces".into()));
    Training::Encoder(encoders::Recipe { generator, pictures, ..encoder(baseline, Some(width)) })
}

/// Every network, in the order in which they are best trained.
pub fn all() -> Vec<Network> {
    let adversarial = |stages: &[u64], gamma: &[(u64, f64)], pool: usize| Recipe {
        seed: 1,
        batch: 16,
        lr: 3e-3,
        critic_lr: None,
        stages: stages.to_vec(),
        fade: 10_000,
        gamma: gamma.to_vec(),
        decay: 0.25,
        pool,
        objective: Objective::Logistic,
        start: None,
        projected_on: None,
        noise: None,
        then: None,
    };
    // At full size from the start.
    let projected = |classifier: &str, images: u64| Recipe {
        lr: 2e-3,
        critic_lr: Some(1e-3),
        fade: 0,
        objective: Objective::Hinge,
        projected_on: Some(classifier.into()),
        ..adversarial(&[0, 0, 0, images], &[], 24_000)
    };
    // A projected D never asks for noise: what goes on from such a training keeps it alive.
    let with_noise = |recipe: Recipe, most: f64, (lr, critic_lr): (f64, f64), images: u64| {
        let (stages, noise, critic_lr) = (vec![0, 0, 0, images], Some((LEAST_NOISE, most)), Some(critic_lr));
        let then = Recipe { lr, critic_lr, stages, noise, decay: 0.5, ..recipe.clone() };
        Recipe { then: Some(Box::new(then)), ..recipe }
    };
    let faces = |recipe: Recipe, form: Form| Training::Generator { recipe, form, subject: Subject::Faces };
    let objects = |recipe: Recipe, form: Form| Training::Generator { recipe, form, subject: Subject::Objects };
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
            training: faces(adversarial(&[24_000, 36_000], &[(0, 0.375), (24_000, 0.75)], 10_000), Form::stylegan1(16, 32, 256, 4)),
        },
        Network {
            name: "mini/stylegan1",
            title: "StyleGANv1 on procedural faces, 64 px",
            training: faces(
                adversarial(
                    &[40_000, 70_000, 98_464, 180_000],
                    &[(0, 0.375), (40_000, 0.75), (110_000, 1.5), (225_000, 1.0), (290_000, 0.6)],
                    40_000,
                ),
                Form::stylegan1(64, 128, 1024, 8),
            ),
        },
        Network {
            name: "mini/pggan",
            title: "PGGAN on procedural faces, 64 px",
            training: faces(
                Recipe { lr: 2e-3, objective: Objective::PGGAN, ..adversarial(&[40_000, 70_000, 60_000, 62_000], &[], 40_000) },
                Form::pggan(64, 128, 1024),
            ),
        },
        Network {
            name: "mini/stylegan2_faces",
            title: "StyleGANv2 on procedural faces, 64 px",
            training: faces(
                with_noise(Recipe { pool: 40_000, ..projected("mini/vgg16", 200_000) }, 0.4, (5e-4, 2e-3), 40_000),
                Form::stylegan2(64, 128, 1024),
            ),
        },
        Network {
            name: "mini/identity",
            title: "Identity network of the procedural faces, 64 px: embeddings that tell persons apart",
            training: Training::Identity(supervised::Recipe { seed: 21, images: 48_000, batch: 64, shards: 2, lr: 1.5e-3, pool: 30_000 }),
        },
        Network {
            name: "mini/psp",
            title: "pSp's encoder on mini/stylegan1, 64 px",
            training: Training::Encoder(encoder(Baseline::Psp, Some(32))),
        },
        Network {
            name: "mini/indomain",
            title: "In-Domain's encoder on mini/stylegan1, 64 px",
            training: Training::Encoder(encoder(Baseline::Indomain, Some(40))),
        },
        Network {
            name: "mini/alae",
            title: "ALAE's encoder on mini/stylegan1, 64 px: latent reciprocity alone, not the joint training",
            training: Training::Encoder(encoder(Baseline::Alae, None)),
        },
        Network {
            name: "mini/psp_native",
            title: "pSp's encoder on mini/stylegan2_faces, 64 px, learned from pictures",
            training: native(Baseline::Psp, "mini/stylegan2_faces", 32),
        },
        Network {
            name: "mini/indomain_generator",
            title: "StyleGANv1 on procedural faces, 64 px: In-Domain's own generator",
            training: faces(
                with_noise(Recipe { seed: 2, pool: 40_000, ..projected("mini/vgg16", 100_000) }, 0.4, (5e-4, 2e-3), 24_000),
                Form::stylegan1(64, 128, 1024, 8),
            ),
        },
        Network {
            name: "mini/indomain_native",
            title: "In-Domain's encoder on mini/indomain_generator, 64 px, learned from pictures",
            training: native(Baseline::Indomain, "mini/indomain_generator", 40),
        },
        Network {
            name: "mini/alae_native",
            title: "ALAE on procedural faces, 64 px: E, G, F and D trained jointly",
            training: faces(
                Recipe {
                    lr: 1.5e-3,
                    fade: 0,
                    objective: Objective::Alae,
                    start: Some(Start { generator: "mini/stylegan1".into(), encoder: "mini/alae".into() }),
                    ..adversarial(&[0, 0, 0, 60_000], &[(0, 1.0), (20_000, 0.2)], 40_000)
                },
                Form::stylegan1(64, 128, 1024, 8),
            ),
        },
        Network {
            name: "mini/judge_objects",
            title: "Class and factors of the procedural objects, 64 px: the independent judge of the model cards",
            training: Training::ObjectJudge(supervised::Recipe {
                seed: 12,
                images: 40_000,
                batch: 32,
                shards: 2,
                lr: 1.5e-3,
                pool: 20_000,
            }),
        },
        Network {
            name: "mini/vgg16_objects",
            title: "VGG16 topology, narrow, classifier of the procedural objects (seed 1): losses and Grad-CAM",
            training: object_classifier(1, 24_000),
        },
        Network {
            name: "mini/vgg16_objects_judge",
            title: "VGG16 topology, narrow, classifier of the procedural objects (seed 2): LPIPS, evaluation only",
            training: object_classifier(2, 72_000),
        },
        // By StyleGANv2's own objective the distance was 66 after 344,000 images; with a smaller gamma there were objects, full of noise.
        Network {
            name: "mini/stylegan2",
            title: "StyleGANv2 on procedural objects, 64 px",
            training: objects(
                with_noise(projected("mini/vgg16_objects", 200_000), 0.05, (1e-3, 1e-3), 40_000),
                Form::stylegan2(64, 128, 1024),
            ),
        },
        Network {
            name: "mini/biggan",
            title: "BigGAN-deep on procedural objects, 64 px, 10 classes",
            training: objects(
                Recipe { batch: 32, lr: 6e-4, ..projected("mini/vgg16_objects", 150_000) },
                Form::BigGan { widths: vec![128, 128, 128, 128, 128, 128, 64, 64, 32], latent: 128, classes: objects::CLASSES.len() },
            ),
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
            Training::Generator { recipe, .. } => {
                let mut phase = Some(recipe);
                while let Some(recipe) = phase {
                    recipe.seed = seed;
                    phase = recipe.then.as_deref_mut();
                }
            }
            Training::Classifier(recipe)
            | Training::ObjectClassifier(recipe)
            | Training::Judge(recipe)
            | Training::ObjectJudge(recipe)
            | Training::Identity(recipe) => recipe.seed = seed,
            Training::Encoder(recipe) => recipe.seed = seed,
        }
        self
    }

    /// The recipe of a network that is not a generator.
    fn supervised(&self) -> Option<&supervised::Recipe> {
        match &self.training {
            Training::Generator { .. } | Training::Encoder(_) => None,
            Training::Classifier(recipe)
            | Training::ObjectClassifier(recipe)
            | Training::Judge(recipe)
            | Training::ObjectJudge(recipe)
            | Training::Identity(recipe) => Some(recipe),
        }
    }

    /// The pictures that it learns from.
    pub fn source(&self) -> Source {
        let subject = match &self.training {
            Training::Generator { subject, .. } => *subject,
            Training::ObjectClassifier(_) | Training::ObjectJudge(_) => Subject::Objects,
            Training::Classifier(_) | Training::Judge(_) | Training::Identity(_) | Training::Encoder(_) => Subject::Faces,
        };
        Source::of(subject, source::SEED)
    }

    /// The judge of its source.
    pub fn judge(&self) -> &'static str {
        self.source().judge()
    }

    pub fn seed(&self) -> u64 {
        match &self.training {
            Training::Generator { recipe, .. } => recipe.seed,
            Training::Encoder(recipe) => recipe.seed,
            _ => self.supervised().map_or(0, |r| r.seed),
        }
    }

    pub fn images(&self) -> u64 {
        match &self.training {
            Training::Generator { recipe, .. } => recipe.phases().map(Recipe::total).sum(),
            Training::Encoder(recipe) => recipe.images,
            _ => self.supervised().map_or(0, |r| r.images),
        }
    }

    /// Height and width of the pictures that it sees or makes.
    pub fn resolution(&self) -> usize {
        match &self.training {
            Training::Generator { form, .. } => form.resolution(),
            _ => SIZE,
        }
    }

    /// What the card says of the network's shape.
    pub fn shape(&self) -> card::Network {
        let shape = |family: &str| card::Network { family: family.into(), layout: "native".into(), ..Default::default() };
        match &self.training {
            Training::Generator { recipe, form, .. } => match recipe.objective {
                Objective::Alae => card::Network { latent: form.card().latent, ..shape("alae") },
                _ => form.card(),
            },
            Training::Classifier(_) => {
                card::Network { widths: classifier::WIDTHS.to_vec(), classes: Some(classifier::CLASSES), ..shape("vgg16") }
            }
            Training::ObjectClassifier(_) => {
                card::Network { widths: classifier::WIDTHS.to_vec(), classes: Some(objects::CLASSES.len()), ..shape("vgg16") }
            }
            Training::Judge(_) => shape("judge"),
            Training::ObjectJudge(_) => card::Network { classes: Some(objects::CLASSES.len()), ..shape("judge") },
            Training::Identity(_) => card::Network { latent: Some(super::identity::EMBEDDING), ..shape("identity") },
            Training::Encoder(recipe) => recipe.shape(),
        }
    }

    /// Trains, with its state in `folder`; then writes the weights there as "weights.safetensors". `minutes` shortens or lengthens
    /// the training of a generator to about this time, by the measured speed of this machine; of a training that goes on, what is
    /// left of it.
    ///
    /// Errors: divergence, an unusable folder, a device on which training is not possible.
    pub fn train(&self, folder: &Path, resume: bool, minutes: Option<f64>, device: &Device, mut report: impl FnMut(&str)) -> Result<()> {
        if !device.is_cpu() {
            return Err(Error::usage("the zoo trains on the CPU: use --device cpu"));
        }
        let source = self.source();
        let draw = |count: usize| Pool::draw(&source, Split::Train, count);
        report(&format!("training {} (seed {}, {} images), state in {}", self.name, self.seed(), self.images(), folder.display()));
        let (tensors, about) = match &self.training {
            Training::Generator { recipe, form, .. } => phases::train(self, (recipe, form), folder, resume, minutes, device, &mut report)?,
            Training::Classifier(r) => self.supervise::<Classifier>(r, &draw(r.pool), folder, resume, device, report)?,
            Training::ObjectClassifier(r) => self.supervise::<ObjectClassifier>(r, &draw(r.pool), folder, resume, device, report)?,
            Training::Judge(r) => self.supervise::<FaceTask>(r, &draw(r.pool), folder, resume, device, report)?,
            Training::ObjectJudge(r) => self.supervise::<ObjectTask>(r, &draw(r.pool), folder, resume, device, report)?,
            Training::Identity(r) => self.supervise::<Identity>(r, &draw(r.pool), folder, resume, device, report)?,
            Training::Encoder(r) => {
                let (tensors, seconds) = encoders::train(r, folder, resume, device)?;
                (tensors, self.about(r, r.images, seconds)?)
            }
        };
        let tensors = match self.ships_halved() {
            true => tensors.into_iter().map(|(name, t)| Ok((name, t.to_dtype(DType::F16)?))).collect::<candle_core::Result<_>>()?,
            false => tensors,
        };
        checkpoint::save(&folder.join(WEIGHTS), &tensors, &about)
    }

    /// Whether its weights ship as 16-bit floats: all of the zoo is to fit into 40 MB.
    fn ships_halved(&self) -> bool {
        match &self.training {
            Training::Generator { recipe, .. } => recipe.objective == Objective::Alae,
            Training::Encoder(recipe) => recipe.pictures.is_some(),
            _ => false,
        }
    }

    fn supervise<T: Task>(
        &self,
        recipe: &supervised::Recipe,
        pool: &Pool,
        folder: &Path,
        resume: bool,
        device: &Device,
        report: impl FnMut(&str),
    ) -> Result<(std::collections::BTreeMap<String, candle_core::Tensor>, serde_json::Value)> {
        let (_, params, seconds) = supervised::train::<T>(recipe, pool, folder, resume, device, report)?;
        Ok((params.snapshot()?, self.about(recipe, recipe.images, seconds)?))
    }

    /// What a file of weights says of itself.
    pub(super) fn about(&self, recipe: &impl serde::Serialize, images: u64, seconds: f64) -> Result<serde_json::Value> {
        let recipe = serde_json::to_value(recipe).map_err(|e| Error::internal(e.to_string()))?;
        let source = match &self.training {
            Training::Encoder(encoders::Recipe { pictures: None, generator, .. }) => format!("images of {generator}"),
            _ => format!("{}, seed {}", self.source().name(), source::SEED),
        };
        Ok(serde_json::json!({
            "name": self.name,
            "images": images,
            "seconds": seconds.round(),
            "recipe": recipe,
            "source": source,
            "version": env!("CARGO_PKG_VERSION"),
            "machine": crate::machine::cpu(),
            "licence": "MIT OR Apache-2.0",
        }))
    }
}

/// The file of the finished weights in the state folder.
pub const WEIGHTS: &str = "weights.safetensors";

/// The shipped generator in these bytes, frozen.
pub fn open_generator(bytes: &[u8], origin: &str, device: &Device) -> Result<Box<dyn Generator>> {
    let (tensors, _) = checkpoint::read(bytes, origin, device)?;
    crate::generators::open(tensors, &Target::new(DType::F32, device, origin))
}

/// The shipped ALAE in these bytes, frozen.
pub fn open_alae(bytes: &[u8], origin: &str, device: &Device) -> Result<Alae> {
    let (tensors, _) = checkpoint::read(bytes, origin, device)?;
    alae::open(tensors, &Target::new(DType::F32, device, origin))
}

/// The shipped BigGAN in these bytes, frozen, at another truncation than [`open_generator`] gives it.
pub fn open_biggan(bytes: &[u8], origin: &str, truncation: Truncation, device: &Device) -> Result<BigGan> {
    let (tensors, _) = checkpoint::read(bytes, origin, device)?;
    biggan::open(tensors, &Target::new(DType::F32, device, origin), None, truncation)
}

/// The network in these bytes, frozen.
fn opened<T>(bytes: &[u8], origin: &str, device: &Device, build: impl FnOnce(&Params) -> candle_core::Result<T>) -> Result<T> {
    let (tensors, _) = checkpoint::read(bytes, origin, device)?;
    let params = Params::frozen(tensors, DType::F32, device, origin);
    let network = build(&params)?;
    params.finish()?;
    Ok(network)
}

/// The shipped classifier in these bytes, frozen; its shape is read off them.
pub fn open_classifier(bytes: &[u8], origin: &str, device: &Device) -> Result<Vgg16> {
    opened(bytes, origin, device, |p| Vgg16::new(&crate::perceptual::vgg16::Config::read(p)?, p))
}

/// The shipped judge of this source in these bytes, frozen.
pub fn open_judge(source: &Source, bytes: &[u8], origin: &str, device: &Device) -> Result<Judge> {
    opened(bytes, origin, device, |p| match source {
        Source::Faces(_) => Judge::of_faces(p),
        Source::Objects(_) => Judge::of_objects(p),
    })
}

/// The shipped identity network in these bytes, frozen.
pub fn open_identity(bytes: &[u8], origin: &str, device: &Device) -> Result<Identity> {
    opened(bytes, origin, device, Identity::new)
}
