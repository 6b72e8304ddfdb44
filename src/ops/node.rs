//! What every operation shares: reading tensors as slices and splitting work into fixed pieces. [`super::graph`] joins a result to
//! candle's graph.

use std::ops::{AddAssign, Deref};

use candle_core::{Device, Result, Shape, Storage, Tensor, WithDType, bail};
use num_traits::Float;
use rayon::prelude::*;

/// The element types of the operations: f32 to work with, f64 to check gradients.
pub(super) trait Scalar: WithDType + Float + AddAssign + Default + std::iter::Sum {
    fn of(v: f64) -> Self {
        <Self as WithDType>::from_f64(v)
    }
    /// e^v for v <= 0, in a form that loops can be vectorised with.
    fn exp_down(self) -> Self;
}
impl Scalar for f32 {
    /// 2^n e^r with r in +-ln 2 / 2 and a polynomial for e^r; relative error below 2e-7, 0 below e^-87.
    #[inline(always)]
    fn exp_down(self) -> Self {
        // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the low bits.
        const SHIFT: f32 = 12_582_912.0;
        let shifted = self * std::f32::consts::LOG2_E + SHIFT;
        let n = shifted - SHIFT;
        let r = (self - n * 0.693_359_4) + n * 2.121_944_4e-4;
        let p = 8.333_452e-3 + r * (1.398_2e-3 + r * 1.987_569_2e-4);
        let p = 1.0 + r * (1.0 + r * (0.5 + r * (1.666_666_5e-1 + r * (4.166_58e-2 + r * p))));
        let scale = f32::from_bits((shifted.to_bits().wrapping_add(127)) << 23);
        if self < -87.0 { 0.0 } else { p * scale }
    }
}
impl Scalar for f64 {
    fn exp_down(self) -> Self {
        self.exp()
    }
}

/// Calls `$f::<f32>` or `$f::<f64>`, whichever `$t` is.
macro_rules! by_dtype {
    ($t:expr, $f:ident ( $($a:expr),* $(,)? )) => {
        match $t.dtype() {
            candle_core::DType::F32 => $f::<f32>($($a),*),
            candle_core::DType::F64 => $f::<f64>($($a),*),
            other => candle_core::bail!("{}: needs f32 or f64, got {other:?}", stringify!($f)),
        }
    };
}
pub(super) use by_dtype;

/// Returns `cuda::$f(..)` where `$t` is a CUDA tensor.
macro_rules! on_cuda {
    ($t:expr, $f:ident ( $($a:expr),* $(,)? )) => {
        #[cfg(any(feature = "cuda", feature = "emulate-cuda"))]
        if super::cuda::serves($t)? {
            return super::cuda::$f($($a),*);
        }
    };
}
pub(super) use on_cuda;

/// The elements of a contiguous CPU tensor, borrowed.
struct Data<G, T> {
    guard: G,
    start: usize,
    end: usize,
    kind: std::marker::PhantomData<T>,
}

pub(super) fn data<T: Scalar>(t: &Tensor) -> Result<impl Deref<Target = [T]> + '_> {
    let (guard, layout) = t.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("tensor {:?} is not contiguous", t.dims()) };
    match &*guard {
        Storage::Cpu(s) => {
            s.as_slice::<T>()?;
        }
        _ => bail!("this operation has no kernel for {:?} yet; use the CPU", t.device().location()),
    }
    Ok(Data { guard, start, end, kind: std::marker::PhantomData })
}

impl<G: Deref<Target = Storage>, T: Scalar> Deref for Data<G, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match &*self.guard {
            // `data` has checked device and dtype.
            Storage::Cpu(s) => &s.as_slice::<T>().unwrap_or_default()[self.start..self.end],
            _ => &[],
        }
    }
}

/// Room for `n` results, not filled with zeros first: every operation writes each of its results.
pub(super) fn fresh<T: Scalar>(n: usize) -> Vec<T> {
    super::memory::keep_freed();
    let mut v = Vec::<T>::with_capacity(n);
    // SAFETY: the capacity is there, T is f32 or f64, which need no construction, and callers write before they read.
    #[allow(clippy::uninit_vec)]
    unsafe {
        v.set_len(n)
    };
    v
}

/// A CPU tensor outside the graph.
pub(super) fn tensor<T: Scalar>(v: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(v, shape.into(), &Device::Cpu)
}

