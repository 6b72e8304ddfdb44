//! Tensor operations: values against plain compositions, gradients against finite differences, and the awkward points.
//!
//! Longer than other files: every operation stands here with the same four checks.

use candle_core::{DType, Device, Result, Tensor, Var};
use mtv_bench::ops;
use mtv_bench::random::Stream;

const CPU: &Device = &Device::Cpu;

/// Normal numbers in f64, the same for the same name.
fn normal(name: &str, shape: &[usize]) -> Tensor {
    Stream::new(7, name).normal(shape.to_vec(), CPU).unwrap().to_dtype(DType::F64).unwrap()
}

fn flat(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn close(what: &str, a: &Tensor, b: &Tensor, tolerance: f64) {
    assert_eq!(a.dims(), b.dims(), "{what}: shapes");
    let (a, b) = (flat(a), flat(b));
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "{what}: element {i}: {a} is not {b}");
    }
}

type Op = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;

/// One operation with inputs, and the plain composition that it must equal.
struct Case {
    name: &'static str,
    inputs: Vec<Tensor>,
    op: Op,
    reference: Op,
}

fn case(
    name: &'static str,
    shapes: &[&[usize]],
    op: impl Fn(&[Tensor]) -> Result<Tensor> + 'static,
    reference: impl Fn(&[Tensor]) -> Result<Tensor> + 'static,
) -> Case {
    let inputs = shapes.iter().enumerate().map(|(i, s)| normal(&format!("{name}{i}"), s)).collect();
    Case { name, inputs, op: Box::new(op), reference: Box::new(reference) }
}

/// Insert zeros, pad, correlate with the outer product of `taps`, keep every `down`-th: written out, one output at a time.
fn plain_filter(x: &Tensor, taps: &[f64], up: usize, down: usize, pad: (usize, usize), gain: f64) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let v = flat(x);
    let size = |n: usize| (n * up + pad.0 + pad.1 - taps.len()) / down + 1;
    let (oh, ow) = (size(h), size(w));
    let mut out = Vec::new();
    for p in 0..b * c {
        for oy in 0..oh {
            for ox in 0..ow {
                let mut sum = 0.0;
                for (i, a) in taps.iter().enumerate() {
                    for (j, d) in taps.iter().enumerate() {
                        let (y, x) = ((oy * down + i) as isize - pad.0 as isize, (ox * down + j) as isize - pad.0 as isize);
                        let u = up as isize;
                        if y >= 0 && x >= 0 && y % u == 0 && x % u == 0 && y / u < h as isize && x / u < w as isize {
                            sum += a * d * v[p * h * w + (y / u) as usize * w + (x / u) as usize];
                        }
                    }
                }
                out.push(sum * gain);
            }
        }
    }
    Tensor::from_vec(out, (b, c, oh, ow), CPU)
}

fn plain_lrelu(x: &Tensor, slope: f64) -> Result<Tensor> {
    x.maximum(&(x * slope)?)
}

fn plain_norm(x: &Tensor, eps: f64) -> Result<Tensor> {
    let d = x.broadcast_sub(&x.mean_keepdim((2, 3))?)?;
    d.broadcast_div(&(d.sqr()?.mean_keepdim((2, 3))? + eps)?.sqrt()?)
}

fn plain_stats(x: &Tensor) -> Result<Tensor> {
    let d = x.broadcast_sub(&x.mean_keepdim((2, 3))?)?;
    Tensor::cat(&[x.mean((2, 3))?, d.sqr()?.mean((2, 3))?.sqrt()?], 1)
}

fn add_bias(y: &Tensor, b: &Tensor) -> Result<Tensor> {
    y.broadcast_add(&b.reshape((1, b.elem_count(), 1, 1))?)
}

