//! Recomputation by segment: less memory for one more forward pass (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016).

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::{Result, Storage, Tensor, Var, bail};

use super::graph::{backward, join, join_all, seeded, zero};

type Segment = dyn Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync;

/// The gradients that have arrived for the results of a segment.
type Arrived = Arc<Mutex<Vec<Option<Tensor>>>>;

thread_local! {
    static RECOMPUTING: Cell<bool> = const { Cell::new(false) };
}

/// Calls `f`; if `on`, every [`segment`] in it forgets its inner results.
pub fn recomputing<R>(on: bool, f: impl FnOnce() -> R) -> R {
    let before = RECOMPUTING.replace(on);
    let result = f();
    RECOMPUTING.set(before);
    result
}

/// The results of f(inputs): by [`recompute`] inside [`recomputing`], else plainly. The places where a network may be cut.
pub fn segment(inputs: &[&Tensor], f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync + 'static) -> Result<Vec<Tensor>> {
    if RECOMPUTING.get() {
        return recompute(inputs, f);
    }
    f(&inputs.iter().map(|t| (*t).clone()).collect::<Vec<_>>())
}

/// The variables that these tensors depend on, each once.
fn variables(of: &[Tensor]) -> Vec<Tensor> {
    let mut found: Vec<Tensor> = Vec::new();
    for node in of.iter().flat_map(Tensor::sorted_nodes).filter(|n| n.is_variable()) {
        if found.iter().all(|v| v.id() != node.id()) {
            found.push(node.clone());
        }
    }
    found
}

/// Runs the segment again, and the gradients of its inputs and of the variables that it reads, where wanted.
fn gradients(
    f: &Segment,
    inputs: &[Tensor],
    wanted: &[bool],
    variables: &[Tensor],
    arrived: &[Option<Tensor>],
) -> Result<Vec<Option<Tensor>>> {
    let again = |(t, w): (&Tensor, &bool)| if *w { Ok(Var::from_tensor(t)?.into_inner()) } else { Ok(t.clone()) };
    let leaves = inputs.iter().zip(wanted).map(again).collect::<Result<Vec<_>>>()?;
    let results = recomputing(false, || f(&leaves))?;
    let mut total: Option<Tensor> = None;
    for (y, g) in results.iter().zip(arrived) {
        if let (true, Some(g)) = (y.track_op(), g) {
            let part = seeded(y, g)?;
            total = Some(match total {
                None => part,
                Some(t) => (t + part)?,
            });
        }
    }
    drop(results);
    let Some(total) = total else { return Ok(vec![None; inputs.len() + variables.len()]) };
    let grads = backward(&total)?;
    let of = |t: &Tensor| grads.get(t).map(Tensor::detach);
    let of_inputs = leaves.iter().zip(wanted).map(|(t, w)| if *w { of(t) } else { None });
    Ok(of_inputs.chain(variables.iter().map(of)).collect())
}

/// A copy of the values of `y`.
fn values(y: &Tensor) -> Result<Storage> {
    let y = y.force_contiguous()?;
    let (storage, layout) = y.storage_and_layout();
    match &*storage {
        Storage::Cpu(s) => Ok(Storage::Cpu(s.try_clone(layout)?)),
        Storage::Cuda(s) => Ok(Storage::Cuda(s.try_clone(layout)?)),
        _ => bail!("recompute: no such device"),
    }
}

/// f(inputs), whose inner results are forgotten and computed again in the backward pass: the peak memory of a chain of segments is its
/// boundaries plus one segment, for one more forward pass. Same results and same gradients, bit by bit.
///
/// `f` must compute the same every time it is called with the same inputs: random draws are made outside. The variables that it reads
/// beside its inputs get their gradients; any other tensor with a graph must be an input.
///
/// Errors: those of `f`; no inputs.
pub fn recompute(inputs: &[&Tensor], f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync + 'static) -> Result<Vec<Tensor>> {
    if inputs.is_empty() {
        bail!("recompute: no inputs")
    }
    let held: Vec<Tensor> = inputs.iter().map(|t| t.detach().contiguous()).collect::<Result<_>>()?;
    let wanted: Vec<bool> = inputs.iter().map(|t| t.track_op()).collect();
    // Nothing but variables tracks in here, so the segment's own graph is gone at the end of this function.
    let results = recomputing(false, || f(&held))?;
    let variables = variables(&results);
    if variables.is_empty() && !wanted.contains(&true) {
        return Ok(results);
    }
    let args: Vec<&Tensor> = inputs.iter().copied().chain(&variables).collect();
    let arrived = Arrived::new(Mutex::new(vec![None; results.len()]));
    let take = arrived.clone();
    let vars = variables.clone();
    // The hub runs when the gradients of all results are there.
    let hub = join_all("recompute", &args, zero(inputs[0].device())?, 1, false, move |_, _| {
        let arrived: Vec<Option<Tensor>> = take.lock().unwrap_or_else(PoisonError::into_inner).iter_mut().map(Option::take).collect();
        gradients(&f, &held, &wanted, &vars, &arrived)
    })?;
    let out = |(i, y): (usize, &Tensor)| {
        let (arrived, trigger) = (arrived.clone(), Tensor::zeros(1, candle_core::DType::F32, y.device())?);
        join("recompute", [&hub], values(y)?, y.shape(), false, move |_, g| {
            arrived.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(g.clone());
            Ok([Some(trigger.clone())])
        })
    };
    results.iter().enumerate().map(out).collect()
}
