//! Convolution of any stride and kernel as a matrix product over unfolded patches ("im2col"), in tiles that stay in the cache; 1x1
//! kernels need no unfolding, and small maps share one product over several images.

use rayon::prelude::*;

use super::node::{Scalar, Shared, fresh};

/// The geometry of a convolution from [n, ci, h, w] to [n, co, oh, ow].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Geometry {
    pub n: usize,
    pub ci: usize,
    pub h: usize,
    pub w: usize,
    pub co: usize,
    pub kh: usize,
    pub kw: usize,
    pub oh: usize,
    pub ow: usize,
    pub stride: usize,
    pub pad: usize,
}

impl Geometry {
    fn patch(&self) -> usize {
        self.ci * self.kh * self.kw
    }
    fn in_plane(&self) -> usize {
        self.h * self.w
    }
    fn out_plane(&self) -> usize {
        self.oh * self.ow
    }
    fn direct(&self) -> bool {
        self.kh == 1 && self.kw == 1 && self.stride == 1 && self.pad == 0
    }
    /// The tiles of the output: (first image, images, first row, rows). Either a few whole small images or some rows of one.
    fn tiles(&self) -> Vec<(usize, usize, usize, usize)> {
        let columns = (TILE / self.patch()).max(128);
        if self.out_plane() <= columns / 2 {
            let group = (columns / self.out_plane()).clamp(1, self.n.div_ceil(2).max(1));
            return (0..self.n).step_by(group).map(|b| (b, group.min(self.n - b), 0, self.oh)).collect();
        }
        let rows = (columns / self.ow).clamp(1, self.oh);
        (0..self.n).flat_map(|b| (0..self.oh).step_by(rows).map(move |y| (b, 1, y, rows.min(self.oh - y)))).collect()
    }
}

/// Elements of one unfolded tile: half of a usual second-level cache.
const TILE: usize = 1 << 17;

/// dst[m, n] = (acc ? dst : 0) + a[m, k] b[k, n] with (row, column) strides.
///
/// # Safety
/// The pointers and strides describe valid, for `dst` exclusive, memory.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn gemm<T: Scalar>(
    (m, n, k): (usize, usize, usize),
    dst: *mut T,
    ds: (usize, usize),
    acc: bool,
    a: *const T,
    sa: (usize, usize),
    b: *const T,
    sb: (usize, usize),
) {
    let alpha = if acc { T::one() } else { T::zero() };
    let s = |v: usize| v as isize;
    // SAFETY: by the contract of this function.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst,
            s(ds.1),
            s(ds.0),
            acc,
            a,
            s(sa.1),
            s(sa.0),
            b,
            s(sb.1),
            s(sb.0),
            alpha,
            T::one(),
            false,
            false,
            false,
            gemm::Parallelism::None,
        )
    }
}

/// Unfolds output rows y0..y0+rows of one image into `col` [patch, ld], columns from `at`.
#[allow(clippy::too_many_arguments)]
fn unfold<T: Scalar>(x: &[T], g: &Geometry, y0: usize, rows: usize, col: &mut [T], ld: usize, at: usize) {
    let mut r = 0;
    for plane in x.chunks_exact(g.in_plane()) {
        for ky in 0..g.kh {
            for kx in 0..g.kw {
                let out = &mut col[r * ld + at..r * ld + at + rows * g.ow];
                r += 1;
                for (y, o) in out.chunks_exact_mut(g.ow).enumerate() {
                    let Some(iy) = ((y0 + y) * g.stride + ky).checked_sub(g.pad).filter(|iy| *iy < g.h) else {
                        o.fill(T::zero());
                        continue;
                    };
                    let row = &plane[iy * g.w..(iy + 1) * g.w];
                    let (lo, hi) = span(g, kx);
                    o[..lo].fill(T::zero());
                    o[hi..].fill(T::zero());
                    if lo < hi {
                        let s = lo * g.stride + kx - g.pad;
                        if g.stride == 1 {
                            o[lo..hi].copy_from_slice(&row[s..s + hi - lo]);
                        } else {
                            o[lo..hi].iter_mut().zip(row[s..].iter().step_by(g.stride)).for_each(|(o, v)| *o = *v);
                        }
                    }
                }
            }
        }
    }
}

/// The output columns whose input column ox * stride + kx - pad exists.
fn span(g: &Geometry, kx: usize) -> (usize, usize) {
    let lo = g.pad.saturating_sub(kx).div_ceil(g.stride).min(g.ow);
    let hi = (g.w + g.pad).saturating_sub(kx).div_ceil(g.stride).min(g.ow).max(lo);
    (lo, hi)
}

