//! Before the first stage: every file that a study needs is here and verified, or the run ends with one list of what is missing.

use std::path::Path;

use crate::spec::Card;
use crate::weights::access::{Access, Missing, list};
use crate::weights::licence;
use crate::{Error, Result};

/// Fetches what a program can fetch and checks the rest, so that a run of days does not stop at its second network.
///
/// Errors: [`crate::error::Kind::Missing`] with every file that is not here, from where, how large and under what licence;
/// [`crate::error::Kind::Usage`] for a non-commercial licence that was never accepted; as [`Access::fetch`].
pub fn run(cards: &[Card], access: &Access, accept: bool) -> Result<()> {
    run_recording(cards, access, accept, &licence::record_path())
}

/// As [`run`], with consent recorded in `record`.
pub fn run_recording(cards: &[Card], access: &Access, accept: bool, record: &Path) -> Result<()> {
    let missing = access.missing(cards)?;
    let hopeless = |m: &&Missing| !m.fetchable || access.hub.offline;
    if missing.iter().any(|m| hopeless(&m)) {
        return Err(Error::missing(list(&missing)));
    }
    for card in cards {
        licence::consent(card, accept, record)?;
    }
    for card in cards.iter().filter(|c| missing.iter().any(|m| m.card == c.name)) {
        access.fetch(card)?;
    }
    Ok(())
}

/// What `plan` says about files that are not here; empty when all are.
pub fn describe(cards: &[Card], access: &Access) -> Result<String> {
    let missing = access.missing(cards)?;
    Ok(if missing.is_empty() { String::new() } else { list(&missing) + "\n" })
}