fn spread(w: &Tensor, scale: f64) -> Result<Tensor> {
    let shift = |y: usize, x: usize| w.pad_with_zeros(2, y, 1 - y)?.pad_with_zeros(3, x, 1 - x);
    (shift(0, 0)? + shift(0, 1)? + shift(1, 0)? + shift(1, 1)?)? * scale
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    // (input, kernel, stride, pad): 3x3, 1x1, fused 4x4 stride 2, stride 2, pad too large to be a flipped convolution, 1x1 and odd maps.
    let convs: [(&'static str, [usize; 4], [usize; 4], usize, usize); 9] = [
        ("conv 3x3", [2, 3, 5, 4], [4, 3, 3, 3], 1, 1),
        ("conv 3x3 valid", [1, 2, 5, 6], [3, 2, 3, 3], 1, 0),
        ("conv 1x1", [2, 3, 3, 4], [2, 3, 1, 1], 1, 0),
        ("conv 4x4 stride 2", [2, 2, 6, 4], [3, 2, 4, 4], 2, 1),
        ("conv 3x3 stride 2, odd", [1, 2, 5, 7], [2, 2, 3, 3], 2, 1),
        ("conv 1x1 stride 2", [2, 2, 5, 4], [2, 2, 1, 1], 2, 0),
        ("conv 1x1 pad 1", [1, 2, 2, 2], [2, 2, 1, 1], 1, 1),
        ("conv on 1x1 map", [3, 2, 1, 1], [2, 2, 3, 3], 1, 1),
        ("conv 2x3", [1, 2, 4, 5], [2, 2, 2, 3], 1, 1),
    ];
    for (name, x, w, stride, pad) in convs {
        all.push(case(
            name,
            &[&x, &w, &[w[0]]],
            move |t| ops::conv2d(&t[0], &t[1], Some(&t[2]), stride, pad),
            move |t| add_bias(&t[0].conv2d(&t[1], pad, stride, 1, 1)?, &t[2]),
        ));
        all.push(case(
            name,
            &[&x, &w],
            move |t| ops::conv2d(&t[0], &t[1], None, stride, pad),
            move |t| t[0].conv2d(&t[1], pad, stride, 1, 1),
        ));
    }
    for (x, w, stride, pad) in [([2, 3, 5, 16], [4, 3, 3, 3], 1, 1), ([1, 2, 5, 4], [3, 2, 3, 3], 2, 1)] {
        all.push(case(
            "conv2d_lrelu",
            &[&x, &w, &[w[0]]],
            move |t| ops::conv2d_lrelu(&t[0], &t[1], Some(&t[2]), stride, pad, 0.2),
            move |t| plain_lrelu(&add_bias(&t[0].conv2d(&t[1], pad, stride, 1, 1)?, &t[2])?, 0.2),
        ));
    }
    let transposed: [(&'static str, [usize; 4], [usize; 4], usize, usize); 3] = [
        ("transposed 4x4 stride 2", [2, 3, 3, 2], [3, 2, 4, 4], 2, 1),
        ("transposed 3x3", [1, 2, 4, 3], [2, 3, 3, 3], 1, 1),
        ("transposed 4x4 from 1x1", [2, 4, 1, 1], [4, 3, 4, 4], 1, 0),
    ];
    for (name, x, w, stride, pad) in transposed {
        all.push(case(
            name,
            &[&x, &w, &[w[1]]],
            move |t| ops::conv_transpose2d(&t[0], &t[1], Some(&t[2]), stride, pad),
            move |t| add_bias(&t[0].conv_transpose2d(&t[1], pad, 0, stride, 1)?, &t[2]),
        ));
    }
    all.push(case("fused_down_weight", &[&[2, 3, 3, 3]], |t| ops::fused_down_weight(&t[0]), |t| spread(&t[0], 0.25)));
    all.push(case("fused_up_weight", &[&[2, 3, 3, 3]], |t| ops::fused_up_weight(&t[0]), |t| spread(&t[0], 1.0)));
    all.push(case(
        "linear",
        &[&[2, 3, 5], &[4, 5], &[4]],
        |t| ops::linear(&t[0], &t[1], Some(&t[2])),
        |t| t[0].broadcast_matmul(&t[1].t()?)?.broadcast_add(&t[2]),
    ));
    all.push(case("linear, one row", &[&[1, 5], &[4, 5]], |t| ops::linear(&t[0], &t[1], None), |t| t[0].matmul(&t[1].t()?)));
    let binomial = [0.25, 0.5, 0.25];
    for shape in [[2, 3, 5, 4], [1, 2, 1, 1], [1, 1, 2, 3], [1, 2, 7, 19]] {
        all.push(case("blur3", &[&shape], |t| ops::blur3(&t[0]), move |t| plain_filter(&t[0], &binomial, 1, 1, (1, 1), 1.0)));
    }
    for (up, down, pad) in [(2, 1, (2, 1)), (1, 2, (1, 1)), (1, 1, (2, 1)), (2, 2, (1, 2)), (1, 2, (0, 0))] {
        // An asymmetric kernel: convolution, not correlation.
        let kernel = [1.0, 3.0, 2.0, 0.5];
        all.push(case(
            "fir",
            &[&[2, 2, 5, 4]],
            move |t| ops::fir(&t[0], &kernel, up, down, pad.0, pad.1, 4.0),
            move |t| plain_filter(&t[0], &[0.5 / 6.5, 2.0 / 6.5, 3.0 / 6.5, 1.0 / 6.5], up, down, pad, 4.0),
        ));
    }
    let window = [0.1, 0.2, 0.4, 0.2, 0.1];
    for pad in [0, 2] {
        all.push(case(
            "depthwise_window",
            &[&[1, 3, 6, 7]],
            move |t| ops::depthwise_window(&t[0], &window, pad),
            move |t| plain_filter(&t[0], &window, 1, 1, (pad, pad), 1.0),
        ));
    }
    all.push(case("relu", &[&[3, 2, 5]], |t| ops::relu(&t[0]), |t| plain_lrelu(&t[0], 0.0)));
    all.push(case("leaky_relu", &[&[3, 2, 5]], |t| ops::leaky_relu(&t[0], 0.2), |t| plain_lrelu(&t[0], 0.2)));
    for maps in [1, 2] {
        all.push(case(
            "noise_bias_lrelu",
            &[&[2, 3, 3, 5], &[maps, 1, 3, 5], &[1, 3, 1, 1], &[1, 3, 1, 1]],
            |t| ops::noise_bias_lrelu(&t[0], Some((&t[1], &t[2])), Some(&t[3]), 0.2),
            |t| plain_lrelu(&t[0].broadcast_add(&t[1].broadcast_mul(&t[2])?)?.broadcast_add(&t[3])?, 0.2),
        ));
    }
    all.push(case(
        "noise_bias_lrelu, one strength",
        &[&[2, 3, 3, 5], &[1, 1, 1, 1], &[1, 3, 1, 1]],
        |t| ops::noise_bias_lrelu(&t[0], Some((&normal("map", &[2, 1, 3, 5]), &t[1])), Some(&t[2]), 0.2),
        |t| plain_lrelu(&t[0].broadcast_add(&normal("map", &[2, 1, 3, 5]).broadcast_mul(&t[1])?)?.broadcast_add(&t[2])?, 0.2),
    ));
    all.push(case(
        "bias alone",
        &[&[2, 3, 3, 5], &[1, 3, 1, 1]],
        |t| ops::noise_bias_lrelu(&t[0], None, Some(&t[1]), 1.0),
        |t| t[0].broadcast_add(&t[1]),
    ));
    for shape in [[2, 3, 4, 5], [1, 2, 1, 1], [2, 2, 1, 17]] {
        all.push(case("instance_norm", &[&shape], |t| ops::instance_norm(&t[0], 1e-2), |t| plain_norm(&t[0], 1e-2)));
        all.push(case(
            "adain",
            &[&shape, &[shape[0], 2 * shape[1]]],
            |t| ops::adain(&t[0], &t[1], 1e-2),
            |t| {
                let (b, c, _, _) = t[0].dims4()?;
                let s = t[1].reshape((b, 2, c, 1, 1))?;
                let (scale, shift) = (s.narrow(1, 0, 1)?.squeeze(1)?, s.narrow(1, 1, 1)?.squeeze(1)?);
                plain_norm(&t[0], 1e-2)?.broadcast_mul(&(scale + 1.0)?)?.broadcast_add(&shift)
            },
        ));
    }
    all.push(case("style_stats", &[&[2, 3, 4, 5]], |t| ops::style_stats(&t[0]), |t| plain_stats(&t[0])));
    all.push(case(
        "instance_norm_stats",
        &[&[2, 3, 4, 5]],
        |t| {
            let (y, s) = ops::instance_norm_stats(&t[0], 1e-5)?;
            Tensor::cat(&[y.flatten_from(1)?, s], 1)
        },
        |t| Tensor::cat(&[plain_norm(&t[0], 1e-5)?.flatten_from(1)?, plain_stats(&t[0])?], 1),
    ));
    for shape in [&[3, 5][..], &[2, 5, 3], &[2, 4, 3, 3]] {
        all.push(case(
            "pixel_norm",
            &[shape],
            |t| ops::pixel_norm(&t[0], 1e-8),
            |t| t[0].broadcast_div(&(t[0].sqr()?.mean_keepdim(1)? + 1e-8)?.sqrt()?),
        ));
        all.push(case(
            "unit_normalize",
            &[shape],
            |t| ops::unit_normalize(&t[0], 1e-10),
            |t| t[0].broadcast_div(&(t[0].sqr()?.sum_keepdim(1)?.sqrt()? + 1e-10)?),
        ));
    }
    // Odd sizes: the last row and column are dropped.
    for shape in [[2, 3, 4, 6], [1, 2, 5, 3], [1, 1, 2, 2]] {
        let cut = move |t: &Tensor| t.narrow(2, 0, shape[2] / 2 * 2)?.narrow(3, 0, shape[3] / 2 * 2);
        all.push(case("avg_pool2", &[&shape], |t| ops::avg_pool2(&t[0]), move |t| cut(&t[0])?.avg_pool2d(2)));
        all.push(case("max_pool2", &[&shape], |t| ops::max_pool2(&t[0]), move |t| cut(&t[0])?.max_pool2d(2)));
        all.push(case("upsample2", &[&shape], |t| ops::upsample2(&t[0]), move |t| t[0].upsample_nearest2d(2 * shape[2], 2 * shape[3])));
    }
    all.push(case(
        "matmul_resize",
        &[&[2, 3, 5, 4]],
        |t| ops::matmul_resize(&t[0], &normal("rh", &[3, 5]), &normal("rw", &[6, 4])),
        |t| normal("rh", &[3, 5]).broadcast_matmul(&t[0])?.broadcast_matmul(&normal("rw", &[6, 4]).t()?),
    ));
    all.push(case("mix", &[&[2, 3, 4], &[2, 3, 4]], |t| ops::mix(&t[0], 0.111, &t[1], 0.889), |t| (&t[0] * 0.111)? + (&t[1] * 0.889)?));
    all.push(case(
        "channel_affine",
        &[&[2, 3, 4, 2]],
        |t| ops::channel_affine(&t[0], &[1.0, -2.0, 0.5], &[0.1, 0.2, 0.3]),
        |t| {
            let constant = |v: [f64; 3]| Tensor::new(&v, CPU)?.reshape((1, 3, 1, 1));
            t[0].broadcast_mul(&constant([1.0, -2.0, 0.5])?)?.broadcast_add(&constant([0.1, 0.2, 0.3])?)
        },
    ));
    // A factor per map, one for all samples, without offset, on 1x1 maps.
    for (scale, shift, side) in [([2, 3], [2, 3], 4), ([1, 3], [2, 3], 3), ([2, 3], [1, 3], 1)] {
        let factor = |t: &Tensor| t.unsqueeze(2)?.unsqueeze(3);
        all.push(case(
            "modulate",
            &[&[2, 3, side, side + 1], &scale, &shift],
            |t| ops::modulate(&t[0], &t[1], Some(&t[2])),
            move |t| t[0].broadcast_mul(&factor(&t[1])?)?.broadcast_add(&factor(&t[2])?),
        ));
        all.push(case(
            "modulate, no offset",
            &[&[2, 3, side, 2], &scale],
            |t| ops::modulate(&t[0], &t[1], None),
            move |t| t[0].broadcast_mul(&factor(&t[1])?),
        ));
    }
    for shape in [&[2, 3, 4, 5][..], &[3, 1], &[1, 2, 40]] {
        let rows = |t: &Tensor| t.flatten_from(1);
        all.push(case(
            "sample_products",
            &[shape, shape],
            |t| ops::sample_products(&t[0], &t[1]),
            move |t| {
                let (x, y) = (rows(&t[0])?, rows(&t[1])?);
                Tensor::stack(&[(&x - &y)?.sqr()?.sum(1)?, (&x * &y)?.sum(1)?, x.sqr()?.sum(1)?, y.sqr()?.sum(1)?], 0)
            },
        ));
        all.push(case(
            "softmax_kl",
            &[shape, shape],
            |t| ops::softmax_kl(&t[0], &t[1]),
            move |t| {
                let (p, q) = (candle_nn::ops::log_softmax(&rows(&t[0])?, 1)?, candle_nn::ops::log_softmax(&rows(&t[1])?, 1)?);
                (p.exp()? * (p - q)?)?.sum(1)
            },
        ));
    }
    all.push(case("mse", &[&[2, 3, 17], &[2, 3, 17]], |t| ops::mse(&t[0], &t[1]), |t| (&t[0] - &t[1])?.sqr()?.mean_all()));
    all.push(case(
        "ssim_products",
        &[&[2, 3, 4, 5], &[2, 3, 4, 5]],
        |t| ops::ssim_products(&t[0], &t[1]),
        |t| Tensor::cat(&[t[1].clone(), (t[0].sqr()? + t[1].sqr()?)?, (&t[0] * &t[1])?], 0),
    ));
    // A constant far from 0 keeps the denominators there.
    all.push(case(
        "ssim_map",
        &[&[2, 1, 3, 3], &[6, 1, 3, 3]],
        |t| ops::ssim_map(&t[0], &t[1], 30.0, 90.0),
        |t| {
            let part = |i: usize| t[1].narrow(0, 2 * i, 2);
            let (b, q, p) = (part(0)?, part(1)?, part(2)?);
            let both = (&t[0] * &b)?;
            let lengths = (t[0].sqr()? + b.sqr()?)?;
            let luminance = (both.affine(2.0, 30.0)? / lengths.affine(1.0, 30.0)?)?;
            luminance * ((p - &both)?.affine(2.0, 90.0)? / (q - lengths)?.affine(1.0, 90.0)?)?
        },
    ));
    all.push(case(
        "log_softmax",
        &[&[2, 3, 4]],
        |t| ops::log_softmax(&t[0]),
        |t| candle_nn::ops::log_softmax(&t[0].flatten_from(1)?, 1)?.reshape(t[0].shape()),
    ));
    all
}

#[test]
fn values_equal_the_plain_composition() {
    for c in cases() {
        let want = (c.reference)(&c.inputs).unwrap();
        close(c.name, &(c.op)(&c.inputs).unwrap(), &want, 1e-11);
        // f32 is the working type.
        let single: Vec<Tensor> = c.inputs.iter().map(|t| t.to_dtype(DType::F32).unwrap()).collect();
        if let Ok(got) = (c.op)(&single) {
            assert_eq!(got.dtype(), DType::F32, "{}", c.name);
            close(c.name, &got, &want, 2e-5);
        }
    }
}

#[test]
fn strided_inputs_are_the_same_as_contiguous_ones() {
    for c in cases() {
        let strided: Vec<Tensor> = c
            .inputs
            .iter()
            .map(|t| {
                let last = t.rank() - 1;
                let doubled = Tensor::stack(&[t, &t.neg().unwrap()], last + 1).unwrap();
                doubled.narrow(last + 1, 0, 1).unwrap().squeeze(last + 1).unwrap()
            })
            .collect();
        close(c.name, &(c.op)(&strided).unwrap(), &(c.op)(&c.inputs).unwrap(), 0.0);
    }
}

/// The gradients of sum(op * weights) for every input.
fn gradients(op: &Op, inputs: &[Tensor], weights: &Tensor) -> Vec<Tensor> {
    let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(t).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let loss = (op(&tensors).unwrap() * weights).unwrap().sum_all().unwrap();
    let grads = loss.backward().unwrap();
    vars.iter().map(|v| grads.get(v.as_tensor()).unwrap().clone()).collect()
}

#[test]
fn gradients_equal_finite_differences() {
    const STEP: f64 = 1e-5;
    for c in cases() {
        let weights = normal("weights", (c.op)(&c.inputs).unwrap().dims());
        let loss = |inputs: &[Tensor]| flat(&((c.op)(inputs).unwrap() * &weights).unwrap().sum_all().unwrap())[0];
        for (i, grad) in gradients(&c.op, &c.inputs, &weights).iter().enumerate() {
            let (grad, base) = (flat(grad), flat(&c.inputs[i]));
            for j in 0..base.len() {
                let moved = |by: f64| {
                    let mut v = base.clone();
                    v[j] += by;
                    let mut inputs = c.inputs.clone();
                    inputs[i] = Tensor::from_vec(v, c.inputs[i].shape(), CPU).unwrap();
                    loss(&inputs)
                };
                let want = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                let error = (grad[j] - want).abs();
                assert!(error <= 1e-5 * (1.0 + want.abs()), "{} input {i} element {j}: {} is not {want}", c.name, grad[j]);
            }
        }
    }
}

#[test]
fn each_input_gets_its_gradient_alone_and_frozen_ones_none() {
    for c in cases() {
        let weights = normal("weights", (c.op)(&c.inputs).unwrap().dims());
        let all = gradients(&c.op, &c.inputs, &weights);
        for (i, want) in all.iter().enumerate() {
            let var = Var::from_tensor(&c.inputs[i]).unwrap();
            let mut inputs = c.inputs.clone();
            inputs[i] = var.as_tensor().clone();
            let loss = ((c.op)(&inputs).unwrap() * &weights).unwrap().sum_all().unwrap();
            let grads = loss.backward().unwrap();
            close(c.name, grads.get(&var).unwrap(), want, 1e-12);
            // A noise map with a gradient goes through candle's own multiplication and sum, which always compute both sides.
            if c.name == "noise_bias_lrelu" && i == 1 {
                continue;
            }
            for (j, frozen) in inputs.iter().enumerate().filter(|(j, _)| *j != i) {
                assert!(grads.get(frozen).is_none(), "{}: the frozen input {j} has a gradient", c.name);
            }
        }
        assert!(!(c.op)(&c.inputs).unwrap().track_op(), "{}: a graph without variables", c.name);
    }
}

fn grad_of(op: impl Fn(&Tensor) -> Result<Tensor>, x: &[f64], shape: &[usize]) -> Vec<f64> {
    let x = Var::from_tensor(&Tensor::from_slice(x, shape, CPU).unwrap()).unwrap();
    let y = op(x.as_tensor()).unwrap();
    flat(y.sum_all().unwrap().backward().unwrap().get(&x).unwrap())
}

#[test]
fn gradients_at_the_awkward_points() {
    assert_eq!(grad_of(ops::relu, &[-1.0, 0.0, 2.0], &[3]), [0.0, 0.0, 1.0]);
    assert_eq!(grad_of(|x| ops::leaky_relu(x, 0.2), &[-1.0, 0.0, 2.0], &[3]), [0.2, 0.2, 1.0]);
    // Zero variance: no gradient to the deviation, the mean keeps its own.
    assert_eq!(grad_of(ops::style_stats, &[3.0; 4], &[1, 1, 2, 2]), [0.25; 4]);
    assert_eq!(grad_of(|x| ops::instance_norm(x, 1e-5), &[3.0; 4], &[1, 1, 2, 2]), [0.0; 4]);
    assert!(grad_of(|x| ops::pixel_norm(x, 1e-8), &[0.0; 4], &[1, 4]).iter().all(|g| g.is_finite()));
    // One all-zero feature vector among others, and its value.
    let two = [0.0, 3.0, 0.0, 4.0];
    let g = grad_of(|x| ops::unit_normalize(x, 1e-10), &two, &[1, 2, 2]);
    assert!(g[0] == 0.0 && g[2] == 0.0 && g[1] != 0.0 && g.iter().all(|g| g.is_finite()), "{g:?}");
    let y = ops::unit_normalize(&Tensor::from_slice(&two, (1, 2, 2), CPU).unwrap(), 1e-10).unwrap();
    close("unit vectors", &y, &Tensor::new(&[[[0.0, 0.6], [0.0, 0.8]]], CPU).unwrap(), 1e-9);
    // Equal and all-zero samples: no difference, no gradient that is not a number.
    let zero = Tensor::zeros((1, 4), DType::F64, CPU).unwrap();
    assert_eq!(grad_of(|x| ops::sample_products(x, &zero)?.get(0), &[0.0; 4], &[1, 4]), [0.0; 4]);
    assert_eq!(grad_of(|x| ops::softmax_kl(x, &zero), &[0.0; 4], &[1, 4]), [0.0; 4]);
    // Far from the largest logit the share is 0, not a denormal or NaN; alone it is 1.
    let far = [0.0, -200.0, -1e30, -60.0];
    assert!(grad_of(|x| ops::softmax_kl(x, &zero), &far, &[1, 4]).iter().all(|g| g.is_finite()));
    let single = Tensor::from_slice(&far.map(|v| v as f32), (1, 4), CPU).unwrap();
    let logs = ops::log_softmax(&single).unwrap();
    close("log softmax", &logs, &single, 1e-6);
    assert_eq!(flat(&ops::log_softmax(&single.narrow(1, 1, 1).unwrap()).unwrap()), [0.0]);
    // Ties go to the first maximum; a dropped row and column get nothing.
    assert_eq!(grad_of(ops::max_pool2, &[1.0, 1.0, 1.0, 1.0], &[1, 1, 2, 2]), [1.0, 0.0, 0.0, 0.0]);
    assert_eq!(grad_of(ops::max_pool2, &[0.0, 1.0, 9.0, 1.0, 1.0, 9.0, 9.0, 9.0, 9.0], &[1, 1, 3, 3])[1], 1.0);
    assert_eq!(grad_of(ops::avg_pool2, &[1.0; 9], &[1, 1, 3, 3]), [0.25, 0.25, 0.0, 0.25, 0.25, 0.0, 0.0, 0.0, 0.0]);
}

/// Enough work for several tiles and tasks.
fn large() -> Vec<Case> {
    let mut all = vec![
        case("adain", &[&[4, 16, 32, 32], &[4, 32]], |t| ops::adain(&t[0], &t[1], 1e-5), |t| Ok(t[0].clone())),
        case("blur3", &[&[4, 16, 32, 32]], |t| ops::blur3(&t[0]), |t| Ok(t[0].clone())),
        case(
            "noise_bias_lrelu",
            &[&[4, 16, 32, 32], &[1, 16, 1, 1], &[1, 16, 1, 1]],
            |t| {
                let z = normal("map", &[4, 1, 32, 32]).to_dtype(t[0].dtype())?;
                ops::noise_bias_lrelu(&t[0], Some((&z, &t[1])), Some(&t[2]), 0.2)
            },
            |t| Ok(t[0].clone()),
        ),
        case("linear", &[&[32, 300], &[500, 300], &[500]], |t| ops::linear(&t[0], &t[1], Some(&t[2])), |t| Ok(t[0].clone())),
        case("max_pool2", &[&[4, 16, 33, 32]], |t| ops::max_pool2(&t[0]), |t| Ok(t[0].clone())),
        case("upsample2", &[&[4, 16, 32, 32]], |t| ops::upsample2(&t[0]), |t| Ok(t[0].clone())),
        case("unit_normalize", &[&[4, 16, 32, 32]], |t| ops::unit_normalize(&t[0], 1e-10), |t| Ok(t[0].clone())),
        case("mse", &[&[4, 16, 32, 32], &[4, 16, 32, 32]], |t| ops::mse(&t[0], &t[1]), |t| Ok(t[0].clone())),
        case("log_softmax", &[&[4, 16, 32, 32]], |t| ops::log_softmax(&t[0]), |t| Ok(t[0].clone())),
        case("sample_products", &[&[3, 5, 90, 91], &[3, 5, 90, 91]], |t| ops::sample_products(&t[0], &t[1]), |t| Ok(t[0].clone())),
        case("softmax_kl", &[&[4, 16, 32, 32], &[4, 16, 32, 32]], |t| ops::softmax_kl(&t[0], &t[1]), |t| Ok(t[0].clone())),
        case("style_stats", &[&[4, 16, 32, 32]], |t| ops::style_stats(&t[0]), |t| Ok(t[0].clone())),
        case("pixel_norm", &[&[4, 16, 32, 32]], |t| ops::pixel_norm(&t[0], 1e-8), |t| Ok(t[0].clone())),
        case("avg_pool2", &[&[4, 16, 33, 32]], |t| ops::avg_pool2(&t[0]), |t| Ok(t[0].clone())),
        case("fir", &[&[4, 16, 32, 32]], |t| ops::fir(&t[0], &[1.0, 3.0, 3.0, 1.0], 2, 1, 2, 1, 4.0), |t| Ok(t[0].clone())),
        case("mix", &[&[4, 16, 32, 32], &[4, 16, 32, 32]], |t| ops::mix(&t[0], 0.1, &t[1], 0.9), |t| Ok(t[0].clone())),
        case("modulate", &[&[4, 16, 32, 32], &[4, 16], &[1, 16]], |t| ops::modulate(&t[0], &t[1], Some(&t[2])), |t| Ok(t[0].clone())),
        case(
            "matmul_resize",
            &[&[4, 16, 32, 32]],
            |t| {
                let of = |name: &str| normal(name, &[48, 32]).to_dtype(t[0].dtype());
                ops::matmul_resize(&t[0], &of("rh")?, &of("rw")?)
            },
            |t| Ok(t[0].clone()),
        ),
        case("ssim_products", &[&[4, 3, 64, 64], &[4, 3, 64, 64]], |t| ops::ssim_products(&t[0], &t[1]), |t| Ok(t[0].clone())),
        case("ssim_map", &[&[4, 3, 54, 54], &[12, 3, 54, 54]], |t| ops::ssim_map(&t[0], &t[1], 30.0, 90.0), |t| Ok(t[0].clone())),
    ];
    for (x, w, stride, pad) in [
        ([8, 16, 32, 32], [32, 16, 3, 3], 1, 1),
        ([8, 64, 8, 8], [64, 64, 3, 3], 1, 1),
        ([16, 64, 4, 4], [64, 64, 3, 3], 1, 1),
        ([8, 48, 64, 64], [3, 48, 1, 1], 1, 0),
        ([8, 32, 16, 16], [32, 32, 4, 4], 2, 1),
        ([2, 8, 33, 35], [12, 8, 3, 3], 2, 1),
        ([2, 8, 32, 34], [12, 8, 3, 3], 2, 0),
        ([2, 6, 17, 40], [9, 6, 4, 4], 2, 1),
        ([3, 5, 12, 13], [7, 5, 2, 2], 2, 2),
        ([2, 16, 24, 24], [8, 16, 1, 1], 2, 0),
        ([2, 20, 37, 41], [19, 20, 3, 3], 1, 1),
        ([2, 70, 40, 32], [9, 70, 3, 3], 1, 1),
        ([2, 6, 36, 8], [5, 6, 1, 1], 1, 0),
        ([1, 4, 20, 48], [4, 4, 3, 3], 1, 0),
    ] {
        all.push(case(
            "conv2d",
            &[&x, &w, &[w[0]]],
            move |t| ops::conv2d(&t[0], &t[1], Some(&t[2]), stride, pad),
            move |t| add_bias(&t[0].conv2d(&t[1], pad, stride, 1, 1)?, &t[2]),
        ));
    }
    for slope in [0.0, 0.2] {
        all.push(case(
            "conv2d_lrelu",
            &[&[4, 8, 32, 32], &[16, 8, 3, 3], &[16]],
            move |t| ops::conv2d_lrelu(&t[0], &t[1], Some(&t[2]), 1, 1, slope),
            move |t| plain_lrelu(&add_bias(&t[0].conv2d(&t[1], 1, 1, 1, 1)?, &t[2])?, slope),
        ));
    }
    for (x, w, pad) in [([8, 64, 16, 16], [64, 32, 4, 4], 1), ([2, 12, 17, 19], [12, 6, 3, 3], 0), ([2, 12, 9, 8], [12, 5, 3, 3], 1)] {
        all.push(case(
            "conv_transpose2d",
            &[&x, &w, &[w[1]]],
            move |t| ops::conv_transpose2d(&t[0], &t[1], Some(&t[2]), 2, pad),
            move |t| add_bias(&t[0].conv_transpose2d(&t[1], pad, 0, 2, 1)?, &t[2]),
        ));
    }
    all
}

/// Bits of the result and of every gradient in f32, on `threads` threads.
fn bits(c: &Case, threads: usize) -> Vec<u32> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let inputs: Vec<Tensor> = c.inputs.iter().map(|t| t.to_dtype(DType::F32).unwrap()).collect();
    // `Case` holds boxed closures, which may not cross threads; `in_place_scope` keeps the work of this thread in the pool.
    let run = || {
        let y = (c.op)(&inputs).unwrap();
        let weights = normal("weights", y.dims()).to_dtype(DType::F32).unwrap();
        let mut all = vec![y];
        all.extend(gradients(&c.op, &inputs, &weights));
        all.iter().flat_map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()).map(f32::to_bits).collect::<Vec<_>>()
    };
    struct Carry<T>(T);
    // SAFETY: the calling thread waits, so nothing is used by two threads at once.
    unsafe impl<T> Send for Carry<T> {}
    let run = Carry(run);
    pool.install(move || {
        let run = run;
        (run.0)()
    })
}

