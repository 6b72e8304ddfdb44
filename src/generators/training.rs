//! Generators that are left in training mode. The released scripts never call `eval()`: their StyleGANv2 mixes styles and lets its mean
//! w drift, their BigGAN takes a power iteration in every pass (E_align_s1.py with stylegan2_generator.py and biggan_generator.py).

use candle_core::{Result, Tensor};

use super::Tensors;
use crate::random::Stream;

/// Share of the passes in which StyleGANv2 mixes styles.
const CHANCE: f64 = 0.9;

/// The second style of a pass.
pub struct Mixing {
    /// Another z, [n, z_dim].
    pub z: Tensor,
    /// The rows before this one come from that z; None: no mixing in this pass.
    pub cutoff: Option<usize>,
}

impl Mixing {
    /// Of a pass over a generator with `rows` rows of w: with a chance of 0.9 the first 1 to `rows` - 1 rows are replaced.
    pub fn draw(stream: &Stream, pass: u64, rows: usize, z: Tensor) -> Self {
        let wanted = (stream.below(2 * pass, 1 << 32) as f64) < CHANCE * (1u64 << 32) as f64;
        let cutoff = (wanted && rows > 1).then(|| 1 + stream.below(2 * pass + 1, rows as u64 - 1) as usize);
        Mixing { z, cutoff }
    }
}

/// A generator in training mode. What drifts is kept inside the generator, so that a checkpoint must carry [`TrainingMode::state`].
pub trait TrainingMode {
    /// z to the truncated latent, as [`super::Generator::map`] and [`super::Generator::truncate`] in turn.
    fn latent(&self, z: &Tensor, classes: Option<&Tensor>, mixing: &Mixing, psi: f64, layers: usize) -> Result<Tensor>;

    /// A synthesis is about to begin.
    fn begin_pass(&self) -> Result<()>;

    /// What has drifted, by name.
    fn state(&self) -> Result<Tensors>;

    /// Goes on from a state.
    ///
    /// Errors: a state of another network.
    fn restore(&self, state: &Tensors) -> Result<()>;
}
