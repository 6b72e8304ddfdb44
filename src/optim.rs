//! The two optimizers of the paper and its release, with state that can be saved: Adam on equalised weights (section IV and
//! V) and LREQAdam (released code, `custom_adam.py`; it comes from ALAE). candle-nn's AdamW keeps its moments private.
//!
//! Networks store *effective* weights. An equalised layer keeps a raw weight and multiplies it by a coefficient at run time;
//! training the raw weight r = p / coef with Adam moves the effective weight by coef times the step that Adam takes on the
//! gradient coef * dL/dp. Both optimizers read the coefficient from [`Param::coef`].

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, Device, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};
use serde::{Deserialize, Serialize};

use crate::params::Param;

/// Which update rule, with its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Rule {
    /// Adam with bias correction. `equalized`: the gradient and the step are scaled by the coefficient of each parameter.
    Adam { beta1: f64, beta2: f64, eps: f64, equalized: bool },
    /// No first moment; the coefficient scales the step only; eps is added to the uncorrected root.
    LreqAdam { beta2: f64, eps: f64 },
}

impl Rule {
    /// Section V of the paper: Adam with betas (0, 0.99), on equalised weights.
    pub const PAPER: Rule = Rule::Adam { beta1: 0.0, beta2: 0.99, eps: 1e-8, equalized: true };
    /// The released code.
    pub const RELEASED: Rule = Rule::LreqAdam { beta2: 0.99, eps: 1e-8 };
}

struct Moments {
    /// Steps taken by this parameter; one that got no gradient does not advance.
    t: u64,
    /// First moment; absent while beta1 is 0.
    m: Option<Tensor>,
    /// Second moment.
    v: Tensor,
}

/// An optimizer over a fixed list of parameters.
pub struct Optimizer {
    rule: Rule,
    params: Vec<Param>,
    state: Vec<Option<Moments>>,
}

impl Optimizer {
    /// `params` as given by `Params::vars`, sorted by name.
    pub fn new(rule: Rule, params: Vec<Param>) -> Self {
        let state = params.iter().map(|_| None).collect();
        Optimizer { rule, params, state }
    }

    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// One update with learning rate `lr`. A parameter without a gradient in `grads` is left alone.
    pub fn step(&mut self, grads: &GradStore, lr: f64) -> Result<()> {
        for i in 0..self.params.len() {
            if let Some(grad) = grads.get(self.params[i].var.as_tensor()) {
                self.update(i, grad, lr)?;
            }
        }
        Ok(())
    }

