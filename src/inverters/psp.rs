//! pSp: Richardson et al., "Encoding in Style: a StyleGAN Encoder for Image-to-Image Translation", CVPR 2021.
//! Reference: eladrich/pixel2style2pixel, its `GradualStyleEncoder` (an IR-SE50 body of TreB1eN's ArcFace) and the StyleGANv2 of
//! rosinality/stylegan2-pytorch ([`stylegan2`]).
//!
//! Images are 256 px in [-1, 1]; the decoder's image is pooled to 256 px when asked.

use candle_core::{Result, Tensor, bail};

use super::{BatchNorm, Inverter};
use crate::generators::stylegan2::{self, StyleGan2};
use crate::generators::{Generator, Synthesis, Target, Tensors};
use crate::ops;
use crate::params::{Init, Params};

/// Slope in the blocks that make the rows of w+.
const SLOPE: f64 = 0.01;
/// Side of the images that the published encoder takes, and of the pooled image.
pub const SIDE: usize = 256;
/// Rows below the first number come from the coarsest map, rows below the second from the middle one.
const LEVELS: [usize; 2] = [3, 7];

fn conv(p: &Params, inputs: usize, outputs: usize, side: usize) -> Result<Tensor> {
    p.get("weight", (outputs, inputs, side, side), Init::Normal((2.0 / (side * side * inputs) as f64).sqrt()))
}

/// x where positive, else a slope per channel times x.
fn prelu(x: &Tensor, slopes: &Tensor) -> Result<Tensor> {
    ops::relu(x)? - ops::relu(&x.neg()?)?.broadcast_mul(&slopes.reshape((1, (), 1, 1))?)?
}

/// The first of every two rows and columns. An odd last row or column is kept, as by a max-pool of kernel 1 and stride 2.
fn every_second(x: &Tensor) -> Result<Tensor> {
    let pick = |size: usize| Tensor::from_iter((0..size.div_ceil(2)).map(|i| 2 * i as u32), x.device());
    x.index_select(&pick(x.dim(2)?)?, 2)?.index_select(&pick(x.dim(3)?)?, 3)
}

/// Squeeze and excitation: channels weighted by what a small network makes of their means.
pub struct Squeeze {
    down: Tensor,
    up: Tensor,
}

impl Squeeze {
    /// `p` has fc1 [C / 16, C, 1, 1] and fc2 [C, C / 16, 1, 1].
    pub fn new(p: &Params, channels: usize) -> Result<Self> {
        let narrow = channels / 16;
        Ok(Squeeze { down: conv(&p.pp("fc1"), channels, narrow, 1)?, up: conv(&p.pp("fc2"), narrow, channels, 1)? })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, channels, ..) = x.dims4()?;
        let matrix = |w: &Tensor| w.flatten_from(1);
        let hidden = ops::relu(&ops::linear(&x.mean((2, 3))?, &matrix(&self.down)?, None)?)?;
        let gate = candle_nn::ops::sigmoid(&ops::linear(&hidden, &matrix(&self.up)?, None)?)?;
        x.broadcast_mul(&gate.reshape((n, channels, 1, 1))?)
    }
}

/// bottleneck_IR_SE: batch norm, 3x3, PReLU, 3x3 (which takes the stride), batch norm, squeeze; plus a shortcut; no activation behind.
pub struct Bottleneck {
    shortcut: Option<(Tensor, BatchNorm)>,
    norm: BatchNorm,
    first: Tensor,
    slopes: Tensor,
    second: Tensor,
    last: BatchNorm,
    squeeze: Squeeze,
    stride: usize,
}