#[test]
fn results_do_not_depend_on_the_thread_count() {
    for c in large() {
        let one = bits(&c, 1);
        for threads in [2, 4] {
            assert!(bits(&c, threads) == one, "{}: {threads} threads give another result than one", c.name);
        }
    }
}

/// The vectorised exponential of f32 against f64, over its whole range.
#[test]
fn softmax_in_single_precision_is_exact_to_rounding() {
    let logits: Vec<f64> = (0..4001).map(|i| f64::from(-(i as f32) / 47.0)).collect();
    let exact = Tensor::from_slice(&logits, (1, logits.len()), CPU).unwrap();
    let weights = normal("weights", &[1, logits.len()]);
    let op: Op = Box::new(|t| ops::log_softmax(&t[0]));
    let want = gradients(&op, std::slice::from_ref(&exact), &weights);
    let single = |t: &Tensor| t.to_dtype(DType::F32).unwrap();
    let got = gradients(&op, &[single(&exact)], &single(&weights));
    close("values", &op(&[single(&exact)]).unwrap(), &op(std::slice::from_ref(&exact)).unwrap(), 3e-7);
    close("gradient", &got[0], &want[0], 3e-6);
}

#[test]
fn large_convolutions_equal_the_plain_ones() {
    for c in large().iter().filter(|c| c.name.starts_with("conv")) {
        let single: Vec<Tensor> = c.inputs.iter().map(|t| t.to_dtype(DType::F32).unwrap()).collect();
        let want = (c.reference)(&c.inputs).unwrap();
        let scale = flat(&want).iter().fold(0.0f64, |m, v| m.max(v.abs()));
        close(c.name, &((c.op)(&single).unwrap() / scale).unwrap(), &(&want / scale).unwrap(), 2e-6);
        if c.name == "conv2d_lrelu" {
            // Its sign may flip between f32 and f64; see the next test.
            continue;
        }
        // f64 and f32 take different paths; their gradients agree too.
        let weights = normal("weights", want.dims());
        let double = gradients(&c.op, &c.inputs, &weights);
        let single = gradients(&c.op, &single, &weights.to_dtype(DType::F32).unwrap());
        for (a, b) in single.iter().zip(&double) {
            let scale = flat(b).iter().fold(0.0f64, |m, v| m.max(v.abs()));
            close(c.name, &(a.to_dtype(DType::F64).unwrap() / scale).unwrap(), &(b / scale).unwrap(), 2e-6);
        }
    }
}

