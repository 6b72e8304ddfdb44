//! The networks behind LPIPS, FID and KID, opened by their cards, and the distances of whole sets.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::Args;
use crate::images::Pictures;
use crate::metrics::Metric;
use crate::metrics::sets::{self, Features, SetMetric};
use crate::params::Params;
use crate::perceptual::inception::Inception;
use crate::perceptual::lpips::Lpips;
use crate::perceptual::vgg16::{self, Vgg16};
use crate::record::store::sha256_hex;
use crate::spec::Card;
use crate::stages::progress::Progress;
use crate::{Error, Result};

/// The tensors of a card's file, and a hash that identifies them.
fn weights(card: &str) -> Result<(BTreeMap<String, Tensor>, String)> {
    let checkpoint = crate::weights::access::Access::current().open(&Card::load(card)?)?;
    let mut text = String::new();
    for (name, tensor) in &checkpoint.tensors {
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        text += &format!("{name} {} ", sha256_hex(&bytes));
    }
    Ok((checkpoint.tensors, sha256_hex(text.as_bytes())))
}

/// Gives the metrics that need a network their network; returns the hash of all weights.
pub(super) fn attach(metrics: &mut [Metric], mini: &str) -> Result<String> {
    let mut hashes = Vec::new();
    for metric in metrics.iter_mut().filter(|m| m.needs_network()) {
        let learned = metric.info.name == "lpips-vgg-v0.1";
        let (mut tensors, hash) = weights(if learned { "vgg16" } else { mini })?;
        hashes.push(hash);
        // The classifier is not needed, and its names differ between publishers.
        tensors.retain(|name, _| name.starts_with("features."));
        let p = Params::frozen(tensors, DType::F32, &Device::Cpu, if learned { "vgg16" } else { mini });
        let vgg = Vgg16::new(&vgg16::Config::read(&p)?, &p)?;
        let lpips = if learned {
            let (heads, hash) = weights("lpips_vgg16")?;
            hashes.push(hash);
            Lpips::new(&vgg, &Params::frozen(heads, DType::F32, &Device::Cpu, "lpips_vgg16"))?
        } else {
            Lpips::uniform()
        };
        let network = move |a: &Tensor, b: &Tensor| lpips.distance(&vgg, a, b)?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>();
        *metric = metric.clone().with_network(Arc::new(network), &Device::Cpu);
    }
    Ok(hashes.join(" "))
}

/// One distance of the two whole sets.
pub(super) struct SetDistance {
    pub name: String,
    pub value: f64,
    pub counts: [usize; 2],
    pub reused: bool,
    pub warning: Option<String>,
    /// Pictures that could not be read.
    pub failed: Vec<(String, Error)>,
}

pub(super) fn set_distances(args: &Args, wanted: &[SetMetric], progress: &Progress) -> Result<Vec<SetDistance>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let (Some(a), Some(b)) = (&args.a, &args.b) else {
        return Err(Error::usage(format!("{} compares two whole sets: give two folders or archives, not --pairs", wanted[0].name())));
    };
    let (tensors, hash) = weights("inception_fid")?;
    let p = Params::frozen(tensors, DType::F32, &Device::Cpu, "inception_fid");
    let net = Inception::new(&p)?;
    p.finish()?;
    let scratch = tempfile::tempdir().map_err(|e| Error::resource(format!("a temporary folder: {e}")))?;
    let folder = if args.no_cache { scratch.path().to_path_buf() } else { args.cache.join("features") };
    let sets = [Pictures::open(a)?, Pictures::open(b)?];
    let mut found: Vec<SetDistance> = Vec::new();
    let mut features: Vec<(&str, [Features; 2])> = Vec::new();
    for metric in wanted {
        let way = metric.way.name();
        if !features.iter().any(|(name, _)| *name == way) {
            let bar = progress.bar(sets.iter().map(|s| s.list().len() as u64).sum(), &format!("features, {way}"));
            let of = |set: &Pictures| sets::features(set, metric.way, &net, &hash, Path::new(&folder), || bar.advance(1, ""));
            let both = [of(&sets[0])?, of(&sets[1])?];
            bar.finish();
            features.push((way, both));
        }
        let Some((_, [x, y])) = features.iter().find(|(name, _)| *name == way) else { continue };
        let failed = |f: &Features| f.failed.iter().map(|(id, e)| (id.clone(), Error::new(e.kind, e.message.clone()))).collect::<Vec<_>>();
        found.push(SetDistance {
            name: metric.name(),
            value: sets::distance(*metric, x, y)?,
            counts: [x.count, y.count],
            reused: x.reused && y.reused,
            warning: metric.warning(x.count.min(y.count), x.width),
            failed: failed(x).into_iter().chain(failed(y)).collect(),
        });
    }
    Ok(found)
}
