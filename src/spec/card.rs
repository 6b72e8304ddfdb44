//! The card of a pretrained network or a data set: where it comes from, how it is checked, under which licence, and what
//! is known about it. Cards are `baselines/**/*.toml`; a card's name is its path below `baselines/` without the ending, for
//! example "mini/stylegan1" for `baselines/mini/stylegan1.toml`.
//!
//! ```toml
//! name = "mini/stylegan1"
//! kind = "generator"
//! title = "StyleGANv1 on procedural faces, 64 px"
//! resolution = 64
//! pixel_range = [-1.0, 1.0]
//! sha256 = "..."
//! bytes = 1912345
//!
//! [source.embedded]
//! file = "mini/stylegan1.safetensors"
//!
//! [network]
//! family = "stylegan1"
//! layout = "native"
//! latent = 128
//! fmaps_base = 1024
//! fmaps_max = 64
//!
//! [licence]
//! name = "MIT OR Apache-2.0"
//!
//! [training]            # only networks that this project trained
//! command = "mtv-bench zoo train stylegan1"
//! seconds = 3300.0
//! images = 210000
//! [training.measured]
//! frechet_distance = 5.9
//!
//! [[verified]]
//! what = "sha256 and size"
//! where = "downloaded and hashed on 2026-11-22"
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::document::Document;
use super::files;
use super::pins::Pins;
use crate::{Error, Result};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The path of the card below `baselines/`, without ".toml".
    pub name: String,
    pub kind: Kind,
    /// One line for people.
    pub title: String,
    pub source: Source,
    /// SHA-256 of the file, lower-case hexadecimal. Required unless `pinned = false` or the source is `seeded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Size of the file in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Size as a page lists it, rounded, where the exact one is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_about: Option<u64>,
    /// False says openly that nobody could hash the file yet: it is then refused unless the user allows it.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub pinned: bool,
    /// How the file is written, in words: "PyTorch pickle", "safetensors", "LMDB of JPEG".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub format: String,
    /// Side of the images in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<usize>,
    /// Values of black and white in the images that the network takes or gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pixel_range: Option<[f64; 2]>,
    /// What is needed to build the network; data sets have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Of a generator: the card of the pictures that it learned to make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    pub licence: Licence,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
    /// Facts checked, and where they were read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verified: Vec<Verified>,
    /// Anything a user should know.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub notes: String,
}

fn yes() -> bool {
    true
}

fn is_true(b: &bool) -> bool {
    *b
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Generator,
    Discriminator,
    Encoder,
    /// A classifier whose features serve LPIPS and Grad-CAM.
    Classifier,
    /// A network that only judges: Inception, the LPIPS heads, the independent feature network.
    MetricNetwork,
    /// A network that tells identities apart.
    IdentityNetwork,
    /// A predictor of attributes.
    AttributeNetwork,
    /// A direction of editing in a latent space.
    Direction,
    Dataset,
}