#[test]
fn a_fused_activation_has_the_gradients_of_its_parts() {
    let single = |name: &str, shape: &[usize]| normal(name, shape).to_dtype(DType::F32).unwrap();
    let (x, w, b) = (single("x", &[2, 8, 16, 16]), single("w", &[12, 8, 3, 3]), single("b", &[12]));
    for slope in [0.0, 0.2] {
        let fused: Op = Box::new(move |t| ops::conv2d_lrelu(&t[0], &t[1], Some(&t[2]), 1, 1, slope));
        let parts: Op = Box::new(move |t| ops::leaky_relu(&ops::conv2d(&t[0], &t[1], Some(&t[2]), 1, 1)?, slope));
        let all = [x.clone(), w.clone(), b.clone()];
        close("fused", &fused(&all).unwrap(), &parts(&all).unwrap(), 0.0);
        let weights = single("weights", &[2, 12, 16, 16]);
        for (a, b) in gradients(&fused, &all, &weights).iter().zip(&gradients(&parts, &all, &weights)) {
            close("fused", a, b, 0.0);
        }
        // Frozen weights: the slope is applied on the way into the kernel.
        let (w1, b1) = (w.clone(), b.clone());
        let frozen: Op = Box::new(move |t| ops::conv2d_lrelu(&t[0], &w1, Some(&b1), 1, 1, slope));
        let alone = gradients(&frozen, std::slice::from_ref(&x), &weights);
        close("frozen", &alone[0], &gradients(&parts, &all, &weights)[0], 0.0);
    }
}

