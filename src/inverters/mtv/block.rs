//! The block of E: norm, 3x3 convolution, noise, bias, leaky ReLU, twice, with a shortcut, and one or two rows of w from
//! the statistics of what enters each convolution (sections IV.A and IV.B of the paper).

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::conditional::ConditionalNorm;
use super::{Config, Head, Input, Norm, Shortcut, Statistics, fully_connected};
use crate::ops;
use crate::params::{Init, Params};

/// Negative slope of every leaky ReLU.
pub(super) const SLOPE: f64 = 0.2;
/// Epsilon of the instance norms of the release.
const EPS: f64 = 1e-8;

/// One half of a block: the fully connected layer of its row of w, its convolution, and what follows that.
struct Half {
    row: Option<(Tensor, Tensor)>,
    condition: Option<ConditionalNorm>,
    /// Absent in the second half of the last block.
    conv: Option<Tensor>,
    noise: Option<Tensor>,
    bias: Tensor,
}

struct Change {
    conv: (Tensor, Tensor),
    /// Affine instance norm [1, C, 1, 1] (weight, bias).
    affine: Option<(Tensor, Tensor)>,
    condition: Option<ConditionalNorm>,
}

pub(super) struct Block {
    halves: [Half; 2],
    /// The shortcut's convolution where the channels change.
    change: Option<Change>,
    norm: Norm,
    shortcut: Shortcut,
    statistics: Statistics,
    half_rows: bool,
    blur: bool,
    fused: bool,
    last: bool,
}

impl Block {
    pub(super) fn new(c: &Config, i: usize, fused: bool, p: &Params) -> Result<Self> {
        let last = i + 1 == c.blocks;
        let (input, out) = (c.width(i), c.width(i + 1));
        let half = |k: usize, width: usize, has_conv: bool| -> Result<Half> {
            let row = match c.head {
                Head::W | Head::WHalf => {
                    let per_channel = if c.statistics == Statistics::MeanStd { 2 } else { 1 };
                    Some(fully_connected(&p.pp(format!("inver_mod{k}")), per_channel * input, c.latent, c.row_gain)?)
                }
                _ => None,
            };
            let condition = match c.norm {
                Norm::Conditional => Some(ConditionalNorm::new(input, c.condition, &p.pp(format!("batch_norm_{k}")))?),
                _ => None,
            };
            let conv = if has_conv { Some(conv3(&p.pp(format!("conv_{k}")), input, width)?) } else { None };
            let noise = if c.noise { Some(p.get(&format!("noise_weight_{k}"), (1, width, 1, 1), Init::Const(0.0))?) } else { None };
            Ok(Half { row, condition, conv, noise, bias: p.get(&format!("bias_{k}"), (1, width, 1, 1), Init::Const(0.0))? })
        };
        let halves = [half(1, input, true)?, half(2, out, !last)?];
        let change = if input == out { None } else { Some(Change::new(c, input, out, p)?) };
        // A buffer of the released state dicts, always [1, 2, 1] x [1, 2, 1] / 16.
        p.ignore("blur.weight");
        Ok(Block {
            halves,
            change,
            norm: c.norm,
            shortcut: c.shortcut,
            statistics: c.statistics,
            half_rows: c.head == Head::WHalf,
            blur: c.blur && c.shortcut == Shortcut::Mix,
            fused,
            last,
        })
    }

    /// One power iteration of every spectral norm.
    pub(super) fn power_iteration(&self) -> Result<()> {
        let of_halves = self.halves.iter().filter_map(|h| h.condition.as_ref());
        let of_change = self.change.iter().filter_map(|c| c.condition.as_ref());
        of_halves.chain(of_change).try_for_each(ConditionalNorm::power_iteration)
    }

    /// The strengths that act: the second of the last block does not.
    pub(super) fn noise_strengths(&self) -> Vec<&Tensor> {
        self.halves.iter().filter(|h| h.conv.is_some()).filter_map(|h| h.noise.as_ref()).collect()
    }

