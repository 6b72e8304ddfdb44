//! The discriminator of the mini BigGAN-deep: spectrally normalised residual blocks, self-attention and the projection of the class
//! ("cGANs with Projection Discriminator", Miyato and Koyama, ICLR 2018): `D(x, y) = w . h(x) + b + embed(y) . h(x)`.
//!
//! After Brock et al., ICLR 2019, appendix B.2, with one block per resolution instead of two, the attention at 16 px, where it costs next
//! to nothing, and the generator's channels at each resolution.

use candle_core::{Result, Tensor};

use crate::generators::self_attention::Attention;
use crate::generators::spectral::{Conv, Scheme, Spectral};
use crate::ops;
use crate::params::{Init, Params};

/// Norms below this are not divided by, as in the generator.
const SCHEME: Scheme = Scheme { eps: 1e-4, orthogonal: true };
/// The attention stands before the block that starts from this resolution.
const ATTENTION_AT: usize = 16;
/// The inner channels of a block are its outputs divided by this.
const BOTTLENECK: usize = 4;

/// relu, 1x1, relu, 3x3, relu, 3x3, relu, average pool, 1x1; beside it the pooled input, with further channels by a 1x1 convolution
/// where there are more after the block than before it.
struct Block {
    down: bool,
    convs: [Conv; 4],
    skip: Option<Conv>,
}

impl Block {
    fn new(p: &Params, inputs: usize, outputs: usize, down: bool) -> Result<Self> {
        let middle = (outputs / BOTTLENECK).max(1);
        let conv = |i: usize, from: usize, to: usize, side: usize| Conv::new(&p.pp(format!("conv_{i}")), from, to, side, SCHEME);
        Ok(Block {
            down,
            convs: [conv(0, inputs, middle, 1)?, conv(1, middle, middle, 3)?, conv(2, middle, middle, 3)?, conv(3, middle, outputs, 1)?],
            skip: match outputs.checked_sub(inputs) {
                None => candle_core::bail!("a block of D from {inputs} to {outputs} channels"),
                Some(0) => None,
                Some(more) => Some(Conv::new(&p.pp("skip"), inputs, more, 1, SCHEME)?),
            },
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let pool = |x: &Tensor| if self.down { ops::avg_pool2(x) } else { Ok(x.clone()) };
        let [first, second, third, last] = &self.convs;
        let y = first.forward(&ops::relu(x)?)?;
        let y = second.forward(&ops::relu(&y)?)?;
        let y = third.forward(&ops::relu(&y)?)?;
        let y = last.forward(&pool(&ops::relu(&y)?)?)?;
        let x = pool(x)?;
        let x = match &self.skip {
            Some(skip) => Tensor::cat(&[&x, &skip.forward(&x)?], 1)?,
            None => x,
        };
        ops::mix(&y, 1.0, &x, 1.0)
    }

    fn spectral(&self) -> impl Iterator<Item = &Spectral> {
        self.convs.iter().chain(&self.skip).map(|conv| &conv.kernel)
    }
}

/// The network.
pub struct Discriminator {
    stem: Conv,
    /// From the largest resolution down to 8 px, and one at 4 px.
    blocks: Vec<Block>,
    /// Before the block of this place.
    attention: (usize, Attention),
    score: Spectral,
    score_bias: Tensor,
    /// [channels, classes]
    embedding: Spectral,
}

impl Discriminator {
    /// `channels`: (resolution, channels) from 4 px up.
    ///
    /// Errors: fewer than two resolutions, or channels that grow with the resolution.
    pub fn new(channels: &[(usize, usize)], classes: usize, p: &Params) -> Result<Self> {
        let (Some(&(_, narrow)), Some(&(_, wide))) = (channels.last(), channels.first()) else {
            candle_core::bail!("a discriminator needs a resolution")
        };
        let mut blocks = Vec::new();
        let mut attention = (0, narrow);
        for pair in channels.windows(2).rev() {
            let ((_, to), (resolution, from)) = (pair[0], pair[1]);
            if resolution >= ATTENTION_AT {
                attention = (blocks.len(), from);
            }
            blocks.push(Block::new(&p.pp("blocks").pp(blocks.len()), from, to, true)?);
        }
        blocks.push(Block::new(&p.pp("blocks").pp(blocks.len()), wide, wide, false)?);
        Ok(Discriminator {
            stem: Conv::new(&p.pp("stem"), 3, narrow, 3, SCHEME)?,
            blocks,
            attention: (attention.0, Attention::new(&p.pp("attention"), attention.1, SCHEME)?),
            score: Spectral::new(&p.pp("score"), &[1, wide], SCHEME)?,
            score_bias: p.get("score.bias", 1, Init::Const(0.0))?,
            embedding: Spectral::new(&p.pp("embedding"), &[wide, classes], SCHEME)?,
        })
    }

    /// The scores [n, 1] of images [n, 3, r, r] of the classes whose rows [n, classes] these are.
    pub fn scores(&self, images: &Tensor, classes: &Tensor) -> Result<Tensor> {
        let mut x = self.stem.forward(images)?;
        for (i, block) in self.blocks.iter().enumerate() {
            if i == self.attention.0 {
                x = self.attention.1.forward(&x)?;
            }
            x = block.forward(&x)?;
        }
        let h = ops::relu(&x)?.flatten_from(2)?.sum(2)?;
        let of_class = (ops::linear(classes, &self.embedding.weight()?, None)? * &h)?.sum_keepdim(1)?;
        ops::linear(&h, &self.score.weight()?, Some(&self.score_bias))? + of_class
    }

    fn spectral(&self) -> impl Iterator<Item = &Spectral> {
        let of_attention = self.attention.1.spectral().into_iter().map(|(_, s)| s);
        let ends = [&self.stem.kernel, &self.score, &self.embedding];
        self.blocks.iter().flat_map(Block::spectral).chain(of_attention).chain(ends)
    }

    /// One power iteration of every spectral norm, in place.
    pub fn power_iteration(&self) -> Result<()> {
        self.spectral().try_for_each(Spectral::power_iteration)
    }

    /// The spectral norm of every normalised weight, by the vectors as they are.
    pub fn sigmas(&self) -> Result<Vec<Tensor>> {
        self.spectral().map(Spectral::sigma).collect()
    }
}
