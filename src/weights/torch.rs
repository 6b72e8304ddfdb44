//! The two containers of `torch.save`: the zip archive (1.6 and later) and the older stream of pickles.
//!
//! Source: `torch/serialization.py`, `_save` and `_legacy_save`.

use std::collections::BTreeMap;

use super::archive::Archive;
use super::checkpoint::{Checkpoint, Storages, assemble};
use super::graph::{Node, Unknown};
use super::pickle::{self, MAX_PICKLE};
use super::source::{Format, Source};
use super::tree::unfold;
use super::view::Element;
use crate::{Error, Result};

/// A zip container.
pub(super) fn open_zip(source: &Source, unknown: Unknown) -> Result<Checkpoint> {
    let archive = Archive::open(source)?;
    let mut pickles = archive.names().filter(|n| *n == "data.pkl" || n.ends_with("/data.pkl"));
    let folder = match (pickles.next(), pickles.next()) {
        (Some(only), None) => only.trim_end_matches("data.pkl").to_string(),
        (Some(_), Some(_)) => return Err(Error::corrupt("zip: two entries named data.pkl: refused, it is not said which one counts")),
        _ => {
            let names: Vec<String> = archive.names().take(3).map(|n| n.escape_debug().to_string()).collect();
            return Err(Error::corrupt(format!(
                "is a zip archive without data.pkl, so not a PyTorch checkpoint: it holds {}; unpack it and give the file inside",
                names.join(", ")
            )));
        }
    };
    if archive.size(&format!("{folder}byteorder")).is_some() && archive.read(&format!("{folder}byteorder"))?.trim_ascii() != b"little" {
        return Err(Error::corrupt("was saved on a big-endian machine: not read here; save it again on a common one"));
    }
    let name = format!("{folder}data.pkl");
    let size = archive.size(&name).unwrap_or(0);
    if size > MAX_PICKLE as u64 {
        return Err(Error::corrupt(format!("its pickle has {size} bytes (at most {MAX_PICKLE} are read)")));
    }
    let bytes = archive.read(&name)?;
    let graph = pickle::read(&bytes, 0, unknown).map_err(|e| e.at("data.pkl"))?;
    for (key, (element, len)) in &graph.storages {
        let want = (len * element.size()) as u64;
        match archive.size(&format!("{folder}data/{key}")) {
            Some(size) if size == want => {}
            Some(size) => {
                return Err(Error::corrupt(format!("storage \"{key}\" has {size} bytes, its tensors say {want}: the file is corrupt")));
            }
            None => return Err(Error::corrupt(format!("storage \"{key}\" is not in the archive: the file is corrupt"))),
        }
    }
    // Entries that no tensor uses are checked all the same: a damaged file is not half trusted.
    let used =
        |name: &str| name.strip_prefix(&folder).and_then(|n| n.strip_prefix("data/")).is_some_and(|key| graph.storages.contains_key(key));
    for name in archive.names().filter(|n| !used(n)) {
        archive.read(name)?;
    }
    let unfolded = unfold(&graph, graph.root)?;
    let read = |key: &str| archive.read(&format!("{folder}data/{key}"));
    assemble(Format::TorchZip, &graph, unfolded, source.len, Storages { read: &read })
}

/// The legacy stream: pickles of a magic number, the protocol, the machine, the object, and the list of storage keys;
/// then each storage as its length (i64) and its raw elements.
pub(super) fn open_legacy(source: &Source, unknown: Unknown) -> Result<Checkpoint> {
    let head = source.head(MAX_PICKLE)?;
    let magic = pickle::read(&head, 0, Unknown::Refuse)?;
    let protocol = pickle::read(&head, magic.end, Unknown::Refuse)?;
    if !matches!(protocol.node(protocol.root), Node::Int(1001)) {
        return Err(Error::corrupt("its protocol number is not 1001: not a PyTorch checkpoint, or a corrupt one"));
    }
    let machine = pickle::read(&head, protocol.end, Unknown::Refuse)?;
    let about = unfold(&machine, machine.root)?.tree;
    if about.get("little_endian") == Some(&super::tree::Value::Bool(false)) {
        return Err(Error::corrupt("was saved on a big-endian machine: not read here; save it again on a common one"));
    }
    let graph = pickle::read(&head, machine.end, unknown)?;
    let keys = pickle::read(&head, graph.end, Unknown::Refuse)?;
    let Node::List(list) = keys.node(keys.root) else { return Err(Error::corrupt("has no list of storages: the file is corrupt")) };

    let mut places: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    let mut at = keys.end as u64;
    for id in list {
        let key = keys.text(*id).unwrap_or_default();
        let Some(&(element, len)) = graph.storages.get(key) else {
            return Err(Error::corrupt(format!("storage \"{}\" belongs to no tensor: the file is corrupt", key.escape_debug())));
        };
        let count = source.read_at(at, 8)?;
        let count = count.as_chunks::<8>().0.first().map_or(0, |b| u64::from_le_bytes(*b));
        if count != len as u64 {
            return Err(Error::corrupt(format!("storage \"{key}\" has {count} elements, its tensors say {len}: the file is corrupt")));
        }
        let bytes = len * Element::size(element);
        if places.insert(key, (at + 8, bytes)).is_some() {
            return Err(Error::corrupt(format!("storage \"{key}\" occurs twice: the file is corrupt")));
        }
        at = at.saturating_add(8).saturating_add(bytes as u64);
        if at > source.len {
            return Err(Error::corrupt(format!(
                "the file is truncated: at least {at} bytes are expected, it has {}; download it again",
                source.len
            )));
        }
    }
    if at != source.len {
        return Err(Error::corrupt(format!("has {} bytes after its end: the file is corrupt or two files joined", source.len - at)));
    }
    if let Some(lost) = graph.storages.keys().find(|key| !places.contains_key(key.as_str())) {
        return Err(Error::corrupt(format!("storage \"{lost}\" is not in the file: the file is corrupt")));
    }
    let unfolded = unfold(&graph, graph.root)?;
    let read = |key: &str| match places.get(key) {
        Some((at, bytes)) => source.read_at(*at, *bytes),
        None => Err(Error::corrupt(format!("storage \"{key}\" is not in the file"))),
    };
    assemble(Format::TorchLegacy, &graph, unfolded, source.len, Storages { read: &read })
}
