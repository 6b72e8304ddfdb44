//! The stage "frechet": the Fréchet distance of a generator's images, and of an arm's reconstructions of them, to the pictures that the
//! generator learned from (Figs. 6 and 7 show such images; the paper measures none of this).
//!
//! All sets have the same number of images. The generator's are those of the set "synthesized", truncated as it is, continued beyond the
//! evaluation images; the pictures are held out and, of the mini zoo, wear nothing that the generator never saw. The floor is the
//! distance of one such set of pictures to another.

use candle_core::{DType, Device};

use super::directions::as_batch;
use super::factors;
use super::reconstruct::{Inverting, Reconstructor, one_by_one};
use super::{FrechetSpec, ImageSet, StageContext, open, sample};
use crate::images::{Filter, Rgb8, resize};
use crate::metrics::{Moments, frechet_distance};
use crate::params::Params;
use crate::perceptual::Inception;
use crate::perceptual::inception::Preprocessing;
use crate::record::ImageInfo;
use crate::record::frechet::{Between, Frechet};
use crate::spec::Card;
use crate::zoo::drawing::{SIZE, Split};
use crate::zoo::judge::Judge;
use crate::{Error, Result};

/// Groups of the jackknife.
const GROUPS: usize = 10;

/// Wider features have no error: eleven distances of Inception's 2048 would take an hour, and would still say little of a few thousand images.
const WIDEST: usize = 512;

pub fn run(spec: &FrechetSpec, context: &mut StageContext) -> Result<()> {
    let device = context.device;
    let generator = open::generator(&spec.networks.generator, device)?;
    let inverting = Inverting { networks: &spec.networks, method: &spec.method, seed: spec.seed };
    let reconstructor = Reconstructor::open(inverting, context.inputs.get("train"), generator.as_ref(), device)?;
    let network = Features::open(&spec.features, device)?;
    let (n, side) = (spec.images, generator.layout().resolution);
    let batch = if one_by_one(spec.method.refine()) { 1 } else { spec.batch.max(1) };
    let bar = context.progress.bar((2 * n + if spec.data.is_some() { 2 * n } else { 0 }) as u64, "features");
    let (mut generated, mut reconstructed) = (Vec::new(), Vec::new());
    let set = ImageSet { set: spec.set.clone(), images: n, source: None };
    let ids: Vec<u64> = (0..n as u64).collect();
    for ids in ids.chunks(batch) {
        let drawn = sample::draw_some(&set, ids, spec.seed, generator.as_ref(), device)?;
        let (infos, images): (Vec<ImageInfo>, Vec<Rgb8>) = drawn.into_iter().map(|d| (d.info, d.image)).unzip();
        let inputs: Vec<Rgb8> =
            images.iter().map(|p| resize(p, reconstructor.input_size(), reconstructor.input_size(), Filter::Bilinear)).collect();
        reconstructed.extend(network.of(&reconstructor.run(&infos.iter().collect::<Vec<_>>(), &inputs, false)?.images)?);
        generated.extend(network.of(&images)?);
        bar.advance(2 * ids.len() as u64, "");
    }
    let mut pairs = vec![(Between::ReconstructedGenerated, &reconstructed, &generated)];
    let mut sources = [Vec::new(), Vec::new()];
    if let Some(data) = &spec.data {
        for (half, features) in sources.iter_mut().enumerate() {
            for first in (0..n).step_by(batch) {
                let some = pictures(data, half * n + first, batch.min(n - first), side)?;
                features.extend(network.of(&some)?);
                bar.advance(some.len() as u64, data);
            }
        }
        pairs.splice(
            0..0,
            [
                (Between::Floor, &sources[1], &sources[0]),
                (Between::GeneratedSource, &generated, &sources[0]),
                (Between::ReconstructedSource, &reconstructed, &sources[0]),
            ],
        );
    }
    bar.finish();
    let found = pairs.into_iter().map(|(between, a, b)| {
        let (value, error) = distance(a, b)?;
        Ok(Frechet {
            arm: String::new(),
            seed: 0,
            set: spec.set.clone(),
            between,
            data: spec.data.clone().unwrap_or_default(),
            features: network.name.into(),
            width: a.first().map_or(0, Vec::len),
            images: n,
            value,
            error,
        })
    });
    context.work.put_json("frechet.json", &found.collect::<Result<Vec<_>>>()?)
}

/// `count` held-out pictures of a data set from number `first` on, at `side` pixels.
fn pictures(data: &str, first: usize, count: usize, side: usize) -> Result<Vec<Rgb8>> {
    let Some(source) = factors::source(data)? else {
        return Ok(open::real_pictures(data, first, count, side)?.into_iter().map(|p| p.image).collect());
    };
    let drawn = source.draw_all(Split::HeldOut, &source.plain_held_out(first, count));
    drawn.into_iter().map(|p| Ok(resize(&Rgb8::new(SIZE, SIZE, p.rgb)?, side, side, Filter::Box))).collect()
}

