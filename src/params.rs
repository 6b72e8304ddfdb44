//! Named parameters. One constructor of a network serves every use: it asks a [`Params`] for each tensor by name, shape
//! and initial distribution, and gets a trainable variable (fresh or loaded) or a frozen tensor (loaded).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};

use crate::random::Stream;

/// The initial distribution of a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Every entry this value.
    Const(f64),
    /// As a matrix [first dimension, all others]: random orthonormal rows, or columns where these are fewer (Saxe et al., ICLR 2014).
    Orthogonal,
}

/// A trainable parameter: its full name, its variable, and the learning-rate coefficient that the optimizers read
/// (the standard deviation that an equalised layer would multiply at run time; 1 where the layer has none).
#[derive(Clone)]
pub struct Param {
    pub name: String,
    pub var: Var,
    pub coef: f64,
}

enum Source {
    /// Initial values from (seed, full name); every parameter is trainable.
    Fresh { seed: u64 },
    /// Values from a file; trainable or frozen.
    Loaded { tensors: BTreeMap<String, Tensor>, trainable: bool, origin: String },
    /// No values: shapes only, in the order in which they were asked for.
    Outline { declared: Vec<Declared> },
}

/// What a constructor asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    pub name: String,
    pub shape: Vec<usize>,
}

struct Inner {
    source: Source,
    dtype: DType,
    device: Device,
    made: BTreeMap<String, Param>,
    used: BTreeSet<String>,
}

/// A tree of named parameters; `pp` descends into it. Clones share the same store.
#[derive(Clone)]
pub struct Params {
    inner: Rc<RefCell<Inner>>,
    prefix: String,
}

impl Params {
    fn with(source: Source, dtype: DType, device: &Device) -> Self {
        let inner = Inner { source, dtype, device: device.clone(), made: BTreeMap::new(), used: BTreeSet::new() };
        Params { inner: Rc::new(RefCell::new(inner)), prefix: String::new() }
    }

    /// Trainable parameters whose initial values depend on `seed` and on their own names only.
    pub fn fresh(seed: u64, dtype: DType, device: &Device) -> Self {
        Self::with(Source::Fresh { seed }, dtype, device)
    }

    /// Frozen parameters read from `tensors`; `origin` names the file in error messages.
    pub fn frozen(tensors: BTreeMap<String, Tensor>, dtype: DType, device: &Device, origin: &str) -> Self {
        Self::with(Source::Loaded { tensors, trainable: false, origin: origin.into() }, dtype, device)
    }

    /// Trainable parameters that start from `tensors`.
    pub fn trainable(tensors: BTreeMap<String, Tensor>, dtype: DType, device: &Device, origin: &str) -> Self {
        Self::with(Source::Loaded { tensors, trainable: true, origin: origin.into() }, dtype, device)
    }

    /// No values at all: a constructor that only asks for its tensors runs without memory for them, and
    /// [`Params::declared`] lists what it asked for. For tables of layers and for estimates.
    pub fn outline(dtype: DType, device: &Device) -> Self {
        Self::with(Source::Outline { declared: Vec::new() }, dtype, device)
    }

    /// What the constructors of an outline asked for, in their order; empty for the other kinds.
    pub fn declared(&self) -> Vec<Declared> {
        match &self.inner.borrow().source {
            Source::Outline { declared } => declared.clone(),
            _ => Vec::new(),
        }
    }