    /// Whether a forward pass changes the block: its singular vectors, in training.
    pub(super) fn renews(&self, input: &Input) -> bool {
        input.train && self.norm == Norm::Conditional
    }

    /// As [`Block::forward`], in one list.
    pub(super) fn results(&self, x: &Tensor, noise: &[Tensor], input: &Input) -> Result<Vec<Tensor>> {
        let (out, rows) = self.forward(x, noise, input)?;
        Ok(std::iter::once(out).chain(rows.into_iter().flat_map(|(a, b)| [a, b])).collect())
    }

    /// As [`Block::results`], where its inner maps may be forgotten.
    pub(super) fn segment(self: &Arc<Self>, x: &Tensor, noise: &[Tensor], input: &Input) -> Result<Vec<Tensor>> {
        let (block, noise, train) = (self.clone(), noise.to_vec(), input.train);
        let run = move |t: &[Tensor]| block.results(&t[0], &noise, &Input { noise: &[], condition: t.get(1), train });
        match input.condition {
            Some(condition) => ops::segment(&[x, condition], run),
            None => ops::segment(&[x], run),
        }
    }

    /// The next block's input, and the two rows (w1, w2) where the head has rows.
    #[allow(clippy::type_complexity)]
    pub(super) fn forward(&self, x: &Tensor, noise: &[Tensor], input: &Input) -> Result<(Tensor, Option<(Tensor, Tensor)>)> {
        let [first, second] = &self.halves;
        let residual = x;
        let (w1, x) = self.enter(first, x, input)?;
        let x = self.convolve(first, &x, noise.first())?;
        let (w2, normed) = self.enter(second, &x, input)?;
        let rows = match (w1, w2) {
            (Some(_), Some(w2)) if self.half_rows => Some((w2.clone(), w2)),
            (Some(w1), Some(w2)) => Some((w1, w2)),
            _ => None,
        };
        let out = match (self.shortcut, self.last) {
            (Shortcut::Mix, last) => {
                let (x, residual) = if last {
                    (normed, residual.clone())
                } else {
                    let x = self.convolve(second, &normed, noise.get(1))?;
                    (if self.fused { x } else { ops::avg_pool2(&x)? }, ops::avg_pool2(residual)?)
                };
                let residual = match &self.change {
                    Some(change) => change.convolve(&residual)?,
                    None => residual,
                };
                ops::mix(&x, 0.111, &residual, 0.889)?
            }
            (_, true) => x,
            (Shortcut::Sum, false) => {
                let x = self.convolve(second, &normed, noise.get(1))?;
                let residual = match &self.change {
                    Some(change) => change.normed(residual)?,
                    None => residual.clone(),
                };
                ops::avg_pool2(&ops::leaky_relu(&(x + residual)?, SLOPE)?)?
            }
            (Shortcut::Conditional | Shortcut::ConditionalReleased, false) => {
                let mut x = self.convolve(second, &normed, noise.get(1))?;
                let residual = match &self.change {
                    Some(change) => {
                        let residual = change.conditioned(residual, input)?;
                        if self.shortcut == Shortcut::ConditionalReleased {
                            x = ops::leaky_relu(&x, SLOPE)?;
                            residual
                        } else {
                            ops::leaky_relu(&residual, SLOPE)?
                        }
                    }
                    None => residual.clone(),
                };
                ops::avg_pool2(&(x + residual)?)?
            }
        };
        Ok((out, rows))
    }

    /// The row of w from the statistics of `x`, and `x` as the convolution wants it.
    fn enter(&self, half: &Half, x: &Tensor, input: &Input) -> Result<(Option<Tensor>, Tensor)> {
        let row = |stats: &Tensor| half.row.as_ref().map(|(w, b)| ops::linear(stats, w, Some(b))).transpose();
        // A second half without convolution still normalises where the mix wants it.
        match (self.norm, self.statistics) {
            (Norm::Before, Statistics::MeanStd) if half.row.is_some() => {
                let (normed, stats) = ops::instance_norm_stats(x, EPS)?;
                Ok((row(&stats)?, normed))
            }
            (Norm::Before, Statistics::MeanStd) => Ok((None, ops::instance_norm(x, EPS)?)),
            (Norm::Before, Statistics::Std) => Ok((row(&unbiased_std(x)?)?, ops::instance_norm(x, EPS)?)),
            (Norm::After, _) => Ok((row(&ops::style_stats(x)?)?, x.clone())),
            (Norm::Conditional, _) => match (&half.condition, &half.conv, input.condition) {
                (Some(norm), Some(_), Some(c)) => Ok((None, norm.forward(x, c, input.train)?)),
                _ => Ok((None, x.clone())),
            },
        }
    }

