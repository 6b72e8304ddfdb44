//! Every operation of `ops`, with inputs that reach its corners: odd maps, planes that several blocks share, maps of one pixel, fewer
//! channels than a block has shares, zeros where a formula divides by a length.

use candle_core::{DType, Device, Result, Tensor, Var};

use crate::ops;
use crate::optim::{Optimizer, Rule};
use crate::params::Param;
use crate::random::Stream;

type Run = Box<dyn Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync>;

/// One operation and its inputs.
pub struct Case {
    pub name: String,
    /// On the CPU; those marked need a gradient.
    inputs: Vec<(Tensor, bool)>,
    run: Run,
}

/// What a case gave: results, then the gradients of the marked inputs; on the CPU.
pub type Outcome = Vec<Tensor>;

impl Case {
    /// Runs forward and backward on a device, for the gradient of the results' sum under fixed weights.
    pub fn outcome(&self, device: &Device) -> Result<Outcome> {
        let place = |(t, tracked): &(Tensor, bool)| {
            let t = t.to_device(device)?;
            if *tracked { Ok(Var::from_tensor(&t)?.into_inner()) } else { Ok(t) }
        };
        let inputs = self.inputs.iter().map(place).collect::<Result<Vec<_>>>()?;
        let mut results = (self.run)(&inputs)?;
        let mut loss = Tensor::zeros((), DType::F32, device)?;
        for (i, result) in results.iter().enumerate() {
            let weights = Stream::new(i as u64, &self.name).normal(result.shape(), device)?;
            loss = (loss + (result * weights)?.sum_all()?)?;
        }
        if loss.track_op() {
            let grads = loss.backward()?;
            for (input, _) in inputs.iter().zip(&self.inputs).filter(|(_, (_, tracked))| *tracked) {
                let none = || candle_core::Error::Msg(format!("{}: no gradient", self.name));
                results.push(grads.get(input).ok_or_else(none)?.clone());
            }
        }
        results.into_iter().map(|t| t.detach().to_device(&Device::Cpu)).collect()
    }
}

/// The largest |a - b| / (1 + largest |b|) over the tensors of two outcomes; infinite where one is not finite or shapes differ.
pub fn difference(a: &Outcome, b: &Outcome) -> Result<f64> {
    let mut worst = if a.len() == b.len() { 0f64 } else { f64::INFINITY };
    for (a, b) in a.iter().zip(b) {
        if a.dims() != b.dims() {
            return Ok(f64::INFINITY);
        }
        let values = |t: &Tensor| t.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>();
        let (a, b) = (values(a)?, values(b)?);
        let scale = 1.0 + b.iter().fold(0f64, |m, v| m.max(v.abs()));
        for (a, b) in a.iter().zip(&b) {
            let d = (a - b).abs() / scale;
            worst = if d.is_finite() { worst.max(d) } else { f64::INFINITY };
        }
    }
    Ok(worst)
}

/// Whether two outcomes have the same bits.
pub fn identical(a: &Outcome, b: &Outcome) -> Result<bool> {
    let bits = |o: &Outcome| {
        let all = o.iter().map(|t| Ok(t.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect::<Vec<_>>()));
        all.collect::<Result<Vec<_>>>()
    };
    Ok(bits(a)? == bits(b)?)
}

fn normal(name: &str, shape: &[usize]) -> Result<Tensor> {
    Stream::new(11, name).normal(shape.to_vec(), &Device::Cpu)
}

struct List(Vec<Case>);

impl List {
    /// All inputs need a gradient.
    fn op(&mut self, name: &str, shapes: &[&[usize]], run: impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static) -> Result<()> {
        let named = |(i, s): (usize, &&[usize])| Ok((normal(&format!("{name}/{i}"), s)?, true));
        let inputs = shapes.iter().enumerate().map(named).collect::<Result<Vec<_>>>()?;
        self.with(name, inputs, move |t| Ok(vec![run(t)?]));
        Ok(())
    }

    fn with(&mut self, name: &str, inputs: Vec<(Tensor, bool)>, run: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync + 'static) {
        self.0.push(Case { name: name.into(), inputs, run: Box::new(run) });
    }
}

/// Three steps of an optimizer on one parameter, with the state that it keeps.
fn optimizer(rule: Rule) -> impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync + 'static {
    move |t| {
        let var = Var::from_tensor(&t[0].copy()?)?;
        let params = vec![Param { name: "p".into(), var: var.clone(), coef: 0.7 }];
        let mut optimizer = Optimizer::new(rule, params);
        for i in 0..3 {
            let loss = (var.as_tensor() * &t[1])?.sqr()?.affine(1.0, i as f64)?.sum_all()?;
            optimizer.step(&loss.backward()?, 0.01)?;
        }
        let state = optimizer.state()?.into_iter().filter(|(name, _)| !name.starts_with("t/"));
        Ok(std::iter::once(var.as_tensor().copy()?).chain(state.map(|(_, t)| t)).collect())
    }
}

