//! A batch split over threads. Each shard runs with operations that stay on its thread, so that nothing waits inside a step; the
//! gradients are added in the order of the shards. The number of shards belongs to the recipe, not to the machine: the result is
//! the same on any number of cores.

use std::collections::BTreeMap;

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use crate::params::Param;
use crate::{Error, Result};

/// One gradient per parameter, in the order of the parameters; None where the graph does not reach it.
pub type Grads = Vec<Option<Tensor>>;

/// Threads with one shard each.
pub struct Shards {
    threads: Vec<rayon::ThreadPool>,
}

impl Shards {
    /// Errors: the system gives no threads.
    pub fn new(count: usize) -> Result<Self> {
        // A deep stack: candle walks its graph by recursion.
        let thread = |_| rayon::ThreadPoolBuilder::new().num_threads(1).stack_size(64 << 20).build();
        let threads = (0..count.max(1)).map(thread).collect::<Result<_, _>>();
        Ok(Shards { threads: threads.map_err(|e| Error::resource(format!("starting threads: {e}")))? })
    }

    /// `work` on each shard of `ids`, results in order. `ids` must be a multiple of the number of shards.
    pub fn run<R: Send>(&self, ids: &[u64], work: impl Fn(&[u64]) -> candle_core::Result<R> + Sync) -> candle_core::Result<Vec<R>> {
        let work = &work;
        std::thread::scope(|scope| {
            let start = |(ids, thread)| scope.spawn(move || rayon::ThreadPool::install(thread, || work(ids)));
            let running: Vec<_> = ids.chunks((ids.len() / self.threads.len()).max(1)).zip(&self.threads).map(start).collect();
            running.into_iter().map(|task| task.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }
}

/// The gradients of `vars` in `grads`.
pub fn take(vars: &[Param], grads: &GradStore) -> Grads {
    vars.iter().map(|p| grads.get(p.var.as_tensor()).map(Tensor::detach)).collect()
}

/// The sums of the shards' gradients by parameter name.
pub fn summed<'a>(vars: &[Param], shards: impl Iterator<Item = &'a Grads>) -> candle_core::Result<BTreeMap<String, Tensor>> {
    let mut sums: BTreeMap<String, Tensor> = BTreeMap::new();
    for grads in shards {
        for (param, grad) in vars.iter().zip(grads) {
            let Some(grad) = grad else { continue };
            let sum = match sums.get(&param.name) {
                Some(sum) => (sum + grad)?,
                None => grad.clone(),
            };
            sums.insert(param.name.clone(), sum);
        }
    }
    Ok(sums)
}