    /// Convolution, noise, bias, leaky ReLU. The activation of the second half comes after the sum in the blocks of PGGAN.
    fn convolve(&self, half: &Half, x: &Tensor, noise: Option<&Tensor>) -> Result<Tensor> {
        let Some(weight) = &half.conv else { return Ok(x.clone()) };
        let second = std::ptr::eq(half, &self.halves[1]);
        let x = if second && self.blur { ops::blur3(x)? } else { x.clone() };
        let mut x = if second && self.fused {
            ops::conv2d(&x, &ops::fused_down_weight(weight)?, None, 2, 1)?
        } else {
            ops::conv2d(&x, weight, None, 1, 1)?
        };
        if self.norm == Norm::After {
            x = ops::instance_norm(&x, EPS)?;
        }
        let slope = if second && self.shortcut == Shortcut::Sum { 1.0 } else { SLOPE };
        ops::noise_bias_lrelu(&x, noise.zip(half.noise.as_ref()), Some(&half.bias), slope)
    }
}

impl Change {
    fn new(c: &Config, input: usize, out: usize, p: &Params) -> Result<Self> {
        let q = p.pp("conv_3");
        let coef = (2.0 / input as f64).sqrt();
        let weight = q.get_coef("weight", (out, input, 1, 1), Init::Normal(coef), coef)?;
        let conv = (weight, q.get("bias", out, Init::Const(0.0))?);
        let affine = if c.shortcut == Shortcut::Sum {
            let q = p.pp("instance_norm_3");
            let shaped = |t: Tensor| t.reshape((1, out, 1, 1));
            Some((shaped(q.get("weight", out, Init::Const(1.0))?)?, shaped(q.get("bias", out, Init::Const(0.0))?)?))
        } else {
            None
        };
        let condition = match c.norm {
            Norm::Conditional => Some(ConditionalNorm::new(input, c.condition, &p.pp("batch_norm_3"))?),
            _ => None,
        };
        Ok(Change { conv, affine, condition })
    }

    fn convolve(&self, x: &Tensor) -> Result<Tensor> {
        ops::conv2d(x, &self.conv.0, Some(&self.conv.1), 1, 0)
    }

    fn normed(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.convolve(x)?;
        match &self.affine {
            Some((weight, bias)) => ops::modulate(&ops::instance_norm(&x, EPS)?, weight, Some(bias)),
            None => Ok(x),
        }
    }

    fn conditioned(&self, x: &Tensor, input: &Input) -> Result<Tensor> {
        match (&self.condition, input.condition) {
            (Some(norm), Some(c)) => self.convolve(&norm.forward(x, c, input.train)?),
            _ => self.convolve(x),
        }
    }
}

/// An equalised 3x3 convolution without bias: [out, input, 3, 3] with coefficient sqrt(2 / (9 input)).
fn conv3(p: &Params, input: usize, out: usize) -> Result<Tensor> {
    let coef = (2.0 / (9 * input) as f64).sqrt();
    p.get_coef("weight", (out, input, 3, 3), Init::Normal(coef), coef)
}

/// Standard deviation per channel with N - 1, [n, C]; biased std times sqrt(N / (N - 1)).
fn unbiased_std(x: &Tensor) -> Result<Tensor> {
    let (_, c, h, w) = x.dims4()?;
    let n = (h * w) as f64;
    ops::style_stats(x)?.narrow(1, c, c)?.affine((n / (n - 1.0)).sqrt(), 0.0)
}
