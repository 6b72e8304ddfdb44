//! What the images of a set show, as far as it is known.

use serde::{Deserialize, Serialize};

/// The factors of the images of one set, in the order of the record's images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Factors {
    pub set: String,
    /// The card of the source whose factors these are.
    pub data: String,
    pub origin: Origin,
    pub names: Vec<String>,
    /// One row per image, one value in about [-1, 1] per name.
    pub values: Vec<Vec<f64>>,
    /// The class of each image; empty where the source has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<u32>,
}

/// How the factors are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The source drew the pictures from them.
    Known,
    /// The source's judge reads them off images that a generator made.
    Read,
}