#[test]
fn a_recomputed_segment_gives_the_same_bits() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let single = |name: &str, shape: &[usize]| normal(name, shape).to_dtype(DType::F32).unwrap();
    let frozen = single("frozen", &[5, 4, 3, 3]);
    let calls = Arc::new(AtomicUsize::new(0));
    let segment = {
        let calls = calls.clone();
        move |t: &[Tensor]| {
            calls.fetch_add(1, Ordering::Relaxed);
            let x = ops::adain(&ops::conv2d(&t[0], &t[1], None, 1, 1)?, &t[2], 1e-5)?;
            Ok(vec![ops::avg_pool2(&ops::conv2d_lrelu(&x, &frozen, None, 1, 1, 0.2)?)?])
        }
    };
    let inputs = [single("x", &[2, 3, 8, 8]), single("w", &[4, 3, 3, 3]), single("s", &[2, 8])];
    let weights = single("weights", &[2, 5, 4, 4]);
    let plain: Op = {
        let segment = segment.clone();
        Box::new(move |t| Ok(segment(t)?.remove(0)))
    };
    let again: Op = {
        let segment = segment.clone();
        Box::new(move |t| Ok(ops::recompute(&[&t[0], &t[1], &t[2]], segment.clone())?.remove(0)))
    };
    close("value", &again(&inputs).unwrap(), &plain(&inputs).unwrap(), 0.0);
    calls.store(0, Ordering::Relaxed);
    let got = gradients(&again, &inputs, &weights);
    // Once forward, once in the backward pass.
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    for (a, b) in got.iter().zip(&gradients(&plain, &inputs, &weights)) {
        close("gradient", a, b, 0.0);
    }
    // Only the second input is a variable; then only the first.
    let w = Var::from_tensor(&inputs[1]).unwrap();
    let loss = (&ops::recompute(&[&inputs[0], w.as_tensor(), &inputs[2]], segment.clone()).unwrap()[0] * &weights).unwrap();
    let grads = loss.sum_all().unwrap().backward().unwrap();
    close("weight", grads.get(&w).unwrap(), &got[1], 0.0);
    let x = Var::from_tensor(&inputs[0]).unwrap();
    let loss = (&ops::recompute(&[x.as_tensor(), &inputs[1], &inputs[2]], segment).unwrap()[0] * &weights).unwrap();
    close("input", loss.sum_all().unwrap().backward().unwrap().get(&x).unwrap(), &got[0], 0.0);
}