impl Bottleneck {
    pub fn new(p: &Params, inputs: usize, depth: usize, stride: usize) -> Result<Self> {
        let layer = |i: usize| p.pp(format!("res_layer.{i}"));
        let shortcut = if inputs == depth {
            None
        } else {
            let p = p.pp("shortcut_layer");
            Some((conv(&p.pp(0), inputs, depth, 1)?, BatchNorm::new(&p.pp(1), depth)?))
        };
        Ok(Bottleneck {
            shortcut,
            norm: BatchNorm::new(&layer(0), inputs)?,
            first: conv(&layer(1), inputs, depth, 3)?,
            slopes: layer(2).get("weight", depth, Init::Const(0.25))?,
            second: conv(&layer(3), depth, depth, 3)?,
            last: BatchNorm::new(&layer(4), depth)?,
            squeeze: Squeeze::new(&layer(5), depth)?,
            stride,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let shortcut = match &self.shortcut {
            Some((weight, norm)) => norm.forward(&ops::conv2d(x, weight, None, self.stride, 0)?)?,
            None if self.stride == 2 => every_second(x)?,
            None => x.clone(),
        };
        let y = ops::conv2d(&self.norm.forward(x)?, &self.first, None, 1, 1)?;
        let y = ops::conv2d(&prelu(&y, &self.slopes)?, &self.second, None, self.stride, 1)?;
        shortcut + self.squeeze.forward(&self.last.forward(&y)?)?
    }
}

/// map2style: convolutions of stride 2 down to one pixel, then an equalised linear layer: one row of w+.
pub struct ToRow {
    convs: Vec<(Tensor, Tensor)>,
    weight: Tensor,
    bias: Tensor,
}

impl ToRow {
    /// `inner` channels behind the first convolution (`outputs` in the published network); `side` is the side of the map that it reads,
    /// a power of two.
    pub fn new(p: &Params, inputs: usize, inner: usize, outputs: usize, side: usize) -> Result<Self> {
        let mut convs = Vec::new();
        // A map of one pixel has no convolution.
        let inner = if side == 1 { inputs } else { inner };
        for i in 0..side.ilog2() as usize {
            let p = p.pp(format!("convs.{}", 2 * i));
            convs.push((conv(&p, if i == 0 { inputs } else { inner }, inner, 3)?, p.get("bias", inner, Init::Const(0.0))?));
        }
        let linear = p.pp("linear");
        let weight = linear.get("weight", (outputs, inner), Init::Normal(1.0))?;
        Ok(ToRow { convs, weight, bias: linear.get("bias", outputs, Init::Const(0.0))? })
    }

    /// [n, inputs, side, side] to [n, outputs].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for (weight, bias) in &self.convs {
            x = ops::leaky_relu(&ops::conv2d(&x, weight, Some(bias), 2, 1)?, SLOPE)?;
        }
        // The equalised learning rate, on the smaller side of the product.
        let x = (x.flatten_from(1)? * (1.0 / (self.weight.dim(1)? as f64).sqrt()))?;
        ops::linear(&x, &self.weight, Some(&self.bias))
    }
}

/// `x` enlarged to the size of `lateral` (bilinear, corners on corners), plus `lateral`.
pub fn upsample_add(x: &Tensor, lateral: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    let (_, _, oh, ow) = lateral.dims4()?;
    let matrix = |from: usize, to: usize| -> Result<Tensor> {
        let mut rows = vec![0f64; from * to];
        for i in 0..to {
            let place = if to > 1 { (i * (from - 1)) as f64 / (to - 1) as f64 } else { 0.0 };
            let low = (place.floor() as usize).min(from - 1);
            let high = (low + 1).min(from - 1);
            rows[i * from + low] += 1.0 - (place - low as f64);
            rows[i * from + high] += place - low as f64;
        }
        Tensor::from_vec(rows, (to, from), x.device())?.to_dtype(x.dtype())
    };
    ops::matmul_resize(x, &matrix(h, oh)?, &matrix(w, ow)?)? + lateral
}

/// Adaptive average pool to `side` x `side`: cell i averages the pixels from floor(i h / side) to ceil((i + 1) h / side).
pub fn pool_to(x: &Tensor, side: usize) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    let matrix = |from: usize| -> Result<Tensor> {
        let mut rows = vec![0f64; from * side];
        for i in 0..side {
            let (start, end) = (i * from / side, ((i + 1) * from).div_ceil(side));
            rows[i * from + start..i * from + end].fill(1.0 / (end - start) as f64);
        }
        Tensor::from_vec(rows, (side, from), x.device())?.to_dtype(x.dtype())
    };
    ops::matmul_resize(x, &matrix(h)?, &matrix(w)?)
}

/// The shape of the encoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Channels of the four stages (64, 128, 256, 512) and the number of blocks in each (3, 4, 14, 3).
    pub widths: [usize; 4],
    pub blocks: [usize; 4],
    /// Channels of the convolutions that make a row of w+: as many as w has in the published network.
    pub inner: usize,
    /// Rows of w+.
    pub rows: usize,
    /// Side of the images: 256 in the published network, a power of two from 16 up.
    pub side: usize,
}

