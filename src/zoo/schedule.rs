//! The schedule of an adversarial training: how long each resolution of progressive growth lasts, and what changes on the way.

use serde::{Deserialize, Serialize};

use super::adversarial::Objective;
use crate::generators::Stage;

/// What is trained and how; written into every checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub seed: u64,
    pub batch: usize,
    /// Learning rate of both networks.
    pub lr: f64,
    /// Learning rate of the discriminator, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critic_lr: Option<f64>,
    /// Images shown at 8, 16, 32 ... px; 0 at all but the last for a network that does not grow.
    pub stages: Vec<u64>,
    /// Images during which a new resolution fades in, at most 40 % of its stage.
    pub fade: u64,
    /// (images shown, weight of R1 from there on), in order; other objectives have no use for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gamma: Vec<(u64, f64)>,
    /// The last part of the training, during which the learning rate falls to 5 %.
    pub decay: f64,
    /// Number of different training pictures.
    pub pool: usize,
    #[serde(default, skip_serializing_if = "Objective::is_logistic")]
    pub objective: Objective,
    /// The networks that it goes on from, instead of random weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// The card of the classifier on whose features D stands ([`super::projected_discriminator`]); without it D sees the images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projected_on: Option<String>,
    /// Whether such a D sees how much the images of a batch differ, as PGGAN's own does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub minibatch_std: bool,
    /// The least and the greatest magnitude that a noise strength may take. A projected D lets most of them die: it never asks for noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<(f64, f64)>,
    /// What the demodulated kernels of a StyleGANv2 are multiplied by at the beginning. Demodulation undoes it, but a step turns a short
    /// kernel further: at the published length, those of a StyleGANv2 had after 15,000 steps a cosine of 0.91 to 0.98 to what was drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_scale: Option<f64>,
    /// The class of the objects that it sees, by its place in [`super::objects::CLASSES`]; all classes without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<usize>,
    /// The training that goes on from the averaged generator when this one is done, against a new D.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<Box<Recipe>>,
}

/// The networks of the zoo that a training of ALAE starts from, by their cards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    pub generator: String,
    pub encoder: String,
}

/// Where in the schedule a step is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub stage: Stage,
    /// Learning rate of the generator.
    pub lr: f64,
    /// Learning rate of the discriminator.
    pub critic_lr: f64,
    /// Weight of R1.
    pub gamma: f64,
}

impl Recipe {
    /// The images of this training, without those of the one that goes on from it.
    pub fn total(&self) -> u64 {
        self.stages.iter().sum()
    }

    /// This training and those that go on from it.
    pub fn phases(&self) -> impl Iterator<Item = &Recipe> {
        std::iter::successors(Some(self), |recipe| recipe.then.as_deref())
    }

    /// The same training with what is `left` of every stage scaled, and all of what goes on from it.
    pub fn rescheduled(&self, left: &[u64], by: f64) -> Self {
        let scale = |(&images, &left): (&u64, &u64)| {
            // A stage that is to come keeps a step.
            let least = if left == images { left.min(self.batch as u64) } else { 0 };
            images - left + ((left as f64 * by) as u64).max(least)
        };
        let stages = self.stages.iter().zip(left).map(scale).collect();
        // A fade that may have begun stays as long as it was.
        let fade = if left == self.stages { (self.fade as f64 * by.max(0.5)) as u64 } else { self.fade };
        let then = self.then.as_ref().map(|then| Box::new(then.rescheduled(&then.stages, by)));
        Recipe { stages, fade, then, ..self.clone() }
    }

    /// The images of each stage that are left after `shown`.
    pub fn left(&self, shown: u64) -> Vec<u64> {
        let mut first = 0;
        let left = |&images: &u64| {
            let left = (first + images).saturating_sub(shown).min(images);
            first += images;
            left
        };
        self.stages.iter().map(left).collect()
    }

    /// Where the schedule is after `shown` images.
    pub fn at(&self, shown: u64) -> Point {
        let mut first = 0;
        let mut place = 0;
        while place + 1 < self.stages.len() && shown >= first + self.stages[place] {
            first += self.stages[place];
            place += 1;
        }
        let fade = self.fade.min(self.stages[place] * 2 / 5);
        let blend = match place {
            0 => 1.0,
            _ => ((shown - first + self.batch as u64) as f64 / fade.max(1) as f64).min(1.0),
        };
        let stage = Stage { last: place + 1, blend };
        let left = 1.0 - shown as f64 / self.total() as f64;
        let gamma = self.gamma.iter().rev().find(|(from, _)| shown >= *from).map_or(1.0, |(_, gamma)| *gamma);
        let factor = if self.decay > 0.0 { (left / self.decay).clamp(0.05, 1.0) } else { 1.0 };
        Point { stage, lr: self.lr * factor, critic_lr: self.critic_lr.unwrap_or(self.lr) * factor, gamma }
    }
}
