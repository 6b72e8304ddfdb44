//! Joining results to candle's graph with less memory and fewer passes than its own operations have.
//!
//! candle keeps every tensor that enters an operation until the whole graph is dropped, and adds each gradient to a fresh map of zeros.
//! So a result stands in the graph as *two* nodes: an entry of one element, which has the backward pass, and behind it the result itself.
//!
//! - Operations of this crate depend on the entries of their arguments only. What a backward pass needs it holds in its closure; maps that
//!   no closure holds are freed as soon as the forward pass lets go of them.
//! - They hand their gradients to each other past candle: the first one of a map is moved, later ones are added. candle sees gradients of
//!   one element, which keep its order of the nodes.
//! - Operations of candle see the result. Its gradient is passed on to the entry.
//!
//! [`backward`] also drops each closure, and what it holds, as soon as it has run; plain `Tensor::backward` keeps the graph for another
//! backward pass.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::backprop::GradStore;
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Result, Shape, Storage, Tensor, TensorId, bail,
};

use super::node::Scalar;

/// The gradient of a result, as far as it has been summed.
type Slot = Arc<Mutex<Option<Tensor>>>;

/// `(result, gradient)` to one gradient per argument.
type Backward = Arc<dyn Fn(&Tensor, &Tensor) -> Result<Vec<Option<Tensor>>> + Send + Sync>;

/// How operations of this crate reach the entry of a result.
struct Handle {
    entry: Tensor,
    slot: Slot,
}

/// The results of this crate's operations that are alive.
static RESULTS: LazyLock<Mutex<HashMap<TensorId, Handle>>> = LazyLock::new(Mutex::default);

thread_local! {
    /// Whether the backward pass that runs on this thread is the only one of its graph.
    static ONCE: Cell<bool> = const { Cell::new(false) };
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds `g`, which has no graph, to a gradient.
fn deposit(slot: &Slot, g: Tensor) -> Result<()> {
    let before = lock(slot).take();
    let sum = match before {
        None => g.contiguous()?,
        Some(before) => (before + g)?,
    };
    *lock(slot) = Some(sum);
    Ok(())
}

/// The result itself, behind its entry.
struct Exit {
    name: &'static str,
    result: Mutex<Option<(Storage, Shape)>>,
    known: Arc<Known>,
}

/// Removes a result from [`RESULTS`] when it is dropped.
struct Known {
    id: OnceLock<TensorId>,
    slot: Slot,
}

impl Drop for Known {
    fn drop(&mut self) {
        let handle = self.id.get().and_then(|id| lock(&RESULTS).remove(id));
        // Dropped after the lock: it may be the last owner of more of the graph.
        drop(handle);
    }
}

impl Exit {
    fn take(&self) -> Result<(Storage, Shape)> {
        match lock(&self.result).take() {
            Some(result) => Ok(result),
            None => bail!("{}: the result was already taken", self.name),
        }
    }
}

impl CustomOp1 for Exit {
    fn name(&self) -> &'static str {
        self.name
    }
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        match self.take()? {
            (Storage::Cpu(s), shape) => Ok((s, shape)),
            _ => bail!("{}: the result is on another device than the arguments", self.name),
        }
    }
    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        match self.take()? {
            (Storage::Cuda(s), shape) => Ok((s, shape)),
            _ => bail!("{}: the result is on another device than the arguments", self.name),
        }
    }
    fn bwd(&self, entry: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        deposit(&self.known.slot, g.clone())?;
        Ok(Some(entry.zeros_like()?))
    }
}

/// An argument that tracks: its place, and the slot of its gradient where it is a result of this crate.
struct Edge {
    place: usize,
    slot: Option<Slot>,
}

/// The entry of a result. candle's nodes have three arguments at most; an operation with more has a chain of [`Tie`]s as its third.
struct Entry {
    name: &'static str,
    slot: Slot,
    edges: Vec<Edge>,
    pass: Arc<Pass>,
    more: More,
}

/// The gradients of the arguments behind the second, on their way to the ties.
type More = Arc<Mutex<Vec<Option<Tensor>>>>;

/// A node of one element that stands for `count` arguments, and for another tie behind them.
struct Tie {
    /// Where their gradients stand.
    place: usize,
    count: usize,
    more: More,
}

/// The backward pass, and the result where it reads it; None once it has run for the last time.
type Pass = Mutex<Option<(Backward, Option<Tensor>)>>;

