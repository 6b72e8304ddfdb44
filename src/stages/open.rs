//! Networks and evaluation images by the name of their card.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::generators::{self, Family, Generator, Target, biggan, draw_classes, pggan, stylegan1, stylegan2};
use crate::images::{Filter, Pictures, Rgb8, Shape, fit};
use crate::inverters::alae;
use crate::inverters::baseline::Baseline;
use crate::params::Params;
use crate::perceptual::lpips::Lpips;
use crate::perceptual::vgg16::{self, Vgg16};
use crate::random::Stream;
use crate::record::store::sha256_hex;
use crate::spec::card::{Card, Source};
use crate::spec::files;
use crate::weights::access::Located;
use crate::weights::{Access, Checkpoint, Options, read_bytes};
use crate::zoo::drawing;
use crate::zoo::judge::Judge;
use crate::zoo::source;
use crate::{Error, Result};

/// How many z the mean w is taken over where a checkpoint does not carry it.
const CENTRE_SAMPLES: u64 = 4096;

/// Power iterations that make the spectral norms of fresh weights.
const SPECTRAL_PASSES: usize = 20;

/// The frozen generator of a card.
///
/// Errors: the file is missing, not what the card says, or no generator.
pub fn generator(name: &str, device: &Device) -> Result<Box<dyn Generator>> {
    let card = Card::load(name)?;
    let target = Target::new(DType::F32, device, &format!("baselines/{name}"));
    match &card.source {
        Source::Seeded(source) => seeded(&card, source.seed, &target),
        _ if card.network.as_ref().is_some_and(|n| n.family == Baseline::Alae.family()) => {
            Ok(Box::new(alae::open(tensors(&card)?, &target)?.generator))
        }
        _ => generators::open(tensors(&card)?, &target),
    }
}

/// Initial weights: for tests of the machinery and for costs, never for a result.
pub(crate) fn seeded(card: &Card, seed: u64, target: &Target) -> Result<Box<dyn Generator>> {
    let network = card.network()?;
    let family = Family::ALL.into_iter().find(|f| f.name() == network.family);
    let needs = |keys: &str| Error::usage(format!("baselines/{}.toml: a seeded {} needs {keys}", card.name, network.family));
    let fresh = Params::fresh(seed, DType::F32, &target.device);
    let frozen = || Ok::<_, Error>(Params::frozen(fresh.snapshot()?, DType::F32, &target.device, &target.origin));
    let mapping_layers = network.mapping_layers.unwrap_or(8);
    match (family, card.resolution, network.latent, network.fmaps_base, network.fmaps_max) {
        (Some(Family::StyleGan1), Some(resolution), Some(latent), Some(fmaps_base), Some(fmaps_max)) => {
            let (z_dim, w_dim, mapping_fmaps) = (latent, latent, latent);
            let paper = stylegan1::Config::paper(resolution);
            let config = stylegan1::Config { z_dim, w_dim, fmaps_base, fmaps_max, mapping_layers, mapping_fmaps, ..paper };
            stylegan1::StyleGan1::new(&config, &fresh)?;
            let net = stylegan1::StyleGan1::new(&config, &frozen()?)?;
            let centre = mean_w(&net, &target.device)?;
            Ok(Box::new(net.with_centre(centre)))
        }
        (Some(Family::StyleGan2), Some(resolution), Some(latent), Some(fmaps_base), Some(fmaps_max)) => {
            let (z_dim, w_dim, mapping_fmaps) = (latent, latent, latent);
            let paper = stylegan2::Config::paper(resolution);
            let label_size = network.classes.unwrap_or(0);
            let config = stylegan2::Config { z_dim, w_dim, label_size, fmaps_base, fmaps_max, mapping_layers, mapping_fmaps, ..paper };
            stylegan2::StyleGan2::new(&config, &fresh)?;
            let net = stylegan2::StyleGan2::new(&config, &frozen()?)?;
            let centre = mean_w(&net, &target.device)?;
            Ok(Box::new(net.with_centre(centre)))
        }
        (Some(Family::Pggan), Some(resolution), Some(z_dim), Some(fmaps_base), Some(fmaps_max)) => {
            let config = pggan::Config { z_dim, fmaps_base, fmaps_max, ..pggan::Config::paper(resolution) };
            pggan::Pggan::new(&config, &fresh)?;
            Ok(Box::new(pggan::Pggan::new(&config, &frozen()?)?))
        }
        (Some(Family::BigGan), Some(resolution), Some(latent), ..) if !network.widths.is_empty() && network.classes.is_some() => {
            let config = biggan::Config::of_channels(&network.widths, latent, network.classes.unwrap_or(0))?;
            if config.output_dim != resolution {
                return Err(needs(&format!("two widths more than {} for {resolution} px", network.widths.len())));
            }
            let net = biggan::BigGan::new(&config, biggan::Truncation::PAPER, &fresh)?;
            // Random singular vectors would make sigma, by which every weight is divided, any small number.
            (0..SPECTRAL_PASSES).try_for_each(|_| net.power_iteration())?;
            Ok(Box::new(biggan::BigGan::new(&config, biggan::Truncation::PAPER, &frozen()?)?))
        }
        (Some(Family::BigGan), ..) => Err(needs("resolution, latent, classes and the widths from 4 px on")),
        (Some(_), ..) => Err(needs("resolution, latent, fmaps_base and fmaps_max")),
        (None, ..) => Err(Error::usage(format!("baselines/{}.toml: there is no generator family \"{}\"", card.name, network.family))),
    }
}