/// Input, kernel, stride, padding.
const CONVOLUTIONS: [([usize; 4], [usize; 4], usize, usize); 9] = [
    ([2, 3, 9, 8], [5, 3, 3, 3], 1, 1),
    ([3, 8, 16, 16], [16, 8, 3, 3], 1, 1),
    ([2, 8, 7, 7], [4, 8, 1, 1], 1, 0),
    ([1, 2, 5, 6], [3, 2, 3, 3], 1, 0),
    ([2, 4, 8, 8], [6, 4, 4, 4], 2, 1),
    ([1, 2, 5, 7], [2, 2, 3, 3], 2, 1),
    ([2, 2, 5, 4], [2, 2, 1, 1], 2, 0),
    ([3, 2, 1, 1], [2, 2, 3, 3], 1, 1),
    ([1, 2, 4, 5], [2, 2, 2, 3], 1, 1),
];

/// Every case, in a fixed order.
pub fn all() -> Result<Vec<Case>> {
    let mut list = List(Vec::new());
    // One plane of two blocks, and many small ones.
    const LARGE: &[usize] = &[1, 2, 150, 131];
    const SMALL: &[usize] = &[2, 5, 7, 6];
    for (name, shape) in [("large", LARGE), ("small", SMALL)] {
        let (b, c) = (shape[0], shape[1]);
        let named = |what: &str| format!("{what}, {name} planes");
        list.op(&named("leaky relu"), &[shape], |t| ops::leaky_relu(&t[0], 0.2))?;
        list.op(&named("relu"), &[shape], |t| ops::relu(&t[0]))?;
        list.op(&named("log-softmax"), &[shape], |t| ops::log_softmax(&t[0]))?;
        list.op(&named("instance norm"), &[shape], |t| ops::instance_norm(&t[0], 1e-5))?;
        list.op(&named("style statistics"), &[shape], |t| ops::style_stats(&t[0]))?;
        list.op(&named("adain"), &[shape, &[b, 2 * c]], |t| ops::adain(&t[0], &t[1], 1e-8))?;
        list.with(&named("instance norm with statistics"), vec![(normal(name, shape)?, true)], |t| {
            let (y, s) = ops::instance_norm_stats(&t[0], 1e-5)?;
            Ok(vec![y, s])
        });
        list.op(&named("pixel norm"), &[shape], |t| ops::pixel_norm(&t[0], 1e-8))?;
        list.op(&named("unit vectors"), &[shape], |t| ops::unit_normalize(&t[0], 1e-10))?;
        list.op(&named("average pool"), &[shape], |t| ops::avg_pool2(&t[0]))?;
        list.op(&named("max pool"), &[shape], |t| ops::max_pool2(&t[0]))?;
        list.op(&named("upsample"), &[shape], |t| ops::upsample2(&t[0]))?;
        list.op(&named("blur"), &[shape], |t| ops::blur3(&t[0]))?;
        list.op(&named("mix"), &[shape, shape], |t| ops::mix(&t[0], 0.111, &t[1], 0.889))?;
        list.op(&named("mean squared difference"), &[shape, shape], |t| ops::mse(&t[0], &t[1]))?;
        list.op(&named("channel factors"), &[shape], move |t| {
            let of = |k: f64| (0..c).map(|i| k + i as f64).collect::<Vec<_>>();
            ops::channel_affine(&t[0], &of(0.3), &of(-1.0))
        })?;
        for (what, slope, maps) in [("noise + bias + lrelu", 0.2, 1), ("noise per image + bias", 1.0, b)] {
            let mut noise = shape.to_vec();
            (noise[0], noise[1]) = (maps, 1);
            let (z, channels) = (normal("noise", &noise)?, &[1, c, 1, 1][..]);
            let inputs = vec![(normal(name, shape)?, true), (z, false), (normal("s", channels)?, true), (normal("b", channels)?, true)];
            list.with(&named(what), inputs, move |t| Ok(vec![ops::noise_bias_lrelu(&t[0], Some((&t[1], &t[2])), Some(&t[3]), slope)?]));
        }
        list.op(&named("bias + lrelu"), &[shape, &[1, c, 1, 1]], |t| ops::noise_bias_lrelu(&t[0], None, Some(&t[1]), 0.2))?;
        list.op(&named("tangent of a leaky relu"), &[shape], |t| ops::lrelu_tangent(&t[0], &t[0].detach(), 0.2))?;
        list.op(&named("recomputed segment"), &[shape, &[1, c, 1, 1]], |t| {
            let run = |t: &[Tensor]| Ok(vec![ops::leaky_relu(&t[0].broadcast_mul(&t[1])?, 0.2)?]);
            Ok(ops::recompute(&[&t[0], &t[1]], run)?.remove(0))
        })?;
        list.op(&named("modulation"), &[shape, &[b, c], &[1, c]], |t| ops::modulate(&t[0], &t[1], Some(&t[2])))?;
        list.op(&named("products by sample"), &[shape, shape], |t| ops::sample_products(&t[0], &t[1]))?;
        list.op(&named("divergence of softmaxes"), &[shape, shape], |t| ops::softmax_kl(&t[0], &t[1]))?;
    }
    let one_value = vec![(normal("x", SMALL)?, true), (normal("z", &[1, 1, 7, 6])?, false), (normal("s", &[1])?, true)];
    list.with("one noise strength for all channels", one_value, |t| {
        Ok(vec![ops::noise_bias_lrelu(&t[0], Some((&t[1], &t[2])), None, 0.2)?])
    });
    // Flat planes, all-zero vectors, ties.
    let flat = normal("flat", SMALL)?.affine(0.0, 0.5)?;
    list.with("style statistics of flat planes", vec![(flat.clone(), true)], |t| Ok(vec![ops::style_stats(&t[0])?]));
    list.with("max pool of ties", vec![(flat.clone(), true)], |t| Ok(vec![ops::max_pool2(&t[0])?]));
    let zeros = flat.zeros_like()?;
    list.with("unit vectors of zeros", vec![(zeros.clone(), true)], |t| Ok(vec![ops::unit_normalize(&t[0], 1e-10)?]));
    list.with("relu of zeros", vec![(zeros, true)], |t| Ok(vec![ops::relu(&t[0])?, ops::leaky_relu(&t[0], 0.2)?]));
    list.op("pixel norm of vectors", &[&[3, 100]], |t| ops::pixel_norm(&t[0], 1e-8))?;
    list.op("a strided input", &[&[2, 6, 7, 5]], |t| ops::instance_norm(&t[0].transpose(2, 3)?, 1e-5))?;
    list.op("a view with an offset", &[&[4, 3, 6, 6]], |t| ops::leaky_relu(&t[0].narrow(0, 1, 2)?, 0.2))?;

    for (i, (x, w, stride, pad)) in CONVOLUTIONS.into_iter().enumerate() {
        let name = format!("{x:?} by {w:?}, stride {stride}, pad {pad}");
        let bias = [w[0]];
        list.op(&format!("convolution {name}"), &[&x, &w], move |t| ops::conv2d(&t[0], &t[1], None, stride, pad))?;
        list.op(&format!("convolution, bias, lrelu {name}"), &[&x, &w, &bias], move |t| {
            ops::conv2d_lrelu(&t[0], &t[1], Some(&t[2]), stride, pad, if i % 2 == 0 { 0.2 } else { 0.0 })
        })?;
    }
    let frozen = vec![(normal("x", &[2, 4, 8, 8])?, true), (normal("w", &[4, 4, 3, 3])?, false)];
    list.with("convolution, frozen kernel", frozen, |t| Ok(vec![ops::conv2d(&t[0], &t[1], None, 1, 1)?]));
    list.op("transposed convolution 4x4", &[&[2, 4, 5, 6], &[4, 3, 4, 4], &[3]], |t| {
        ops::conv_transpose2d(&t[0], &t[1], Some(&t[2]), 2, 1)
    })?;
    list.op("transposed convolution 3x3", &[&[1, 2, 5, 4], &[2, 3, 3, 3]], |t| ops::conv_transpose2d(&t[0], &t[1], None, 2, 0))?;
    list.op("fused kernels", &[&[4, 3, 3, 3]], |t| ops::fused_up_weight(&t[0])? + ops::fused_down_weight(&t[0])?)?;
    list.op("linear", &[&[5, 12], &[7, 12], &[7]], |t| ops::linear(&t[0], &t[1], Some(&t[2])))?;
    list.op("linear of rows", &[&[2, 3, 12], &[7, 12]], |t| ops::linear(&t[0], &t[1], None))?;
    for (up, down, pad0, pad1) in [(1, 1, 1, 2), (2, 1, 2, 1), (1, 2, 1, 1), (2, 1, 5, 0), (1, 1, 6, 6), (3, 2, 2, 3)] {
        let name = format!("fir up {up} down {down} pad {pad0},{pad1}");
        list.op(&name, &[&[2, 3, 9, 7]], move |t| ops::fir(&t[0], &[1.0, 3.0, 2.0, 1.0], up, down, pad0, pad1, 1.5))?;
    }
    list.op("window of 11", &[&[2, 3, 16, 13]], |t| {
        ops::depthwise_window(&t[0], &(0..11).map(|i| 0.05 + i as f64 / 100.0).collect::<Vec<_>>(), 0)
    })?;
    list.op("ssim", &[&[2, 3, 9, 9], &[2, 3, 9, 9]], |t| {
        let window = |x: &Tensor| ops::depthwise_window(x, &[0.25, 0.5, 0.25], 1);
        ops::ssim_map(&window(&t[0])?, &window(&ops::ssim_products(&t[0], &t[1])?)?, 1e-4, 9e-4)
    })?;
    let resize = vec![(normal("x", &[2, 3, 8, 6])?, true), (normal("rh", &[5, 8])?, false), (normal("rw", &[9, 6])?, false)];
    list.with("resize by two matrices", resize, |t| Ok(vec![ops::matmul_resize(&t[0], &t[1], &t[2])?]));
    for (name, rule) in [
        ("Adam of the paper", Rule::PAPER),
        ("LREQAdam", Rule::RELEASED),
        ("Adam with a first moment", Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, equalized: true }),
    ] {
        list.with(name, vec![(normal("p", &[300])?, false), (normal("k", &[300])?, false)], optimizer(rule));
    }
    Ok(list.0)
}
