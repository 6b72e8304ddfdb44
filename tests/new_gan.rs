//! A new GAN is one file, one card and one enum line: the toy of CONTRIBUTING.md compiles, gets the encoder that fits it, and
//! trains for three steps of Algorithm 1.

mod toy;

use candle_core::{DType, Device};
use mtv_bench::generators::Generator;
use mtv_bench::inverters::mtv::{Config, Encoder, Latents};
use mtv_bench::objective::{Batch, Objective, Recipe, Types, Which, forward, steps};
use mtv_bench::optim::Optimizer;
use mtv_bench::params::Params;
use mtv_bench::random::Stream;

#[test]
fn the_toy_of_contributing_is_this_code() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/CONTRIBUTING.md")).unwrap();
    assert!(text.contains(include_str!("new_gan/toy.rs").trim()), "CONTRIBUTING.md does not show tests/new_gan/toy.rs as it is");
}

#[test]
fn an_encoder_of_the_toy_trains() {
    let device = Device::Cpu;
    let fresh = Params::fresh(1, DType::F32, &device);
    toy::Toy::new(&fresh).unwrap();
    let frozen = Params::frozen(fresh.snapshot().unwrap(), DType::F32, &device, "toy");
    let gan = toy::Toy::new(&frozen).unwrap();
    frozen.finish().unwrap();

    let p = Params::fresh(2, DType::F32, &device);
    let encoder = Encoder::new(&Config { noise: false, ..Config::for_generator(gan.layout()).unwrap() }, &p).unwrap();
    let before = p.snapshot().unwrap();

    // The paper's recipe without the term that needs a VGG network.
    let mut recipe = Recipe::paper().case2();
    recipe.latents.types = Types::W;
    recipe.weights.perceptual = 0.0;
    let z = Stream::new(3, "z").normal_rows(&[0, 1, 2, 3], &[16], &device).unwrap();
    let w = gan.map(&z, None).unwrap();
    let x = gan.synthesize(&w, &Default::default()).unwrap();
    let objective = Objective::new(&recipe, None, None, &x).unwrap();
    let target = Latents { w: Some(w), ..Default::default() };
    let mut optimizer = Optimizer::new(recipe.rule(), p.vars());
    let mut losses = Vec::new();
    for step in 0..4 {
        let batch = Batch { x: &x, target: &target, classes: None, condition: None, noise_e1: &[], noise_g2: None, noise_e2: &[] };
        let found = forward(&objective, &encoder, &gan, &batch, Which::All).unwrap();
        let values = found.losses.checked(step).unwrap();
        losses.push(values.iter().map(|(_, v)| v).sum::<f64>());
        if step < 3 {
            steps(&objective, &found.losses, &mut optimizer, 0.0015).unwrap();
        }
    }
    assert!(losses[3] < losses[0], "three steps did not lower the loss: {losses:?}");
    let after = p.snapshot().unwrap();
    let moved = after.iter().filter(|(name, t)| {
        let change = (*t - &before[*name]).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        change > 0.0
    });
    assert!(moved.count() * 2 > after.len(), "most of the encoder's tensors must have moved");
}
