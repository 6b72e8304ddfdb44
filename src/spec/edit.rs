//! The `[edit]` table of a study: which attributes are moved by how much on which rows of w, and where their directions come from.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use super::card::{Card, Kind};
use super::experiment::Resolved;
use super::profile::Profile;
use crate::editing::Rows;
use crate::editing::svm::Loss;
use crate::stages::{DirectionSource, DirectionsSpec, EditSource, EditStageSpec, LearnSpec, Networks, Variant, WantedDirection};
use crate::zoo::faces::Factor;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditSpec {
    pub directions: Vec<DirectionSpec>,
    /// How far, in standard deviations of the generator's own w along the direction; without 0, which is the reconstruction itself.
    pub alphas: Vec<f64>,
    /// What is edited: rows of w, and whether the direction is first freed of the study's other attributes.
    pub variants: Vec<VariantSpec>,
    /// How many images of each set are edited, the first ones, by profile.
    pub images: BTreeMap<String, NonZeroUsize>,
    /// How many generated images the directions are learned from, by profile; without a profile's, they must come from cards.
    #[serde(default)]
    pub samples: BTreeMap<String, NonZeroUsize>,
    #[serde(default)]
    pub learn: LearnTable,
}

/// One attribute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectionSpec {
    /// For tables, figures and `invert --edit`.
    pub name: String,
    /// The card of the direction; where the profile has a network that reads factors in its place, the direction is learned from that.
    pub card: String,
    /// The factor that the network reads.
    pub factor: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantSpec {
    pub label: String,
    pub rows: Rows,
    #[serde(default)]
    pub conditional: bool,
}

/// InterFaceGAN's own values where they are left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LearnTable {
    /// Share of the samples that is taken at each end of the scores.
    pub ratio: f64,
    /// Share of those that trains; the others validate.
    pub split: f64,
    pub loss: Loss,
    pub c: f64,
}

impl Default for LearnTable {
    fn default() -> Self {
        LearnTable { ratio: 0.02, split: 0.7, loss: Loss::Hinge, c: 1.0 }
    }
}

/// The table with everything decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResolvedEdit {
    pub directions: Vec<WantedDirection>,
    pub alphas: Vec<f64>,
    pub variants: Vec<ResolvedVariant>,
    pub images: usize,
    pub learn: Option<LearnSpec>,
    /// The card of the network that reads the factors, where there is one.
    pub reader: Option<String>,
    /// The measure of how far a picture moves.
    pub lpips: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResolvedVariant {
    pub label: String,
    #[serde(flatten)]
    pub variant: Variant,
}

impl ResolvedEdit {
    /// How many times each image is edited.
    pub fn steps(&self) -> u64 {
        (self.directions.len() * self.variants.len() * self.alphas.len()) as u64
    }

    /// The directions of a generator, learned with this seed.
    pub fn directions_spec(&self, generator: &str, seed: u64) -> DirectionsSpec {
        DirectionsSpec { generator: generator.into(), seed, directions: self.directions.clone(), learn: self.learn.clone() }
    }

    /// The edits of the study on the latents of `source`.
    pub fn stage_spec(&self, resolved: &Resolved, networks: &Networks, source: EditSource) -> EditStageSpec {
        let factor = |d: &WantedDirection| match &d.source {
            DirectionSource::Learned { factor, .. } => Some(factor.clone()),
            DirectionSource::Card(_) => None,
        };
        EditStageSpec {
            networks: networks.clone(),
            source,
            seed: resolved.evaluation_seed,
            images: self.images,
            directions: self.directions.iter().map(|d| (d.name.clone(), factor(d))).collect(),
            alphas: self.alphas.clone(),
            variants: self.variants.iter().map(|v| v.variant.clone()).collect(),
            reader: self.reader.clone(),
            lpips: self.lpips.clone(),
            figure_images: resolved.report.figure_images,
            batch: resolved.evaluation_batch,
        }
    }
}

