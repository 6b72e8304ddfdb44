//! Spectrally normalised weights: "Spectral Normalization for Generative Adversarial Networks", Miyato et al., ICLR 2018, in the form of
//! PyTorch's `spectral_norm`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{Result, Tensor, Var};

use crate::ops;
use crate::params::{Init, Params};

/// The names of the singular vectors behind the name of their layer.
const VECTORS: [&str; 2] = [".weight_u", ".weight_v"];

/// Whether a tensor of this name is a singular vector, which follows from a weight and is not learned.
pub(crate) fn is_vector(name: &str) -> bool {
    VECTORS.iter().any(|ending| name.ends_with(ending))
}

/// How the layers of a network are normalised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scheme {
    /// The least norm of a vector.
    pub eps: f64,
    /// Fresh weights are orthogonal matrices, else normal.
    pub orthogonal: bool,
}

/// A spectrally normalised weight, W / sigma with sigma = u . (mat(W) v). Threads may share it: a power iteration puts new vectors in
/// place of the old ones, which graphs that were built before keep.
pub(crate) struct Spectral {
    weight: Tensor,
    /// The parameters that keep u and v.
    slots: (Tensor, Tensor),
    vectors: Mutex<(Tensor, Tensor)>,
    /// W / sigma of a frozen weight, once it was needed.
    folded: Mutex<Option<Tensor>>,
    eps: f64,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Spectral {
    pub fn new(p: &Params, dims: &[usize], scheme: Scheme) -> Result<Self> {
        let (out, fan_in) = (dims[0], dims[1..].iter().product::<usize>());
        let unit = |n: usize| Init::Normal((n as f64).sqrt().recip());
        let weight = p.get("weight_orig", dims.to_vec(), if scheme.orthogonal { Init::Orthogonal } else { unit(fan_in) })?;
        let slots = (p.get("weight_u", out, unit(out))?, p.get("weight_v", fan_in, unit(fan_in))?);
        let vectors = Mutex::new((slots.0.detach().copy()?, slots.1.detach().copy()?));
        Ok(Spectral { weight, slots, vectors, folded: Mutex::new(None), eps: scheme.eps })
    }

    fn matrix(&self) -> Result<Tensor> {
        self.weight.flatten_from(1)
    }

    /// The vectors u [out] and v [in].
    pub fn vectors(&self) -> (Tensor, Tensor) {
        lock(&self.vectors).clone()
    }

    /// Other vectors of the same shapes.
    pub fn set_vectors(&self, u: Tensor, v: Tensor) {
        *lock(&self.vectors) = (u, v);
        *lock(&self.folded) = None;
    }

    pub fn sigma(&self) -> Result<Tensor> {
        let (u, v) = self.vectors();
        (self.matrix()?.matmul(&v.unsqueeze(1)?)?.squeeze(1)? * u)?.sum_all()
    }

    /// W / sigma, in the graph of a weight that learns.
    pub fn weight(&self) -> Result<Tensor> {
        if self.weight.is_variable() {
            return self.weight.broadcast_div(&self.sigma()?);
        }
        let mut folded = lock(&self.folded);
        match &*folded {
            Some(weight) => Ok(weight.clone()),
            None => Ok(folded.insert(self.weight.broadcast_div(&self.sigma()?)?).clone()),
        }
    }

    /// v = W^T u and u = W v, each of norm 1.
    pub fn power_iteration(&self) -> Result<()> {
        let unit = |x: Tensor| -> Result<Tensor> {
            let norm = x.sqr()?.sum_all()?.sqrt()?.maximum(self.eps)?;
            x.broadcast_div(&norm)?.flatten_all()
        };
        let matrix = self.matrix()?.detach();
        let v = unit(matrix.t()?.matmul(&self.vectors().0.unsqueeze(1)?)?)?;
        let u = unit(matrix.matmul(&v.unsqueeze(1)?)?)?;
        for (slot, value) in [(&self.slots.0, &u), (&self.slots.1, &v)] {
            if slot.is_variable() {
                Var::from_tensor(slot)?.set(value)?;
            }
        }
        self.set_vectors(u, v);
        Ok(())
    }
}

/// A spectrally normalised convolution with a bias, which keeps height and width.
pub(crate) struct Conv {
    pub kernel: Spectral,
    pub bias: Tensor,
}

impl Conv {
    pub fn new(p: &Params, inputs: usize, outputs: usize, side: usize, scheme: Scheme) -> Result<Self> {
        let kernel = Spectral::new(p, &[outputs, inputs, side, side], scheme)?;
        Ok(Conv { kernel, bias: p.get("bias", outputs, Init::Const(0.0))? })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.kernel.weight()?;
        ops::conv2d(x, &weight, Some(&self.bias), 1, weight.dim(2)? / 2)
    }
}
