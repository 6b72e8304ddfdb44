//! The stage "evaluate": one row of the table for one seed. Every evaluation image is inverted, decoded by the arm's own rule, put
//! into 8 bits, and compared with the image by every metric; one number per image and metric, under the image's id.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::reconstruct::{Reconstruction, Reconstructor, one_by_one};
use super::{EvaluateSpec, Method, Networks, Protocol, ScoreRow, StageContext, TimeRow, TraceRow, open, protocol, sample};
use crate::images::{Filter, Rgb8, resize};
use crate::metrics::{self, Metric};
use crate::perceptual::lpips::Lpips;
use crate::record::ImageInfo;
use crate::record::store::Finished;
use crate::zoo::checkpoint::{part, prefixed};
use crate::{Error, Result};

pub fn run(spec: &EvaluateSpec, context: &mut StageContext) -> Result<()> {
    let device = context.device;
    let metrics = open_metrics(&spec.metrics, &spec.networks, device)?;
    let trace_metrics = open_metrics(&spec.trace, &spec.networks, device)?;
    let generator = open::generator(&spec.networks.generator, device)?;
    let train = context.inputs.get("train");
    let reconstructor = Reconstructor::open(spec.inverting(), train, generator.as_ref(), device)?;
    let input = context.input("sample")?;
    let images: Vec<ImageInfo> = input.json("images.json")?;
    let pixels = input.tensors("images.safetensors", &Device::Cpu)?;
    let images = limited(images, spec.images);
    let alone = one_by_one(spec.method.refine());
    // A command starts once per set.
    let size = match &spec.method {
        Method::External(_) => usize::MAX,
        _ if alone => context.side_by_side.max(1),
        _ => spec.batch.max(1),
    };
    let mut checkpoint = context.checkpoint();
    let (mut kept, mut worst, mut done) = (BTreeMap::new(), Worst::default(), Saved::default());
    let mut first = 0;
    if let Some(saved) = spec.method.refine().and_then(|_| checkpoint.load(&Device::Cpu).transpose()).transpose()? {
        done = serde_json::from_value(saved.state).map_err(|e| Error::corrupt(format!("the checkpoint's state: {e}")))?;
        (kept, first) = (part(&saved.tensors, "kept/"), saved.step as usize);
        worst = Worst::restored(&done.worst, &part(&saved.tensors, "worst/"))?;
    }
    let bar = context.progress.bar(images.len() as u64, &label(spec));
    bar.resume(first as u64);
    let work = Work { spec, reconstructor: &reconstructor, train, device, alone };
    let mut position = 0;
    for set in images.chunk_by(|a, b| a.set == b.set) {
        // An interrupted stage goes on behind its last finished image, whatever the groups were then.
        let skip = first.saturating_sub(position).min(set.len());
        position += set.len();
        let mut finished = position - set.len() + skip;
        for batch in set[skip..].chunks(size) {
            let targets = batch.iter().map(|info| picture(&pixels, info)).collect::<Result<Vec<_>>>()?;
            let infos: Vec<&ImageInfo> = batch.iter().collect();
            let result = work.group(&infos, &targets, None)?;
            let first_scores = score(&metrics, spec, &work, &infos, &targets, &result, &mut done.rows)?;
            for (step, images) in &result.trace {
                for ((info, target), image) in infos.iter().zip(&targets).zip(images) {
                    for metric in &trace_metrics {
                        let (set, image_id) = (info.set.clone(), info.id.clone());
                        let value = metric.score(target, image)?;
                        done.traces.push(TraceRow { set, image: image_id, step: *step, metric: metric.name(), value });
                    }
                }
            }
            let side_by_side = if alone { batch.len() } else { spec.batch.min(batch.len()) };
            done.time(&infos[0].set, batch.len(), side_by_side, &result);
            for ((n, info), image) in infos.iter().enumerate().zip(&result.images) {
                // Figures show it at the size of its target.
                let shown = resize(image, targets[n].width(), targets[n].height(), Filter::Bilinear);
                if let (Some(metric), Some(&score)) = (metrics.first(), first_scores.get(n)) {
                    let badness = if metric.info.higher_is_better { -score } else { score };
                    worst.offer(info, badness, &shown, spec.figure_images);
                }
                if finished + n < position - set.len() + spec.figure_images {
                    kept.insert(format!("{}/{}", info.set, info.id), sample::to_tensor(&shown)?);
                }
            }
            finished += batch.len();
            bar.advance(batch.len() as u64, "");
            if spec.method.refine().is_some() && checkpoint.due() {
                done.worst = worst.names();
                let tensors = prefixed("kept/", kept.clone()).chain(prefixed("worst/", worst.tensors()?)).collect();
                checkpoint.save(finished as u64, &tensors, &done)?;
            }
        }
    }
    bar.finish();
    done.sort();
    context.work.put_json("scores.json", &done.rows)?;
    if !spec.trace.is_empty() {
        let steps = spec.method.refine().map_or(0, |r| r.steps());
        context.work.put_json("traces.json", &done.traces)?;
        context.work.put_json("times.json", &done.times.iter().map(|t| t.row(steps)).collect::<Vec<_>>())?;
    }
    context.work.put_tensors("worst.safetensors", &worst.tensors()?)?;
    context.work.put_tensors("reconstructions.safetensors", &kept)
}