/// Where the file is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Ships inside the binary; `file` is its path below `baselines/`.
    Embedded(EmbeddedFile),
    /// A file of a repository on the Hugging Face hub.
    Hub(HubFile),
    /// A plain address.
    Url(UrlFile),
    /// Can't be fetched by a program: the user does it and gives the file.
    Manual(ManualFile),
    /// Initial weights drawn from a seed, for tests and for costs without weights. Never a result.
    Seeded(Seeded),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddedFile {
    pub file: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubFile {
    /// "owner/name".
    pub repo: String,
    /// "model", "dataset" or "space".
    #[serde(default = "model")]
    pub repo_type: String,
    /// A full commit id; a branch only where the card is not pinned.
    pub revision: String,
    pub file: String,
    /// The member to take where `file` is an archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
}

fn model() -> String {
    "model".into()
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UrlFile {
    pub url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManualFile {
    /// The file name under which the user puts it into the weights folder.
    pub file: String,
    /// What to do, in a sentence or two, with the address.
    pub instructions: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seeded {
    pub seed: u64,
}

/// The shape of a network. Which keys a family needs is said by its own configuration; the others are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// "stylegan1", "stylegan2", "pggan", "biggan", "vgg16", "lpips_vgg16", "inception", "mtv", "alae", "psp", "in_domain" ...
    pub family: String,
    /// How the file names its tensors: "native", "podgorskiy", "podgorskiy_raw", "genforce", "torchvision" ...
    #[serde(default = "native")]
    pub layout: String,
    /// Length of z and w.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latent: Option<usize>,
    /// Channels at resolution r: min(fmaps_max, fmaps_base * c / r), as the family defines c.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fmaps_base: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fmaps_max: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping_layers: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    /// Widths where one base number does not say them, for example a narrow VGG16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub widths: Vec<usize>,
    /// Truncation: w of the first `truncation_layers` rows is pulled to the mean w by `truncation_psi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncation_psi: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncation_layers: Option<usize>,
    /// Of an encoder: the card of the generator whose w it makes, where the file does not hold a decoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator: Option<String>,
}

fn native() -> String {
    "native".into()
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Licence {
    /// SPDX expression, or the licence's own name, or "none stated".
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What the licence asks of someone who uses the results.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    #[serde(default)]
    pub non_commercial: bool,
    /// The tag on the page of a re-upload, where it differs: the uploader's word, not the owner's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reupload_tag: Option<String>,
}

/// How this project trained the network, and what was measured on the result.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    pub command: String,
    pub seed: u64,
    /// Training images seen.
    pub images: u64,
    /// Wall time in seconds.
    pub seconds: f64,
    /// The machine, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub machine: String,
    /// Measured numbers by name, for example `frechet_distance`, `frechet_floor`, `diversity`, `source_diversity`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measured: BTreeMap<String, f64>,
    /// Mean noise strength per layer, where the network has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noise_strengths: Vec<f64>,
    /// Pictures beside the card, below `baselines/`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pictures: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curve: Option<Curve>,
}

/// The curve of a training.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curve {
    /// Whose training it is, in words, where it is not the one that made the card's file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub of: String,
    /// Training images seen at each point.
    pub images: Vec<u64>,
    /// By name, the value at each point: `frechet_distance` (of the averaged generator, as in [`Training::measured`]), `psnr_real` and the like;
    /// `loss`, `critic_real` and `critic_fake` (outputs of D) are means since the point before.
    pub values: BTreeMap<String, Vec<f64>>,
}

impl Curve {
    /// Adds a point. Values have four significant digits; one that is not there at every point is left out.
    pub fn push(&mut self, images: u64, values: impl IntoIterator<Item = (String, f64)>) {
        self.images.push(images);
        for (name, value) in values {
            self.values.entry(name).or_default().push(significant(value));
        }
        self.keep_whole();
    }

    /// Goes on with the curve of a training that began after `images`.
    pub fn extend(&mut self, later: &Curve, images: u64) {
        self.images.extend(later.images.iter().map(|i| images + i));
        for (name, values) in &later.values {
            self.values.entry(name.clone()).or_default().extend(values);
        }
        self.keep_whole();
    }

    /// A list that lacks a value somewhere would stand beside the wrong images.
    fn keep_whole(&mut self) {
        self.values.retain(|_, values| values.len() == self.images.len());
    }
}

/// Four significant digits: what a card shows.
pub fn significant(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let digits = 10f64.powf(3.0 - value.abs().log10().floor());
    (value * digits).round() / digits
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verified {
    pub what: String,
    /// Where it was read or how it was checked.
    #[serde(rename = "where")]
    pub where_: String,
}

impl Card {
    /// Rows of w of a StyleGAN of this resolution: two per resolution from 4 px on; None for what has none.
    pub fn rows_of_w(&self) -> Option<usize> {
        let family = &self.network.as_ref()?.family;
        let side = self.resolution.filter(|r| family.starts_with("stylegan") && r.is_power_of_two() && *r >= 4)?;
        Some(2 * (side.ilog2() as usize - 1))
    }

    /// The card of this name.
    ///
    /// Errors: there is none (with the nearest name), or it is not valid.
    pub fn load(name: &str) -> Result<Card> {
        let path = format!("baselines/{name}.toml");
        let Some(document) = Document::open(&path)? else {
            let all = Card::names();
            let hint = match files::nearest(name, all.iter().map(String::as_str)) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "`mtv-bench weights list` shows them all".into(),
            };
            return Err(Error::usage(format!("there is no card \"{name}\" below baselines/; {hint}")));
        };
        let mut card = Card::of(&document)?;
        Pins::load()?.apply(&mut card);
        Ok(card)
    }

    /// Reads and checks a card.
    pub fn of(document: &Document) -> Result<Card> {
        let card: Card = document.parse()?;
        let stem = document.path.trim_start_matches("baselines/").trim_end_matches(".toml");
        if card.name != stem {
            return Err(document.error(&["name"], &format!("the card's name must be its path below baselines/: \"{stem}\"")));
        }
        if let Some(sha) = &card.sha256
            && (sha.len() != 64 || !sha.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
        {
            return Err(document.error(&["sha256"], "a SHA-256 has 64 lower-case hexadecimal digits"));
        }
        let seeded = matches!(card.source, Source::Seeded(_));
        if card.sha256.is_none() && card.pinned && !seeded {
            return Err(document.error(&["source"], "this card has no sha256; add it, or say `pinned = false`"));
        }
        if let Source::Hub(hub) = &card.source
            && card.pinned
            && (hub.revision.len() != 40 || !hub.revision.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(document.error(&["source", "hub", "revision"], "a revision is a full commit id of 40 hexadecimal digits"));
        }
        if let Some([low, high]) = card.pixel_range
            && low >= high
        {
            return Err(document.error(&["pixel_range"], "the first value is black, the second white: [low, high]"));
        }
        Ok(card)
    }

    /// The names of all cards, sorted.
    pub fn names() -> Vec<String> {
        let strip = |p: String| p.trim_start_matches("baselines/").trim_end_matches(".toml").to_string();
        files::list("baselines", ".toml").into_iter().map(strip).collect()
    }

    /// The network's shape.
    ///
    /// Errors: the card has no `[network]` table.
    pub fn network(&self) -> Result<&Network> {
        self.network.as_ref().ok_or_else(|| Error::usage(format!("baselines/{}.toml: a [network] table is needed here", self.name)))
    }
}
