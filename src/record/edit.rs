//! What a study of editing leaves beside its scores: how well each direction separates, and what each edit moved.

use serde::{Deserialize, Serialize};

/// Everything that was measured on edits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edits {
    pub directions: Vec<Direction>,
    pub curves: Vec<Edit>,
}

/// A direction of one seed. Accuracies are shares of right answers of the boundary that it is the normal of; absent for one from a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Direction {
    pub name: String,
    #[serde(default)]
    pub seed: u64,
    /// Samples that trained the boundary, and those that validate it.
    pub train: usize,
    pub validation: usize,
    pub train_accuracy: Option<f64>,
    pub validation_accuracy: Option<f64>,
    /// On the samples between the extremes, by the middle of the score range.
    pub rest_accuracy: Option<f64>,
    /// One unit of alpha: the standard deviation of the generator's w along the direction, alone and freed of the other attributes.
    pub unit: f64,
    pub conditional_unit: f64,
    /// The cosine with each direction of the same seed, in their order.
    pub cosines: Vec<f64>,
}

/// One measure of one edit on the first images of a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// The arm whose latents were edited, or [`OWN`].
    #[serde(default)]
    pub arm: String,
    #[serde(default)]
    pub seed: u64,
    pub set: String,
    /// Empty for what the inversion alone did.
    pub direction: String,
    /// The place of the variant in the study.
    pub variant: usize,
    /// 0 for what the inversion alone did.
    pub alpha: f64,
    /// One of [`MEASURES`].
    pub measure: String,
    /// One number per image, in the record's order of images.
    pub values: Vec<f64>,
}

/// The row of generated images whose own w is edited, without any inversion.
pub const OWN: &str = "own_w";

/// What is measured: the first three by a network that reads the factors, in standard deviations of its readings on generated images; the
/// last one where there is no such network.
pub const MEASURES: [(&str, &str); 4] = [
    ("target", "change of the edited attribute, signed"),
    ("others", "mean absolute change of the other attributes"),
    ("identity", "mean absolute change of the factors of identity"),
    ("lpips", "LPIPS between the edited and the unedited reconstruction"),
];
