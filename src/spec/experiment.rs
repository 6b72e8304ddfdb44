//! A study as a user writes it (`experiments/<name>.toml`), and the same study resolved: profile applied, every default
//! written out, nothing left to choose.
//!
//! A study names the networks of the paper; the profile says what stands in for them. An arm overrides whole named tables of
//! the study (`recipe`, `train`) and nothing else, so that an arm can be read without the rest.
//!
//! Longer than other files: what is written, what it becomes and the checks between the two are read together, key by key.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};

use serde::{Deserialize, Serialize};

use super::card::Card;
use super::document::Document;
use super::edit::{EditSpec, ResolvedEdit};
use super::files;
use super::method::{MethodSpec, RefineSpec};
use super::profile::Profile;
use super::recipe::RecipeSpec;
use crate::inverters::baseline::Baseline;
use crate::objective::{BigGanCondition, Recipe, Types};
use crate::stages::{ImageSet, Networks, Protocol, Refinement};
use crate::{Error, Result};

/// A study as written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// The file's name without ".toml".
    pub name: String,
    /// Raised when the study itself changes, so that records of different versions are not compared.
    pub version: u32,
    pub title: String,
    /// What of the paper this reproduces, for example "Section V.C, Fig. 9".
    pub paper: String,
    /// Measured or expected cost per profile, in words.
    pub cost: BTreeMap<String, String>,
    pub networks: StudyNetworks,
    /// The recipe of every arm that has none of its own.
    #[serde(default)]
    pub recipe: RecipeSpec,
    /// Lengths that differ from the profile's, by profile.
    #[serde(default)]
    pub train: BTreeMap<String, TrainPatch>,
    pub arms: Vec<Arm>,
    pub evaluate: Evaluate,
    /// Edits of what the arms inverted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<EditSpec>,
    pub report: Report,
}

/// The networks and data of the paper, by the names of their cards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudyNetworks {
    pub generator: String,
    /// The VGG16 of the training loss and of Grad-CAM.
    #[serde(default = "vgg16")]
    pub features: String,
    /// The network of the LPIPS that evaluates.
    #[serde(default = "lpips")]
    pub judge: String,
    /// The held-out real images.
    #[serde(default = "celeba_hq")]
    pub real: String,
}

fn vgg16() -> String {
    "vgg16".into()
}

fn lpips() -> String {
    "lpips_vgg16".into()
}

fn celeba_hq() -> String {
    "celeba_hq".into()
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// For files and the command line: lower-case letters, digits and "_".
    pub name: String,
    /// For tables and figures.
    pub label: String,
    /// What the encoder predicts and the generator decodes: "z", "w/2", "w", "w+zn" or "w+zn+zc" (Fig. 9). Other methods than the
    /// paper's make w+ and have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latents: Option<Types>,
    /// What inverts: the paper's own method if left out.
    #[serde(default, skip_serializing_if = "MethodSpec::is_mtv")]
    pub method: MethodSpec,
    /// What is optimised for each image after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refine: Option<RefineSpec>,
    /// By profile: how many images of each set, the first ones, where the method is too slow for all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub images: BTreeMap<String, NonZeroUsize>,
    /// The card of the arm's own generator, where it is not the study's. The arm then has images and reference rows of its own, which
    /// it shares with the other arms of that generator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator: Option<String>,
    /// The cards of the VGG16 of the training loss and of the evaluating LPIPS that know its pictures, where they are not the study's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<String>,
    /// The profiles in which the arm runs; all of them if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// Preset, case and whole tables that replace those of the study's recipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<RecipeSpec>,
    /// Replaces the study's whole train table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<BTreeMap<String, TrainPatch>>,
    /// A remark that the report prints under the table.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Training lengths; what is left out comes from the profile.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainPatch {
    pub steps: Option<NonZeroU64>,
    pub batch: Option<NonZeroUsize>,
    /// Share of the iterations, at the end, in which the learning rate falls to zero.
    pub decay: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    pub sets: Vec<Set>,
    /// Measures without size, in the order of the columns; "lpips" stands for the profile's LPIPS.
    pub metrics: Vec<String>,
    /// How pictures get to a method and its reconstructions to the metrics, a table for each; as they are if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<Protocol>,
    /// The card of the network that says whether faces are still the same persons, for the arms whose generator makes faces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// By profile: how many images the Fréchet distances of generators and reconstructions are taken over.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub frechet: BTreeMap<String, NonZeroUsize>,
    /// Whether the report says how the scores depend on what the images show, where that is known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub factors: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Set {
    /// Made by the generator.
    Synthesized,
    /// Held-out pictures.
    Real,
}