/// The mean of w over [`CENTRE_SAMPLES`] z, of all classes where there are any: [1, w_dim].
fn mean_w(generator: &dyn Generator, device: &Device) -> Result<Tensor> {
    let (ids, layout): (Vec<u64>, _) = ((0..CENTRE_SAMPLES).collect(), generator.layout());
    let z = Stream::new(0, "centre").normal_rows(&ids, &[layout.z_dim], device)?;
    let classes = draw_classes(layout, &Stream::new(0, "centre-class"), &ids, device)?;
    Ok(generator.map(&z, classes.as_ref())?.narrow(1, 0, 1)?.squeeze(1)?.mean_keepdim(0)?)
}

/// The frozen VGG16 of a card, of any width.
///
/// Errors: as [`generator`].
pub fn vgg16(name: &str, device: &Device) -> Result<Vgg16> {
    let card = Card::load(name)?;
    let origin = format!("baselines/{name}");
    if let Source::Seeded(seeded) = &card.source {
        let network = card.network()?;
        let widths: [usize; 5] = network
            .widths
            .as_slice()
            .try_into()
            .map_err(|_| Error::usage(format!("baselines/{name}.toml: a seeded vgg16 needs five widths")))?;
        let config = vgg16::Config::vgg16(widths, 1, &[network.classes.unwrap_or(2)]);
        let fresh = Params::fresh(seeded.seed, DType::F32, device);
        Vgg16::new(&config, &fresh)?;
        let frozen = Params::frozen(fresh.snapshot()?, DType::F32, device, &origin);
        return Ok(Vgg16::new(&config, &frozen)?);
    }
    let params = Params::frozen(tensors(&card)?, DType::F32, device, &origin);
    let build = || -> candle_core::Result<Vgg16> {
        let net = Vgg16::new(&vgg16::Config::read(&params)?, &params)?;
        params.finish()?;
        Ok(net)
    };
    build().map_err(|e| Error::corrupt(Error::from(e).message))
}

/// The verified tensors of a card's file.
///
/// Errors: the file is not on this machine (kind `Missing`), or its bytes are not those of the card (kind `Corrupt`).
pub fn tensors(card: &Card) -> Result<BTreeMap<String, Tensor>> {
    let Checkpoint { tensors, .. } = match &card.source {
        Source::Embedded(embedded) => {
            let path = format!("baselines/{}", embedded.file);
            let Some(bytes) = files::read(&path)? else {
                return Err(Error::missing(format!("{path}: the card {} names this file, but it is not there", card.name)));
            };
            verify(card, &path, &bytes)?;
            let checkpoint = read_bytes(&bytes, Options::default()).map_err(|e| e.at(&path))?;
            checkpoint.require_finite().map_err(|e| e.at(&path))?;
            checkpoint
        }
        // In the user's folder or the hub's cache: found, verified and finite, or said to be missing with where to get it.
        _ => return Ok(Access::current().open(card)?.generator()),
    };
    Ok(tensors)
}

fn verify(card: &Card, path: &str, bytes: &[u8]) -> Result<()> {
    let found = sha256_hex(bytes);
    match &card.sha256 {
        Some(wanted) if *wanted != found => Err(Error::corrupt(format!(
            "{path}: its SHA-256 is {found}, the card {} says {wanted}: the file is damaged or another one; restore it or correct the card",
            card.name
        ))),
        _ => Ok(()),
    }
}