/// The transpose of [`unfold`]: adds rows y0..y0+rows of `col` back into one image.
fn fold<T: Scalar>(col: &[T], g: &Geometry, y0: usize, rows: usize, ld: usize, at: usize, dx: &mut [T]) {
    let mut r = 0;
    for plane in dx.chunks_exact_mut(g.in_plane()) {
        for ky in 0..g.kh {
            for kx in 0..g.kw {
                let src = &col[r * ld + at..r * ld + at + rows * g.ow];
                r += 1;
                let (lo, hi) = span(g, kx);
                if lo == hi {
                    continue;
                }
                let s = lo * g.stride + kx - g.pad;
                for (y, c) in src.chunks_exact(g.ow).enumerate() {
                    let Some(iy) = ((y0 + y) * g.stride + ky).checked_sub(g.pad).filter(|iy| *iy < g.h) else { continue };
                    let row = &mut plane[iy * g.w + s..(iy + 1) * g.w];
                    if g.stride == 1 {
                        row.iter_mut().zip(&c[lo..hi]).for_each(|(d, v)| *d += *v);
                    } else {
                        row.iter_mut().step_by(g.stride).zip(&c[lo..hi]).for_each(|(d, v)| *d += *v);
                    }
                }
            }
        }
    }
}

/// y[n, co, oh, ow] = w[co, patch] * x, plus bias.
pub(super) fn forward<T: Scalar>(g: &Geometry, x: &[T], w: &[T], bias: Option<&[T]>) -> Vec<T> {
    let (p, plane, isz) = (g.patch(), g.out_plane(), g.ci * g.in_plane());
    let mut out = fresh(g.n * g.co * plane);
    let shared = Shared::new(&mut out);
    let run = |buffers: &mut (Vec<T>, Vec<T>), (b, images, y0, rows): (usize, usize, usize, usize)| {
        let (col, grouped) = buffers;
        let columns = rows * g.ow;
        let ld = images * columns;
        // SAFETY (all `part` calls): tiles cover disjoint images or rows of the output; gemm gets in-bounds pointers.
        if g.direct() && images == 1 {
            let at = b * g.co * plane + y0 * g.ow;
            unsafe {
                set_bias(&shared, at, g.co, plane, columns, bias);
                let dst = shared.part(at, 1).as_mut_ptr();
                let src = x[b * isz + y0 * g.ow..].as_ptr();
                gemm((g.co, columns, p), dst, (plane, 1), bias.is_some(), w.as_ptr(), (p, 1), src, (plane, 1));
            }
            return;
        }
        col.resize(p * ld, T::zero());
        for i in 0..images {
            unfold(&x[(b + i) * isz..(b + i + 1) * isz], g, y0, rows, col, ld, i * columns);
        }
        if images == 1 {
            let at = b * g.co * plane + y0 * g.ow;
            unsafe {
                set_bias(&shared, at, g.co, plane, columns, bias);
                let dst = shared.part(at, 1).as_mut_ptr();
                gemm((g.co, columns, p), dst, (plane, 1), bias.is_some(), w.as_ptr(), (p, 1), col.as_ptr(), (ld, 1));
            }
            return;
        }
        grouped.resize(g.co * ld, T::zero());
        unsafe { gemm((g.co, ld, p), grouped.as_mut_ptr(), (ld, 1), false, w.as_ptr(), (p, 1), col.as_ptr(), (ld, 1)) };
        for i in 0..images {
            for c in 0..g.co {
                let o = unsafe { shared.part(((b + i) * g.co + c) * plane, plane) };
                let src = &grouped[c * ld + i * plane..c * ld + (i + 1) * plane];
                match bias {
                    Some(bias) => o.iter_mut().zip(src).for_each(|(o, v)| *o = *v + bias[c]),
                    None => o.copy_from_slice(src),
                }
            }
        }
    };
    each_tile(g, run);
    out
}

/// Runs every tile, in parallel if the product is large enough; a tile's work never depends on the others.
fn each_tile<T: Scalar>(g: &Geometry, run: impl Fn(&mut (Vec<T>, Vec<T>), (usize, usize, usize, usize)) + Sync + Send) {
    let tiles = g.tiles();
    if tiles.len() < 2 || g.n * g.co * g.out_plane() * g.patch() < 1 << 19 {
        let mut buffers = (Vec::new(), Vec::new());
        tiles.into_iter().for_each(|t| run(&mut buffers, t));
    } else {
        tiles.into_par_iter().for_each_init(|| (Vec::new(), Vec::new()), |buffers, t| run(buffers, t));
    }
}