impl Set {
    pub fn name(self) -> &'static str {
        match self {
            Set::Synthesized => "synthesized",
            Set::Real => "real",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Measures of the convergence curves.
    pub curves: Vec<String>,
    /// Columns of the image grid, per set.
    pub figure_images: usize,
    /// The order of the arms that the paper claims, worst first; empty where it claims none.
    #[serde(default)]
    pub claimed_order: Vec<String>,
    /// Measures of the table and figure of quality against seconds per image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tradeoff: Vec<String>,
    /// Image grids of their own, beside the one of everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub figures: Vec<FigureSpec>,
}

/// A grid of some arms on one set of images, as a figure of the paper shows them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FigureSpec {
    /// The name of its files: "figure-8".
    pub name: String,
    /// "synthesized" or "real".
    pub set: Set,
    /// Rows below the target; arms that the profile does not have are left out.
    pub arms: Vec<String>,
}

/// A study with the file it stands in, for errors that name the place.
#[derive(Debug, Clone)]
pub struct Study {
    pub document: Document,
    pub experiment: Experiment,
}

/// A study that can be run: profile applied, every value written out. The record carries it as its specification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resolved {
    pub name: String,
    pub version: u32,
    pub title: String,
    pub paper: String,
    pub profile: String,
    pub networks: Networks,
    pub seeds: Vec<u64>,
    pub sets: Vec<ImageSet>,
    /// Seed of the evaluation images.
    pub evaluation_seed: u64,
    pub evaluation_batch: usize,
    /// Full protocol names.
    pub metrics: Vec<String>,
    pub curve: ResolvedCurve,
    pub arms: Vec<ResolvedArm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<ResolvedEdit>,
    pub report: Report,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<Protocol>,
    /// Full names of the measures of quality against seconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trace: Vec<String>,
    #[serde(default, skip_serializing_if = "Besides::is_none")]
    pub besides: Besides,
}

/// What is measured beside the scores of pairs, each in a stage of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Besides {
    /// The card of the identity network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Images of the Fréchet distances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frechet: Option<usize>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub factors: bool,
}

impl Besides {
    pub fn is_none(&self) -> bool {
        *self == Besides::default()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResolvedArm {
    pub name: String,
    pub label: String,
    pub recipe: Recipe,
    pub steps: u64,
    pub batch: usize,
    pub decay: f64,
    pub note: String,
    /// The arm's own generator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator: Option<OwnGenerator>,
    /// What inverts; for other methods than "mtv" the recipe says no more than how the training images are drawn.
    #[serde(default, skip_serializing_if = "MethodSpec::is_mtv")]
    pub method: MethodSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refine: Option<Refinement>,
    /// How many images of each set, where it is not all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<usize>,
}

impl ResolvedArm {
    /// Whether an encoder is trained for it.
    pub fn trains(&self) -> bool {
        self.method.cards().is_empty()
            && !matches!(self.method, MethodSpec::External(_))
            && self.method.baseline() != Some(Baseline::Image2stylegan)
    }

    /// Whether its networks, decoder included, are published ones.
    pub fn is_published(&self) -> bool {
        !self.method.cards().is_empty()
    }
}

/// The arms of a study that invert the same images.
pub struct Subject<'a> {
    /// The set name of the arms' own generator; None for the study's.
    pub name: Option<&'a str>,
    pub networks: Networks,
    pub sets: Vec<ImageSet>,
    pub arms: Vec<&'a ResolvedArm>,
}

impl Resolved {
    /// The arms by generator, in the order of the study.
    pub fn subjects(&self) -> Vec<Subject<'_>> {
        let mut subjects: Vec<Subject> = Vec::new();
        for arm in &self.arms {
            let name = arm.generator.as_ref().map(|g| g.set.as_str());
            if let Some(subject) = subjects.iter_mut().find(|s| s.name == name) {
                subject.arms.push(arm);
                continue;
            }
            let (mut networks, mut sets) = (self.networks.clone(), self.sets.clone());
            if let Some(own) = &arm.generator {
                networks.generator = own.card.clone();
                networks.features = own.features.clone().unwrap_or(networks.features);
                networks.judge = own.judge.clone().unwrap_or(networks.judge);
                // Each generator's images are a set of their own: no two have the same size or content.
                let renamed = |s: &ImageSet| if s.source.is_none() { own.set.clone() } else { format!("{} {}", s.set, own.set) };
                sets.iter_mut().for_each(|s| s.set = renamed(s));
            }
            subjects.push(Subject { name, networks, sets, arms: vec![arm] });
        }
        subjects
    }
}

