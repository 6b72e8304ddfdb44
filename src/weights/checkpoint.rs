//! A checkpoint in memory: a tree of values and its tensors by name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;

use super::graph::{Array, Graph, Unknown};
use super::source::{Format, Source, sniff, visible};
use super::tree::{Leaf, Unfolded, Value};
use super::view::View;
use super::{npy, nvidia, safetensors_file, torch};
use crate::{Error, Result};

/// A bare pickle holds its arrays itself; NVIDIA's largest has 380 MB.
const MAX_BARE_PICKLE: u64 = 1 << 30;

/// What a file of weights holds.
#[derive(Debug)]
pub struct Checkpoint {
    pub format: Format,
    /// Everything that is not a tensor stays here: options, epochs, optimizer settings.
    pub tree: Value,
    /// Every tensor by its full name: the keys on the way to it, joined by dots. A file that is one bare tensor has it
    /// under [`super::BARE`].
    pub tensors: BTreeMap<String, Tensor>,
    /// The header metadata of a safetensors file.
    pub metadata: BTreeMap<String, String>,
    /// What a reader should know, such as tensors that hold NaN.
    pub warnings: Vec<String>,
}

/// How to read a file.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What to do with Python classes that are not known.
    pub unknown: Unknown,
}

impl Default for Options {
    fn default() -> Self {
        Options { unknown: Unknown::Refuse }
    }
}

/// Opens a checkpoint of any format that is read here, by its content and not by its name.
///
/// Errors: [`crate::error::Kind::Missing`] where there is no such file, [`crate::error::Kind::Corrupt`] with the reason where the file
/// is not a whole checkpoint or names Python objects that weights do not need.
pub fn open(path: &Path) -> Result<Checkpoint> {
    open_with(path, Options::default())
}

/// As [`open`], with options.
pub fn open_with(path: &Path, options: Options) -> Result<Checkpoint> {
    Source::open(path).and_then(|source| read(&source, options)).map_err(|e| e.at(path.display()))
}

/// Reads a checkpoint from memory.
pub fn read_bytes(bytes: &[u8], options: Options) -> Result<Checkpoint> {
    read(&Source::bytes(bytes), options)
}

fn read(source: &Source, options: Options) -> Result<Checkpoint> {
    // Whatever name of the file a message repeats, it stays one line and can't steer a terminal.
    read_any(source, options).map_err(|e| Error::new(e.kind, visible(&e.message)))
}

fn read_any(source: &Source, options: Options) -> Result<Checkpoint> {
    let head = source.head(4096)?;
    let checkpoint = match sniff(&head, source.len)? {
        Format::TorchZip => torch::open_zip(source, options.unknown),
        Format::TorchLegacy => torch::open_legacy(source, options.unknown),
        Format::Npy => npy::open(source),
        Format::Safetensors => safetensors_file::open(source),
        Format::Pickle => {
            if source.len > MAX_BARE_PICKLE {
                return Err(Error::corrupt(format!("a bare pickle of {} bytes (at most {MAX_BARE_PICKLE} are read)", source.len)));
            }
            let bytes = source.head(MAX_BARE_PICKLE as usize)?;
            let graph = super::pickle::read(&bytes, 0, options.unknown)?;
            let mut checkpoint = bare(Format::Pickle, &graph, graph.root, source.len)?;
            nvidia::rename(&mut checkpoint);
            Ok(checkpoint)
        }
    }?;
    if checkpoint.tensors.is_empty() {
        return Err(Error::corrupt("holds no tensor: not a checkpoint of weights"));
    }
    Ok(checkpoint)
}

/// A checkpoint whose arrays lie inside the pickle.
pub(super) fn bare(format: Format, graph: &Graph, root: super::graph::Id, len: u64) -> Result<Checkpoint> {
    if !graph.storages.is_empty() {
        return Err(Error::corrupt("a pickle without a container refers to storages outside it: the file is incomplete"));
    }
    let unfolded = super::tree::unfold(graph, root)?;
    let none = |key: &str| Err(Error::corrupt(format!("storage \"{key}\" is not in the file")));
    assemble(format, graph, unfolded, len, Storages { read: &none })
}

/// How a container hands out the bytes of a whole storage.
pub(super) struct Storages<'r> {
    pub read: &'r dyn Fn(&str) -> Result<Vec<u8>>,
}