    /// As [`Optimizer::step`], but a parameter that has had a gradient before and has none in `grads` takes a zero one, which
    /// decays its second moment: PyTorch before 2.0, where clearing the gradients filled them with zeros.
    pub fn step_or_decay(&mut self, grads: &GradStore, lr: f64) -> Result<()> {
        for i in 0..self.params.len() {
            match (grads.get(self.params[i].var.as_tensor()), &self.state[i]) {
                (Some(grad), _) => self.update(i, grad, lr)?,
                (None, Some(moments)) => {
                    let zero = moments.v.zeros_like()?;
                    self.update(i, &zero, lr)?;
                }
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// As [`Optimizer::step`] with gradients by parameter name, for gradients that were summed outside a graph.
    pub fn step_named(&mut self, grads: &BTreeMap<String, Tensor>, lr: f64) -> Result<()> {
        for i in 0..self.params.len() {
            if let Some(grad) = grads.get(&self.params[i].name) {
                self.update(i, grad, lr)?;
            }
        }
        Ok(())
    }

    fn update(&mut self, i: usize, grad: &Tensor, lr: f64) -> Result<()> {
        let param = &self.params[i];
        let p = param.var.as_tensor();
        if grad.shape() != p.shape() {
            bail!("the gradient of \"{}\" has shape {:?}, the parameter {:?}", param.name, grad.dims(), p.dims())
        }
        let grad = grad.detach().contiguous()?;
        if self.state[i].is_none() {
            let m = match self.rule {
                Rule::Adam { beta1, .. } if beta1 != 0.0 => Some(grad.zeros_like()?),
                _ => None,
            };
            self.state[i] = Some(Moments { t: 0, m, v: grad.zeros_like()? });
        }
        let moments = self.state[i].as_mut().expect("set above");
        moments.t += 1;
        let t = moments.t as i32;
        let step = match self.rule {
            Rule::Adam { beta1, beta2, eps, equalized } => {
                let coef = if equalized { param.coef } else { 1.0 };
                // Adam on g = coef * grad, its step scaled by coef: m and v are kept in units of the raw weight.
                accumulate(&moments.v, &grad, beta2, (1.0 - beta2) * coef * coef, true)?;
                if let Some(m) = &moments.m {
                    accumulate(m, &grad, beta1, (1.0 - beta1) * coef, false)?;
                }
                let first = if moments.m.is_some() { 1.0 / (1.0 - beta1.powi(t)) } else { coef };
                Step { scale: lr * coef * first, root_scale: 1.0 / (1.0 - beta2.powi(t)).sqrt(), eps }
            }
            Rule::LreqAdam { beta2, eps } => {
                accumulate(&moments.v, &grad, beta2, 1.0 - beta2, true)?;
                Step { scale: lr * (1.0 - beta2.powi(t)).sqrt() * param.coef, root_scale: 1.0, eps }
            }
        };
        step.apply(p, &moments.v, moments.m.as_ref().unwrap_or(&grad))
    }

    /// The state by name: `t/<parameter>` (i64 scalar), `v/<parameter>`, and `m/<parameter>` where there is a first moment.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut out = BTreeMap::new();
        for (param, moments) in self.params.iter().zip(&self.state) {
            let Some(moments) = moments else { continue };
            out.insert(format!("t/{}", param.name), Tensor::new(moments.t as i64, &Device::Cpu)?);
            out.insert(format!("v/{}", param.name), moments.v.copy()?);
            if let Some(m) = &moments.m {
                out.insert(format!("m/{}", param.name), m.copy()?);
            }
        }
        Ok(out)
    }

    /// Restores what [`Optimizer::state`] gave. Errors: a shape differs, or a name belongs to no parameter.
    pub fn load_state(&mut self, mut saved: BTreeMap<String, Tensor>) -> Result<()> {
        for (param, slot) in self.params.iter().zip(&mut self.state) {
            let mut take = |kind: &str| -> Result<Option<Tensor>> {
                let Some(tensor) = saved.remove(&format!("{kind}/{}", param.name)) else { return Ok(None) };
                if kind != "t" && tensor.shape() != param.var.shape() {
                    bail!("optimizer state \"{kind}/{}\" has shape {:?}, the parameter {:?}", param.name, tensor.dims(), param.var.dims())
                }
                // A copy: the update writes in place.
                Ok(Some(tensor.to_device(param.var.device())?.copy()?))
            };
            let (t, v, m) = (take("t")?, take("v")?, take("m")?);
            *slot = match (t, v) {
                (Some(t), Some(v)) => Some(Moments { t: t.to_scalar::<i64>()? as u64, m, v }),
                _ => None,
            };
        }
        if let Some(name) = saved.keys().next() {
            bail!("the saved optimizer state \"{name}\" belongs to no parameter of this network")
        }
        Ok(())
    }
}

/// acc = decay * acc + weight * (grad or grad^2), in place.
fn accumulate(acc: &Tensor, grad: &Tensor, decay: f64, weight: f64, square: bool) -> Result<()> {
    #[cfg(any(feature = "cuda", feature = "emulate-cuda"))]
    if crate::ops::cuda::serves(acc)? {
        return crate::ops::cuda::accumulate(acc, grad, decay, weight, square);
    }
    acc.inplace_op2(grad, &Accumulate { decay, weight, square })
}

struct Accumulate {
    decay: f64,
    weight: f64,
    square: bool,
}

impl InplaceOp2 for Accumulate {
    fn name(&self) -> &'static str {
        "moment"
    }

    fn cpu_fwd(&self, acc: &mut CpuStorage, la: &Layout, grad: &CpuStorage, lg: &Layout) -> Result<()> {
        match (acc, grad) {
            (CpuStorage::F32(a), CpuStorage::F32(g)) => {
                let (decay, weight) = (self.decay as f32, self.weight as f32);
                for (a, g) in span_mut(a, la)?.iter_mut().zip(span(g, lg)?) {
                    *a = decay * *a + weight * if self.square { g * g } else { *g };
                }
            }
            (CpuStorage::F64(a), CpuStorage::F64(g)) => {
                for (a, g) in span_mut(a, la)?.iter_mut().zip(span(g, lg)?) {
                    *a = self.decay * *a + self.weight * if self.square { g * g } else { *g };
                }
            }
            _ => bail!("the optimizers know f32 and f64"),
        }
        Ok(())
    }
}

/// p -= scale * d / (sqrt(v) * root_scale + eps), in place.
struct Step {
    scale: f64,
    root_scale: f64,
    eps: f64,
}

impl Step {
    fn apply(&self, p: &Tensor, v: &Tensor, d: &Tensor) -> Result<()> {
        #[cfg(any(feature = "cuda", feature = "emulate-cuda"))]
        if crate::ops::cuda::serves(p)? {
            return crate::ops::cuda::optimizer_step(p, v, d, self.scale, self.root_scale, self.eps);
        }
        p.inplace_op3(v, d, self)
    }
}

impl InplaceOp3 for Step {
    fn name(&self) -> &'static str {
        "optimizer-step"
    }

    fn cpu_fwd(&self, p: &mut CpuStorage, lp: &Layout, v: &CpuStorage, lv: &Layout, d: &CpuStorage, ld: &Layout) -> Result<()> {
        match (p, v, d) {
            (CpuStorage::F32(p), CpuStorage::F32(v), CpuStorage::F32(d)) => {
                let (scale, root_scale, eps) = (self.scale as f32, self.root_scale as f32, self.eps as f32);
                for ((p, v), d) in span_mut(p, lp)?.iter_mut().zip(span(v, lv)?).zip(span(d, ld)?) {
                    *p -= scale * d / (v.sqrt() * root_scale + eps);
                }
            }
            (CpuStorage::F64(p), CpuStorage::F64(v), CpuStorage::F64(d)) => {
                for ((p, v), d) in span_mut(p, lp)?.iter_mut().zip(span(v, lv)?).zip(span(d, ld)?) {
                    *p -= self.scale * d / (v.sqrt() * self.root_scale + self.eps);
                }
            }
            _ => bail!("the optimizers know {:?} and {:?}", DType::F32, DType::F64),
        }
        Ok(())
    }
}

fn span<'a, T>(data: &'a [T], layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => bail!("the optimizers need contiguous tensors"),
    }
}

fn span_mut<'a, T>(data: &'a mut [T], layout: &Layout) -> Result<&'a mut [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&mut data[start..end]),
        None => bail!("the optimizers need contiguous tensors"),
    }
}
