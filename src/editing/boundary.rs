//! A direction from latents and scores, as InterFaceGAN learns it: the samples of highest and of lowest score are told apart by a linear
//! SVM, and the direction is the unit normal of its boundary.
//!
//! Source: `train_boundary` in genforce/interfacegan (utils/manipulator.py): sorted by falling score, the first and the last `ratio` of the
//! samples (at most half), 70 % of each shuffled class for training, the rest for validation; every other sample is judged by the middle
//! of the score range.

use super::svm::{self, Rule, Svm};
use super::unit;
use crate::random::Stream;
use crate::{Error, Result};

/// Samples by their places in the list of latents: first the positive ones, then the negative ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    pub train: Vec<usize>,
    pub train_labels: Vec<bool>,
    pub validation: Vec<usize>,
    pub validation_labels: Vec<bool>,
    /// What was chosen for neither.
    pub rest: Vec<usize>,
}

/// The places of the samples by falling score; equal scores keep their order.
pub fn ranked(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

/// The choice of samples; the shuffles are those of the seed.
///
/// Errors (usage): too few samples for one of each class in training and validation.
pub fn choose(scores: &[f64], ratio: f64, split: f64, seed: u64) -> Result<Chosen> {
    let order = ranked(scores);
    let count = ((scores.len() as f64 * ratio) as usize).min(scores.len() / 2);
    let train = (count as f64 * split) as usize;
    if train == 0 || train == count {
        return Err(Error::usage(format!(
            "{} samples are too few to learn a direction from: of {count} at each end, {train} train and {} validate",
            scores.len(),
            count - train
        )));
    }
    let shuffled = |class: &[usize], name: &str| {
        let mut class = class.to_vec();
        let stream = Stream::new(seed, name);
        // Fisher and Yates, each swap from its own number.
        for i in (1..class.len()).rev() {
            class.swap(i, stream.below(i as u64, i as u64 + 1) as usize);
        }
        class
    };
    let positive = shuffled(&order[..count], "edit/positive");
    let negative = shuffled(&order[order.len() - count..], "edit/negative");
    let labels = |n: usize| [vec![true; n], vec![false; n]].concat();
    Ok(Chosen {
        train: [&positive[..train], &negative[..train]].concat(),
        train_labels: labels(train),
        validation: [&positive[train..], &negative[train..]].concat(),
        validation_labels: labels(count - train),
        rest: order[count..order.len() - count].to_vec(),
    })
}

/// A learned boundary with how well it separates.
#[derive(Debug, Clone)]
pub struct Boundary {
    /// The unit normal: the direction.
    pub direction: Vec<f64>,
    pub rule: Rule,
    /// Share of right answers.
    pub train_accuracy: f64,
    pub validation_accuracy: f64,
    /// The same on the samples between the extremes, labelled by the middle of the score range; None without any.
    pub rest_accuracy: Option<f64>,
}

/// Learns the boundary of the chosen samples.
pub fn learn(latents: &[Vec<f64>], scores: &[f64], chosen: &Chosen, with: &Svm) -> Result<Boundary> {
    let rows: Vec<&[f64]> = chosen.train.iter().map(|&i| latents[i].as_slice()).collect();
    let rule = svm::fit(&rows, &chosen.train_labels, with)?;
    let share = |places: &[usize], label: &dyn Fn(usize) -> bool| {
        let right = places.iter().enumerate().filter(|(n, i)| (rule.decide(&latents[**i]) > 0.0) == label(*n)).count();
        right as f64 / places.len().max(1) as f64
    };
    let (low, high) = scores.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), s| (l.min(*s), h.max(*s)));
    let middle = (low + high) / 2.0;
    Ok(Boundary {
        direction: unit(&rule.weights),
        train_accuracy: share(&chosen.train, &|n| chosen.train_labels[n]),
        validation_accuracy: share(&chosen.validation, &|n| chosen.validation_labels[n]),
        rest_accuracy: (!chosen.rest.is_empty()).then(|| share(&chosen.rest, &|n| scores[chosen.rest[n]] >= middle)),
        rule,
    })
}