/// A held-out picture with what it wears that no generator has seen.
pub struct RealPicture {
    pub id: String,
    pub image: Rgb8,
    pub unseen: Vec<String>,
}

/// `count` held-out pictures of a data set card from number `first` on, at `side` pixels: drawn, or read from the folder or archive that the user has put
/// where the card's file belongs (of CelebAMask-HQ the photographs, not the masks).
///
/// Errors: the data set is not on this machine, has too few pictures, or one is not square or too small.
pub fn real_pictures(name: &str, first: usize, count: usize, side: usize) -> Result<Vec<RealPicture>> {
    let card = Card::load(name)?;
    let drawn = match &card.source {
        Source::Seeded(seeded) => source::Source::named(name, seeded.seed),
        _ => None,
    };
    let Some(source) = drawn else {
        let Some(Located::File(path)) = Access::current().find(&card)? else {
            return Err(Error::missing(format!(
                "the data set \"{name}\" is not on this machine: `mtv-bench weights info {name}` says how to get it"
            )));
        };
        return photographs(&path, first, count, side);
    };
    (first as u64..(first + count) as u64)
        .map(|index| {
            let picture = source.draw(drawing::Split::HeldOut, index);
            let image = Rgb8::new(drawing::SIZE, drawing::SIZE, picture.rgb)?;
            let image = if side == drawing::SIZE { image } else { crate::images::resize(&image, side, side, crate::images::Filter::Box) };
            let unseen = picture.unseen.into_iter().collect();
            Ok(RealPicture { id: format!("real{index:05}"), image, unseen })
        })
        .collect()
}

/// The folder of CelebAMask-HQ with the photographs.
const PHOTOGRAPHS: &str = "CelebA-HQ-img/";

fn photographs(path: &Path, first: usize, count: usize, side: usize) -> Result<Vec<RealPicture>> {
    let set = Pictures::open(path)?;
    let apart = set.list().iter().any(|p| p.id.contains(PHOTOGRAPHS));
    let chosen: Vec<_> = set.list().iter().filter(|p| !apart || p.id.contains(PHOTOGRAPHS)).skip(first).take(count).collect();
    if chosen.len() < count {
        return Err(Error::missing(format!("{}: {} pictures, {} are needed", path.display(), first + chosen.len(), first + count)));
    }
    let one = |(index, picture): (usize, &&crate::images::Picture)| {
        let image = fit(&set.read(picture)?, side, Filter::Bilinear, Shape::Square, false).map_err(|e| e.at(set.place(picture)))?;
        let stem = picture.id.rsplit('/').next().unwrap_or(&picture.id);
        Ok(RealPicture { id: format!("real{index:05}-{stem}"), image, unseen: vec![] })
    };
    (first..).zip(&chosen).map(one).collect()
}

/// The network of a card that reads the factors of a procedural source.
///
/// Errors: as [`generator`].
pub fn judge(name: &str, device: &Device) -> Result<Judge> {
    let card = Card::load(name)?;
    let classes = card.network()?.classes.is_some();
    let params = Params::frozen(tensors(&card)?, DType::F32, device, &format!("baselines/{name}"));
    let build = || -> candle_core::Result<Judge> {
        let net = if classes { Judge::of_objects(&params)? } else { Judge::of_faces(&params)? };
        params.finish()?;
        Ok(net)
    };
    build().map_err(|e| Error::corrupt(Error::from(e).message))
}

/// The VGG16 and the heads of an LPIPS card. A narrow network of the mini zoo has no learned heads: uniform ones.
///
/// Errors: as [`generator`].
pub fn lpips(name: &str, device: &Device) -> Result<(Vgg16, Lpips)> {
    let card = Card::load(name)?;
    if matches!(card.network()?.family.as_str(), "vgg16") {
        return Ok((vgg16(name, device)?, Lpips::uniform()));
    }
    // "lpips_vgg16": the heads, on top of the ImageNet network.
    let vgg = vgg16("vgg16", device)?;
    let params = Params::frozen(tensors(&card)?, DType::F32, device, &format!("baselines/{name}"));
    let heads = Lpips::new(&vgg, &params).map_err(|e| Error::corrupt(Error::from(e).message))?;
    Ok((vgg, heads))
}