impl Entry {
    /// The gradients for candle: of one element where the real one went past it, None where there is none.
    fn run(&self, args: &[&Tensor]) -> Result<Vec<Tensor>> {
        let Some(g) = lock(&self.slot).take() else { return args.iter().map(|a| a.zeros_like()).collect() };
        let backward = match ONCE.get() {
            true => lock(&self.pass).take(),
            false => lock(&self.pass).clone(),
        };
        let Some((backward, result)) = backward else { bail!("{}: the graph was freed by its backward pass", self.name) };
        let mut grads = backward(result.as_ref().unwrap_or(&g), &g)?;
        drop((backward, result, g));
        let give = |edge: &Edge| match (grads[edge.place].take(), &edge.slot) {
            (Some(g), Some(slot)) => deposit(slot, g).map(|_| None),
            (g, _) => Ok(g),
        };
        let mut own = self.edges.iter().map(give).collect::<Result<Vec<_>>>()?;
        if own.len() > 3 {
            *lock(&self.more) = own.split_off(2);
            own.push(None);
        }
        own.into_iter().zip(args).map(|(g, arg)| g.map_or_else(|| arg.zeros_like(), Ok)).collect()
    }
}

impl Tie {
    fn run(&self, args: &[&Tensor]) -> Result<Vec<Tensor>> {
        let mut more = lock(&self.more);
        let mut gradient = |i: usize| if i < self.count { more.get_mut(self.place + i).and_then(Option::take) } else { None };
        args.iter().enumerate().map(|(i, arg)| gradient(i).map_or_else(|| arg.zeros_like(), Ok)).collect()
    }
}

/// The tie of these nodes, whose gradients stand in `more` from `place` on.
fn tied(nodes: &[Tensor], place: usize, more: &More) -> Result<Tensor> {
    let tie = |count| Tie { place, count, more: more.clone() };
    match nodes {
        [a] => a.apply_op1(tie(1)),
        [a, b] => a.apply_op2(b, tie(2)),
        [a, b, c] => a.apply_op3(b, c, tie(3)),
        [a, b, rest @ ..] => a.apply_op3(b, &tied(rest, place + 2, more)?, tie(2)),
        [] => bail!("a tie of no nodes"),
    }
}

/// One zero, f32.
pub(super) fn zero(on: &Device) -> Result<Storage> {
    match on {
        Device::Cpu => Ok(Storage::Cpu(CpuStorage::F32(vec![0.0]))),
        Device::Cuda(d) => Ok(Storage::Cuda(d.zeros_impl(&Shape::from(1), DType::F32)?)),
        _ => bail!("this operation has no kernel for {:?} yet; use the CPU", on.location()),
    }
}

/// The storage of an entry.
fn element(on: &CudaStorage) -> Result<(CudaStorage, Shape)> {
    let shape = Shape::from(1);
    Ok((on.device().zeros_impl(&shape, DType::F32)?, shape))
}

macro_rules! node {
    ($node:ident, $op:ident, $grads:ty, |$all:ident| $give:expr, $first:ident $(, $arg:ident)*) => {
        impl $op for $node {
            fn name(&self) -> &'static str {
                "entry"
            }
            fn cpu_fwd(&self, _: &CpuStorage, _: &Layout $(, _: node!(@cpu $arg), _: &Layout)*) -> Result<(CpuStorage, Shape)> {
                Ok((CpuStorage::F32(vec![0.0]), Shape::from(1)))
            }
            fn cuda_fwd(&self, on: &CudaStorage, _: &Layout $(, _: node!(@cuda $arg), _: &Layout)*) -> Result<(CudaStorage, Shape)> {
                element(on)
            }
            fn bwd(&self, $first: &Tensor, $($arg: &Tensor,)* _: &Tensor, _: &Tensor) -> Result<$grads> {
                let mut $all = self.run(&[$first $(, $arg)*])?.into_iter();
                Ok($give)
            }
        }
    };
    (@cpu $arg:ident) => { &CpuStorage };
    (@cuda $arg:ident) => { &CudaStorage };
    ($node:ident) => {
        node!($node, CustomOp1, Option<Tensor>, |all| all.next(), a);
        node!($node, CustomOp2, (Option<Tensor>, Option<Tensor>), |all| (all.next(), all.next()), a, b);
        node!($node, CustomOp3, (Option<Tensor>, Option<Tensor>, Option<Tensor>), |all| (all.next(), all.next(), all.next()), a, b, c);
    };
}
node!(Entry);
node!(Tie);

/// Joins a computed result to the graph, on the device of `args`. `backward(result, gradient)` returns one gradient per argument, None
/// for those that do not track. It gets the result only if `keep` is true (otherwise the gradient in its place), and must capture no
/// tensor derived from the result.
pub(super) fn join<const N: usize>(
    name: &'static str,
    args: [&Tensor; N],
    result: Storage,
    shape: impl Into<Shape>,
    keep: bool,
    backward: impl Fn(&Tensor, &Tensor) -> Result<[Option<Tensor>; N]> + Send + Sync + 'static,
) -> Result<Tensor> {
    join_all(name, &args, result, shape, keep, move |res, g| backward(res, g).map(Vec::from))
}