/// The generator of an arm that does not take the study's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OwnGenerator {
    /// Its card.
    pub card: String,
    /// The name of its set of images, after the card: "mini_stylegan1".
    pub set: String,
    /// The cards of the VGG16 of the training loss and of the evaluating LPIPS, where they are not the study's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<String>,
}

/// The convergence curves: how many points, on how many images of each set, by which metrics (full protocol names).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResolvedCurve {
    pub points: u64,
    pub images: usize,
    pub metrics: Vec<String>,
}

/// What is said of every arm whose encoder sees the z that it should find (`latents.biggan_condition = "full"`).
const LEAK: &str = "This encoder is told the true z of every image: its target leaks into it, and it could not be used on a real picture.";

/// Names that the rows without training use.
pub const REFERENCE_ROWS: [(&str, &str); 2] = [("mean_image", "mean image"), ("mean_latent", "G(mean w)")];

impl Study {
    /// The study of this name, or the file if `name` ends in ".toml".
    ///
    /// Errors: there is none (with the nearest name), or it is not valid.
    pub fn load(name: &str) -> Result<Study> {
        let path = if name.ends_with(".toml") { name.to_string() } else { format!("experiments/{name}.toml") };
        let Some(document) = Document::open(&path)? else {
            let all = Study::names();
            let hint = files::suggestion(name, all.iter().map(String::as_str));
            return Err(Error::usage(format!("there is no study \"{name}\"{hint} (`mtv-bench list` shows them)")));
        };
        let study = Study { experiment: document.parse()?, document };
        study.validate()?;
        Ok(study)
    }

    /// The names of all studies, sorted.
    pub fn names() -> Vec<String> {
        let strip = |p: String| p.trim_start_matches("experiments/").trim_end_matches(".toml").to_string();
        files::list("experiments", ".toml").into_iter().map(strip).filter(|n| !n.contains('/')).collect()
    }

