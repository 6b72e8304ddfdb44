//! `baselines/pins.lock`: the commits, sizes and hashes that were found at the first verified download of files whose cards
//! could not state them. `weights pin` writes it; it belongs into the repository, so that everyone after gets the same bytes.
//!
//! ```toml
//! [pggan_celebahq_1024]
//! revision = "0123456789abcdef0123456789abcdef01234567"   # of the hub; absent for a file fetched by hand
//! bytes = 92345678
//! sha256 = "..."
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::card::{Card, Source};
use super::document::Document;
use crate::Result;

/// Where the pins are, below the project folder or in the binary.
pub const PATH: &str = "baselines/pins.lock";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    pub bytes: u64,
    pub sha256: String,
}

/// The pins by card.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pins(pub BTreeMap<String, Pin>);

impl Pins {
    /// The pins of this project; none where there is no such file.
    ///
    /// Errors: the file is not what this module describes.
    pub fn load() -> Result<Pins> {
        let Some(document) = Document::open(PATH)? else { return Ok(Pins::default()) };
        let pins: Pins = document.parse()?;
        let hex = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        for (name, pin) in &pins.0 {
            if !hex(&pin.sha256, 64) || pin.revision.as_ref().is_some_and(|r| !hex(r, 40)) {
                return Err(document.error(&[name], "a pin has a sha256 of 64 and a revision of 40 lower-case hexadecimal digits"));
            }
        }
        Ok(pins)
    }

    /// Fills in what a card leaves open. A card's own hash is never overridden.
    pub fn apply(&self, card: &mut Card) {
        let Some(pin) = self.0.get(&card.name).filter(|_| !card.pinned) else { return };
        if card.sha256.as_ref().is_some_and(|own| *own != pin.sha256) {
            return;
        }
        if let (Source::Hub(hub), Some(revision)) = (&mut card.source, &pin.revision) {
            hub.revision = revision.clone();
        }
        card.sha256 = Some(pin.sha256.clone());
        card.bytes = Some(pin.bytes);
        card.pinned = true;
    }

    /// The text of the file.
    pub fn text(&self) -> String {
        let mut text = String::from("# Written by `mtv-bench weights pin`: what was found at the first verified download. Commit it.\n");
        for (name, pin) in &self.0 {
            let revision = pin.revision.as_ref().map(|r| format!("revision = \"{r}\"\n")).unwrap_or_default();
            text += &format!("\n[\"{name}\"]\n{revision}bytes = {}\nsha256 = \"{}\"\n", pin.bytes, pin.sha256);
        }
        text
    }
}