/// A chain with two results per link that reads variables beside its inputs: the same bits with and without recomputation, with the graph
/// kept or freed, and no second backward pass through a freed one.
#[test]
fn segments_read_variables_and_have_several_results() {
    let single = |name: &str, shape: &[usize]| normal(name, shape).to_dtype(DType::F32).unwrap();
    let vars: Vec<Var> = (0..6).map(|i| Var::from_tensor(&single(&format!("w{i}"), &[4, 4, 3, 3])).unwrap()).collect();
    let bias: Vec<Var> = (0..3).map(|i| Var::from_tensor(&single(&format!("b{i}"), &[4])).unwrap()).collect();
    let x = Var::from_tensor(&single("x", &[2, 4, 8, 8])).unwrap();
    let loss = |on: bool| -> Result<Tensor> {
        ops::recomputing(on, || {
            let (mut x, mut total) = (x.as_tensor().clone(), Tensor::zeros((), DType::F32, CPU)?);
            for (pair, b) in vars.chunks(2).zip(&bias) {
                let (v, w, b) = (pair[0].as_tensor().clone(), pair[1].as_tensor().clone(), b.as_tensor().clone());
                let run = move |t: &[Tensor]| {
                    let y = ops::conv2d_lrelu(&t[0], &v, Some(&b), 1, 1, 0.2)?;
                    let (y, stats) = ops::instance_norm_stats(&ops::conv2d(&y, &w, Some(&b), 1, 1)?, 1e-5)?;
                    Ok(vec![ops::mix(&y, 0.5, &t[0], 0.5)?, stats])
                };
                let results = ops::segment(&[&x], run)?;
                total = (total + results[1].sqr()?.sum_all()?)?;
                x = results[0].clone();
            }
            total + x.sqr()?.mean_all()?
        })
    };
    let all: Vec<&Var> = vars.iter().chain(&bias).chain([&x]).collect();
    let plain = loss(false).unwrap();
    let want = plain.backward().unwrap();
    for (on, once) in [(true, false), (false, true), (true, true)] {
        let loss = loss(on).unwrap();
        close("loss", &loss, &plain, 0.0);
        let grads = if once { ops::backward(&loss).unwrap() } else { loss.backward().unwrap() };
        for (i, v) in all.iter().enumerate() {
            close(&format!("variable {i}, recomputing {on}, freed {once}"), grads.get(v).unwrap(), want.get(v).unwrap(), 0.0);
        }
        match once {
            true => assert!(loss.backward().is_err(), "a freed graph"),
            false => close("again", loss.backward().unwrap().get(&x).unwrap(), want.get(&x).unwrap(), 0.0),
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let x = normal("x", &[1, 2, 4, 4]);
    let w = normal("w", &[3, 5, 3, 3]);
    assert!(ops::conv2d(&x, &w, None, 1, 1).is_err());
    assert!(ops::conv2d(&x, &normal("w", &[3, 2, 7, 7]), None, 1, 1).is_err());
    assert!(ops::conv2d(&x, &normal("w", &[3, 2, 3, 3]), Some(&normal("b", &[4])), 1, 1).is_err());
    assert!(ops::conv_transpose2d(&x, &w, None, 2, 1).is_err());
    assert!(ops::linear(&x, &w, None).is_err());
    assert!(ops::adain(&x, &normal("s", &[1, 5]), 1e-5).is_err());
    assert!(ops::depthwise_window(&x, &[0.1; 11], 0).is_err());
    assert!(ops::max_pool2(&normal("x", &[1, 2, 1, 4])).is_err());
    assert!(ops::relu(&x.to_dtype(DType::U8).unwrap()).is_err());
    assert!(ops::leaky_relu(&x, -0.1).is_err());
    assert!(ops::conv2d(&x, &normal("w", &[3, 2, 3, 3]).to_dtype(DType::F32).unwrap(), None, 1, 1).is_err());
}
