//! A study as a user writes it.

use serde::{Deserialize, Serialize};

/// Which latents the encoder predicts and the generator decodes (the arms of Fig. 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Latents {
    /// z, pushed through the mapping network.
    #[serde(rename = "z")]
    Z,
    /// One w per block, written to both of its rows.
    #[serde(rename = "w/2")]
    WHalf,
    /// One w per row.
    #[serde(rename = "w")]
    W,
    /// w and the noise strengths z_n.
    #[serde(rename = "w+zn")]
    WZn,
    /// w, z_n and the constant's replacement z_c.
    #[serde(rename = "w+zn+zc")]
    WZnZc,
}

/// Slot for the recipe of a training run until `objective::Recipe` is there.
pub type RecipeTable = serde_json::Value;

/// A study and the file it stands in.
pub struct Study;

/// A study.
pub struct Experiment;
