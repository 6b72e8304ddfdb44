//! Random numbers by name: `(seed, stream, index)` always gives the same values, whatever the batch split, the thread
//! count, the device or the order of calls. candle's CPU generator can't be seeded, so nothing here uses it.
//!
//! A stream is a ChaCha8 generator (a counter-based cipher) whose key is SHA-256 of seed and stream name and whose nonce
//! is the index: one index is one independent item, such as one image's latent or one image's noise map.

use candle_core::{Device, Result, Shape, Tensor};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use sha2::{Digest, Sha256};

/// A named stream of random items.
#[derive(Clone)]
pub struct Stream {
    key: [u8; 32],
}

impl Stream {
    /// The stream called `name` of the run with this seed, for example `Stream::new(7, "z")`.
    pub fn new(seed: u64, name: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(seed.to_le_bytes());
        hash.update(name.as_bytes());
        Stream { key: hash.finalize().into() }
    }

    /// The generator of item `index`.
    pub fn at(&self, index: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::from_seed(self.key);
        rng.set_stream(index);
        rng
    }

    /// Fills `out` with the standard normal values of item `index`.
    pub fn fill_normal(&self, index: u64, out: &mut [f32]) {
        let mut rng = self.at(index);
        for v in out {
            *v = rng.sample(StandardNormal);
        }
    }

    /// A tensor of `items.len()` rows, row i being the standard normal item `items[i]` of shape `row`:
    /// `[items.len(), row...]`, f32.
    pub fn normal_rows(&self, items: &[u64], row: &[usize], device: &Device) -> Result<Tensor> {
        let n: usize = row.iter().product();
        let mut data = vec![0f32; n * items.len()];
        for (chunk, &item) in data.chunks_mut(n.max(1)).zip(items) {
            self.fill_normal(item, chunk);
        }
        let mut shape = vec![items.len()];
        shape.extend_from_slice(row);
        Tensor::from_vec(data, shape, device)
    }

    /// One standard normal tensor of `shape`, item 0 of the stream.
    pub fn normal(&self, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        let mut data = vec![0f32; shape.elem_count()];
        self.fill_normal(0, &mut data);
        Tensor::from_vec(data, shape, device)
    }

    /// A whole number below `bound` (which must not be 0) for item `index`.
    pub fn below(&self, index: u64, bound: u64) -> u64 {
        self.at(index).next_u64() % bound
    }
}
