//! Stride-1 convolution in f32 without unfolding: the map is copied once into a zero-padded strip, and a register tile of eight output
//! channels by 32 columns reads every tap of it in place. For AVX-512; other processors run the same tile in plain code that the
//! compiler vectorises (AVX2 and NEON with fused multiply-add).

use rayon::prelude::*;

use super::node::{Shared, wide};

/// Output channels of a tile; weights are packed in panels of this many.
const MR: usize = 8;
/// Columns of a vector of the tile, and vectors of a tile.
const LANES: usize = 16;
const NV: usize = 2;
/// Bytes of a padded strip: part of a usual second-level cache.
const STRIP: usize = 256 << 10;

/// The geometry of one stride-1 convolution with a square kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub n: usize,
    pub ci: usize,
    pub h: usize,
    pub w: usize,
    pub co: usize,
    pub k: usize,
    pub pad: usize,
}

/// What is done to the sums before they are stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Epilogue<'a> {
    pub bias: Option<&'a [f32]>,
    /// max(v, slope * v); 1 leaves v as it is.
    pub slope: f32,
}

impl Plan {
    pub(super) fn out(&self) -> (usize, usize) {
        (self.h + 2 * self.pad + 1 - self.k, self.w + 2 * self.pad + 1 - self.k)
    }
    fn padded_width(&self) -> usize {
        self.w + 2 * self.pad
    }
    /// Rows of output that one strip computes.
    fn strip(&self) -> usize {
        let row = self.ci * self.padded_width() * 4;
        let (oh, _) = self.out();
        let most = (STRIP / row.max(1)).saturating_sub(self.k - 1).clamp(1, oh);
        // Even strips; an even number of rows where two rows make one tile.
        let even = oh.div_ceil(oh.div_ceil(most));
        (even + even % 2).min(oh)
    }
}

/// Weights [co, ci, k, k] as panels [co / 8][ci][k * k][8], zero where channels are missing. `flipped`: the kernel of the gradient,
/// with inputs and outputs exchanged and the taps reversed.
pub(super) fn pack(w: &[f32], co: usize, ci: usize, taps: usize, flipped: bool) -> Vec<f32> {
    let (rows, cols) = if flipped { (ci, co) } else { (co, ci) };
    let mut out = vec![0f32; rows.div_ceil(MR) * cols * taps * MR];
    for (i, panel) in out.chunks_exact_mut(cols * taps * MR).enumerate() {
        for r in 0..MR.min(rows - i * MR) {
            let row = i * MR + r;
            for (c, block) in panel.chunks_exact_mut(taps * MR).enumerate() {
                let from = if flipped { (c * ci + row) * taps } else { (row * ci + c) * taps };
                let from = &w[from..from + taps];
                let to = block[r..].iter_mut().step_by(MR);
                if flipped {
                    to.zip(from.iter().rev()).for_each(|(t, f)| *t = *f);
                } else {
                    to.zip(from).for_each(|(t, f)| *t = *f);
                }
            }
        }
    }
    out
}

/// One tile: sums[r][v] = start[r] + sum over channels and taps of a * b, then max(v, slope * v), stored at c[v] + r * stride.
///
/// # Safety
/// `a` holds `ci * offsets.len() * 8` values; every b[v] + channel * plane + offset is readable for 16 values and every
/// c[v] + r * stride writable for 16 values, r < rows <= 8.
struct Tile<'a> {
    a: *const f32,
    b: [*const f32; NV],
    ci: usize,
    plane: usize,
    offsets: &'a [usize],
    c: [*mut f32; NV],
    stride: usize,
    rows: usize,
    start: [f32; MR],
    slope: f32,
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn tile_avx512(t: &Tile) {
    use std::arch::x86_64::*;
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); NV]; MR];
        for (row, s) in acc.iter_mut().zip(&t.start) {
            *row = [_mm512_set1_ps(*s); NV];
        }
        let mut a = t.a;
        for c in 0..t.ci {
            for off in t.offsets {
                let at = c * t.plane + off;
                let b = [_mm512_loadu_ps(t.b[0].add(at)), _mm512_loadu_ps(t.b[1].add(at))];
                for (r, row) in acc.iter_mut().enumerate() {
                    let w = _mm512_set1_ps(*a.add(r));
                    row[0] = _mm512_fmadd_ps(w, b[0], row[0]);
                    row[1] = _mm512_fmadd_ps(w, b[1], row[1]);
                }
                a = a.add(MR);
            }
        }
        let slope = _mm512_set1_ps(t.slope);
        for (r, row) in acc.iter().enumerate().take(t.rows) {
            for (c, v) in t.c.iter().zip(row) {
                _mm512_storeu_ps(c.add(r * t.stride), _mm512_max_ps(*v, _mm512_mul_ps(*v, slope)));
            }
        }
    }
}

