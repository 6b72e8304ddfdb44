//! `method` and `refine` of an arm: which method inverts, and what is optimised for each image after it.
//!
//! ```toml
//! method = { psp = {} }                                  # its encoder, learned on the study's generator
//! method = { psp = { weights = "psp_ffhq_1024" } }       # the published networks with their own decoder
//! method = { external = { command = ["python3", "my_method.py", "{input}", "{output}"] } }    # a method that lives elsewhere
//! refine = { latent = { steps = { mini = 100 } } }       # w+ moves from where the method put it
//! refine = { encoder = { steps = { mini = 200 } } }      # the encoder of MTV-TSA moves (OE, section V.D)
//! ```

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use super::recipe::RecipeSpec;
use crate::inverters::baseline::Baseline;
use crate::inverters::image2stylegan;
use crate::inverters::indomain::Optimisation;
use crate::objective::Recipe;
use crate::stages::{EncoderRefinement, Features, LatentRefinement, LatentTerms, Refinement};

/// What inverts an image: a line per method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MethodSpec {
    /// The paper's encoder, trained by Algorithm 1 with the arm's recipe.
    Mtv(Nothing),
    Alae(Alae),
    Psp(Psp),
    Indomain(Indomain),
    Image2stylegan(Nothing),
    External(External),
}

impl Default for MethodSpec {
    fn default() -> Self {
        MethodSpec::Mtv(Nothing {})
    }
}

/// A method without settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Cards of published networks; without them the encoder is trained on the study's generator.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alae {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
}

/// As [`Alae`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Psp {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
}

/// As [`Alae`]; In-Domain has its encoder, its generator and the VGG16 of its optimisation in three files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Indomain {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<String>,
    /// For (I) only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<String>,
}

/// A method that lives elsewhere: a command, or a folder with its reconstructions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct External {
    /// Program and arguments; no shell reads them. "{input}" stands for a folder with the pictures (ID.png), "{output}" for the empty folder
    /// where it leaves their reconstructions under the same names and of the same size, "{set}" for the set's name. It runs once per set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Instead of a command: the folder of the reconstructions (ID.png); "{set}" in it stands for the set's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// When a command is given up.
    #[serde(default = "an_hour")]
    pub timeout_seconds: f64,
}

fn an_hour() -> f64 {
    3600.0
}

impl External {
    /// What is wrong: the key, and why.
    pub fn check(&self) -> Result<(), Fault> {
        let wrong = |key, message: &str| Err(Fault { key, message: message.into() });
        let has = |what: &str| self.command.iter().any(|a| a.contains(what));
        match (&self.folder, self.command.is_empty()) {
            (Some(_), false) => wrong("folder", "either a command or a folder, not both"),
            (None, true) => wrong("command", "a command or a folder is needed"),
            (None, false) if self.command[0].is_empty() => wrong("command", "the first entry is the program"),
            (None, false) if !has("{input}") || !has("{output}") => wrong(
                "command",
                "\"{input}\" and \"{output}\" must stand in it: the folder with the pictures and the one for their reconstructions",
            ),
            _ if !(self.timeout_seconds > 0.0 && self.timeout_seconds <= 1e7) => {
                wrong("timeout_seconds", "a number of seconds above 0 is expected")
            }
            _ => Ok(()),
        }
    }
}

impl MethodSpec {
    pub fn is_mtv(&self) -> bool {
        matches!(self, MethodSpec::Mtv(_))
    }

    /// The key that names it.
    pub fn key(&self) -> &'static str {
        match self {
            MethodSpec::Mtv(_) => "mtv",
            MethodSpec::Alae(_) => "alae",
            MethodSpec::Psp(_) => "psp",
            MethodSpec::Indomain(_) => "indomain",
            MethodSpec::Image2stylegan(_) => "image2stylegan",
            MethodSpec::External(_) => "external",
        }
    }

    /// The method whose encoder this is; None for the paper's own.
    pub fn baseline(&self) -> Option<Baseline> {
        match self {
            MethodSpec::Mtv(_) | MethodSpec::External(_) => None,
            MethodSpec::Alae(_) => Some(Baseline::Alae),
            MethodSpec::Psp(_) => Some(Baseline::Psp),
            MethodSpec::Indomain(_) => Some(Baseline::Indomain),
            MethodSpec::Image2stylegan(_) => Some(Baseline::Image2stylegan),
        }
    }

    /// The cards that are named, by key.
    pub fn cards(&self) -> Vec<(&'static str, &str)> {
        let list: Vec<(&'static str, Option<&String>)> = match self {
            MethodSpec::Mtv(_) | MethodSpec::Image2stylegan(_) | MethodSpec::External(_) => vec![],
            MethodSpec::Alae(a) => vec![("weights", a.weights.as_ref())],
            MethodSpec::Psp(p) => vec![("weights", p.weights.as_ref())],
            MethodSpec::Indomain(i) => {
                vec![("weights", i.weights.as_ref()), ("decoder", i.decoder.as_ref()), ("features", i.features.as_ref())]
            }
        };
        list.into_iter().filter_map(|(key, card)| Some((key, card?.as_str()))).collect()
    }
}

