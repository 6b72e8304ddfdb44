//! Separable filters with constant taps, one plane at a time: blur, FIR resampling, the SSIM window.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::graph::join1;
use super::node::{Scalar, by_dtype, data, fresh, on_cuda, pieces, tensor};

/// A linear map along one axis with few entries per output: out[o] = sum of c * x[i] over `rows[o]`.
struct Band<T> {
    input: usize,
    rows: Vec<Vec<(usize, T)>>,
    /// The taps and the zeros before the first sample, where every output reads the same taps from the place after its neighbour's.
    plain: Option<(Vec<T>, usize)>,
}

impl<T: Scalar> Band<T> {
    /// Insert up - 1 zeros after each of `input` samples, pad, correlate with `taps`, keep every `down`-th.
    fn new(input: usize, taps: &[f64], up: usize, down: usize, pad0: usize, pad1: usize) -> Option<Self> {
        let padded = input * up + pad0 + pad1;
        let output = padded.checked_sub(taps.len())? / down + 1;
        let row = |o: usize| {
            let entry = |(t, c): (usize, &f64)| {
                let at = (o * down + t).checked_sub(pad0)?;
                (at % up == 0 && at / up < input).then(|| (at / up, T::of(*c)))
            };
            taps.iter().enumerate().filter_map(entry).collect()
        };
        let plain = (up == 1 && down == 1).then(|| (taps.iter().map(|t| T::of(*t)).collect(), pad0));
        Some(Band { input, rows: (0..output).map(row).collect(), plain })
    }

    fn transposed(&self) -> Self {
        let mut rows = vec![Vec::new(); self.input];
        for (o, row) in self.rows.iter().enumerate() {
            for (i, c) in row {
                rows[*i].push((o, *c));
            }
        }
        // The flipped taps; with more zeros in front than taps, the first outputs read nothing and there is no such form.
        let flip = |(taps, pad): &(Vec<T>, usize)| Some((taps.iter().rev().copied().collect(), (taps.len() - 1).checked_sub(*pad)?));
        Band { input: self.rows.len(), rows, plain: self.plain.as_ref().and_then(flip) }
    }
}

/// sum = the rows of x [.., width] weighted by the entries.
#[inline(always)]
fn weigh_rows<T: Scalar>(x: &[T], width: usize, entries: &[(usize, T)], sum: &mut [T]) {
    let row = |i: usize| &x[i * width..(i + 1) * width];
    match entries {
        [(a, p), (b, q), (c, r)] => {
            for (((s, a), b), c) in sum.iter_mut().zip(row(*a)).zip(row(*b)).zip(row(*c)) {
                *s = *p * *a + *q * *b + *r * *c;
            }
        }
        [] => sum.fill(T::zero()),
        [(a, p), rest @ ..] => {
            sum.iter_mut().zip(row(*a)).for_each(|(s, a)| *s = *p * *a);
            for (b, q) in rest {
                sum.iter_mut().zip(row(*b)).for_each(|(s, b)| *s += *q * *b);
            }
        }
    }
}

/// out[o] = sum of taps[t] * line[o + t].
#[inline(always)]
fn correlate<T: Scalar>(line: &[T], taps: &[T], out: &mut [T]) {
    let n = out.len();
    if let [a, b, c] = taps {
        for (((o, x), y), z) in out.iter_mut().zip(&line[..n]).zip(&line[1..n + 1]).zip(&line[2..n + 2]) {
            *o = *a * *x + *b * *y + *c * *z;
        }
        return;
    }
    for (t, c) in taps.iter().enumerate() {
        let line = &line[t..t + n];
        if t == 0 {
            out.iter_mut().zip(line).for_each(|(o, x)| *o = *c * *x);
        } else {
            out.iter_mut().zip(line).for_each(|(o, x)| *o += *c * *x);
        }
    }
}