/// The same in plain code, four rows by one vector at a time.
#[inline(always)]
unsafe fn tile_plain<const FMA: bool>(t: &Tile) {
    const R: usize = 4;
    unsafe {
        for v in 0..NV {
            for half in (0..t.rows).step_by(R) {
                let mut acc = [[0f32; LANES]; R];
                for (r, row) in acc.iter_mut().enumerate() {
                    *row = [t.start[half + r]; LANES];
                }
                let mut a = t.a.add(half);
                for c in 0..t.ci {
                    for off in t.offsets {
                        let b = &*t.b[v].add(c * t.plane + off).cast::<[f32; LANES]>();
                        for (r, row) in acc.iter_mut().enumerate() {
                            let w = *a.add(r);
                            for (s, b) in row.iter_mut().zip(b) {
                                *s = if FMA { w.mul_add(*b, *s) } else { w * *b + *s };
                            }
                        }
                        a = a.add(MR);
                    }
                }
                for (r, row) in acc.iter().enumerate().take(t.rows - half) {
                    let c = t.c[v].add((half + r) * t.stride);
                    for (j, s) in row.iter().enumerate() {
                        let low = t.slope * *s;
                        *c.add(j) = if *s > low { *s } else { low };
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_avx2(t: &Tile) {
    unsafe { tile_plain::<true>(t) }
}

/// The best tile of this processor.
fn tile_kernel() -> unsafe fn(&Tile) {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            return tile_avx512;
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            return tile_avx2;
        }
    }
    tile_plain::<{ cfg!(target_arch = "aarch64") }>
}

/// Copies rows y0 - pad .. of every plane of `x` into `to`, [planes, rows, w + 2 pad], zero outside the map. With `mask` (and its slope)
/// the values are multiplied by 1 where the mask is positive and by the slope elsewhere: the gradient of a leaky ReLU.
#[allow(clippy::too_many_arguments)]
fn pad_rows(x: &[f32], planes: usize, h: usize, w: usize, pad: usize, y0: usize, rows: usize, mask: Option<(&[f32], f32)>, to: &mut [f32]) {
    let wp = w + 2 * pad;
    for p in 0..planes {
        for (y, row) in to[p * rows * wp..(p + 1) * rows * wp].chunks_exact_mut(wp).enumerate() {
            let Some(iy) = (y0 + y).checked_sub(pad).filter(|iy| *iy < h) else {
                row.fill(0.0);
                continue;
            };
            row[..pad].fill(0.0);
            row[pad + w..].fill(0.0);
            let at = (p * h + iy) * w;
            let (row, x) = (&mut row[pad..pad + w], &x[at..at + w]);
            match mask {
                None => row.iter_mut().zip(x).for_each(|(r, x)| *r = *x),
                Some((m, slope)) => {
                    for ((r, x), m) in row.iter_mut().zip(x).zip(&m[at..at + w]) {
                        let low = slope * *x;
                        *r = if *m > 0.0 { *x } else { low };
                    }
                }
            }
        }
    }
}

/// The convolution of x [n, ci, h, w] with packed weights into `out` [n, co, oh, ow].
pub(super) fn forward(p: &Plan, x: &[f32], mask: Option<(&[f32], f32)>, packed: &[f32], end: Epilogue, out: &mut [f32]) {
    let (oh, ow) = p.out();
    let (wp, taps, isz, osz) = (p.padded_width(), p.k * p.k, p.ci * p.h * p.w, p.co * oh * ow);
    let rows = p.strip();
    let strips = oh.div_ceil(rows);
    let shared = Shared::new(out);
    let kernel = tile_kernel();
    // Whole vectors of a row go straight to the result; otherwise the tile runs over the padded width and is cut afterwards.
    let whole = ow % LANES == 0;
    let bare = p.k == 1 && p.pad == 0 && mask.is_none() && (whole || rows >= oh && (p.h * p.w).is_multiple_of(NV * LANES));
    let work = |buffers: &mut (Vec<f32>, Vec<f32>), task: usize| {
        let (strip, wide_out) = buffers;
        let (b, y0) = (task / strips, task % strips * rows);
        let rows = rows.min(oh - y0);
        let high = rows + p.k - 1;
        let plane = if bare { p.h * p.w } else { high * wp };
        let offsets: Vec<usize> = (0..taps).map(|t| t / p.k * wp + t % p.k).collect();
        let source = if bare {
            x[b * isz + y0 * p.w..].as_ptr()
        } else {
            // A tile may read past the last row: one row and one tile of slack.
            strip.resize(p.ci * plane + wp + NV * LANES + p.k * wp, 0.0);
            let image = b * isz..(b + 1) * isz;
            let mask = mask.map(|(m, s)| (&m[image.clone()], s));
            wide(|| pad_rows(&x[image.clone()], p.ci, p.h, p.w, p.pad, y0, high, mask, strip));
            strip.as_ptr()
        };
        let vectors = if whole { rows * ow / LANES } else { ((rows - 1) * wp + ow).div_ceil(LANES) };
        let ld = vectors.next_multiple_of(NV) * LANES;
        if !whole {
            wide_out.resize(p.co.next_multiple_of(MR) * ld, 0.0);
        }
        for c0 in (0..p.co).step_by(MR) {
            let mut start = [0f32; MR];
            if let Some(bias) = end.bias {
                let some = &bias[c0..p.co.min(c0 + MR)];
                start[..some.len()].copy_from_slice(some);
            }
            let panel = packed[c0 / MR * p.ci * taps * MR..].as_ptr();
            let channels = MR.min(p.co - c0);
            for v in (0..vectors).step_by(NV) {
                // An odd last vector is computed twice.
                let place = [v, (v + 1).min(if whole { vectors - 1 } else { v + 1 })];
                let (from, to) = if whole {
                    let per = ow / LANES;
                    (place.map(|v| v / per * wp + v % per * LANES), place.map(|v| v * LANES))
                } else {
                    (place.map(|v| v * LANES), place.map(|v| v * LANES))
                };
                // SAFETY: strips have the slack that the last tile reads; results of this strip are written by this task only.
                unsafe {
                    let (base, stride) = if whole {
                        (shared.part(b * osz + c0 * oh * ow + y0 * ow, 1).as_mut_ptr(), oh * ow)
                    } else {
                        (wide_out[c0 * ld..].as_mut_ptr(), ld)
                    };
                    kernel(&Tile {
                        a: panel,
                        b: from.map(|f| source.add(f)),
                        ci: p.ci,
                        plane,
                        offsets: &offsets,
                        c: to.map(|t| base.add(t)),
                        stride,
                        rows: channels,
                        start,
                        slope: end.slope,
                    });
                }
            }
        }
        if !whole {
            for c in 0..p.co {
                for y in 0..rows {
                    // SAFETY: as above.
                    let to = unsafe { shared.part(b * osz + (c * oh + y0 + y) * ow, ow) };
                    to.copy_from_slice(&wide_out[c * ld + y * wp..][..ow]);
                }
            }
        }
    };
    let tasks = p.n * strips;
    if tasks < 2 || p.n * p.co * oh * ow * p.ci * taps < 1 << 19 {
        let mut buffers = (Vec::new(), Vec::new());
        (0..tasks).for_each(|t| work(&mut buffers, t));
    } else {
        (0..tasks).into_par_iter().for_each_init(|| (Vec::new(), Vec::new()), |buffers, t| work(buffers, t));
    }
}

/// Output and input channels of a tile of the kernel's gradient.
const GO: usize = 4;
const GI: usize = 2;

/// sums[o][i][kx] += sum over a row of g[o] * x[i] shifted by kx, for a 3-wide kernel.
///
/// # Safety
/// Every row of g and x is readable for `vectors` * 16 values (x: 2 more).
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[allow(clippy::too_many_arguments)]
unsafe fn correlate_avx512(
    g: [*const f32; GO],
    x: [*const f32; GI],
    rows: usize,
    gs: usize,
    xs: usize,
    vectors: usize,
    sums: &mut [[[f32; 3]; GI]; GO],
) {
    use std::arch::x86_64::*;
    unsafe {
        let mut acc = [[[_mm512_setzero_ps(); 3]; GI]; GO];
        for y in 0..rows {
            for v in 0..vectors {
                let at = y * gs + v * LANES;
                let gv = [0, 1, 2, 3].map(|o: usize| _mm512_loadu_ps(g[o].add(at)));
                let at = y * xs + v * LANES;
                for i in 0..GI {
                    for k in 0..3 {
                        let xv = _mm512_loadu_ps(x[i].add(at + k));
                        for o in 0..GO {
                            acc[o][i][k] = _mm512_fmadd_ps(gv[o], xv, acc[o][i][k]);
                        }
                    }
                }
            }
        }
        for o in 0..GO {
            for i in 0..GI {
                for k in 0..3 {
                    sums[o][i][k] += _mm512_reduce_add_ps(acc[o][i][k]);
                }
            }
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn correlate_plain<const FMA: bool>(
    g: [*const f32; GO],
    x: [*const f32; GI],
    rows: usize,
    gs: usize,
    xs: usize,
    vectors: usize,
    sums: &mut [[[f32; 3]; GI]; GO],
) {
    unsafe {
        for i in 0..GI {
            for k in 0..3 {
                let mut acc = [[0f32; 8]; GO];
                for y in 0..rows {
                    for v in 0..2 * vectors {
                        let xv = &*x[i].add(y * xs + v * 8 + k).cast::<[f32; 8]>();
                        for (o, acc) in acc.iter_mut().enumerate() {
                            let gv = &*g[o].add(y * gs + v * 8).cast::<[f32; 8]>();
                            for ((a, g), x) in acc.iter_mut().zip(gv).zip(xv) {
                                *a = if FMA { g.mul_add(*x, *a) } else { *g * *x + *a };
                            }
                        }
                    }
                }
                for (o, acc) in acc.iter().enumerate() {
                    sums[o][i][k] += acc.iter().sum::<f32>();
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[allow(clippy::too_many_arguments)]
unsafe fn correlate_avx2(
    g: [*const f32; GO],
    x: [*const f32; GI],
    rows: usize,
    gs: usize,
    xs: usize,
    vectors: usize,
    sums: &mut [[[f32; 3]; GI]; GO],
) {
    unsafe { correlate_plain::<true>(g, x, rows, gs, xs, vectors, sums) }
}

type Correlate = unsafe fn([*const f32; GO], [*const f32; GI], usize, usize, usize, usize, &mut [[[f32; 3]; GI]; GO]);

fn correlate_kernel() -> Correlate {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            return correlate_avx512;
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            return correlate_avx2;
        }
    }
    correlate_plain::<{ cfg!(target_arch = "aarch64") }>
}

/// Whether [`backward_w`] serves this convolution: 3x3, rows of whole vectors, channels in whole tiles.
pub(super) fn has_backward_w(p: &Plan) -> bool {
    p.k == 3 && p.out().1.is_multiple_of(LANES) && p.co.is_multiple_of(GO) && p.ci.is_multiple_of(GI)
}

/// Gradient of the kernel [co, ci, 3, 3]: images are split into a fixed number of shares, whose sums are added in order.
pub(super) fn backward_w(p: &Plan, x: &[f32], gy: &[f32]) -> Vec<f32> {
    const SHARES: usize = 4;
    let (oh, ow) = p.out();
    let (wp, isz, osz) = (p.padded_width(), p.ci * p.h * p.w, p.co * oh * ow);
    let rows = p.strip();
    let strips = oh.div_ceil(rows);
    let tasks: Vec<usize> = (0..p.n * strips).collect();
    let shares: Vec<&[usize]> = tasks.chunks(tasks.len().div_ceil(SHARES).max(1)).collect();
    let kernel = correlate_kernel();
    let sums: Vec<Vec<f32>> = shares
        .into_par_iter()
        .map(|tasks| {
            let mut dw = vec![0f32; p.co * p.ci * 9];
            let mut strip = Vec::new();
            for &task in tasks {
                let (b, y0) = (task / strips, task % strips * rows);
                let rows = rows.min(oh - y0);
                let plane = (rows + 2) * wp;
                strip.resize(p.ci * plane, 0.0);
                wide(|| pad_rows(&x[b * isz..(b + 1) * isz], p.ci, p.h, p.w, p.pad, y0, rows + 2, None, &mut strip));
                for o in (0..p.co).step_by(GO) {
                    for i in (0..p.ci).step_by(GI) {
                        for ky in 0..3 {
                            let mut sums = [[[0f32; 3]; GI]; GO];
                            // SAFETY: rows of the gradient hold ow values, rows of the strip ow + 2.
                            unsafe {
                                let g = [0, 1, 2, 3].map(|j| gy[b * osz + ((o + j) * oh + y0) * ow..].as_ptr());
                                let x = [0, 1].map(|j| strip[(i + j) * plane + ky * wp..].as_ptr());
                                kernel(g, x, rows, ow, wp, ow / LANES, &mut sums);
                            }
                            for (j, sums) in sums.iter().enumerate() {
                                for (l, s) in sums.iter().enumerate() {
                                    let at = ((o + j) * p.ci + i + l) * 9 + ky * 3;
                                    dw[at..at + 3].iter_mut().zip(s).for_each(|(d, s)| *d += *s);
                                }
                            }
                        }
                    }
                }
            }
            dw
        })
        .collect();
    let mut sums = sums.into_iter();
    let mut dw = sums.next().unwrap_or_default();
    for s in sums {
        dw.iter_mut().zip(&s).for_each(|(a, b)| *a += *b);
    }
    dw
}
