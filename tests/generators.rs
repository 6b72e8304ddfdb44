//! Generators as trainable networks and as parts of a graph: what the reference data cannot show.

use candle_core::{DType, Device, Tensor, Var};
use mtv_bench::generators::{
    Family, Generator, Stage, Synthesis, Target, Tensors, biggan, draw_noise, family_of, open, pggan, stylegan1, stylegan2,
};
use mtv_bench::params::Params;
use mtv_bench::random::Stream;

fn small_stylegan1() -> stylegan1::Config {
    let paper = stylegan1::Config::paper(16);
    stylegan1::Config { z_dim: 6, w_dim: 6, fmaps_base: 64, fmaps_max: 6, mapping_layers: 2, mapping_fmaps: 6, fused_from: 16, ..paper }
}

fn small_stylegan2() -> stylegan2::Config {
    stylegan2::Config {
        z_dim: 6,
        w_dim: 6,
        fmaps_base: 64,
        fmaps_max: 6,
        mapping_layers: 2,
        mapping_fmaps: 6,
        ..stylegan2::Config::paper(16)
    }
}

/// With labels the mapping network is that of twice as long a z, to which the embedding of the class is joined; genforce's raw file of it
/// keeps the embeddings as they are.
#[test]
fn a_stylegan2_with_labels_joins_the_embedding_of_the_class_to_z() {
    let config = stylegan2::Config { label_size: 3, ..small_stylegan2() };
    let p = Params::fresh(1, DType::F64, &Device::Cpu);
    stylegan2::StyleGan2::new(&config, &p).unwrap();
    shaken(&p);
    // In such a file the kernel of an upsampling layer is that of a convolution.
    let raw = |mut tensors: Tensors| {
        for name in ["synthesis.layer1.weight", "synthesis.layer3.weight"] {
            let turned = tensors[name].transpose(0, 1).unwrap().contiguous().unwrap();
            tensors.insert(name.into(), turned);
        }
        tensors.insert("synthesis.upsample.kernel".into(), draw("kernel", &[4, 4]));
        tensors
    };
    let target = Target::new(DType::F64, &Device::Cpu, "test");
    let (z, classes) = (draw("z", &[4, 6]), Tensor::new(&[2u32, 0, 1, 2], &Device::Cpu).unwrap());
    for tensors in [p.snapshot().unwrap(), raw(p.snapshot().unwrap())] {
        let net = stylegan2::open(tensors.clone(), &target).unwrap();
        assert_eq!((net.layout().classes, net.layout().z_dim), (3, 6));
        let mut plain = tensors;
        let embedding = plain.remove("mapping.label_weight").unwrap().index_select(&classes, 0).unwrap();
        let plain = stylegan2::open(plain, &target).unwrap();
        assert_eq!((plain.layout().classes, plain.layout().z_dim), (0, 12));
        let want = plain.map(&Tensor::cat(&[&z, &embedding], 1).unwrap(), None).unwrap();
        let rows = Tensor::new(&[[0f64, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], &Device::Cpu).unwrap();
        for classes in [&classes, &rows] {
            let got = net.map(&z, Some(classes)).unwrap();
            let off = (got - &want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(off < 1e-12, "{off}");
        }
        for classes in [None, Some(Tensor::new(&[3u32, 0, 0, 0], &Device::Cpu).unwrap())] {
            let refused = net.map(&z, classes.as_ref()).unwrap_err().to_string();
            assert!(refused.contains("3 classes"), "{refused}");
        }
    }
}

fn small_biggan() -> biggan::Config {
    biggan::Config {
        output_dim: 8,
        z_dim: 4,
        class_embed_dim: 4,
        channel_width: 4,
        num_classes: 3,
        layers: vec![(false, 16, 8), (true, 8, 8)],
        attention_layer_position: 1,
        eps: 1e-4,
        n_stats: 3,
        orthogonal: false,
    }
}

fn draw(name: &str, shape: &[usize]) -> Tensor {
    Stream::new(5, name).normal(shape.to_vec(), &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
}

/// Moves every variable off its initial value: zeros and ones hide mistakes.
fn shaken(p: &Params) {
    for param in p.vars() {
        let t = param.var.as_tensor();
        let noise = draw(&param.name, t.dims());
        param.var.set(&(t + (noise * 0.1).unwrap()).unwrap()).unwrap();
    }
}

/// Compares the gradient of `loss` with a central difference along one random direction per variable.
fn check_gradients(vars: &[(String, Var)], loss: impl Fn() -> Tensor) {
    let grads = loss().backward().unwrap();
    let value = |t: Tensor| t.to_scalar::<f64>().unwrap();
    for (name, var) in vars {
        let Some(grad) = grads.get(var) else { panic!("{name} has no gradient") };
        let start = var.as_tensor().copy().unwrap();
        let direction = draw(&format!("direction/{name}"), start.dims());
        let along = value((grad * &direction).unwrap().sum_all().unwrap());
        let step = 1e-6;
        let at = |sign: f64| {
            var.set(&(&start + (&direction * (sign * step)).unwrap()).unwrap()).unwrap();
            value(loss())
        };
        let difference = (at(1.0) - at(-1.0)) / (2.0 * step);
        var.set(&start).unwrap();
        assert!((along - difference).abs() <= 1e-5 * (1.0 + difference.abs()), "{name}: gradient {along}, difference {difference}");
    }
}

fn variables(p: &Params) -> Vec<(String, Var)> {
    p.vars().into_iter().map(|param| (param.name, param.var)).collect()
}

/// Every parameter of a StyleGANv1 in growth, and what may replace its constant and its strengths, against finite differences.
#[test]
fn stylegan1_gradients() {
    let p = Params::fresh(1, DType::F64, &Device::Cpu);
    let net = stylegan1::StyleGan1::new(&small_stylegan1(), &p).unwrap();
    shaken(&p);
    let z = draw("z", &[2, 6]);
    let noise: Vec<Tensor> =
        net.layout().noise.iter().enumerate().map(|(i, s)| draw(&format!("n{i}"), &[2, 1, s.resolution, s.resolution])).collect();
    let weight = draw("weight", &[2, 3, 16, 16]);
    let stage = Some(Stage { last: 2, blend: 0.3 });
    let image = |with: &Synthesis| {
        let latent = net.map(&z, None).unwrap();
        (net.synthesize(&latent, &Synthesis { noise: Some(&noise), stage, ..*with }).unwrap() * &weight).unwrap().sum_all().unwrap()
    };
    // toRGB of the first block has no part in this stage.
    let vars: Vec<_> = variables(&p).into_iter().filter(|(name, _)| !name.contains("to_rgb.0.")).collect();
    check_gradients(&vars, || image(&Synthesis::default()));

    let constant = Var::from_tensor(&draw("constant", &[2, 6, 4, 4])).unwrap();
    let strengths: Vec<Var> = net
        .layout()
        .noise
        .iter()
        .enumerate()
        .map(|(i, s)| Var::from_tensor(&draw(&format!("s{i}"), &[1, s.channels, 1, 1])).unwrap())
        .collect();
    let mut given = vec![("constant".to_string(), constant.clone())];
    given.extend(strengths.iter().enumerate().map(|(i, s)| (format!("strength {i}"), s.clone())));
    check_gradients(&given, || {
        let strengths: Vec<Tensor> = strengths.iter().map(|s| s.as_tensor().clone()).collect();
        image(&Synthesis { constant: Some(&constant), strengths: Some(&strengths), ..Default::default() })
    });
}

#[test]
fn stylegan2_gradients() {
    let p = Params::fresh(1, DType::F64, &Device::Cpu);
    let net = stylegan2::StyleGan2::new(&small_stylegan2(), &p).unwrap();
    shaken(&p);
    let (z, weight) = (draw("z", &[2, 6]), draw("weight", &[2, 3, 16, 16]));
    let noise: Vec<Tensor> =
        net.layout().noise.iter().enumerate().map(|(i, s)| draw(&format!("n{i}"), &[2, 1, s.resolution, s.resolution])).collect();
    check_gradients(&variables(&p), || {
        let latent = net.map(&z, None).unwrap();
        let image = net.synthesize(&latent, &Synthesis { noise: Some(&noise), ..Default::default() }).unwrap();
        (image * &weight).unwrap().sum_all().unwrap()
    });
}

/// While a resolution fades in, its toRGB enters with the weight of the blend: 0 is the enlarged image of the stage before.
#[test]
fn stylegan2_fades_in_through_its_skip_connection() {
    let p = Params::fresh(1, DType::F64, &Device::Cpu);
    let net = stylegan2::StyleGan2::new(&small_stylegan2(), &p).unwrap();
    shaken(&p);
    let noise: Vec<Tensor> =
        net.layout().noise.iter().enumerate().map(|(i, s)| draw(&format!("n{i}"), &[2, 1, s.resolution, s.resolution])).collect();
    let latent = net.map(&draw("z", &[2, 6]), None).unwrap();
    let image = |last, blend| {
        let with = Synthesis { noise: Some(&noise), stage: Some(Stage { last, blend }), ..Default::default() };
        net.synthesize(&latent, &with).unwrap()
    };
    let off = |a: &Tensor, b: &Tensor| (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
    let before = mtv_bench::ops::fir(&image(1, 1.0), &[1.0, 3.0, 3.0, 1.0], 2, 1, 2, 1, 4.0).unwrap();
    assert!(off(&image(2, 0.0), &before) < 1e-12);
    let half = ((image(2, 0.0) + image(2, 1.0)).unwrap() * 0.5).unwrap();
    assert!(off(&image(2, 0.5), &half) < 1e-12);
    assert!(off(&image(2, 1.0), &before) > 0.01);
}

#[test]
fn pggan_gradients() {
    let p = Params::fresh(1, DType::F64, &Device::Cpu);
    let cfg = pggan::Config { z_dim: 5, fmaps_base: 64, fmaps_max: 6, ..pggan::Config::paper(16) };
    let net = pggan::Pggan::new(&cfg, &p).unwrap();
    shaken(&p);
    let (z, weight) = (draw("z", &[2, 5]), draw("weight", &[2, 3, 16, 16]));
    let vars: Vec<_> = variables(&p).into_iter().filter(|(name, _)| !name.contains("output0.")).collect();
    check_gradients(&vars, || {
        let with = Synthesis { stage: Some(Stage { last: 2, blend: 0.3 }), ..Default::default() };
        (net.synthesize(&net.map(&z, None).unwrap(), &with).unwrap() * &weight).unwrap().sum_all().unwrap()
    });
}

/// In training BigGAN normalises by the batch; the gradient goes through batch statistics and through the spectral norms.
#[test]
fn biggan_gradients_in_training() {
    let p = Params::fresh(1, DType::F64, &Device::Cpu);
    let net = biggan::BigGan::new(&small_biggan(), biggan::Truncation::PAPER, &p).unwrap();
    shaken(&p);
    net.power_iteration().unwrap();
    let (z, weight) = (draw("z", &[4, 4]), draw("weight", &[4, 3, 8, 8]));
    let classes = Tensor::new(&[0u32, 2, 1, 2], &Device::Cpu).unwrap();
    let state = ["weight_u", "weight_v", "running_means", "running_vars"];
    let vars: Vec<_> = variables(&p).into_iter().filter(|(name, _)| !state.iter().any(|s| name.ends_with(s))).collect();
    let image = || net.synthesize_in_training(&net.map(&z, Some(&classes)).unwrap()).unwrap();
    check_gradients(&vars, || (image().0 * &weight).unwrap().sum_all().unwrap());
    // Four norms per block and the last one.
    assert_eq!(image().1.len(), 9);
}

/// A trained network goes through its own file unchanged: what `Params::snapshot` saves, `open` recognises.
#[test]
fn own_checkpoints_open() {
    let device = Device::Cpu;
    let z = Stream::new(2, "z").normal_rows(&[0, 1], &[6], &device).unwrap();
    let p = Params::fresh(1, DType::F32, &device);
    let (q, g) = (p.pp("c"), pggan::Config { z_dim: 6, fmaps_base: 64, fmaps_max: 6, ..pggan::Config::paper(16) });
    let nets: [(Box<dyn Generator>, &str); 3] = [
        (Box::new(stylegan1::StyleGan1::new(&stylegan1::Config { fused_from: 128, ..small_stylegan1() }, &p.pp("a")).unwrap()), "a."),
        (Box::new(stylegan2::StyleGan2::new(&small_stylegan2(), &p.pp("b")).unwrap()), "b."),
        (Box::new(pggan::Pggan::new(&g, &q).unwrap()), "c."),
    ];
    let saved = p.snapshot().unwrap();
    for (net, prefix) in &nets {
        let own = saved.iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_string(), t.clone()))).collect();
        let opened = open(own, &Target::new(DType::F32, &device, "own")).unwrap();
        assert_eq!(opened.layout(), net.layout());
        let noise = draw_noise(&net.layout().noise, &Stream::new(3, "noise"), &[0, 1], &device).unwrap();
        let with = Synthesis { noise: Some(&noise), ..Default::default() };
        let image =
            |g: &dyn Generator| g.synthesize(&g.map(&z, None).unwrap(), &with).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(image(opened.as_ref()), image(net.as_ref()));
    }
}

/// The noise of an image depends on its id and its site, not on the images beside it.
#[test]
fn noise_is_fixed_by_id() {
    let device = Device::Cpu;
    let p = Params::fresh(1, DType::F32, &device);
    let net = stylegan1::StyleGan1::new(&small_stylegan1(), &p).unwrap();
    let stream = Stream::new(9, "noise");
    let draw = |ids: &[u64]| draw_noise(&net.layout().noise, &stream, ids, &device).unwrap();
    let (pair, swapped) = (draw(&[7, 8]), draw(&[8, 7]));
    let row = |t: &Tensor, i: usize| t.get(i).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (a, b) in pair.iter().zip(&swapped) {
        assert_eq!(row(a, 0), row(b, 1));
        assert_ne!(row(a, 0), row(a, 1));
    }
    // Two sites of one size differ.
    assert_ne!(row(&pair[0], 0), row(&pair[1], 0));
}

/// Every published form is recognised by its names, through the door that studies use.
#[test]
fn families_are_recognised() {
    let names = [
        (Family::StyleGan1, vec!["Gs.const", "Gs.decode_block.0.noise_weight_1", "Gm.block_1.fc.weight", "Gs.to_rgb.0.to_rgb.weight"]),
        (Family::StyleGan1, vec!["models.generator_s.const", "models.generator_s.decode_block.0.noise_weight_1"]),
        (Family::StyleGan1, vec!["synthesis.layer0.const", "synthesis.layer0.apply_noise.weight", "synthesis.output0.weight"]),
        (Family::StyleGan1, vec!["synthesis.layer0.const", "synthesis.layer0.epilogue.bias", "synthesis.output0.conv.weight"]),
        (Family::StyleGan2, vec!["synthesis.early_layer.const", "synthesis.output0.weight", "synthesis.layer0.weight"]),
        (Family::StyleGan2, vec!["input.input", "conv1.conv.modulation.weight"]),
        (Family::StyleGan2, vec!["decoder.input.input", "decoder.conv1.conv.modulation.weight"]),
        (Family::BigGan, vec!["embeddings.weight", "generator.gen_z.weight_orig", "generator.layers.0.conv_0.weight_orig"]),
        (Family::Pggan, vec!["lod", "layer0.weight", "output0.weight"]),
        (Family::Pggan, vec!["layers.0.conv_1.weight", "rgb_converters.0.weight"]),
    ];
    for (family, names) in names {
        let tensor = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
        let tensors = names.iter().map(|name| (name.to_string(), tensor.clone())).collect();
        assert_eq!(family_of(&tensors), Some(family), "{names:?}");
    }
}

/// What does not fit a checkpoint is named, with both shapes.
#[test]
fn misfits_are_named() {
    let device = Device::Cpu;
    let p = Params::fresh(1, DType::F32, &device);
    stylegan2::StyleGan2::new(&small_stylegan2(), &p).unwrap();
    let whole = p.snapshot().unwrap();
    let target = Target::new(DType::F32, &device, "file.pth");
    let message = |change: &dyn Fn(&mut std::collections::BTreeMap<String, Tensor>)| {
        let mut tensors = whole.clone();
        change(&mut tensors);
        open(tensors, &target).err().unwrap().to_string()
    };
    let missing = message(&|t| drop(t.remove("synthesis.layer1.bias")));
    assert!(missing.starts_with("file.pth") && missing.contains("synthesis.layer1.bias") && missing.contains("missing"), "{missing}");
    let other = || Tensor::zeros((7, 6, 3, 3), DType::F32, &device).unwrap();
    let shape = message(&|t| drop(t.insert("synthesis.layer2.weight".into(), other())));
    assert!(shape.contains("[7, 6, 3, 3]") && shape.contains("[6, 6, 3, 3]"), "{shape}");
    let extra = message(&|t| drop(t.insert("synthesis.layer9.weight".into(), other())));
    assert!(extra.contains("synthesis.layer9.weight"), "{extra}");
    let unknown = open([("weight".to_string(), other())].into(), &target).err().unwrap().to_string();
    assert!(unknown.contains("no known generator"), "{unknown}");
}