/// The maps that the rows are made from.
pub struct Trace {
    /// Ends of the second, third and fourth stage.
    pub stages: [Tensor; 3],
    /// [n, rows, width].
    pub rows: Tensor,
}

/// The IR-SE50 body of TreB1eN's ArcFace: a convolution and four stages of blocks, each of which halves the side.
pub struct Body {
    enter: (Tensor, BatchNorm, Tensor),
    stages: Vec<Vec<Bottleneck>>,
}

impl Body {
    /// `p` has input_layer and body; `widths` and `blocks` of the four stages.
    pub fn new(p: &Params, widths: [usize; 4], blocks: [usize; 4]) -> Result<Self> {
        let (enter, mut stages, mut index) = (p.pp("input_layer"), Vec::new(), 0);
        for stage in 0..4 {
            let mut made = Vec::new();
            for i in 0..blocks[stage] {
                let inputs = if i == 0 { widths[stage.saturating_sub(1)] } else { widths[stage] };
                made.push(Bottleneck::new(&p.pp(format!("body.{index}")), inputs, widths[stage], if i == 0 { 2 } else { 1 })?);
                index += 1;
            }
            stages.push(made);
        }
        let slopes = enter.pp(2).get("weight", widths[0], Init::Const(0.25))?;
        Ok(Body { enter: (conv(&enter.pp(0), 3, widths[0], 3)?, BatchNorm::new(&enter.pp(1), widths[0])?, slopes), stages })
    }

    /// The ends of the four stages.
    pub fn stages(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        let (weight, norm, slopes) = &self.enter;
        let mut x = prelu(&norm.forward(&ops::conv2d(images, weight, None, 1, 1)?)?, slopes)?;
        let mut ends = Vec::new();
        for stage in &self.stages {
            for block in stage {
                x = block.forward(&x)?;
            }
            ends.push(x.clone());
        }
        Ok(ends)
    }
}

/// The gradual style encoder.
pub struct Encoder {
    side: usize,
    body: Body,
    lateral: [(Tensor, Tensor); 2],
    rows: Vec<ToRow>,
}

impl Encoder {
    /// Errors: a side that is no power of two from 16 up; a missing or misshapen tensor.
    pub fn new(config: &Config, p: &Params) -> Result<Self> {
        if config.side < 16 || !config.side.is_power_of_two() {
            bail!("pSp: images of {} px; a power of two from 16 up is needed", config.side)
        }
        let w = config.widths;
        let lateral = |name: &str, inputs: usize| -> Result<(Tensor, Tensor)> {
            let p = p.pp(name);
            Ok((conv(&p, inputs, w[3], 1)?, p.get("bias", w[3], Init::Const(0.0))?))
        };
        let row = |i: usize| {
            let side = if i < LEVELS[0] {
                config.side / 16
            } else if i < LEVELS[1] {
                config.side / 8
            } else {
                config.side / 4
            };
            ToRow::new(&p.pp(format!("styles.{i}")), w[3], config.inner, w[3], side)
        };
        Ok(Encoder {
            side: config.side,
            body: Body::new(p, w, config.blocks)?,
            lateral: [lateral("latlayer1", w[2])?, lateral("latlayer2", w[1])?],
            rows: (0..config.rows).map(row).collect::<Result<_>>()?,
        })
    }

    /// Images [n, 3, side, side] in [-1, 1].
    pub fn trace(&self, images: &Tensor) -> Result<Trace> {
        let side = self.side;
        if images.dims()[1..] != [3, side, side] {
            bail!("pSp's encoder takes images of [3, {side}, {side}], not {:?}", images.dims())
        }
        let ends = self.body.stages(images)?;
        let lateral = |i: usize, x: &Tensor| ops::conv2d(x, &self.lateral[i].0, Some(&self.lateral[i].1), 1, 0);
        let coarse = &ends[3];
        let middle = upsample_add(coarse, &lateral(0, &ends[2])?)?;
        let fine = upsample_add(&middle, &lateral(1, &ends[1])?)?;
        let source = |i: usize| {
            if i < LEVELS[0] {
                coarse
            } else if i < LEVELS[1] {
                &middle
            } else {
                &fine
            }
        };
        let rows = self.rows.iter().enumerate().map(|(i, row)| row.forward(source(i))).collect::<Result<Vec<_>>>()?;
        Ok(Trace { stages: [ends[1].clone(), ends[2].clone(), ends[3].clone()], rows: Tensor::stack(&rows, 1)? })
    }
}

