//! The networks of the mini zoo: what `mtv-bench zoo train` can train, by the name of its card, and what turns a recipe into a file.

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
use super::recipes;
use super::schedule::Recipe;
use super::source::{self, Source, Subject};
use super::supervised::{self, Task};
use crate::generators::biggan::{self, BigGan, Truncation};
use crate::generators::{Generator, Target};
use crate::inverters::alae::{self, Alae};
use crate::params::Params;
use crate::perceptual::Vgg16;
use crate::spec::card;
use crate::{Error, Result};

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

impl Network {
    /// The network of this name; "mini/" may be left out.
    ///
    /// Errors: there is none, with the names that there are.
    pub fn named(name: &str) -> Result<Network> {
        let all = recipes::all();
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

    /// The pictures that it learns from, a generator in its last phase.
    pub fn source(&self) -> Source {
        let subject = match &self.training {
            Training::Generator { subject, recipe, .. } => {
                return Source::of(*subject, source::SEED).of_class(recipe.phases().last().and_then(|phase| phase.class));
            }
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
            Training::Generator { recipe, .. } => {
                let mut names: Vec<&str> = recipe.phases().map(|phase| self.source().of_class(phase.class).name()).collect();
                names.dedup();
                format!("{}, seed {}", names.join(" and "), source::SEED)
            }
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