/// Below this many elements a loop stays on the calling thread.
const SERIAL: usize = 1 << 15;

/// Runs `f` compiled for the widest vectors that this processor has. Only loops that are inlined into it profit.
#[inline(always)]
pub(super) fn wide<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
        fn v4<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        #[target_feature(enable = "avx2,fma")]
        fn v3<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        use std::arch::is_x86_feature_detected as has;
        // SAFETY: the features were detected.
        if has!("avx512f") && has!("avx512vl") && has!("avx512dq") && has!("avx512bw") {
            return unsafe { v4(f) };
        }
        if has!("avx2") && has!("fma") {
            return unsafe { v3(f) };
        }
    }
    f()
}

/// `f(i, piece i of out)` for every piece of `size` elements, in parallel if there is enough work. `out` counts as the work.
pub(super) fn pieces<T: Scalar>(out: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    let len = out.len();
    pieces_work(out, size, len, f)
}

/// As [`pieces`], with the work given as a number of elementary steps.
pub(super) fn pieces_work<T: Send>(out: &mut [T], size: usize, work: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    let size = size.max(1);
    let f = |i: usize, o: &mut [T]| wide(|| f(i, o));
    if work < SERIAL || out.len() <= size {
        out.chunks_mut(size).enumerate().for_each(|(i, o)| f(i, o));
        return;
    }
    // Small pieces are handed out in runs; a run only groups pieces, so it changes no result.
    let run = (SERIAL / 2 * out.len() / work / size).max(1);
    out.par_chunks_mut(size * run).enumerate().for_each(|(i, o)| o.chunks_mut(size).enumerate().for_each(|(j, o)| f(i * run + j, o)));
}

/// `f(0..n)` in order, computed in parallel if `work` elementary steps are worth it.
pub(super) fn gather<R: Send>(n: usize, work: usize, f: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
    let f = |i: usize| wide(|| f(i));
    if work < SERIAL || n < 2 { (0..n).map(f).collect() } else { (0..n).into_par_iter().map(f).collect() }
}

/// A pointer that tasks share; each task writes its own disjoint part.
#[derive(Clone, Copy)]
pub(super) struct Shared<T>(*mut T);
unsafe impl<T> Send for Shared<T> {}
unsafe impl<T> Sync for Shared<T> {}
impl<T> Shared<T> {
    pub(super) fn new(v: &mut [T]) -> Self {
        Shared(v.as_mut_ptr())
    }
    /// # Safety
    /// `start..start + len` lies inside the slice and no other task touches it at the same time.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// Sum of f(x[i], y[i]) with sixteen partial sums: fast, and in an order that never changes.
#[inline(always)]
pub(super) fn sum2<T: Scalar>(x: &[T], y: &[T], f: impl Fn(T, T) -> T) -> T {
    let mut acc = [T::default(); 16];
    let (xs, ys) = (x.chunks_exact(16), y.chunks_exact(16));
    let rest = xs.remainder().iter().zip(ys.remainder());
    for (x, y) in xs.zip(ys) {
        for ((a, x), y) in acc.iter_mut().zip(x).zip(y) {
            *a += f(*x, *y);
        }
    }
    let mut total = acc.into_iter().sum::<T>();
    for (x, y) in rest {
        total += f(*x, *y);
    }
    total
}

/// The largest of the values; minus infinity of none.
#[inline(always)]
pub(super) fn max1<T: Scalar>(x: &[T]) -> T {
    let mut top = [T::neg_infinity(); 16];
    let xs = x.chunks_exact(16);
    let rest = xs.remainder();
    for x in xs {
        for (t, x) in top.iter_mut().zip(x) {
            *t = if *x > *t { *x } else { *t };
        }
    }
    top.iter().chain(rest).fold(T::neg_infinity(), |t, x| if *x > t { *x } else { t })
}

/// Sum of f(x[i]), as [`sum2`].
#[inline(always)]
pub(super) fn sum1<T: Scalar>(x: &[T], f: impl Fn(T) -> T) -> T {
    let mut acc = [T::default(); 16];
    let xs = x.chunks_exact(16);
    let rest = xs.remainder();
    for x in xs {
        for (a, x) in acc.iter_mut().zip(x) {
            *a += f(*x);
        }
    }
    let mut total = acc.into_iter().sum::<T>();
    for x in rest {
        total += f(*x);
    }
    total
}