    /// The sub-tree `name`; `pp("a").pp("b")` and `pp("a.b")` are the same.
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        Params { inner: self.inner.clone(), prefix: self.full(&name.to_string()) }
    }

    fn full(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }

    pub fn device(&self) -> Device {
        self.inner.borrow().device.clone()
    }

    pub fn dtype(&self) -> DType {
        self.inner.borrow().dtype
    }

    /// Whether its parameters are to be trained: fresh or trainable.
    pub fn learns(&self) -> bool {
        matches!(&self.inner.borrow().source, Source::Fresh { .. } | Source::Loaded { trainable: true, .. })
    }

    /// Whether a loaded store has this tensor; a fresh store has whatever is asked for, so it answers false.
    pub fn has(&self, name: &str) -> bool {
        self.shape_of(name).is_some()
    }

    /// The shape of a loaded tensor.
    pub fn shape_of(&self, name: &str) -> Option<Vec<usize>> {
        match &self.inner.borrow().source {
            Source::Fresh { .. } | Source::Outline { .. } => None,
            Source::Loaded { tensors, .. } => tensors.get(&self.full(name)).map(|t| t.dims().to_vec()),
        }
    }

    /// The tensor `name` of this `shape`, learning-rate coefficient 1.
    ///
    /// Errors: the loaded store lacks it, or has it in another shape.
    pub fn get(&self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Tensor> {
        self.get_coef(name, shape, init, 1.0)
    }

    /// As [`Params::get`], with the learning-rate coefficient of an equalised layer.
    pub fn get_coef(&self, name: &str, shape: impl Into<Shape>, init: Init, coef: f64) -> Result<Tensor> {
        let shape = shape.into();
        let full = self.full(name);
        let mut inner = self.inner.borrow_mut();
        if let Some(param) = inner.made.get(&full) {
            return Ok(param.var.as_tensor().clone());
        }
        let (dtype, device) = (inner.dtype, inner.device.clone());
        if let Source::Outline { declared } = &mut inner.source {
            declared.push(Declared { name: full, shape: shape.dims().to_vec() });
            return Tensor::zeros((), dtype, &device)?.broadcast_as(shape);
        }
        let (tensor, trainable) = match &inner.source {
            Source::Outline { .. } => unreachable!("returned above"),
            Source::Fresh { seed } => (initial(*seed, &full, &shape, init, inner.dtype, &inner.device)?, true),
            Source::Loaded { tensors, trainable, origin } => {
                let Some(tensor) = tensors.get(&full) else {
                    bail!("{origin}: the tensor \"{full}\" {:?} is missing{}", shape.dims(), why_missing(tensors, &full, shape.dims()))
                };
                if tensor.shape() != &shape {
                    let (have, need) = (tensor.dims(), shape.dims());
                    bail!("{origin}: the tensor \"{full}\" has shape {have:?}, the network needs {need:?}{}", why_misshapen(have, need))
                }
                (tensor.to_dtype(inner.dtype)?.to_device(&inner.device)?.contiguous()?, *trainable)
            }
        };
        inner.used.insert(full.clone());
        if !trainable {
            return Ok(tensor.detach());
        }
        let var = Var::from_tensor(&tensor)?;
        let tensor = var.as_tensor().clone();
        inner.made.insert(full.clone(), Param { name: full, var, coef });
        Ok(tensor)
    }

    /// Marks a tensor as known without reading it: buffers that a checkpoint carries and the network does not need.
    pub fn ignore(&self, name: &str) {
        let full = self.full(name);
        self.inner.borrow_mut().used.insert(full);
    }

    /// To be called when the network is built: no tensor of a loaded store may be left over.
    pub fn finish(&self) -> Result<()> {
        let inner = self.inner.borrow();
        if let Source::Loaded { tensors, origin, .. } = &inner.source {
            let extra: Vec<&str> = tensors.keys().filter(|k| !inner.used.contains(*k)).map(String::as_str).collect();
            if !extra.is_empty() {
                let shown = extra.iter().take(5).copied().collect::<Vec<_>>().join(", ");
                bail!(
                    "{origin}: {} tensors do not belong to this network: {shown}{}; the file is of another network or size, or its card names another",
                    extra.len(),
                    if extra.len() > 5 { ", ..." } else { "" }
                )
            }
        }
        Ok(())
    }

    /// Every trainable parameter, sorted by name.
    pub fn vars(&self) -> Vec<Param> {
        self.inner.borrow().made.values().cloned().collect()
    }

    /// The current values of the trainable parameters by name, each its own copy.
    pub fn snapshot(&self) -> Result<BTreeMap<String, Tensor>> {
        self.vars().into_iter().map(|p| Ok((p.name, p.var.as_tensor().detach().copy()?))).collect()
    }
}

