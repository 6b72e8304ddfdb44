//! The stage "sample": the evaluation images, drawn once and the same for every arm and seed.
//!
//! Synthesized images are G(w), w from held-out z, truncated as the recipe's paper says (psi on the first half of the rows; BigGAN: z
//! itself), with noise and, where the generator has any, class fixed by image id. Both sets are kept as 8-bit pictures: those, and nothing finer, are what every method gets to see.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::{ImageSet, SampleSpec, StageContext, open};
use crate::generators::{Generator, Synthesis, draw_classes, draw_noise};
use crate::images::Rgb8;
use crate::random::Stream;
use crate::record::ImageInfo;
use crate::{Error, Result};

/// Images per forward pass of the generator; the result does not depend on it.
const BATCH: usize = 16;

/// Truncation of the evaluation images: w of the first half of the rows is pulled to the mean w by this factor (Section V; released
/// code), whatever an arm trains with.
const PSI: f64 = 0.7;

/// How the ids of synthesized images begin.
const SYNTHESIZED: &str = "synth";

pub fn run(spec: &SampleSpec, context: &mut StageContext) -> Result<()> {
    let generator = open::generator(&spec.networks.generator, context.device)?;
    let total = spec.sets.iter().map(|s| s.images as u64).sum();
    let bar = context.progress.bar(total, "evaluation images");
    let (mut infos, mut pixels) = (Vec::new(), BTreeMap::new());
    for set in &spec.sets {
        for Drawn { info, image } in draw(set, spec.seed, generator.as_ref(), context.device)? {
            pixels.insert(format!("{}/{}", info.set, info.id), to_tensor(&image)?);
            infos.push(info);
        }
        bar.advance(set.images as u64, &set.set);
    }
    bar.finish();
    context.work.put_json("images.json", &infos)?;
    context.work.put_tensors("images.safetensors", &pixels)
}

/// An evaluation image.
pub struct Drawn {
    pub info: ImageInfo,
    pub image: Rgb8,
}

impl Drawn {
    fn new(set: &ImageSet, id: String, image: Rgb8, unseen: Vec<String>) -> Self {
        Drawn { info: ImageInfo { set: set.set.clone(), id, sha256: image.sha256(), unseen }, image }
    }
}

/// The images of a set, in the order of their ids.
pub fn draw(set: &ImageSet, seed: u64, generator: &dyn Generator, device: &Device) -> Result<Vec<Drawn>> {
    if let Some(source) = &set.source {
        let pictures = open::real_pictures(source, 0, set.images, generator.layout().resolution)?;
        return Ok(pictures.into_iter().map(|p| Drawn::new(set, p.id, p.image, p.unseen)).collect());
    }
    let mut out = Vec::with_capacity(set.images);
    let ids: Vec<u64> = (0..set.images as u64).collect();
    for ids in ids.chunks(BATCH) {
        out.extend(draw_some(set, ids, seed, generator, device)?);
    }
    Ok(out)
}

/// The generator's images of these numbers in a synthesized set.
pub fn draw_some(set: &ImageSet, ids: &[u64], seed: u64, generator: &dyn Generator, device: &Device) -> Result<Vec<Drawn>> {
    let images = Rgb8::from_batch(&synthesized(generator, &set.set, seed, ids, device)?)?;
    Ok(ids.iter().zip(images).map(|(id, image)| Drawn::new(set, format!("{SYNTHESIZED}{id:05}"), image, Vec::new())).collect())
}

/// The first number in an image's id; it chooses the noise of generator and encoder at evaluation.
pub fn number(id: &str) -> Result<u64> {
    let digits: String = id.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().map_err(|_| Error::internal(format!("the image id \"{id}\" has no number")))
}

/// Whether the generator itself made the image of this id.
pub fn is_synthesized(id: &str) -> bool {
    id.starts_with(SYNTHESIZED)
}

/// The generator's noise at evaluation, fixed by set and image number: target and reconstruction share it.
pub fn evaluation_noise(generator: &dyn Generator, set: &str, seed: u64, ids: &[u64], device: &Device) -> Result<Vec<Tensor>> {
    Ok(draw_noise(&generator.layout().noise, &Stream::new(seed, &format!("evaluate/{set}/noise of G")), ids, device)?)
}

/// What synthesized images are made from.
pub struct Origin {
    pub z: Tensor,
    /// Class ids [n] of a conditional generator.
    pub classes: Option<Tensor>,
}

/// What the held-out synthesized images of these numbers are made from.
pub fn origin(generator: &dyn Generator, seed: u64, ids: &[u64], device: &Device) -> Result<Origin> {
    let z = generator.draw_z(&Stream::new(seed, "evaluate/z"), ids, device)?;
    Ok(Origin { z, classes: draw_classes(generator.layout(), &Stream::new(seed, "evaluate/class"), ids, device)? })
}

/// The origin of images of one set, for a conditional generator; None for the others, which need none.
///
/// Errors: pictures that no generator made, so that nobody knows their class.
pub fn conditional_origin(generator: &dyn Generator, infos: &[&ImageInfo], seed: u64, device: &Device) -> Result<Option<Origin>> {
    if generator.layout().classes == 0 {
        return Ok(None);
    }
    if let Some(info) = infos.iter().find(|i| !is_synthesized(&i.id)) {
        return Err(Error::usage(format!("the image \"{}\" has no known class, which a conditional generator needs", info.id)));
    }
    let ids = infos.iter().map(|i| number(&i.id)).collect::<Result<Vec<_>>>()?;
    origin(generator, seed, &ids, device).map(Some)
}

/// What the generator made them from: rows of w [n, rows, w_dim], or its flat latent.
pub fn synthesized_latents(generator: &dyn Generator, seed: u64, ids: &[u64], device: &Device) -> Result<Tensor> {
    let Origin { z, classes } = origin(generator, seed, ids, device)?;
    Ok(generator.truncate(&generator.map(&z, classes.as_ref())?, PSI, generator.layout().rows / 2, None)?)
}

/// Held-out images [n, 3, r, r] of the generator, nominally in [-1, 1]; `set` chooses their noise.
pub fn synthesized(generator: &dyn Generator, set: &str, seed: u64, ids: &[u64], device: &Device) -> Result<Tensor> {
    let latent = synthesized_latents(generator, seed, ids, device)?;
    let noise = evaluation_noise(generator, set, seed, ids, device)?;
    Ok(generator.synthesize(&latent, &Synthesis { noise: Some(&noise), ..Default::default() })?)
}

/// A picture as a u8 tensor [height, width, 3].
pub fn to_tensor(image: &Rgb8) -> Result<Tensor> {
    Ok(Tensor::from_slice(image.data(), (image.height(), image.width(), 3), &Device::Cpu)?)
}

/// The picture of [`to_tensor`].
pub fn from_tensor(tensor: &Tensor) -> Result<Rgb8> {
    let (height, width, _) = tensor.dims3()?;
    Rgb8::new(width, height, tensor.to_dtype(DType::U8)?.flatten_all()?.to_vec1()?)
}