/// out = V x H^T for every plane.
fn apply<T: Scalar>(x: &[T], v: &Band<T>, h: &Band<T>) -> Vec<T> {
    let (iw, ow) = (h.input, h.rows.len());
    let (ip, op) = (v.input * iw, v.rows.len() * ow);
    let planes = x.len() / ip.max(1);
    let mut out = fresh(planes * op);
    // The line holds the zeros around a row, where the map reads them.
    let (before, length) = h.plain.as_ref().map_or((0, iw), |(taps, pad)| (*pad, (ow + taps.len() - 1).max(pad + iw)));
    pieces(&mut out, op, |c, out| {
        let x = &x[c * ip..(c + 1) * ip];
        let mut line = vec![T::zero(); length];
        for (row, o) in v.rows.iter().zip(out.chunks_exact_mut(ow)) {
            weigh_rows(x, iw, row, &mut line[before..before + iw]);
            if let Some((taps, _)) = &h.plain {
                correlate(&line, taps, o);
                continue;
            }
            for (o, row) in o.iter_mut().zip(&h.rows) {
                let mut sum = T::zero();
                for (i, c) in row {
                    sum += *c * line[*i];
                }
                *o = sum;
            }
        }
    });
    out
}

fn filter<T: Scalar>(name: &'static str, x: &Tensor, band: impl Fn(usize) -> Option<Band<T>>, gain: f64) -> Result<Tensor> {
    let (n, c, height, width) = x.dims4()?;
    let (Some(mut v), Some(h)) = (band(height), band(width)) else { bail!("{name}: a map of {height}x{width} is too small") };
    v.rows.iter_mut().flatten().for_each(|e| e.1 *= T::of(gain));
    let x = x.contiguous()?;
    let out = apply(&data::<T>(&x)?, &v, &h);
    let shape = (n, c, v.rows.len(), h.rows.len());
    let (v, h) = (Arc::new(v), Arc::new(h));
    join1(name, &x, out, shape, move |g| {
        Ok([Some(tensor(apply(&data::<T>(g)?, &v.transposed(), &h.transposed()), (n, c, height, width))?)])
    })
}

fn run<T: Scalar>(x: &Tensor, taps: &[f64], up: usize, down: usize, pad: (usize, usize), gain: f64) -> Result<Tensor> {
    if taps.is_empty() || up == 0 || down == 0 {
        bail!("filter: needs taps, and factors of at least 1")
    }
    on_cuda!(x, filter(x, taps, up, down, pad, gain));
    filter::<T>("filter", x, |n| Band::new(n, taps, up, down, pad.0, pad.1), gain)
}

/// The 3x3 binomial blur ([1, 2, 1] outer [1, 2, 1]) / 16 of StyleGAN, zero padding 1; shape kept.
pub fn blur3(x: &Tensor) -> Result<Tensor> {
    by_dtype!(x, run(x, &[0.25, 0.5, 0.25], 1, 1, (1, 1), 1.0))
}

/// FIR resampling as in StyleGAN2 ("upfirdn2d"): per axis, insert `up` - 1 zeros after each sample, pad with `pad0` and `pad1` zeros,
/// convolve with the separable `kernel` (divided by its sum, so that a constant keeps its value), keep every `down`-th sample; then
/// multiply by `gain` (once for both axes; up^2 keeps the mean when upsampling).
///
/// Errors: an empty kernel, factors of 0, or a map smaller than the kernel.
pub fn fir(x: &Tensor, kernel: &[f64], up: usize, down: usize, pad0: usize, pad1: usize, gain: f64) -> Result<Tensor> {
    let sum: f64 = kernel.iter().sum();
    let taps: Vec<f64> = kernel.iter().rev().map(|k| k / sum).collect();
    by_dtype!(x, run(x, &taps, up, down, (pad0, pad1), gain))
}

/// A separable window (`taps` outer `taps`, as given) over each channel, zero padding `pad`: the local means of SSIM.
pub fn depthwise_window(x: &Tensor, taps: &[f64], pad: usize) -> Result<Tensor> {
    by_dtype!(x, run(x, taps, 1, 1, (pad, pad), 1.0))
}