/// What is optimised for each image, from where the method put it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefineSpec {
    Latent(RefineLatent),
    Encoder(RefineEncoder),
}

/// w+ of each image, by Adam. In-Domain, pSp and ALAE: In-Domain's three terms, 100 steps of 0.01; Image2StyleGAN: its own, 5,000 of 0.01;
/// MTV-TSA: the image loss of its recipe, 1,500 of 0.01.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefineLatent {
    /// By profile; the method's published number where a profile is not named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub steps: BTreeMap<String, NonZeroU64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
}

/// The weights of MTV-TSA's encoder, anew for each image: 1,500 steps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefineEncoder {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub steps: BTreeMap<String, NonZeroU64>,
    /// The recipe's where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Whole tables that replace those of the arm's recipe: `preset = "released"` for what the released script does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<RecipeSpec>,
}

/// What is wrong in `refine`: the key below it, and why.
pub struct Fault {
    pub key: &'static str,
    pub message: String,
}

const OE_STEPS: u64 = 1500;

impl RefineSpec {
    pub fn profiles(&self) -> impl Iterator<Item = &String> {
        match self {
            RefineSpec::Latent(l) => l.steps.keys(),
            RefineSpec::Encoder(e) => e.steps.keys(),
        }
    }

    pub fn key(&self) -> &'static str {
        match self {
            RefineSpec::Latent(_) => "latent",
            RefineSpec::Encoder(_) => "encoder",
        }
    }

    fn lr(&self) -> Option<f64> {
        match self {
            RefineSpec::Latent(l) => l.lr,
            RefineSpec::Encoder(e) => e.lr,
        }
    }

    /// Every value, for an arm of this method and recipe; `refined` is the arm's recipe with that of `encoder` over it.
    pub fn resolve(&self, method: &MethodSpec, recipe: &Recipe, refined: Recipe, profile: &str) -> Result<Refinement, Fault> {
        if let Some(lr) = self.lr()
            && !(lr.is_finite() && lr > 0.0)
        {
            return Err(Fault { key: self.key(), message: "a learning rate is a number above 0".into() });
        }
        let steps = |table: &BTreeMap<String, NonZeroU64>, published: u64| table.get(profile).map_or(published, |s| s.get());
        match (self, method) {
            (RefineSpec::Encoder(e), MethodSpec::Mtv(_)) => {
                // How the image is decoded belongs to the trained encoder.
                let recipe = Recipe { latents: recipe.latents.clone(), encoder: recipe.encoder.clone(), ..refined };
                let lr = e.lr.unwrap_or(recipe.optimizer.lr);
                Ok(Refinement::Encoder(EncoderRefinement { steps: steps(&e.steps, OE_STEPS), lr, recipe }))
            }
            (RefineSpec::Encoder(_), _) => Err(Fault {
                key: "encoder",
                message: format!("only the encoder of \"mtv\" is optimised per image; for \"{}\" there is `latent`", method.key()),
            }),
            (RefineSpec::Latent(_), MethodSpec::External(_)) => {
                Err(Fault { key: "latent", message: "nothing is known of the latents of an external method".into() })
            }
            (RefineSpec::Latent(l), _) => {
                let published = Optimisation::default();
                let (terms, lr, most) = match method {
                    MethodSpec::Mtv(_) => (LatentTerms::Recipe, published.learning_rate, OE_STEPS),
                    MethodSpec::Image2stylegan(_) => (LatentTerms::Image2stylegan, image2stylegan::LEARNING_RATE, image2stylegan::STEPS),
                    MethodSpec::Alae(_) | MethodSpec::Psp(_) | MethodSpec::Indomain(_) | MethodSpec::External(_) => {
                        let own = matches!(method, MethodSpec::Indomain(i) if i.features.is_some());
                        let features = if own { Features::Keras } else { Features::Torchvision };
                        (LatentTerms::Guided(features), published.learning_rate, published.steps as u64)
                    }
                };
                Ok(Refinement::Latent(LatentRefinement { steps: steps(&l.steps, most), lr: l.lr.unwrap_or(lr), terms }))
            }
        }
    }
}
