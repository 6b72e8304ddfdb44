//! Consent to licences that forbid commercial use: asked once per card, recorded, and kept beside the hub's cache.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use super::access::licence_line;
use crate::spec::Card;
use crate::{Error, Result};

/// Where consent is recorded: `<HF_HOME>/mtv-bench-licences.json`, card name to licence name.
pub fn record_path() -> PathBuf {
    hf_hub::hf_home().join("mtv-bench-licences.json")
}

fn load(path: &Path) -> BTreeMap<String, String> {
    std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Makes sure that the user knows a non-commercial licence: recorded earlier, or `accept` (`--accept-licence`), or "yes" on a terminal.
///
/// Errors: [`crate::error::Kind::Usage`] naming the licence and the option, where nobody can be asked or the answer is not yes.
pub fn consent(card: &Card, accept: bool, record: &Path) -> Result<()> {
    if !card.licence.non_commercial {
        return Ok(());
    }
    let mut known = load(record);
    if known.get(&card.name) == Some(&card.licence.name) {
        return Ok(());
    }
    let about = format!("{}: {}{}", card.name, licence_line(card), card.licence.url.as_ref().map(|u| format!(", {u}")).unwrap_or_default());
    if !accept {
        let mut answer = String::new();
        if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
            eprint!("{about}\nDo you accept this licence? Type yes: ");
            let _ = std::io::stderr().flush();
            std::io::stdin().read_line(&mut answer).map_err(|e| Error::usage(format!("reading the answer: {e}")))?;
        }
        if answer.trim() != "yes" {
            return Err(Error::usage(format!("{about}: read the licence, then say --accept-licence (it is asked once and recorded)")));
        }
    }
    known.insert(card.name.clone(), card.licence.name.clone());
    write(record, &known)
}

fn write(path: &Path, known: &BTreeMap<String, String>) -> Result<()> {
    let fail = |e: std::io::Error| Error::io(path, "recording the consent", e);
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(fail)?;
    let mut temp = tempfile::NamedTempFile::new_in(dir).map_err(fail)?;
    let text = serde_json::to_string_pretty(known).map_err(|e| Error::internal(e.to_string()))?;
    writeln!(temp, "{text}").map_err(fail)?;
    temp.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}
