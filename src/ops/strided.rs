//! Convolution of stride 2 in f32 by the direct kernel: the four phases of the input, its even and odd rows and columns, become channels
//! of a map of half the size, over which a kernel of half the size goes with stride 1. The transposed convolution is the same backwards.

use super::direct::{self, Epilogue, Plan};
use super::node::{fresh, pieces};
use super::unfold::Geometry;

/// The stride-1 convolution over the phases, where there is one.
pub(super) fn plan(g: &Geometry) -> Option<Plan> {
    let k = g.kh.div_ceil(2);
    let fits = g.stride == 2 && g.kh == g.kw && g.kh >= 2;
    fits.then_some(Plan { n: g.n, ci: 4 * g.ci, h: g.oh + k - 1, w: g.ow + k - 1, co: g.co, k, pad: 0 })
}

/// w [co, ci, kh, kw] as [co, 4 ci, k, k], zero where an odd kernel has no tap.
fn kernel(g: &Geometry, p: &Plan, w: &[f32]) -> Vec<f32> {
    let mut out = vec![0f32; g.co * p.ci * p.k * p.k];
    for (phases, w) in out.chunks_exact_mut(4 * p.k * p.k).zip(w.chunks_exact(g.kh * g.kw)) {
        for (i, v) in w.iter().enumerate() {
            let (y, x) = (i / g.kw, i % g.kw);
            phases[((y % 2 * 2 + x % 2) * p.k + y / 2) * p.k + x / 2] = *v;
        }
    }
    out
}

/// x [n, ci, h, w] as [n, 4 ci, ..], with the zeros around it.
fn phases(g: &Geometry, p: &Plan, x: &[f32]) -> Vec<f32> {
    let mut out = fresh(p.n * p.ci * p.h * p.w);
    pieces(&mut out, p.h * p.w, |i, o| {
        let (plane, a, b) = (&x[i / 4 * g.h * g.w..(i / 4 + 1) * g.h * g.w], i / 2 % 2, i % 2);
        // Columns 2 j + b - pad of the map, where they exist.
        let first = g.pad.saturating_sub(b).div_ceil(2).min(p.w);
        for (y, o) in o.chunks_exact_mut(p.w).enumerate() {
            let Some(iy) = (2 * y + a).checked_sub(g.pad).filter(|iy| *iy < g.h) else {
                o.fill(0.0);
                continue;
            };
            let row = &plane[iy * g.w..(iy + 1) * g.w];
            let from = (2 * first + b).saturating_sub(g.pad).min(g.w);
            let count = row[from..].len().div_ceil(2).min(p.w - first);
            o[..first].fill(0.0);
            o[first..first + count].iter_mut().zip(row[from..].iter().step_by(2)).for_each(|(o, v)| *o = *v);
            o[first + count..].fill(0.0);
        }
    });
    out
}

/// The convolution with its epilogue.
pub(super) fn forward(g: &Geometry, p: &Plan, x: &[f32], w: &[f32], end: Epilogue) -> Vec<f32> {
    let mut out = fresh(g.n * g.co * g.oh * g.ow);
    let packed = direct::pack(&kernel(g, p, w), g.co, p.ci, p.k * p.k, false);
    direct::forward(p, &phases(g, p, x), None, &packed, end, &mut out);
    out
}

/// The gradient of the input, or the transposed convolution with its bias.
pub(super) fn backward_x(g: &Geometry, p: &Plan, gy: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let back = Plan { ci: p.co, co: p.ci, h: g.oh, w: g.ow, pad: p.k - 1, ..*p };
    let packed = direct::pack(&kernel(g, p, w), g.co, p.ci, p.k * p.k, true);
    let mut parts = fresh(p.n * p.ci * p.h * p.w);
    direct::forward(&back, gy, None, &packed, Epilogue { bias: None, slope: 1.0 }, &mut parts);
    let mut out = fresh(g.n * g.ci * g.h * g.w);
    pieces(&mut out, g.h * g.w, |i, o| {
        let bias = bias.map_or(0.0, |b| b[i % g.ci]);
        let part = |a: usize, b: usize| &parts[((4 * i + 2 * a + b) * p.h) * p.w..][..p.h * p.w];
        for (iy, o) in o.chunks_exact_mut(g.w).enumerate() {
            let (a, y) = ((iy + g.pad) % 2, (iy + g.pad) / 2);
            if y >= p.h {
                o.fill(bias);
                continue;
            }
            let rows = [part(a, 0), part(a, 1)].map(|plane| &plane[y * p.w..(y + 1) * p.w]);
            for b in 0..2 {
                // The first column of this phase, and its place there.
                let first = (b + g.pad) % 2;
                let from = (first + g.pad) / 2;
                let row = rows[b].get(from..).unwrap_or_default();
                let (reach, all) = (row.len(), o.len());
                o.iter_mut().skip(first).step_by(2).zip(row).for_each(|(o, v)| *o = *v + bias);
                if first + 2 * reach < all {
                    o[first + 2 * reach..].iter_mut().step_by(2).for_each(|o| *o = bias);
                }
            }
        }
    });
    out
}