/// The images of each set that are reconstructed worst by the first metric, worst first.
#[derive(Default)]
struct Worst(BTreeMap<String, Vec<(f64, String, Rgb8)>>);

impl Worst {
    fn offer(&mut self, info: &ImageInfo, badness: f64, image: &Rgb8, keep: usize) {
        let cases = self.0.entry(info.set.clone()).or_default();
        // Of equals the earlier one stands first.
        let place = cases.partition_point(|(other, _, _)| *other >= badness);
        if place < keep {
            cases.insert(place, (badness, format!("{}/{}", info.set, info.id), image.clone()));
            cases.truncate(keep);
        }
    }

    fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        self.0.values().flatten().map(|(_, name, image)| Ok((name.clone(), sample::to_tensor(image)?))).collect()
    }

    /// Set, badness and name of each case, worst first.
    fn names(&self) -> Vec<(String, f64, String)> {
        self.0.iter().flat_map(|(set, cases)| cases.iter().map(move |(badness, name, _)| (set.clone(), *badness, name.clone()))).collect()
    }

    /// From a checkpoint.
    fn restored(names: &[(String, f64, String)], pictures: &BTreeMap<String, Tensor>) -> Result<Self> {
        let mut worst = Worst::default();
        for (set, badness, name) in names {
            let picture = pictures.get(name).ok_or_else(|| Error::corrupt(format!("the checkpoint lacks the picture \"{name}\"")))?;
            worst.0.entry(set.clone()).or_default().push((*badness, name.clone(), sample::from_tensor(picture)?));
        }
        Ok(worst)
    }
}

/// The first `count` images of each set.
pub fn limited(images: Vec<ImageInfo>, count: Option<usize>) -> Vec<ImageInfo> {
    let Some(count) = count else { return images };
    images.chunk_by(|a, b| a.set == b.set).flat_map(|set| set.iter().take(count).cloned()).collect()
}

fn label(spec: &EvaluateSpec) -> String {
    spec.method.refine().map_or("evaluate".into(), |r| format!("evaluate, {} steps an image", r.steps()))
}

/// What an evaluation has done so far.
#[derive(Default, Serialize, Deserialize)]
struct Saved {
    rows: Vec<ScoreRow>,
    traces: Vec<TraceRow>,
    times: Vec<Spent>,
    worst: Vec<(String, f64, String)>,
}

/// Wall time on one set, in seconds.
#[derive(Serialize, Deserialize)]
struct Spent {
    set: String,
    images: usize,
    side_by_side: usize,
    start: f64,
    steps: f64,
}