/// The distance, and its standard error by a jackknife: both sets lose a tenth at a time. None where the sets are too small for that, or the
/// features too many.
///
/// A bootstrap would be wrong here: a resample has repeated images, fewer directions, and so a distance that is too large.
fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> Result<(f64, Option<f64>)> {
    let (n, width) = (a.len(), a.first().map_or(0, Vec::len));
    let of = |left_out: Option<usize>| -> Result<f64> {
        let moments = |rows: &[Vec<f32>]| {
            let mut moments = Moments::new(width);
            let kept = rows.iter().enumerate().filter(|(i, _)| left_out.is_none_or(|g| i * GROUPS / n != g));
            kept.map(|(_, row)| row).try_for_each(|row| moments.add(row))?;
            moments.gaussian()
        };
        frechet_distance(&moments(a)?, &moments(b)?)
    };
    let value = of(None)?;
    if n < 2 * GROUPS || width > WIDEST {
        return Ok((value, None));
    }
    let each = (0..GROUPS).map(|g| of(Some(g))).collect::<Result<Vec<_>>>()?;
    let mean = each.iter().sum::<f64>() / GROUPS as f64;
    let variance = each.iter().map(|v| (v - mean).powi(2)).sum::<f64>() * (GROUPS - 1) as f64 / GROUPS as f64;
    Ok((value, Some(variance.sqrt())))
}

/// The network in whose features distances are taken.
struct Features {
    network: Network,
    /// What a distance in it is called.
    name: &'static str,
    device: Device,
}

enum Network {
    Judge(Judge),
    Inception(Box<Inception>),
}

impl Features {
    fn open(card: &str, device: &Device) -> Result<Self> {
        let (network, name) = match card {
            "mini/judge" => (Network::Judge(open::judge(card, device)?), "fd-mini/judge@64"),
            "mini/judge_objects" => (Network::Judge(open::judge(card, device)?), "fd-mini/judge_objects@64"),
            "inception_fid" => {
                let params = Params::frozen(open::tensors(&Card::load(card)?)?, DType::F32, device, card);
                let net = Inception::new(&params)?;
                params.finish()?;
                (Network::Inception(Box::new(net)), "fid-pytorch@299")
            }
            _ => return Err(Error::usage(format!("there are no features of \"{card}\" for a Fréchet distance"))),
        };
        Ok(Features { network, name, device: device.clone() })
    }

    fn of(&self, images: &[Rgb8]) -> Result<Vec<Vec<f32>>> {
        let features = match &self.network {
            Network::Judge(judge) => judge.features(&as_batch(images, &self.device)?)?,
            Network::Inception(net) => {
                let inputs = images.iter().map(|i| Preprocessing::PytorchFid.apply(i, &self.device));
                net.features(&candle_core::Tensor::stack(&inputs.collect::<candle_core::Result<Vec<_>>>()?, 0)?)?
            }
        };
        Ok(features.to_dtype(DType::F32)?.to_vec2()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn normal(seed: u64, n: usize, width: usize, scale: f32) -> Vec<Vec<f32>> {
        let ids: Vec<u64> = (0..n as u64).collect();
        let rows = Stream::new(seed, "test").normal_rows(&ids, &[width], &Device::Cpu).and_then(|t| t.to_vec2::<f32>()).unwrap_or_default();
        rows.into_iter().map(|r| r.into_iter().map(|v| v * scale).collect()).collect()
    }

    #[test]
    fn the_error_is_the_spread_over_fresh_sets() -> Result<()> {
        // N(0, 1) against N(0, 4) in three dimensions: 3 (1 - 2)^2 = 3.
        let (mut values, mut errors) = (Vec::new(), Vec::new());
        for seed in 0..20 {
            let (value, error) = distance(&normal(2 * seed, 400, 3, 1.0), &normal(2 * seed + 1, 400, 3, 2.0))?;
            values.push(value);
            errors.push(error.unwrap_or(f64::NAN));
        }
        let (mean, sd) = (crate::record::stats::mean(&values), crate::record::stats::sd(&values));
        assert!((mean - 3.0).abs() < 0.25, "{mean}");
        let error = crate::record::stats::mean(&errors);
        assert!(error > 0.6 * sd && error < 1.6 * sd, "{error} {sd}");
        Ok(())
    }

    #[test]
    fn small_sets_have_no_error_and_equal_ones_no_distance() -> Result<()> {
        let few = normal(1, 19, 3, 1.0);
        let (value, error) = distance(&few, &few)?;
        assert!(value.abs() < 1e-9 && error.is_none(), "{value}");
        Ok(())
    }
}
