//! Supervised training of the small networks that look at pictures: classifiers, judges, the identity network. What is known of the
//! pictures are the targets.

use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::checkpoint;
use super::curve::{self, Meter};
use super::drawing::SIZE;
use super::pool::Pool;
use super::shards::{self, Shards};
use super::source::Label;
use crate::error::Kind;
use crate::optim::{Optimizer, Rule};
use crate::params::Params;
use crate::random::Stream;
use crate::{Error, Result};

const STATE: &str = "state.safetensors";
const RULE: Rule = Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, equalized: false };

/// How long, and from which random numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub seed: u64,
    /// Pictures shown in all.
    pub images: u64,
    pub batch: usize,
    pub shards: usize,
    /// Learning rate at the beginning; it falls linearly to 0.
    pub lr: f64,
    /// Number of different training pictures.
    pub pool: usize,
}

#[derive(Serialize, Deserialize)]
struct Progress {
    recipe: Recipe,
    step: u64,
    seconds: f64,
    #[serde(default)]
    meter: Meter,
}

/// A network and what it learns.
pub trait Task: Sync + Sized {
    fn build(p: &Params) -> candle_core::Result<Self>;

    /// The picture that item `item` of `stream` picks.
    fn pick(pool: &Pool, stream: &Stream, item: u64) -> usize {
        pool.pick(stream, item)
    }

    /// The mean loss over images `[n, 3, 64, 64]` with these labels, at step `step`.
    fn loss(&self, images: &Tensor, labels: &[&Label], step: u64) -> candle_core::Result<Tensor>;
}

/// Trains to the end and returns the network, its parameters and the seconds that it took over all resumptions. Saves to `folder`
/// every minute, and the curve at the end; goes on from there with `resume`.
///
/// Errors: a loss that is not finite (kind `Diverged`), an unusable folder or state.
pub fn train<T: Task>(
    recipe: &Recipe,
    pool: &Pool,
    folder: &Path,
    resume: bool,
    device: &Device,
    mut report: impl FnMut(&str),
) -> Result<(T, Params, f64)> {
    let path = folder.join(STATE);
    let (params, saved) = if resume {
        let (tensors, about) = checkpoint::resume(&path, device)?;
        let progress: Progress = serde_json::from_value(about).map_err(|e| Error::corrupt(format!("{}: {e}", path.display())))?;
        if progress.recipe != *recipe {
            return Err(Error::usage(format!("{}: this state belongs to another recipe; train without --resume", path.display())));
        }
        let weights = checkpoint::part(&tensors, "network/");
        let params = Params::trainable(weights, DType::F32, device, &path.display().to_string());
        (params, Some((tensors, progress)))
    } else {
        (Params::fresh(recipe.seed, DType::F32, device), None)
    };
    let network = T::build(&params)?;
    params.finish()?;
    let mut optimizer = Optimizer::new(RULE, params.vars());
    let (mut step, mut before, mut meter) = (0, 0.0, Meter::default());
    if let Some((tensors, progress)) = saved {
        optimizer.load_state(checkpoint::part(&tensors, "steps/"))?;
        (step, before, meter) = (progress.step, progress.seconds, progress.meter);
    }
    let threads = Shards::new(recipe.shards)?;
    let stream = Stream::new(recipe.seed, "zoo/supervised");
    let batch = recipe.batch as u64;
    let (start, mut reported, mut saved_at) = (Instant::now(), Instant::now(), Instant::now());
    let (mut sum, mut count) = (0.0, 0.0);
    let seconds = |before: f64, start: Instant| before + start.elapsed().as_secs_f64();
    let save = |optimizer: &Optimizer, meter: &Meter, step: u64, seconds: f64| -> Result<()> {
        let parts = [("network/", params.snapshot()?), ("steps/", optimizer.state()?)];
        let tensors = parts.into_iter().flat_map(|(prefix, tensors)| checkpoint::prefixed(prefix, tensors)).collect();
        let progress = Progress { recipe: recipe.clone(), step, seconds, meter: meter.clone() };
        checkpoint::save(&path, &tensors, &serde_json::to_value(progress).map_err(|e| Error::internal(e.to_string()))?)
    };
    while step * batch < recipe.images {
        let ids: Vec<u64> = (step * batch..(step + 1) * batch).collect();
        let vars = optimizer.params();
        let results = threads.run(&ids, |ids| {
            let indices: Vec<usize> = ids.iter().map(|&id| T::pick(pool, &stream, id)).collect();
            let labels: Vec<&Label> = indices.iter().map(|&i| pool.label(i)).collect();
            let images = pool.images(&indices, SIZE, device)?;
            let loss = (network.loss(&images, &labels, step)? * (ids.len() as f64 / batch as f64))?;
            Ok((f64::from(loss.to_dtype(DType::F32)?.to_scalar::<f32>()?), shards::take(vars, &loss.backward()?)))
        })?;
        let loss: f64 = results.iter().map(|(loss, _)| loss).sum();
        if !loss.is_finite() {
            return Err(Error::new(Kind::Diverged, format!("training diverged at step {step}: the loss is {loss}")));
        }
        let grads = shards::summed(vars, results.iter().map(|(_, grads)| grads))?;
        optimizer.step_named(&grads, recipe.lr * (1.0 - (step * batch) as f64 / recipe.images as f64))?;
        step += 1;
        meter.count([(curve::LOSS, loss)]);
        if curve::due((step - 1) * batch, step * batch, recipe.images) {
            meter.point(step * batch, None);
        }
        (sum, count) = (sum + loss, count + 1.0);
        if reported.elapsed().as_secs_f64() > 20.0 {
            let rate = count * batch as f64 / reported.elapsed().as_secs_f64();
            let (at, shown) = (seconds(before, start), step * batch);
            report(&format!("{at:7.0} s  {shown:7} of {} images  {rate:6.1} img/s  loss {:.4}", recipe.images, sum / count));
            (reported, sum, count) = (Instant::now(), 0.0, 0.0);
        }
        if saved_at.elapsed().as_secs_f64() > 60.0 {
            save(&optimizer, &meter, step, seconds(before, start))?;
            saved_at = Instant::now();
        }
    }
    let seconds = seconds(before, start);
    save(&optimizer, &meter, step, seconds)?;
    curve::write(&meter.curve, folder)?;
    Ok((network, params, seconds))
}