/// What is wrong: the keys below `edit`, and why.
pub type Fault = (Vec<String>, String);

impl EditSpec {
    /// For a generator with so many rows of w.
    pub fn resolve(&self, profile: &Profile, rows: Option<usize>) -> Result<ResolvedEdit, Fault> {
        let fault = |keys: &[&str], message: String| (keys.iter().map(|k| k.to_string()).collect::<Vec<_>>(), message);
        let (mut directions, mut reader) = (Vec::new(), None);
        for (i, d) in self.directions.iter().enumerate() {
            let index = i.to_string();
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            if d.name.is_empty() || !d.name.chars().all(plain) || self.directions[..i].iter().any(|o| o.name == d.name) {
                let message = "a name of its own, of lower-case letters, digits and \"_\", is expected".to_string();
                return Err(fault(&["directions", &index, "name"], message));
            }
            if Factor::named(&d.factor).is_none() {
                return Err(fault(&["directions", &index, "factor"], format!("there is no factor \"{}\"", d.factor)));
            }
            let at = |message: String| fault(&["directions", &index, "card"], message);
            let card = Card::load(profile.card(&d.card)).map_err(|e| at(e.message))?;
            let source = match card.kind {
                Kind::Direction => DirectionSource::Card(card.name),
                Kind::MetricNetwork if card.network.as_ref().is_some_and(|n| n.family == "judge") => {
                    reader = Some(card.name.clone());
                    DirectionSource::Learned { reader: card.name, factor: d.factor.clone() }
                }
                _ => return Err(at(format!("the card \"{}\" is neither a direction nor a network that reads factors", card.name))),
            };
            directions.push(WantedDirection { name: d.name.clone(), source });
        }
        if directions.is_empty() {
            return Err(fault(&["directions"], "at least one direction is needed".into()));
        }
        if self.alphas.is_empty() || self.alphas.iter().any(|a| !a.is_finite() || *a == 0.0 || a.abs() > 100.0) {
            return Err(fault(&["alphas"], "numbers other than 0, of at most 100, are expected".into()));
        }
        if self.variants.is_empty() {
            return Err(fault(&["variants"], "at least one choice of rows is needed".into()));
        }
        for (i, v) in self.variants.iter().enumerate() {
            if let Err(message) = rows.map_or(Ok(()), |rows| v.rows.check(rows)) {
                return Err(fault(&["variants", &i.to_string(), "rows"], message));
            }
            if self.variants[..i].iter().any(|o| o.label == v.label) {
                return Err(fault(&["variants", &i.to_string(), "label"], format!("the label \"{}\" is used twice", v.label)));
            }
        }
        let LearnTable { ratio, split, loss, c } = self.learn;
        if !(ratio > 0.0 && ratio <= 0.5 && split > 0.0 && split < 1.0 && c > 0.0 && c.is_finite()) {
            return Err(fault(&["learn"], "0 < ratio <= 0.5, 0 < split < 1 and c > 0 are expected".into()));
        }
        let learned = directions.iter().any(|d| matches!(d.source, DirectionSource::Learned { .. }));
        let samples = self.samples.get(&profile.name);
        if learned && samples.is_none() {
            return Err(fault(&["samples"], format!("the profile {} learns its directions and needs a number of samples", profile.name)));
        }
        let Some(images) = self.images.get(&profile.name) else {
            return Err(fault(&["images"], format!("the profile {} has no number of images", profile.name)));
        };
        let variant = |v: &VariantSpec| ResolvedVariant {
            label: v.label.clone(),
            variant: Variant { rows: v.rows.clone(), conditional: v.conditional },
        };
        Ok(ResolvedEdit {
            directions,
            alphas: self.alphas.clone(),
            variants: self.variants.iter().map(variant).collect(),
            images: images.get(),
            learn: samples.filter(|_| learned).map(|n| LearnSpec { samples: n.get() as u64, ratio, split, loss, c }),
            reader,
            lpips: profile.metric("lpips"),
        })
    }
}