impl Spent {
    fn row(&self, steps: u64) -> TimeRow {
        let n = self.images.max(1) as f64;
        TimeRow {
            set: self.set.clone(),
            images: self.images,
            side_by_side: self.side_by_side,
            start_seconds: self.start / n,
            step_seconds: self.steps / n / steps.max(1) as f64,
        }
    }
}

impl Saved {
    /// In an order that does not depend on the groups: by table, and the ways by image.
    fn sort(&mut self) {
        fn places<'a>(names: impl Iterator<Item = &'a String>) -> BTreeMap<String, usize> {
            let mut places = BTreeMap::new();
            for name in names {
                let next = places.len();
                places.entry(name.clone()).or_insert(next);
            }
            places
        }
        let sets = places(self.rows.iter().map(|r| &r.set));
        self.rows.sort_by_key(|r| sets[&r.set]);
        let (sets, images) = (places(self.traces.iter().map(|r| &r.set)), places(self.traces.iter().map(|r| &r.image)));
        self.traces.sort_by_key(|r| (sets[&r.set], images[&r.image]));
    }

    fn time(&mut self, set: &str, images: usize, side_by_side: usize, result: &Reconstruction) {
        let (start, steps) = (result.start.as_secs_f64(), result.steps.as_secs_f64());
        match self.times.iter_mut().find(|t| t.set == set) {
            Some(t) => {
                t.images += images;
                t.side_by_side = t.side_by_side.max(side_by_side);
                t.start += start;
                t.steps += steps;
            }
            None => self.times.push(Spent { set: set.into(), images, side_by_side, start, steps }),
        }
    }
}

/// The scores of a group under every protocol of the study, or as the images are where it names none; by the first metric they are returned.
fn score(
    metrics: &[Metric],
    spec: &EvaluateSpec,
    work: &Work,
    infos: &[&ImageInfo],
    targets: &[Rgb8],
    result: &Reconstruction,
    rows: &mut Vec<ScoreRow>,
) -> Result<Vec<f64>> {
    let mut firsts = Vec::new();
    let mut push = |set: &dyn Fn(&str) -> String, scores: Vec<Vec<f64>>| -> Result<()> {
        if firsts.is_empty() {
            firsts = scores.iter().filter_map(|s| s.first().copied()).collect();
        }
        for (info, scores) in infos.iter().zip(scores) {
            for (metric, value) in metrics.iter().zip(scores) {
                if value.is_nan() {
                    return Err(Error::internal(format!("the {} of the image \"{}\" is not a number", metric.name(), info.id)));
                }
                let value = value.is_finite().then_some(value);
                rows.push(ScoreRow { set: set(&info.set), image: info.id.clone(), metric: metric.name(), value });
            }
        }
        Ok(())
    };
    if spec.protocols.is_empty() {
        push(&str::to_string, score_all(metrics, targets, &result.images)?)?;
        return Ok(firsts);
    }
    let side = metrics.iter().find_map(Metric::side).unwrap_or(targets[0].width());
    for &protocol in &spec.protocols {
        let own = protocol::own_input(&spec.method, protocol, &targets[0], work.reconstructor.input_size());
        let again = if own { Some(work.group(infos, targets, Some(protocol))?) } else { None };
        let images = again.as_ref().map_or(&result.images, |r| &r.images);
        let common = spec.common_side;
        let stored = images.iter().map(|i| protocol::stored(&spec.method, protocol, i, side, common)).collect::<Result<Vec<_>>>()?;
        let wanted: Vec<Rgb8> = targets.iter().map(|t| protocol::target(protocol, t, common)).collect();
        push(&|set| protocol.set(set), score_all(metrics, &wanted, &stored)?)?;
    }
    Ok(firsts)
}

/// What a group of images is reconstructed with.
struct Work<'a> {
    spec: &'a EvaluateSpec,
    reconstructor: &'a Reconstructor<'a>,
    train: Option<&'a Finished>,
    device: &'a Device,
    alone: bool,
}