fn initial(seed: u64, name: &str, shape: &Shape, init: Init, dtype: DType, device: &Device) -> Result<Tensor> {
    match init {
        Init::Const(value) => (Tensor::zeros(shape, dtype, device)? + value)?.contiguous(),
        Init::Normal(std) => {
            let unit = Stream::new(seed, &format!("init/{name}")).normal(shape.clone(), device)?;
            (unit.to_dtype(dtype)? * std)?.contiguous()
        }
        Init::Orthogonal => {
            let rows = shape.dims().first().copied().unwrap_or(1);
            let columns = shape.elem_count() / rows.max(1);
            let normal = Stream::new(seed, &format!("init/{name}")).normal((rows, columns), device)?;
            let wide = if rows <= columns { normal } else { normal.t()? };
            let made = orthonormal(wide.to_dtype(DType::F64)?.to_vec2()?);
            let wide = Tensor::new(made, device)?.to_dtype(dtype)?;
            if rows <= columns { wide } else { wide.t()? }.contiguous()?.reshape(shape)
        }
    }
}

/// Gram and Schmidt, each vector against those before it, one after the other.
fn orthonormal(mut vectors: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    for i in 0..vectors.len() {
        let (before, rest) = vectors.split_at_mut(i);
        let v = &mut rest[0];
        for b in before {
            let along: f64 = v.iter().zip(b.iter()).map(|(v, b)| v * b).sum();
            v.iter_mut().zip(b.iter()).for_each(|(v, b)| *v -= along * b);
        }
        let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
        v.iter_mut().for_each(|v| *v /= norm);
    }
    vectors
}

/// The likely cause of a missing tensor, from the names that the file does have.
fn why_missing(tensors: &BTreeMap<String, Tensor>, full: &str, shape: &[usize]) -> String {
    if tensors.is_empty() {
        return ": the file has no tensor at all".into();
    }
    // The same name below something: the wrapper of a training checkpoint or of several GPUs.
    let wrapped = tensors.keys().find_map(|name| name.strip_suffix(full)?.strip_suffix('.'));
    if let Some(wrapper) = wrapped {
        let cause = if wrapper == "module" { " (saved from several GPUs)" } else { "" };
        return format!(": the file has it under \"{wrapper}\"{cause}; give that key");
    }
    let nearest = tensors.iter().filter(|(_, t)| t.dims() == shape).map(|(name, _)| name.as_str());
    let nearest = nearest.map(|name| (strsim::normalized_levenshtein(name, full), name)).max_by(|a, b| a.0.total_cmp(&b.0));
    let near = match nearest {
        Some((similarity, name)) if similarity > 0.7 => format!("; the nearest of that shape is \"{name}\""),
        _ => String::new(),
    };
    let first: Vec<&str> = tensors.keys().take(3).map(String::as_str).collect();
    format!(
        ": the file has {} tensors of other names ({}, ...){near}: it is of another network, size or layout",
        tensors.len(),
        first.join(", ")
    )
}

/// The likely cause of a wrong shape.
fn why_misshapen(have: &[usize], need: &[usize]) -> String {
    let (mut a, mut b) = (have.to_vec(), need.to_vec());
    a.sort_unstable();
    b.sort_unstable();
    if a == b && have.len() > 1 {
        ": the same sizes in another order, so the file is of another layout".into()
    } else if have.iter().product::<usize>() == need.iter().product::<usize>() {
        ": the same number of values in another shape, so the file is of another layout".into()
    } else {
        ": the file is of a network of another width or resolution".into()
    }
}
