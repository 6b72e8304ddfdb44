//! Fréchet distances of whole sets, as the stage "frechet" measures them.

use serde::{Deserialize, Serialize};

/// One distance of one arm and seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frechet {
    pub arm: String,
    pub seed: u64,
    /// The generator's set of images.
    pub set: String,
    pub between: Between,
    /// The card of the pictures that the generator learned from, or empty where there is none.
    pub data: String,
    /// Protocol: features and the size at which they are taken.
    pub features: String,
    /// Number of features.
    pub width: usize,
    /// Images on each side.
    pub images: usize,
    pub value: f64,
    /// Jackknife standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
}

/// Which two sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Between {
    /// Pictures and other pictures.
    Floor,
    /// The generator's images and pictures.
    GeneratedSource,
    /// Reconstructions of the generator's images, and pictures.
    ReconstructedSource,
    /// Those reconstructions and what they reconstruct.
    ReconstructedGenerated,
}
