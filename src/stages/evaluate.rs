//! The stage "evaluate": one row of the table for one seed. Every evaluation image is inverted, decoded by the arm's own rule, put
//! into 8 bits, and compared with the image by every metric; one number per image and metric, under the image's id.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::inversion::Inversion;
use super::{EvaluateSpec, Method, Networks, ScoreRow, StageContext, open, sample};
use crate::generators::{Generator, Synthesis};
use crate::images::Rgb8;
use crate::metrics::{self, Metric};
use crate::perceptual::lpips::Lpips;
use crate::record::ImageInfo;
use crate::{Error, Result};

/// How many generated images the mean image is the mean of.
const MEAN_IMAGE_OF: u64 = 512;

pub fn run(spec: &EvaluateSpec, context: &mut StageContext) -> Result<()> {
    let device = context.device;
    let metrics = open_metrics(&spec.metrics, &spec.networks, device)?;
    let generator = open::generator(&spec.networks.generator, device)?;
    let reconstruct = reconstructor(spec, context, generator.as_ref())?;
    let input = context.input("sample")?;
    let images: Vec<ImageInfo> = input.json("images.json")?;
    let pixels = input.tensors("images.safetensors", &Device::Cpu)?;
    let bar = context.progress.bar(images.len() as u64, "evaluate");
    let (mut rows, mut kept) = (Vec::new(), BTreeMap::new());
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut worst = Worst::default();
    for batch in images.chunk_by(|a, b| a.set == b.set).flat_map(|set| set.chunks(spec.batch.max(1))) {
        let targets = batch.iter().map(|info| picture(&pixels, info)).collect::<Result<Vec<_>>>()?;
        let reconstructions = reconstruct(batch, &targets)?;
        let scores = score_all(&metrics, &targets, &reconstructions)?;
        for ((info, image), scores) in batch.iter().zip(&reconstructions).zip(scores) {
            if let (Some(metric), Some(&score)) = (metrics.first(), scores.first()) {
                let badness = if metric.info.higher_is_better { -score } else { score };
                worst.offer(info, badness, image, spec.figure_images);
            }
            for (metric, value) in metrics.iter().zip(scores) {
                if value.is_nan() {
                    return Err(Error::internal(format!("the {} of the image \"{}\" is not a number", metric.name(), info.id)));
                }
                let value = value.is_finite().then_some(value);
                rows.push(ScoreRow { set: info.set.clone(), image: info.id.clone(), metric: metric.name(), value });
            }
            let count = seen.entry(&info.set).or_default();
            if *count < spec.figure_images {
                kept.insert(format!("{}/{}", info.set, info.id), sample::to_tensor(image)?);
            }
            *count += 1;
        }
        bar.advance(batch.len() as u64, "");
    }
    bar.finish();
    context.work.put_json("scores.json", &rows)?;
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
}

fn picture(pixels: &BTreeMap<String, Tensor>, info: &ImageInfo) -> Result<Rgb8> {
    let name = format!("{}/{}", info.set, info.id);
    let tensor = pixels.get(&name).ok_or_else(|| Error::corrupt(format!("the evaluation images lack \"{name}\"")))?;
    let image = sample::from_tensor(tensor)?;
    match image.sha256() == info.sha256 {
        true => Ok(image),
        false => Err(Error::corrupt(format!("the evaluation image \"{name}\" is not the one that the image list names"))),
    }
}

type Reconstruct<'a> = Box<dyn Fn(&[ImageInfo], &[Rgb8]) -> Result<Vec<Rgb8>> + 'a>;

/// The way from a batch of one set to its reconstructions.
fn reconstructor<'a>(spec: &'a EvaluateSpec, context: &StageContext, generator: &'a dyn Generator) -> Result<Reconstruct<'a>> {
    let device = context.device.clone();
    Ok(match &spec.method {
        Method::Encoder(method) => {
            let trained = context.input("train")?.tensors("encoder.safetensors", &device)?;
            let inversion = Inversion::trained(generator, method, trained, &device)?;
            Box::new(move |infos: &[ImageInfo], targets: &[Rgb8]| {
                inversion.reconstruct_images(&infos.iter().collect::<Vec<_>>(), targets, spec.seed)
            })
        }
        Method::MeanImage => {
            let ids: Vec<u64> = (0..MEAN_IMAGE_OF).map(|i| u64::MAX / 2 + i).collect();
            let mut sum: Option<Tensor> = None;
            for ids in ids.chunks(16) {
                let part = sample::synthesized(generator, "synthesized", spec.seed, ids, &device)?.sum_keepdim(0)?;
                sum = Some(match sum {
                    Some(sum) => (sum + part)?,
                    None => part,
                });
            }
            let sum = sum.ok_or_else(|| Error::internal("the mean of no image"))?;
            let mean = Rgb8::from_tensor(&(sum / MEAN_IMAGE_OF as f64)?)?;
            Box::new(move |infos: &[ImageInfo], _: &[Rgb8]| Ok(vec![mean.clone(); infos.len()]))
        }
        Method::MeanLatent => Box::new(move |infos: &[ImageInfo], _: &[Rgb8]| {
            let layout = generator.layout();
            let ids = infos.iter().map(|i| sample::number(&i.id)).collect::<Result<Vec<_>>>()?;
            let noise = sample::evaluation_noise(generator, &infos[0].set, spec.seed, &ids, &device)?;
            let latent = match generator.centre() {
                Some(centre) => centre.unsqueeze(0)?.broadcast_as((ids.len(), layout.rows, layout.w_dim))?.contiguous()?,
                // Without w: z = 0, the mean z, with the image's own class.
                None if layout.rows == 0 => {
                    let origin = sample::conditional_origin(generator, &infos.iter().collect::<Vec<_>>(), spec.seed, &device)?;
                    let z = Tensor::zeros((ids.len(), layout.z_dim), candle_core::DType::F32, &device)?;
                    generator.map(&z, origin.as_ref().and_then(|o| o.classes.as_ref()))?
                }
                None => return Err(Error::usage(format!("the generator {} has no mean w", spec.networks.generator))),
            };
            let image = generator.synthesize(&latent, &Synthesis { noise: Some(&noise), ..Default::default() })?;
            Rgb8::from_batch(&image)
        }),
    })
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
