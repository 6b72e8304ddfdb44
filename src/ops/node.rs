//! What every operation shares: reading tensors as slices, splitting work into fixed pieces, and joining a result to candle's graph.
//!
//! A result is computed first and joined to the graph afterwards ([`join1`] .. [`join3`]) with its backward pass as a closure. So a
//! backward pass can keep what the forward pass already knows (statistics, indices), which candle's `CustomOp` alone cannot.

use std::ops::{AddAssign, Deref};
use std::sync::Mutex;

use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Storage, Tensor, WithDType, bail,
};
use num_traits::Float;
use rayon::prelude::*;

/// The element types of the operations: f32 to work with, f64 to check gradients.
pub(super) trait Scalar: WithDType + Float + AddAssign + Default + std::iter::Sum {
    fn of(v: f64) -> Self {
        <Self as WithDType>::from_f64(v)
    }
}
impl Scalar for f32 {}
impl Scalar for f64 {}

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

type Backward<const N: usize> = Box<dyn Fn(&Tensor, &Tensor) -> Result<[Option<Tensor>; N]> + Send + Sync>;

/// A computed result on its way into the graph.
struct Node<const N: usize> {
    name: &'static str,
    result: Mutex<Option<(Storage, Shape)>>,
    backward: Backward<N>,
}

impl<const N: usize> Node<N> {
    fn take(&self) -> Result<(Storage, Shape)> {
        match self.result.lock().ok().and_then(|mut r| r.take()) {
            Some(result) => Ok(result),
            None => bail!("{}: the result was already taken", self.name),
        }
    }
    fn on_cpu(&self) -> Result<(CpuStorage, Shape)> {
        match self.take()? {
            (Storage::Cpu(storage), shape) => Ok((storage, shape)),
            _ => bail!("{}: the tensors are on several devices", self.name),
        }
    }
    fn on_cuda(&self) -> Result<(CudaStorage, Shape)> {
        match self.take()? {
            (Storage::Cuda(storage), shape) => Ok((storage, shape)),
            _ => bail!("{}: the tensors are on several devices", self.name),
        }
    }
}

impl CustomOp1 for Node<1> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.on_cpu()
    }
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.on_cuda()
    }
    fn bwd(&self, _: &Tensor, res: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let [a] = (self.backward)(res, &g.contiguous()?)?;
        Ok(a)
    }
}

impl CustomOp2 for Node<2> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.on_cpu()
    }
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.on_cuda()
    }
    fn bwd(&self, _: &Tensor, _: &Tensor, res: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b] = (self.backward)(res, &g.contiguous()?)?;
        Ok((a, b))
    }
}

impl CustomOp3 for Node<3> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.on_cpu()
    }
    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.on_cuda()
    }
    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        res: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [a, b, c] = (self.backward)(res, &g.contiguous()?)?;
        Ok((a, b, c))
    }
}

macro_rules! join {
    ($join:ident, $placed:ident, $n:literal, $apply:ident, $first:ident $(, $arg:ident)*) => {
        /// Joins a computed result to the graph. `backward(result, gradient)` returns one gradient per argument, None for those that
        /// do not track; it must capture no tensor derived from the result.
        pub(super) fn $join<T: Scalar>(
            name: &'static str,
            $first: &Tensor, $($arg: &Tensor,)*
            result: Vec<T>,
            shape: impl Into<Shape>,
            backward: impl Fn(&Tensor, &Tensor) -> Result<[Option<Tensor>; $n]> + Send + Sync + 'static,
        ) -> Result<Tensor> {
            $placed(name, $first, $($arg,)* Storage::Cpu(T::to_cpu_storage_owned(result)), shape, backward)
        }

        /// The same for a result that lies on the arguments' device.
        pub(super) fn $placed(
            name: &'static str,
            $first: &Tensor, $($arg: &Tensor,)*
            result: Storage,
            shape: impl Into<Shape>,
            backward: impl Fn(&Tensor, &Tensor) -> Result<[Option<Tensor>; $n]> + Send + Sync + 'static,
        ) -> Result<Tensor> {
            let shape = shape.into();
            if !($first.track_op() $(|| $arg.track_op())*) {
                return Ok(Tensor::from_storage(result, shape, BackpropOp::none(), false));
            }
            let result = Mutex::new(Some((result, shape)));
            $first.$apply($($arg,)* Node::<$n> { name, result, backward: Box::new(backward) })
        }
    };
}
join!(join1, placed1, 1, apply_op1, x);
join!(join2, placed2, 2, apply_op2, x, y);
join!(join3, placed3, 3, apply_op3, x, y, z);
