//! The stage "identity": is the person in a reconstruction still the one in its target? A network that tells persons apart, and that no
//! training has seen, embeds targets and reconstructions. Per image: the cosine of the two embeddings, and whether the image's own target
//! is the nearest of all candidates.
//!
//! The candidates of an image are its own target and the 99 that follow it in its set, the set's start following its end; all
//! of the set where it has no hundred. So every target is a candidate of as many images, no candidate is drawn at random, and the
//! candidates of an image are the same for every arm and seed. Another picture of the same person counts as a wrong answer.

use candle_core::{DType, Device, Tensor};

use super::evaluate::{limited, picture};
use super::reconstruct::{Inverting, Reconstructor, one_by_one};
use super::{IdentitySpec, ScoreRow, StageContext, open};
use crate::images::{Filter, Rgb8, resize};
use crate::metrics::identity::Measures;
use crate::params::Params;
use crate::perceptual::ir_se50::IrSe50;
use crate::record::ImageInfo;
use crate::spec::Card;
use crate::zoo::identity::Identity;
use crate::{Error, Result};

/// Among how many targets the image's own is looked for.
const CANDIDATES: usize = 100;

/// The data sets of faces, aligned: pictures of other things have no identity.
const FACES: [&str; 4] = ["mini/faces", "celeba_hq", "celebamask_hq", "ffhq"];

/// Whether a generator that learned from the pictures of this card makes faces.
pub fn makes_faces(data: Option<&str>) -> bool {
    data.is_some_and(|data| FACES.contains(&data))
}

pub fn run(spec: &IdentitySpec, context: &mut StageContext) -> Result<()> {
    let device = context.device;
    let generator = open::generator(&spec.networks.generator, device)?;
    let inverting = Inverting { networks: &spec.networks, method: &spec.method, seed: spec.seed };
    let reconstructor = Reconstructor::open(inverting, context.inputs.get("train"), generator.as_ref(), device)?;
    let embedder = Embedder::open(&spec.identity, device)?;
    let input = context.input("sample")?;
    let images: Vec<ImageInfo> = limited(input.json("images.json")?, spec.images);
    let pixels = input.tensors("images.safetensors", &Device::Cpu)?;
    let batch = if one_by_one(spec.method.refine()) { 1 } else { spec.batch.max(1) };
    let bar = context.progress.bar(images.len() as u64, "identity");
    let mut rows = Vec::new();
    for set in images.chunk_by(|a, b| a.set == b.set) {
        let (mut targets, mut found) = (Vec::new(), Vec::new());
        for batch in set.chunks(batch) {
            let pictures = batch.iter().map(|info| picture(&pixels, info)).collect::<Result<Vec<_>>>()?;
            let side = reconstructor.input_size();
            let inputs: Vec<Rgb8> = pictures.iter().map(|p| resize(p, side, side, Filter::Bilinear)).collect();
            let infos: Vec<&ImageInfo> = batch.iter().collect();
            found.extend(embedder.embed(&reconstructor.run(&infos, &inputs, false)?.images)?);
            targets.extend(embedder.embed(&pictures)?);
            bar.advance(batch.len() as u64, &set[0].set);
        }
        let candidates = CANDIDATES.min(set.len());
        for (i, info) in set.iter().enumerate() {
            let (cosine, first) = among(&targets, &found[i], i, candidates);
            let mut row = |metric: String, value: f64| {
                rows.push(ScoreRow { set: info.set.clone(), image: info.id.clone(), metric, value: Some(value) });
            };
            row(format!("{}@{}", embedder.measures.cosine.name, embedder.side), cosine);
            row(format!("{}@{candidates}", embedder.measures.first.name), f64::from(first));
        }
    }
    bar.finish();
    context.work.put_json("scores.json", &rows)
}

/// The cosine of reconstruction `i` and its target, and whether no other of the `candidates` targets from `i` on is as near.
fn among(targets: &[Vec<f32>], found: &[f32], i: usize, candidates: usize) -> (f64, bool) {
    let cosine = |j: usize| targets[j].iter().zip(found).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let own = cosine(i);
    (own, (1..candidates).all(|k| cosine((i + k) % targets.len()) < own))
}

/// The network with the names of what is measured by it.
struct Embedder {
    network: Network,
    measures: &'static Measures,
    /// Side of the pictures that it takes.
    side: usize,
    device: Device,
}

enum Network {
    Mini(Identity),
    IrSe50(Box<IrSe50>),
}

impl Embedder {
    fn open(name: &str, device: &Device) -> Result<Self> {
        let card = Card::load(name)?;
        let params = Params::frozen(open::tensors(&card)?, DType::F32, device, &format!("baselines/{name}"));
        let family = card.network()?.family.clone();
        let build = || -> candle_core::Result<Option<(Network, &'static Measures, usize)>> {
            let built = match family.as_str() {
                "identity" => (Network::Mini(Identity::new(&params)?), &Measures::MINI, crate::zoo::drawing::SIZE),
                // The portrait from which the face is cut.
                "ir_se50" => (Network::IrSe50(Box::new(IrSe50::new(&params)?)), &Measures::IR_SE50, crate::inverters::psp::SIDE),
                _ => return Ok(None),
            };
            params.finish()?;
            Ok(Some(built))
        };
        let built = build().map_err(|e| Error::corrupt(Error::from(e).message))?;
        let unknown = || Error::usage(format!("baselines/{name}.toml: no identity network of the family \"{family}\" is known"));
        let (network, measures, side) = built.ok_or_else(unknown)?;
        Ok(Embedder { network, measures, side, device: device.clone() })
    }

    fn embed(&self, pictures: &[Rgb8]) -> Result<Vec<Vec<f32>>> {
        let fitted: Vec<Rgb8> = pictures.iter().map(|p| resize(p, self.side, self.side, Filter::Bilinear)).collect();
        let x = Rgb8::to_batch(&fitted, &self.device)?;
        let e: Tensor = match &self.network {
            Network::Mini(net) => net.embed(&x)?,
            Network::IrSe50(net) => net.embed(&x)?,
        };
        Ok(e.to_dtype(DType::F32)?.to_vec2()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_target_must_be_nearer_than_every_other_candidate() {
        let targets = [vec![1.0, 0.0], vec![0.8, 0.6], vec![0.0, 1.0], vec![-1.0, 0.0]];
        assert_eq!(among(&targets, &[1.0, 0.0], 0, 4), (1.0, true));
        // The second target is nearer to this one than its own, the third.
        let astray = [0.6f32, 0.8];
        assert!(!among(&targets, &astray, 2, 4).1);
        // Among two, the own and the one that follows, it is found.
        assert!(among(&targets, &astray, 2, 2).1);
        // Behind the last stands the first.
        assert!(!among(&targets, &[0.1, 0.9], 3, 2).1);
        // As near as another is not nearest: what is the same for every image finds nothing.
        assert!(!among(&[vec![1.0, 0.0], vec![1.0, 0.0]], &[1.0, 0.0], 0, 2).1);
    }
}