impl Work<'_> {
    /// The reconstructions of a group, with the time that all of it took. Methods that take one image at a time work on all of the group at once, each on
    /// a thread with networks of its own.
    fn group(&self, infos: &[&ImageInfo], targets: &[Rgb8], protocol: Option<Protocol>) -> Result<Reconstruction> {
        let side = self.reconstructor.input_size();
        let inputs = targets.iter().map(|t| protocol::input(&self.spec.method, protocol, t, side)).collect::<Result<Vec<_>>>()?;
        let look = !self.spec.trace.is_empty() && protocol.is_none();
        if !self.alone || infos.len() == 1 {
            return self.reconstructor.run(infos, &inputs, look);
        }
        let (spec, train, device) = (self.spec, self.train, self.device);
        let one = move |info: &ImageInfo, input: &Rgb8| -> Result<Reconstruction> {
            let generator = open::generator(&spec.networks.generator, device)?;
            let own = Reconstructor::open(spec.inverting(), train, generator.as_ref(), device)?;
            own.run(&[info], std::slice::from_ref(input), look)
        };
        let results = std::thread::scope(|scope| {
            let threads: Vec<_> = infos.iter().zip(&inputs).map(|(info, input)| scope.spawn(move || one(info, input))).collect();
            let join = |t: std::thread::ScopedJoinHandle<Result<Reconstruction>>| {
                t.join().map_err(|_| Error::internal("a thread of the evaluation panicked"))?
            };
            threads.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        let mut all = Reconstruction::default();
        for one in results {
            all.images.extend(one.images);
            // At the same time: the slowest counts.
            all.start = all.start.max(one.start);
            all.steps = all.steps.max(one.steps);
            for (i, (step, images)) in one.trace.into_iter().enumerate() {
                match all.trace.get_mut(i) {
                    Some(entry) => entry.1.extend(images),
                    None => all.trace.push((step, images)),
                }
            }
        }
        Ok(all)
    }
}

/// The stored picture of an entry of the image list.
///
/// Errors (corrupt): it is missing, or another one.
pub fn picture(pixels: &BTreeMap<String, Tensor>, info: &ImageInfo) -> Result<Rgb8> {
    let name = format!("{}/{}", info.set, info.id);
    let tensor = pixels.get(&name).ok_or_else(|| Error::corrupt(format!("the evaluation images lack \"{name}\"")))?;
    let image = sample::from_tensor(tensor)?;
    match image.sha256() == info.sha256 {
        true => Ok(image),
        false => Err(Error::corrupt(format!("the evaluation image \"{name}\" is not the one that the image list names"))),
    }
}

/// The metrics of these names; those that need a network get the judge, which no training loss uses.
pub fn open_metrics(names: &[String], networks: &Networks, device: &Device) -> Result<Vec<Metric>> {
    let mut metrics = names.iter().map(|name| metrics::by_name(name)).collect::<Result<Vec<_>>>()?;
    if metrics.iter().any(Metric::needs_network) {
        let (judge, lpips) = open::lpips(&networks.judge, device)?;
        let (judge, lpips): (Arc<_>, Arc<Lpips>) = (Arc::new(judge), Arc::new(lpips));
        for metric in metrics.iter_mut().filter(|m| m.needs_network()) {
            let (judge, lpips) = (judge.clone(), lpips.clone());
            let network: metrics::Network =
                Arc::new(move |a, b| lpips.distance(&judge, a, b)?.squeeze(0)?.to_dtype(candle_core::DType::F64)?.to_scalar());
            *metric = metric.clone().with_network(network, device);
        }
    }
    Ok(metrics)
}

/// Scores of each pair by each metric.
pub fn score_all(metrics: &[Metric], targets: &[Rgb8], reconstructions: &[Rgb8]) -> Result<Vec<Vec<f64>>> {
    let pairs: Vec<_> = targets.iter().zip(reconstructions).collect();
    pairs.into_par_iter().map(|(a, b)| metrics.iter().map(|m| m.score(a, b)).collect()).collect()
}
