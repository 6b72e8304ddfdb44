//! The paper's own numbers and claims, from paper/published.toml. They are shown beside measured numbers, in columns of
//! their own, and only where the paper prints them.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::record::ArmInfo;
use crate::{Error, Result};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    #[serde(default)]
    study: BTreeMap<String, Claim>,
    #[serde(default)]
    table: Vec<Table>,
}

/// What the paper says about one study.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The figure or table, for example "Fig. 9".
    pub item: String,
    /// What the paper prints, and does not print, in one or two sentences.
    pub note: String,
}

/// A printed table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    pub item: String,
    /// Studies that may show these numbers.
    pub studies: Vec<String>,
    /// How the numbers were made, as far as known.
    #[allow(dead_code, reason = "for the reader of the file; lint-table reads the file on its own")]
    pub protocol: String,
    /// The printed MSE is this fraction of the MSE on 0..255.
    pub mse_unit: f64,
    pub rows: Vec<BTreeMap<String, toml::Value>>,
}

impl Published {
    pub fn load() -> Result<Self> {
        toml::from_str(include_str!("../../paper/published.toml")).map_err(|e| Error::internal(format!("paper/published.toml: {e}")))
    }

    pub fn claim(&self, study: &str) -> Option<&Claim> {
        self.study.get(study)
    }

    pub fn note(&self, study: &str) -> Option<&str> {
        self.claim(study).map(|c| c.note.as_str())
    }

    /// Whether the paper prints a table for this study.
    pub fn prints(&self, study: &str) -> bool {
        self.table.iter().any(|t| t.studies.iter().any(|s| s == study))
    }

    /// The published value of a measure, and the item that prints it. Rows "same G" have none: those of the paper have generators of their own.
    pub fn value(&self, study: &str, set: &str, arm: &ArmInfo, measure: &str) -> Option<(f64, &str)> {
        let column = match measure {
            "psnr" => "psnr",
            "ssim-uniform7" => "ssim",
            "mse" => "mse",
            "lpips-vgg-v0.1" => "lpips",
            "cosine" => "cs",
            _ => return None,
        };
        let text = |row: &BTreeMap<String, toml::Value>, key: &str| row.get(key).and_then(|v| v.as_str()).map(str::to_string);
        self.table.iter().filter(|t| t.studies.iter().any(|s| s == study)).find_map(|t| {
            let row = t.rows.iter().find(|r| {
                let method = text(r, "method").unwrap_or_default();
                text(r, "set").as_deref() == Some(set) && (method == arm.label || method == arm.name)
            })?;
            let value = row.get(column)?.as_float()?;
            Some((if column == "mse" { value * t.mse_unit } else { value }, t.item.as_str()))
        })
    }
}