/// # Safety
/// As [`Shared::part`] for the `columns` elements of each of the `co` planes from `at`.
unsafe fn set_bias<T: Scalar>(out: &Shared<T>, at: usize, co: usize, plane: usize, columns: usize, bias: Option<&[T]>) {
    if let Some(bias) = bias {
        for (c, v) in bias.iter().enumerate().take(co) {
            unsafe { out.part(at + c * plane, columns) }.fill(*v);
        }
    }
}

/// Gradient of the input. With stride 1 it is itself a convolution, by the flipped and transposed kernel.
pub(super) fn backward_x<T: Scalar>(g: &Geometry, gy: &[T], w: &[T], bias: Option<&[T]>) -> Vec<T> {
    if g.stride == 1 && g.pad < g.kh.min(g.kw) && g.kh == g.kw {
        let taps = g.kh * g.kw;
        let mut flipped = vec![T::zero(); w.len()];
        for o in 0..g.co {
            for i in 0..g.ci {
                let src = &w[(o * g.ci + i) * taps..][..taps];
                let dst = &mut flipped[(i * g.co + o) * taps..][..taps];
                dst.iter_mut().zip(src.iter().rev()).for_each(|(d, s)| *d = *s);
            }
        }
        let back = Geometry { ci: g.co, h: g.oh, w: g.ow, co: g.ci, oh: g.h, ow: g.w, pad: g.kh - 1 - g.pad, ..*g };
        return forward(&back, gy, &flipped, bias);
    }
    let (p, plane, isz) = (g.patch(), g.out_plane(), g.ci * g.in_plane());
    let mut dx = vec![T::zero(); g.n * isz];
    let rows = (TILE / p / g.ow).clamp(1, g.oh);
    dx.par_chunks_mut(isz).enumerate().for_each_init(Vec::new, |col, (b, dx)| {
        if let Some(bias) = bias {
            dx.chunks_exact_mut(g.in_plane()).zip(bias).for_each(|(d, v)| d.fill(*v));
        }
        for y0 in (0..g.oh).step_by(rows) {
            let rows = rows.min(g.oh - y0);
            let ld = rows * g.ow;
            col.resize(p * ld, T::zero());
            let src = gy[b * g.co * plane + y0 * g.ow..].as_ptr();
            // SAFETY: w is [co, patch], src is co rows of `ld` elements, `plane` apart.
            unsafe { gemm((p, ld, g.co), col.as_mut_ptr(), (ld, 1), false, w.as_ptr(), (1, p), src, (plane, 1)) };
            fold(col, g, y0, rows, ld, 0, dx);
        }
    });
    dx
}

/// Gradient of the kernel, [co, patch]. The tiles are split into a fixed number of shares whose sums are added in order.
pub(super) fn backward_w<T: Scalar>(g: &Geometry, x: &[T], gy: &[T]) -> Vec<T> {
    const SHARES: usize = 4;
    let (p, plane, isz) = (g.patch(), g.out_plane(), g.ci * g.in_plane());
    let tiles = g.tiles();
    let shares: Vec<&[_]> = tiles.chunks(tiles.len().div_ceil(SHARES).max(1)).collect();
    let sums: Vec<Vec<T>> = shares
        .into_par_iter()
        .map(|tiles| {
            let mut dw = vec![T::zero(); g.co * p];
            let (mut col, mut grouped) = (Vec::new(), Vec::new());
            for &(b, images, y0, rows) in tiles {
                let columns = rows * g.ow;
                let ld = images * columns;
                let (src, ss) = if g.direct() && images == 1 {
                    (x[b * isz + y0 * g.ow..].as_ptr(), plane)
                } else {
                    col.resize(p * ld, T::zero());
                    for i in 0..images {
                        unfold(&x[(b + i) * isz..(b + i + 1) * isz], g, y0, rows, &mut col, ld, i * columns);
                    }
                    (col.as_ptr(), ld)
                };
                let (grad, gs) = if images == 1 {
                    (gy[b * g.co * plane + y0 * g.ow..].as_ptr(), plane)
                } else {
                    grouped.resize(g.co * ld, T::zero());
                    for i in 0..images {
                        for c in 0..g.co {
                            let from = &gy[((b + i) * g.co + c) * plane..][..plane];
                            grouped[c * ld + i * plane..c * ld + (i + 1) * plane].copy_from_slice(from);
                        }
                    }
                    (grouped.as_ptr(), ld)
                };
                // SAFETY: grad is co rows of ld elements, src is p rows of ld elements; dw is this share's own.
                unsafe { gemm((g.co, p, ld), dw.as_mut_ptr(), (p, 1), true, grad, (gs, 1), src, (1, ss)) };
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
