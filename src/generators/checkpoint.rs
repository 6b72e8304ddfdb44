//! Opening a published checkpoint: the family is told by its tensors' names, the sizes by their shapes.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::{Family, Generator, biggan, pggan, stylegan1, stylegan2};
use crate::params::Params;
use crate::{Error, Result};

/// The tensors of a checkpoint by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Where a network's tensors go, and the name of their file for error messages.
#[derive(Clone)]
pub struct Target {
    pub dtype: DType,
    pub device: Device,
    pub origin: String,
}

impl Target {
    pub fn new(dtype: DType, device: &Device, origin: &str) -> Self {
        Target { dtype, device: device.clone(), origin: origin.into() }
    }

    /// An error about the file.
    pub(crate) fn corrupt(&self, message: impl std::fmt::Display) -> Error {
        Error::corrupt(format!("{}: {message}", self.origin))
    }

    /// A tensor operation's error, as one about the file: `Params` names the tensor and both shapes.
    pub(crate) fn misfit(&self, error: candle_core::Error) -> Error {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or("tensor error");
        if line.starts_with(&self.origin) { Error::corrupt(line) } else { self.corrupt(line) }
    }

    /// genforce's level of detail, 0 in a fully grown network.
    pub(crate) fn check_grown(&self, lod: &Tensor) -> Result<()> {
        let lod = lod.to_dtype(DType::F64).and_then(|t| t.flatten_all()?.to_vec1::<f64>()).map_err(|e| self.misfit(e))?;
        if lod == [0.0] { Ok(()) } else { Err(self.corrupt(format!("its level of detail is {lod:?}: the network is not fully grown"))) }
    }

    /// The shape of a tensor that must be there, of this many dimensions.
    pub(crate) fn dims<const N: usize>(&self, tensors: &Tensors, name: &str) -> Result<[usize; N]> {
        let Some(tensor) = tensors.get(name) else { return Err(self.corrupt(format!("the tensor \"{name}\" is missing"))) };
        let dims = tensor.dims();
        dims.try_into().map_err(|_| self.corrupt(format!("the tensor \"{name}\" has shape {dims:?}, it must have {N} dimensions")))
    }
}

/// (base, max) of the width table min(base / r, max) with these (resolution, channels), from 4 px up. Every width is a lower bound
/// of base, so the largest bound is the one that fits them all, if any does.
pub(crate) fn width_table(channels: &[(usize, usize)]) -> (usize, usize) {
    let base = channels.iter().map(|&(r, c)| r * c).max().unwrap_or(0);
    (base, channels.first().map_or(0, |&(_, c)| c))
}

/// "3.weight" to (3, "weight").
pub(crate) fn numbered(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// How many of `name(0)`, `name(1)`, ... are there.
pub(crate) fn count(tensors: &Tensors, name: impl Fn(usize) -> String) -> usize {
    (0..).take_while(|&i| tensors.contains_key(&name(i))).count()
}

/// The family of a checkpoint, by the names of its tensors; None when they fit no known format.
pub fn family_of(tensors: &Tensors) -> Option<Family> {
    let has = |part: &str| tensors.keys().any(|name| name.contains(part));
    // A name that the family's files have and no other family's, for each of its formats.
    let marks: [(Family, &[&str]); 4] = [
        (Family::StyleGan1, &["decode_block.0.noise_weight_1", "synthesis.layer0.apply_noise.weight", "synthesis.layer0.epilogue.bias"]),
        (Family::StyleGan2, &["synthesis.early_layer.const", "conv1.conv.modulation.weight"]),
        (Family::BigGan, &["generator.gen_z.weight_orig"]),
        (Family::Pggan, &["layers.0.conv_1.weight", "output0.weight"]),
    ];
    marks.into_iter().find(|(_, names)| names.iter().any(|name| has(name))).map(|(family, _)| family)
}

/// The paper's network of a family at this resolution (BigGAN: 128, 256 or 512), fresh, trainable or frozen, as `p` is.
pub fn paper(family: Family, resolution: usize, p: &Params) -> candle_core::Result<Box<dyn Generator>> {
    Ok(match family {
        Family::Pggan => Box::new(pggan::Pggan::new(&pggan::Config::paper(resolution), p)?),
        Family::StyleGan1 => Box::new(stylegan1::StyleGan1::new(&stylegan1::Config::paper(resolution), p)?),
        Family::StyleGan2 => Box::new(stylegan2::StyleGan2::new(&stylegan2::Config::paper(resolution), p)?),
        Family::BigGan => Box::new(biggan::BigGan::new(&biggan::Config::paper(resolution), biggan::Truncation::PAPER, p)?),
    })
}

/// The generator of a checkpoint, frozen.
///
/// Errors: its format is unknown, a tensor is missing, does not fit, or does not belong to the network (each is named).
pub fn open(tensors: Tensors, target: &Target) -> Result<Box<dyn Generator>> {
    match family_of(&tensors) {
        Some(Family::StyleGan1) => Ok(Box::new(stylegan1::open(tensors, target, stylegan1::Options::default())?)),
        Some(Family::StyleGan2) => Ok(Box::new(stylegan2::open(tensors, target)?)),
        Some(Family::BigGan) => Ok(Box::new(biggan::open(tensors, target, None, biggan::Truncation::PAPER)?)),
        Some(Family::Pggan) => Ok(Box::new(pggan::open(tensors, target, pggan::Options::default())?)),
        None => {
            let names: Vec<&str> = tensors.keys().take(3).map(String::as_str).collect();
            Err(target.corrupt(format!("no known generator has tensors called {}, ...", names.join(", "))))
        }
    }
}
