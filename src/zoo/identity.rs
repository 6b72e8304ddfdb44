//! The identity network: says whether two faces are one person, whatever the smile, glasses, yaw, light and background.
//!
//! It learns from pairs: of each person in a batch two pictures, and each picture must find the other one of its person among all
//! others (the softmax over scaled cosines of "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", Sohn,
//! NeurIPS 2016). It never sees a person of the held-out split.

use candle_core::{D, Result, Tensor};

use super::drawing::Split;
use super::judge::{FEATURES, Trunk, linear};
use super::pool::Pool;
use super::source::{Label, Source};
use super::supervised::Task;
use crate::ops;
use crate::params::Params;
use crate::random::Stream;

/// Length of an embedding.
pub const EMBEDDING: usize = 64;

/// Cosines are divided by this in front of the softmax.
const TEMPERATURE: f64 = 0.08;

/// The network.
pub struct Identity {
    trunk: Trunk,
    embedding: (Tensor, Tensor),
}

impl Identity {
    pub fn new(p: &Params) -> Result<Self> {
        Ok(Identity { trunk: Trunk::new(p)?, embedding: linear(p, "embedding", FEATURES, EMBEDDING, 1.0)? })
    }

    /// Pictures `[n, 3, 64, 64]` in [-1, 1] to embeddings `[n, 64]` of length 1; the cosine of two says how likely they are one person.
    pub fn embed(&self, images: &Tensor) -> Result<Tensor> {
        let x = ops::linear(&self.trunk.features(images)?, &self.embedding.0, Some(&self.embedding.1))?;
        x.broadcast_div(&(x.sqr()?.sum_keepdim(D::Minus1)? + 1e-12)?.sqrt()?)
    }
}

impl Task for Identity {
    fn build(p: &Params) -> Result<Self> {
        Identity::new(p)
    }

    /// Items 2 k and 2 k + 1 are two pictures of one person.
    fn pick(pool: &Pool, stream: &Stream, item: u64) -> usize {
        let first = pool.pick(stream, item & !1);
        if item.is_multiple_of(2) { first } else { pool.mate(first, stream, item) }
    }

    fn loss(&self, images: &Tensor, labels: &[&Label], _step: u64) -> Result<Tensor> {
        let x = self.embed(images)?;
        let n = labels.len();
        // A picture is not compared with itself, nor with a third one of its person.
        let mut out = vec![0f32; n * n];
        let mut wanted = vec![0f32; n * n];
        for i in 0..n {
            for j in 0..n {
                let partner = j == i ^ 1;
                wanted[i * n + j] = f32::from(partner);
                out[i * n + j] = if !partner && labels[i].class == labels[j].class { -1e4 } else { 0.0 };
            }
        }
        let place = |v: Vec<f32>| Tensor::from_vec(v, (n, n), images.device());
        let scores = ((x.matmul(&x.t()?)? / TEMPERATURE)? + place(out)?)?;
        let off = scores.broadcast_sub(&scores.max_keepdim(1)?.detach())?;
        let log_p = off.broadcast_sub(&off.exp()?.sum_keepdim(1)?.log()?)?;
        (log_p * place(wanted)?)?.sum_all()? * (-1.0 / n as f64)
    }
}

/// How well persons are told apart.
pub struct Ranking {
    /// Pairs of two pictures of one person.
    pub pairs: usize,
    /// Share of the pairs in which the second picture comes first among 100, the others being of 99 pictures of other persons.
    pub first_of_100: f64,
    /// Mean cosine of two pictures of one person, and of two persons.
    pub same: f64,
    pub other: f64,
}

/// Measures [`Ranking`] on the first `pictures` held-out faces without accessories: each is paired with the next one of its person, up
/// to `most` pairs.
///
/// Errors: fewer than 200 pictures.
pub fn rank(network: &Identity, source: &Source, pictures: usize, most: usize, device: &candle_core::Device) -> Result<Ranking> {
    const GALLERY: usize = 100;
    if pictures < 2 * GALLERY {
        candle_core::bail!("{pictures} pictures are too few to look for one among {GALLERY}")
    }
    let pool = source.draw_all(Split::HeldOut, &source.plain_held_out(0, pictures));
    let mut embeddings: Vec<Vec<f32>> = Vec::with_capacity(pool.len());
    for chunk in pool.chunks(128) {
        let images = super::drawing::tensor(chunk.iter().map(|p| p.rgb.as_slice()), 64, device)?;
        embeddings.extend(network.embed(&images)?.to_vec2::<f32>()?);
    }
    let cosine = |a: usize, b: usize| embeddings[a].iter().zip(&embeddings[b]).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    let stream = Stream::new(2023, "zoo/identity-gallery");
    let (mut first, mut same, mut other, mut count) = (0usize, 0.0, 0.0, 0usize);
    for query in 0..pool.len() {
        let person = pool[query].label.class;
        let Some(mate) = (query + 1..pool.len()).find(|&i| pool[i].label.class == person) else { continue };
        if count == most {
            break;
        }
        let target = cosine(query, mate);
        let (mut beaten, mut others, mut item) = (true, 0, 0u64);
        while others < GALLERY - 1 {
            let rival = stream.below((query as u64) << 16 | item, pool.len() as u64) as usize;
            item += 1;
            if pool[rival].label.class == person {
                continue;
            }
            let rival = cosine(query, rival);
            beaten &= rival < target;
            other += rival / (GALLERY - 1) as f64;
            others += 1;
        }
        first += usize::from(beaten);
        same += target;
        count += 1;
    }
    let n = count.max(1) as f64;
    Ok(Ranking { pairs: count, first_of_100: first as f64 / n, same: same / n, other: other / n })
}
