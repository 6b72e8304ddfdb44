//! Recomputation by segment: less memory for one more forward pass (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016).

use candle_core::{Result, Storage, Tensor, Var, bail};

use super::node::{Scalar, by_dtype, data, placed1, placed2};

type Segment = dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync;

/// The gradients of sum(f(inputs) * g), None for inputs that `wanted` leaves out.
fn gradients(f: &Segment, inputs: &[Tensor], wanted: &[bool], g: &Tensor) -> Result<Vec<Option<Tensor>>> {
    let again = |(t, w): (&Tensor, &bool)| if *w { Ok(Var::from_tensor(t)?.into_inner()) } else { Ok(t.clone()) };
    let leaves = inputs.iter().zip(wanted).map(again).collect::<Result<Vec<_>>>()?;
    let grads = (f(&leaves)? * g)?.sum_all()?.backward()?;
    let of = |(t, w): (&Tensor, &bool)| match (w, grads.get(t)) {
        (false, _) => Ok(None),
        (true, Some(g)) => Ok(Some(g.detach())),
        (true, None) => Ok(Some(t.zeros_like()?.detach())),
    };
    leaves.iter().zip(wanted).map(of).collect()
}

/// A copy of a contiguous tensor's values.
fn values<T: Scalar>(y: &Tensor) -> Result<Storage> {
    #[cfg(any(feature = "cuda", feature = "emulate-cuda"))]
    if super::cuda::serves(y)? {
        return Ok(super::cuda::Buffer::copy(y)?.into_storage());
    }
    Ok(Storage::Cpu(T::to_cpu_storage_owned(data::<T>(y)?.to_vec())))
}

fn run<T: Scalar>(first: &Tensor, rest: &[&Tensor], f: Box<Segment>) -> Result<Tensor> {
    let held: Vec<Tensor> = std::iter::once(&first).chain(rest).map(|t| t.detach().contiguous()).collect::<Result<_>>()?;
    // No input tracks, so the segment's own graph is gone as soon as its result is there.
    let y = f(&held)?;
    if y.track_op() {
        bail!("recompute: the segment reads a variable that is not among its inputs; its gradient would be lost")
    }
    let y = y.contiguous()?;
    let (values, shape) = (values::<T>(&y)?, y.shape().clone());
    let wanted: Vec<bool> = std::iter::once(&first).chain(rest).map(|t| t.track_op()).collect();
    let tracked: Vec<Tensor> = rest.iter().filter(|t| t.track_op()).map(|t| t.flatten_all()).collect::<Result<_>>()?;
    if tracked.is_empty() {
        return placed1("recompute", first, values, shape, move |_, g| {
            let dx = gradients(&f, &held, &wanted, g)?.swap_remove(0);
            Ok([dx])
        });
    }
    // A graph node has few inputs: the others enter as one vector.
    let flat = Tensor::cat(&tracked, 0)?;
    placed2("recompute", first, &flat, values, shape, move |_, g| {
        let mut grads = gradients(&f, &held, &wanted, g)?;
        let dx = grads.remove(0);
        let others: Vec<Tensor> = grads.into_iter().flatten().map(|g| g.flatten_all()).collect::<Result<_>>()?;
        Ok([dx, Some(Tensor::cat(&others, 0)?)])
    })
}

/// f(inputs), whose inner results are forgotten and computed again in the backward pass: the peak memory of a chain of segments is its
/// boundaries plus one segment, for one more forward pass. Same result and same gradients, bit by bit.
///
/// `f` must be a function of `inputs` alone: random draws are made outside, and every variable that it reads is an input.
/// Frozen weights may be captured.
///
/// Errors: those of `f`; no inputs; a variable that `f` reads past its inputs.
pub fn recompute(inputs: &[&Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static) -> Result<Tensor> {
    let [first, rest @ ..] = inputs else { bail!("recompute: no inputs") };
    by_dtype!(first, run(first, rest, Box::new(f)))
}