/// Lays out every tensor. Views of one storage are made together, so that each storage is read once; equal views share
/// one tensor. What is laid out in all is bounded by the file's own size.
pub(super) fn assemble(format: Format, graph: &Graph, unfolded: Unfolded, file: u64, storages: Storages) -> Result<Checkpoint> {
    let Unfolded { tree, leaves } = unfolded;
    let mut tensors = BTreeMap::new();
    let mut warnings = Vec::new();
    let mut by_storage: BTreeMap<&str, Vec<(&str, &View)>> = BTreeMap::new();
    let mut total = 0u64;
    let bound = file.saturating_mul(4).saturating_add(16 << 20);
    let mut account = |bytes: usize| {
        total = total.saturating_add(bytes as u64);
        let message = || Error::corrupt(format!("its tensors would take more than {bound} bytes, four times the file: refused"));
        if total > bound { Err(message()) } else { Ok(()) }
    };
    for (name, leaf) in &leaves {
        match leaf {
            Leaf::View(view) => by_storage.entry(&view.storage).or_default().push((name, view)),
            Leaf::Array(array) => {
                account(array.data_len(graph))?;
                let bytes = row_major(array, graph);
                note_non_finite(&mut warnings, name, array.element.non_finite(&bytes));
                tensors.insert(name.clone(), array.element.tensor(&bytes, &array.shape)?);
            }
        }
    }
    for (key, views) in by_storage {
        let bytes = (storages.read)(key)?;
        let mut made: Vec<(&View, Tensor)> = Vec::new();
        for (name, view) in views {
            // Linear, but only over the distinct views of one storage; a crafted file with many is cut short below.
            let tensor = match made.iter().take(64).find(|(other, _)| *other == view) {
                Some((_, tensor)) => tensor.clone(),
                None => {
                    account(view.bytes())?;
                    let gathered = view.gather(&bytes)?;
                    note_non_finite(&mut warnings, name, view.element.non_finite(&gathered));
                    let tensor = view.element.tensor(&gathered, &view.shape)?;
                    made.push((view, tensor.clone()));
                    tensor
                }
            };
            tensors.insert(name.to_string(), tensor);
        }
    }
    Ok(Checkpoint { format, tree, tensors, metadata: BTreeMap::new(), warnings })
}

pub(super) fn note_non_finite(warnings: &mut Vec<String>, name: &str, count: usize) {
    if count > 0 {
        let name = visible(name);
        warnings.push(format!("the tensor \"{name}\" holds {count} values that are NaN or infinite"));
    }
}

impl Array {
    fn data_len(&self, graph: &Graph) -> usize {
        graph.blob(&self.data).len()
    }
}

/// The array's bytes, little-endian and row-major.
fn row_major<'b>(array: &'b Array, graph: &'b Graph) -> Cow<'b, [u8]> {
    npy::row_major(graph.blob(&array.data), array.element, &array.shape, array.fortran, array.big_endian)
}

impl Checkpoint {
    /// The tensors under `prefix` (`generator_smooth`, `models.generator_s`), with the prefix taken off. An empty prefix
    /// gives them all.
    ///
    /// Errors: there is none; the message lists the prefixes that exist.
    pub fn under(&self, prefix: &str) -> Result<BTreeMap<String, Tensor>> {
        if prefix.is_empty() {
            return Ok(self.tensors.clone());
        }
        let dotted = format!("{prefix}.");
        let found: BTreeMap<String, Tensor> =
            self.tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix(&dotted)?.to_string(), t.clone()))).collect();
        if found.is_empty() {
            return Err(Error::corrupt(format!("no tensor lies under \"{prefix}\"; this file has {}", self.groups().join(", "))));
        }
        Ok(found)
    }

    /// The first of `prefixes` under which there are tensors: `&["generator_smooth", "generator"]`.
    pub fn under_first(&self, prefixes: &[&str]) -> Result<BTreeMap<String, Tensor>> {
        match prefixes.iter().find_map(|p| self.under(p).ok()) {
            Some(found) => Ok(found),
            None => {
                Err(Error::corrupt(format!("no tensor lies under {}; this file has {}", prefixes.join(" or "), self.groups().join(", "))))
            }
        }
    }

    /// The tensors of the generator, taken out of the wrappers in which training code saves it: genforce's averaged copy
    /// `generator_smooth` (or `generator`), rosinality's `g_ema` with the `latent_avg` beside it. A file without a wrapper is
    /// given whole.
    pub fn generator(&self) -> BTreeMap<String, Tensor> {
        if let Ok(found) = self.under_first(&["generator_smooth", "models.generator_smooth", "generator", "models.generator"]) {
            return found;
        }
        let Ok(mut found) = self.under("g_ema") else { return self.tensors.clone() };
        found.extend(self.tensors.get("latent_avg").map(|mean| ("latent_avg".to_string(), mean.clone())));
        found
    }

    /// The top-level keys under which tensors lie, with their number: for messages and `weights info`.
    pub fn groups(&self) -> Vec<String> {
        let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
        for name in self.tensors.keys() {
            *groups.entry(name.split('.').next().unwrap_or(name)).or_default() += 1;
        }
        let more = groups.len().saturating_sub(12);
        let mut out: Vec<String> = groups.iter().take(12).map(|(name, n)| format!("{} ({n})", visible(name))).collect();
        if more > 0 {
            out.push(format!("and {more} more"));
        }
        out
    }

    /// Refuses NaN and infinity, which would silently spread into every score.
    pub fn require_finite(&self) -> Result<()> {
        match self.warnings.first() {
            Some(first) if first.contains("NaN") => {
                Err(Error::corrupt(format!("{first}: these weights are damaged or diverged in training")))
            }
            _ => Ok(()),
        }
    }
}