    /// What can be checked without a profile.
    fn validate(&self) -> Result<()> {
        let e = &self.experiment;
        let stem = self.document.path.rsplit('/').next().unwrap_or("").trim_end_matches(".toml");
        if e.name != stem {
            return Err(self.document.error(&["name"], &format!("the study's name must be the name of its file, \"{stem}\"")));
        }
        if e.arms.is_empty() {
            return Err(self.document.error(&["arms"], "a study needs at least one arm"));
        }
        for (i, arm) in e.arms.iter().enumerate() {
            let at = |key: &str, message: &str| Err(self.document.error(&["arms", &i.to_string(), key], message));
            if arm.name.is_empty() || !arm.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
                return at("name", "an arm's name has lower-case letters, digits and \"_\" only; `label` is free");
            }
            if REFERENCE_ROWS.iter().any(|(name, _)| *name == arm.name) {
                return at("name", &format!("\"{}\" is the name of a reference row", arm.name));
            }
            if e.arms[..i].iter().any(|other| other.name == arm.name) {
                return at("name", &format!("the arm \"{}\" is named twice", arm.name));
            }
            if e.arms[..i].iter().any(|other| other.label == arm.label) {
                return at("label", &format!("the label \"{}\" is used twice", arm.label));
            }
            match (arm.method.is_mtv(), arm.latents) {
                (true, None) => return Err(self.document.error(&["arms", &i.to_string()], "the key \"latents\" is missing here")),
                (false, Some(_)) => {
                    return at("latents", &format!("only \"mtv\" has types of latents; \"{}\" makes w+", arm.method.key()));
                }
                _ => {}
            }
            if arm.recipe.is_some() && !arm.method.is_mtv() {
                return at("recipe", &format!("a recipe is that of \"mtv\"; \"{}\" is trained by its own losses", arm.method.key()));
            }
        }
        for (i, name) in e.report.claimed_order.iter().enumerate() {
            if !e.arms.iter().any(|a| a.name == *name) {
                let hint = files::suggestion(name, e.arms.iter().map(|a| a.name.as_str()));
                return Err(self
                    .document
                    .error(&["report", "claimed_order", &i.to_string()], &format!("there is no arm \"{name}\"{hint}")));
            }
        }
        for (i, figure) in e.report.figures.iter().enumerate() {
            let index = i.to_string();
            if figure.name.is_empty() || !figure.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
                let place = ["report", "figures", &index, "name"];
                return Err(self.document.error(&place, "a figure's name is a file's: lower-case letters, digits and \"-\" only"));
            }
            if let Some(j) = figure.arms.iter().position(|name| !e.arms.iter().any(|a| a.name == *name)) {
                let name = &figure.arms[j];
                let hint = files::suggestion(name, e.arms.iter().map(|a| a.name.as_str()));
                let place = ["report", "figures", &index, "arms", &j.to_string()];
                return Err(self.document.error(&place, &format!("there is no arm \"{name}\"{hint}")));
            }
        }
        let profiles = Profile::names();
        for (i, arm) in e.arms.iter().enumerate() {
            let refined = arm.refine.iter().flat_map(|r| r.profiles().map(|name| (vec!["refine", r.key(), "steps"], name)));
            let mut named = refined.chain(arm.images.keys().map(|name| (vec!["images"], name)));
            if let Some((keys, name)) = named.find(|(_, name)| !profiles.contains(name)) {
                let hint = files::suggestion(name, profiles.iter().map(String::as_str));
                let index = i.to_string();
                let place: Vec<&str> = ["arms", &index].into_iter().chain(keys).chain([name.as_str()]).collect();
                return Err(self.document.error(&place, &format!("there is no profile \"{name}\"{hint}")));
            }
            if let Some(j) = arm.profiles.iter().position(|name| !profiles.contains(name)) {
                let hint = files::suggestion(&arm.profiles[j], profiles.iter().map(String::as_str));
                let place = ["arms", &i.to_string(), "profiles", &j.to_string()];
                return Err(self.document.error(&place, &format!("there is no profile \"{}\"{hint}", arm.profiles[j])));
            }
        }
        for name in e.train.keys().chain(e.cost.keys()) {
            if !profiles.contains(name) {
                let hint = files::suggestion(name, profiles.iter().map(String::as_str));
                let table = if e.train.contains_key(name) { "train" } else { "cost" };
                return Err(self.document.error(&[table, name], &format!("there is no profile \"{name}\"{hint}")));
            }
        }
        let own = e.arms.iter().enumerate().filter_map(|(i, a)| a.train.as_ref().map(|t| (Some(i.to_string()), t)));
        for (arm, lengths) in own.chain([(None, &e.train)]) {
            if let Some((name, _)) = lengths.iter().find(|(_, l)| l.decay.is_some_and(|d| !(0.0..=1.0).contains(&d))) {
                let place = arm.iter().flat_map(|i| ["arms", i.as_str()]).chain(["train", name, "decay"]).collect::<Vec<_>>();
                return Err(self.document.error(&place, "the share of the iterations lies between 0 and 1"));
            }
        }
        if let Some(name) = e.evaluate.frechet.keys().find(|name| !profiles.contains(name)) {
            let hint = files::suggestion(name, profiles.iter().map(String::as_str));
            return Err(self.document.error(&["evaluate", "frechet", name], &format!("there is no profile \"{name}\"{hint}")));
        }
        if let Some((name, _)) = e.evaluate.frechet.iter().find(|(_, n)| n.get() < 2) {
            return Err(self.document.error(&["evaluate", "frechet", name], "a Fréchet distance needs two images at least"));
        }
        if e.evaluate.sets.is_empty() {
            return Err(self.document.error(&["evaluate", "sets"], "at least one set of images is needed"));
        }
        Ok(())
    }

    /// The study in this profile; `seed` replaces the first of the profile's seeds, the others follow it.
    ///
    /// Errors: a card that does not exist, latents that the generator lacks, an unknown metric.
    pub fn resolve(&self, profile: &Profile, seed: Option<u64>) -> Result<Resolved> {
        let e = &self.experiment;
        let card_at = |place: &[&str], name: &str, kinds: &[super::card::Kind]| -> Result<Card> {
            let card = Card::load(profile.card(name)).map_err(|err| self.document.error(place, &err.message))?;
            match kinds.contains(&card.kind) {
                true => Ok(card),
                false => Err(self.document.error(place, &format!("the card \"{}\" is not of the kind needed here", card.name))),
            }
        };
        let card = |key: &str, name: &str, kinds: &[super::card::Kind]| card_at(&["networks", key], name, kinds);
        use super::card::Kind as K;
        let generator = card("generator", &e.networks.generator, &[K::Generator])?;
        let features = card("features", &e.networks.features, &[K::Classifier])?;
        let judge = card("judge", &e.networks.judge, &[K::MetricNetwork, K::Classifier])?;
        let of_profile = |arm: &Arm| arm.profiles.is_empty() || arm.profiles.contains(&profile.name);
        let (mut own, mut conditional): (Vec<Option<OwnGenerator>>, _) = (Vec::new(), Vec::new());
        for (i, arm) in e.arms.iter().enumerate().filter(|(_, arm)| of_profile(arm)) {
            let index = i.to_string();
            let theirs = match &arm.generator {
                Some(name) => Some(card_at(&["arms", &index, "generator"], name, &[K::Generator])?),
                None => None,
            };
            let taken = theirs.as_ref().unwrap_or(&generator);
            let family = taken.network()?.family.as_str();
            if let Some(latents) = arm.latents.filter(|l| !family.starts_with("stylegan") && *l != Types::Z) {
                return Err(self.document.error(
                    &["arms", &index, "latents"],
                    &format!("the generator {} ({family}) has no latents \"{}\"; it has: z", taken.name, latents.name()),
                ));
            }
            if !family.starts_with("stylegan") && (!arm.method.is_mtv() || arm.refine.is_some()) {
                let key = if arm.method.is_mtv() { "refine" } else { "method" };
                let message = format!("the generator {} ({family}) has no rows of w, which this needs", taken.name);
                return Err(self.document.error(&["arms", &index, key], &message));
            }
            if let (true, Some(j)) = (family == "biggan", e.evaluate.sets.iter().position(|set| *set == Set::Real)) {
                return Err(self.document.error(
                    &["evaluate", "sets", &j.to_string()],
                    &format!("the generator {} is conditional, and nobody knows the class of a real picture", taken.name),
                ));
            }
            conditional.push(family == "biggan");
            // A folder's name must not look like the end of the set's.
            let network = |key: &str, name: &Option<String>, kinds: &[K], studys: &Card| -> Result<Option<String>> {
                let Some(name) = name else { return Ok(None) };
                let place = ["arms", &index, key];
                if arm.generator.is_none() {
                    let message =
                        "only an arm with a generator of its own has such networks of its own: others share the study's images and scores";
                    return Err(self.document.error(&place, message));
                }
                // The same network under another name is no other network: keys stay as they are.
                Ok(Some(card_at(&place, name, kinds)?.name).filter(|name| *name != studys.name))
            };
            let own_features = network("features", &arm.features, &[K::Classifier], &features)?;
            let own_judge = network("judge", &arm.judge, &[K::MetricNetwork, K::Classifier], &judge)?;
            let theirs = theirs.map(|card| OwnGenerator {
                set: card.name.replace('/', "_"),
                card: card.name,
                features: own_features,
                judge: own_judge,
            });
            let differs = |o: &&OwnGenerator| theirs.as_ref().is_some_and(|t| t.card == o.card && *t != **o);
            if let Some(other) = own.iter().flatten().find(differs) {
                let message =
                    format!("the arms of the generator {} share their images and scores, but another one names other networks", other.card);
                return Err(self.document.error(&["arms", &index, "generator"], &message));
            }
            own.push(theirs);
        }
        if own.is_empty() {
            return Err(self.document.error(&["arms"], &format!("no arm of this study runs in the profile {}", profile.name)));
        }
        let metric = |key: &[&str], name: &str| -> Result<String> {
            let full = profile.metric(name);
            crate::metrics::by_name(&full).map(|_| full).map_err(|err| self.document.error(key, &err.message))
        };
        let metrics = e.evaluate.metrics.iter().enumerate().map(|(i, m)| metric(&["evaluate", "metrics", &i.to_string()], m));
        let metrics = metrics.collect::<Result<Vec<_>>>()?;
        let curves = e.report.curves.iter().enumerate().map(|(i, m)| metric(&["report", "curves", &i.to_string()], m));
        let curves = curves.collect::<Result<Vec<_>>>()?;
        let trace = e.report.tradeoff.iter().enumerate().map(|(i, m)| metric(&["report", "tradeoff", &i.to_string()], m));
        let trace = trace.collect::<Result<Vec<_>>>()?;
        let mut sets = Vec::new();
        for (i, set) in e.evaluate.sets.iter().enumerate() {
            let source = match set {
                Set::Synthesized => None,
                Set::Real => Some(card("real", &e.networks.real, &[K::Dataset])?.name),
            };
            if e.evaluate.sets[..i].contains(set) {
                return Err(self.document.error(&["evaluate", "sets", &i.to_string()], "this set is named twice"));
            }
            sets.push(ImageSet { set: set.name().into(), images: profile.images.of(*set), source });
        }
        let mut arms = Vec::new();
        let of_here = e.arms.iter().enumerate().filter(|(_, arm)| of_profile(arm));
        for ((i, arm), (generator, conditional)) in of_here.zip(own.into_iter().zip(conditional)) {
            let wanted = arm.recipe.as_ref().map_or(e.recipe.clone(), |r| r.over(&e.recipe));
            let index = i.to_string();
            let types = arm.latents.unwrap_or(Types::W);
            let recipe = wanted.resolve(types).map_err(|fault| {
                let mut place = vec!["arms", &index, "recipe"];
                if arm.recipe.as_ref().is_none_or(|r| !r.gives(fault.table)) {
                    place = vec!["recipe"];
                }
                place.extend([fault.table, fault.key]);
                self.document.error(&place, &fault.message)
            })?;
            let method = self.method(&index, &arm.method, &card_at)?;
            // Image2StyleGAN is nothing but its optimisation.
            let always = matches!(method, MethodSpec::Image2stylegan(_)).then(|| RefineSpec::Latent(Default::default()));
            let refine = match arm.refine.as_ref().or(always.as_ref()) {
                None => None,
                Some(refine) => {
                    let of = match refine {
                        RefineSpec::Encoder(own) => own.recipe.as_ref(),
                        RefineSpec::Latent(_) => None,
                    };
                    let refined = of.map_or(wanted.clone(), |r| r.over(&wanted)).resolve(types).map_err(|fault| {
                        let place = ["arms", &index, "refine", "encoder", "recipe", fault.table, fault.key];
                        self.document.error(&place, &fault.message)
                    })?;
                    let refinement = refine.resolve(&method, &recipe, refined, &profile.name);
                    Some(refinement.map_err(|f| self.document.error(&["arms", &index, "refine", f.key], &f.message))?)
                }
            };
            let most = sets.iter().map(|s: &ImageSet| s.images).max().unwrap_or(0);
            // Such scores are never shown without this.
            let leak = if conditional && recipe.latents.biggan_condition == BigGanCondition::Full { LEAK } else { "" };
            let note = [arm.note.as_str(), leak].into_iter().filter(|n| !n.is_empty()).collect::<Vec<_>>().join(" ");
            let lengths = arm.train.as_ref().unwrap_or(&e.train).get(&profile.name);
            arms.push(ResolvedArm {
                name: arm.name.clone(),
                label: arm.label.clone(),
                recipe,
                steps: lengths.and_then(|l| l.steps).unwrap_or(profile.steps).get(),
                batch: lengths.and_then(|l| l.batch).unwrap_or(profile.batch).get(),
                decay: lengths.and_then(|l| l.decay).unwrap_or(profile.decay),
                note,
                generator,
                method,
                refine,
                images: arm.images.get(&profile.name).map(|n| n.get()).filter(|n| *n < most),
            });
        }
        let edit = match &e.edit {
            None => None,
            Some(edit) => {
                let resolved = edit.resolve(profile, generator.rows_of_w());
                Some(resolved.map_err(|(keys, message)| {
                    let place: Vec<&str> = std::iter::once("edit").chain(keys.iter().map(String::as_str)).collect();
                    self.document.error(&place, &message)
                })?)
            }
        };
        let identity = match &e.evaluate.identity {
            None => None,
            Some(name) => Some(card_at(&["evaluate", "identity"], name, &[K::IdentityNetwork])?.name),
        };
        let frechet = e.evaluate.frechet.get(&profile.name).map(|n| n.get());
        Ok(Resolved {
            name: e.name.clone(),
            version: e.version,
            title: e.title.clone(),
            paper: e.paper.clone(),
            profile: profile.name.clone(),
            networks: Networks { generator: generator.name, features: features.name, judge: judge.name },
            seeds: profile.seeds(seed),
            sets,
            evaluation_seed: profile.evaluation_seed,
            evaluation_batch: profile.evaluation_batch.get(),
            metrics,
            curve: ResolvedCurve { points: profile.curve.points.get(), images: profile.curve.images.get(), metrics: curves },
            arms,
            edit,
            report: e.report.clone(),
            protocols: e.evaluate.protocols.clone(),
            trace,
            besides: Besides { identity, frechet, factors: e.evaluate.factors },
        })
    }

    /// The method with the cards of the profile.
    fn method(
        &self,
        index: &str,
        method: &MethodSpec,
        card_at: &dyn Fn(&[&str], &str, &[super::card::Kind]) -> Result<Card>,
    ) -> Result<MethodSpec> {
        use super::card::Kind as K;
        let name = |key: &str, card: &Option<String>, kinds: &[K], family: &str| -> Result<Option<String>> {
            let Some(wanted) = card else { return Ok(None) };
            let place = ["arms", index, "method", method.key(), key];
            let card = card_at(&place, wanted, kinds)?;
            let found = card.network()?.family.clone();
            match found == family {
                true => Ok(Some(card.name)),
                false => {
                    Err(self.document.error(&place, &format!("the card \"{}\" is of the family \"{found}\", not \"{family}\"", card.name)))
                }
            }
        };
        let mut method = method.clone();
        match &mut method {
            MethodSpec::Mtv(_) | MethodSpec::Image2stylegan(_) => {}
            MethodSpec::External(e) => {
                e.check().map_err(|f| self.document.error(&["arms", index, "method", "external", f.key], &f.message))?;
            }
            MethodSpec::Alae(a) => a.weights = name("weights", &a.weights, &[K::Encoder], "alae")?,
            MethodSpec::Psp(p) => p.weights = name("weights", &p.weights, &[K::Encoder], "psp")?,
            MethodSpec::Indomain(i) => {
                if i.weights.is_some() != i.decoder.is_some() || (i.features.is_some() && i.weights.is_none()) {
                    let message = "the published In-Domain is `weights` and `decoder` together, and `features` for its optimisation";
                    return Err(self.document.error(&["arms", index, "method", "indomain"], message));
                }
                i.weights = name("weights", &i.weights, &[K::Encoder], "in_domain")?;
                i.decoder = name("decoder", &i.decoder, &[K::Generator], "stylegan1")?;
                i.features = name("features", &i.features, &[K::Classifier], "vgg16")?;
            }
        }
        Ok(method)
    }
}