/// Encoder, decoder and the mean latent that the encoder's rows are added to.
pub struct Psp {
    pub encoder: Encoder,
    pub decoder: StyleGan2,
    /// [rows or 1, width].
    pub mean: Tensor,
}

/// The published checkpoint: the tensors of its `state_dict` (`encoder.*`, `decoder.*`) and, beside them, "latent_avg".
pub fn open(tensors: Tensors, target: &Target) -> crate::Result<Psp> {
    let (mut e, mut d, mut mean) = (Tensors::new(), Tensors::new(), None);
    for (name, tensor) in tensors {
        let name = name.strip_prefix("state_dict.").unwrap_or(&name).to_string();
        match name.split_once('.') {
            Some(("encoder", rest)) => drop(e.insert(rest.to_string(), tensor)),
            Some(("decoder", rest)) => drop(d.insert(rest.to_string(), tensor)),
            _ if name == "latent_avg" => mean = Some(tensor),
            _ => return Err(crate::Error::corrupt(format!("{}: the tensor \"{name}\" does not belong to pSp", target.origin))),
        }
    }
    let Some(mean) = mean else {
        return Err(crate::Error::corrupt(format!(
            "{}: the mean latent \"latent_avg\" is missing; it stands beside \"state_dict\" in the published file",
            target.origin
        )));
    };
    let encoder = open_encoder(e, target)?;
    let decoder = stylegan2::open(d, target)?;
    let place = || -> Result<Tensor> { mean.to_dtype(target.dtype)?.to_device(&target.device)?.reshape(((), decoder.layout().w_dim)) };
    let mean = place().map_err(|e| crate::Error::from(e).at(&target.origin))?;
    if encoder.rows.len() != decoder.layout().rows {
        let (e, d) = (encoder.rows.len(), decoder.layout().rows);
        return Err(crate::Error::corrupt(format!("{}: the encoder makes {e} rows, its decoder takes {d}", target.origin)));
    }
    Ok(Psp { encoder, decoder, mean })
}

/// The encoder of a checkpoint, without the prefix `encoder.`, frozen. Widths and depths are read from the tensors: a stage
/// begins where a block has a shortcut convolution.
pub fn open_encoder(tensors: Tensors, target: &Target) -> crate::Result<Encoder> {
    let corrupt = |what: String| crate::Error::corrupt(format!("{}: {what}", target.origin));
    let count = (0..).take_while(|i| tensors.contains_key(&format!("body.{i}.res_layer.1.weight"))).count();
    let mut starts = vec![0];
    starts.extend((1..count).filter(|i| tensors.contains_key(&format!("body.{i}.shortcut_layer.0.weight"))));
    starts.push(count);
    let &[a, b, c, d, end] = &starts[..] else {
        return Err(corrupt(format!("{count} body blocks in {} stages: pSp's encoder has four", starts.len() - 1)));
    };
    let width = |i: usize| tensors.get(&format!("body.{i}.res_layer.1.weight")).map_or(0, |t| t.dims()[0]);
    let config = Config {
        widths: [width(a), width(b), width(c), width(d)],
        blocks: [b - a, c - b, d - c, end - d],
        inner: width(d),
        rows: (0..).take_while(|i| tensors.contains_key(&format!("styles.{i}.linear.weight"))).count(),
        side: SIDE,
    };
    let build = || -> Result<Encoder> {
        let p = Params::frozen(tensors.clone(), target.dtype, &target.device, &target.origin);
        let encoder = Encoder::new(&config, &p)?;
        p.finish()?;
        Ok(encoder)
    };
    build().map_err(|e| corrupt(e.to_string().lines().next().unwrap_or("tensor error").to_string()))
}

impl Inverter for Psp {
    fn input_size(&self) -> usize {
        SIDE
    }

    fn invert(&self, images: &Tensor) -> Result<Tensor> {
        self.encoder.trace(images)?.rows.broadcast_add(&self.mean)
    }

    fn decoder(&self) -> &dyn Generator {
        &self.decoder
    }

    /// The decoder's image pooled to 256 px, which is what the reference stores.
    fn render(&self, latents: &Tensor, with: &Synthesis) -> Result<Tensor> {
        let image = self.decoder.synthesize(latents, with)?;
        if self.decoder.layout().resolution > SIDE { pool_to(&image, SIDE) } else { Ok(image) }
    }
}