/// As [`join`], for any number of arguments.
pub(super) fn join_all(
    name: &'static str,
    args: &[&Tensor],
    result: Storage,
    shape: impl Into<Shape>,
    keep: bool,
    backward: impl Fn(&Tensor, &Tensor) -> Result<Vec<Option<Tensor>>> + Send + Sync + 'static,
) -> Result<Tensor> {
    let (mut edges, mut nodes) = (Vec::new(), Vec::new());
    for (place, arg) in args.iter().enumerate().filter(|(_, a)| a.track_op()) {
        let results = lock(&RESULTS);
        let handle = results.get(&arg.id());
        nodes.push(handle.map_or((*arg).clone(), |h| h.entry.clone()));
        edges.push(Edge { place, slot: handle.map(|h| h.slot.clone()) });
    }
    if edges.is_empty() {
        return Ok(Tensor::from_storage(result, shape, BackpropOp::none(), false));
    }
    let (slot, pass) = (Slot::default(), Arc::new(Pass::default()));
    let op = Entry { name, slot: slot.clone(), edges, pass: pass.clone(), more: More::default() };
    let entry = match &nodes[..] {
        [a] => a.apply_op1(op)?,
        [a, b] => a.apply_op2(b, op)?,
        [a, b, c] => a.apply_op3(b, c, op)?,
        [a, b, rest @ ..] => a.apply_op3(b, &tied(rest, 0, &op.more.clone())?, op)?,
        [] => bail!("{name}: no argument tracks"),
    };
    let known = Arc::new(Known { id: OnceLock::new(), slot: slot.clone() });
    let out = entry.apply_op1(Exit { name, result: Mutex::new(Some((result, shape.into()))), known: known.clone() })?;
    *lock(&pass) = Some((Arc::new(backward), keep.then(|| out.detach())));
    let _ = known.id.set(out.id());
    lock(&RESULTS).insert(out.id(), Handle { entry, slot });
    Ok(out)
}

/// A result on the CPU.
pub(super) fn cpu<T: Scalar>(result: Vec<T>) -> Storage {
    Storage::Cpu(T::to_cpu_storage_owned(result))
}

macro_rules! joins {
    ($join:ident, $placed:ident, $kept:ident, $n:literal, $($arg:ident),+) => {
        /// [`join`] of a result on the CPU whose backward pass needs the gradient alone.
        pub(super) fn $join<T: Scalar>(
            name: &'static str,
            $($arg: &Tensor,)+
            result: Vec<T>,
            shape: impl Into<Shape>,
            backward: impl Fn(&Tensor) -> Result<[Option<Tensor>; $n]> + Send + Sync + 'static,
        ) -> Result<Tensor> {
            join(name, [$($arg),+], cpu(result), shape, false, move |_, g| backward(g))
        }

        /// The same for a result that lies on the arguments' device.
        #[cfg(any(feature = "cuda", feature = "emulate-cuda"))]
        pub(super) fn $placed(
            name: &'static str,
            $($arg: &Tensor,)+
            result: Storage,
            shape: impl Into<Shape>,
            backward: impl Fn(&Tensor) -> Result<[Option<Tensor>; $n]> + Send + Sync + 'static,
        ) -> Result<Tensor> {
            join(name, [$($arg),+], result, shape, false, move |_, g| backward(g))
        }

        /// The same with a backward pass that reads `(result, gradient)`.
        #[cfg(any(feature = "cuda", feature = "emulate-cuda"))]
        #[allow(dead_code)]
        pub(super) fn $kept(
            name: &'static str,
            $($arg: &Tensor,)+
            result: Storage,
            shape: impl Into<Shape>,
            backward: impl Fn(&Tensor, &Tensor) -> Result<[Option<Tensor>; $n]> + Send + Sync + 'static,
        ) -> Result<Tensor> {
            join(name, [$($arg),+], result, shape, true, backward)
        }
    };
}
joins!(join1, placed1, kept1, 1, x);
joins!(join2, placed2, kept2, 2, x, y);
joins!(join3, placed3, kept3, 3, x, y, z);

/// The gradients of a scalar, as `loss.backward()`. What the graph holds is freed on the way, as soon as nothing needs it any more, so
/// this is the graph's last backward pass; another one is an error.
pub fn backward(loss: &Tensor) -> Result<GradStore> {
    let before = ONCE.replace(true);
    let grads = loss.backward();
    ONCE.set(before);
    grads
}

/// A scalar whose gradient by `y` is `g`, outside the graph: where a backward pass starts from a gradient that is at hand.
pub(super) fn seeded(y: &Tensor, g: &Tensor) -> Result<Tensor> {
    let g = g.detach();
    join("seed", [y], zero(y.device())?, (), false, move |_, _| Ok([Some(g.clone())]))
}
