//! ALAE's joint training: exact gradients through its encoder, what the trained network opens as, and how it starts.

use candle_core::{DType, Device, Tensor};
use mtv_bench::generators::stylegan1::{Config, StyleGan1};
use mtv_bench::generators::{Generator, Stage, Target};
use mtv_bench::inverters::Inverter;
use mtv_bench::inverters::alae;
use mtv_bench::params::Params;
use mtv_bench::random::Stream;
use mtv_bench::spec::Card;
use mtv_bench::stages::open;
use mtv_bench::zoo::adversarial::Objective;
use mtv_bench::zoo::discriminator::{Dual, Penalty};
use mtv_bench::zoo::drawing::Split;
use mtv_bench::zoo::faces;
use mtv_bench::zoo::form::Form;
use mtv_bench::zoo::gan::{self, Trainer};
use mtv_bench::zoo::latent_critic::LatentCritic;
use mtv_bench::zoo::pool::Pool;
use mtv_bench::zoo::schedule::{Recipe, Start};
use mtv_bench::zoo::source::Source;

use crate::zoo_training::slope;

const CPU: Device = Device::Cpu;

fn config() -> Config {
    Config { z_dim: 8, w_dim: 8, fmaps_base: 64, fmaps_max: 8, mapping_layers: 2, mapping_fmaps: 8, ..Config::paper(16) }
}

fn build(p: &Params) -> candle_core::Result<Box<gan::Network>> {
    Ok(Box::new(StyleGan1::new(&config(), p)?))
}

/// Three steps at 8 px, then two at 16 px.
pub fn recipe() -> Recipe {
    Recipe {
        seed: 1,
        batch: 8,
        lr: 1.5e-3,
        critic_lr: None,
        stages: vec![24, 16],
        fade: 8,
        gamma: vec![(0, 0.4)],
        decay: 0.5,
        pool: 12,
        objective: Objective::Alae,
        start: None,
        projected_on: None,
        minibatch_std: false,
        noise: None,
        kernel_scale: None,
        class: None,
        then: None,
    }
}

fn pool(recipe: &Recipe) -> Pool {
    Pool::draw(&Source::Faces(faces::Source::new(1)), Split::Train, recipe.pool)
}

/// R1 through instance norms and statistics: the tangent form against slopes that are taken by moving single weights, in f64.
#[test]
fn r1_of_the_latent_critic_has_exact_gradients() -> candle_core::Result<()> {
    let p = Params::fresh(9, DType::F64, &CPU);
    let layout = StyleGan1::new(&config(), &Params::fresh(1, DType::F32, &CPU))?.layout().clone();
    let critic = LatentCritic::new(&layout, &p)?;
    let frozen = critic.detached();
    let (penalty, full) = (Penalty::R1 { gamma: 3.0 }, Stage { last: 2, blend: 1.0 });
    for (stage, side) in [(full, 16), (Stage { last: 1, blend: 0.4 }, 8)] {
        let x = Stream::new(1, "x").normal((3, 3, side, side), &CPU)?.to_dtype(DType::F64)?;
        let at = || penalty.at(&x, |x| critic.scores(x, stage), |x| frozen.scores(x, stage));
        let grads = at()?.1.backward()?;
        let mut reached = 0;
        for param in p.vars() {
            let Some(grad) = grads.get(param.var.as_tensor()) else { continue };
            reached += 1;
            let place = grad.elem_count() / 2;
            let found = grad.flatten_all()?.to_vec1::<f64>()?[place];
            let slope = slope(&param.var, place, &|| Ok(at()?.0))?;
            assert!((found - slope).abs() < 1e-5 * slope.abs().max(1e-2), "{}: {found} against {slope}", param.name);
        }
        // Every convolution of the levels that take part, every style, and D.
        assert!(reached >= 19, "{reached}");
    }
    Ok(())
}

/// The critic is E with D of a published file; and a trained ALAE opens as one, with F, G, E, D and the mean w.
#[test]
fn a_trained_alae_opens_as_a_published_one() -> mtv_bench::Result<()> {
    let mut trainer = Trainer::new(recipe(), build, pool(&recipe()), &CPU)?;
    let mut reciprocity = Vec::new();
    while !trainer.done() {
        reciprocity.extend(trainer.step()?.reciprocity);
    }
    assert!(reciprocity.len() == 5 && reciprocity.iter().all(|v| *v > 0.0), "{reciprocity:?}");
    let critic = trainer.average_critic()?.expect("E and D");
    let mut of_generator = trainer.average().1.snapshot()?;
    of_generator.insert("center_tensor".into(), Tensor::zeros((1, 8), DType::F32, &CPU)?);
    let opened = alae::open(alae::published(of_generator, critic.clone()), &Target::new(DType::F32, &CPU, "trained"))?;

    let z = Stream::new(1, "zoo/sample-z").normal_rows(&[0, 1], &[8], &CPU)?;
    let noise = mtv_bench::generators::draw_noise(&opened.decoder().layout().noise, &Stream::new(1, "zoo/sample-noise"), &[0, 1], &CPU)?;
    let with = mtv_bench::generators::Synthesis { noise: Some(&noise), ..Default::default() };
    let images = opened.decoder().synthesize(&opened.decoder().map(&z, None)?, &with)?;
    let off = (&images - trainer.samples(&[0, 1])?)?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(off < 1e-5, "{off}");

    let params = Params::frozen(critic, DType::F32, &CPU, "the average");
    let network = LatentCritic::new(trainer.average().0.layout(), &params)?;
    let scores = network.scores(&Dual::plain(&images), Stage { last: 2, blend: 1.0 })?.value.squeeze(1)?;
    let w = opened.invert(&images)?.narrow(1, 0, 1)?.squeeze(1)?;
    let off = (opened.discriminator.forward(&w)? - scores)?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(off < 1e-4, "{off}");
    Ok(())
}

/// The encoder learns from the second update: without it only from the discriminator's.
#[test]
fn a_training_starts_from_networks_of_the_zoo() -> mtv_bench::Result<()> {
    let start = Start { generator: "mini/stylegan1".into(), encoder: "mini/alae".into() };
    let recipe = Recipe { stages: vec![0, 0, 0, 8], pool: 8, start: Some(start), ..recipe() };
    let form = Form::stylegan1(64, 128, 1024, 8);
    let mut trainer = Trainer::new(recipe.clone(), |p: &Params| form.build(p), pool(&recipe), &CPU)?;
    let shipped = open::tensors(&Card::load("mini/stylegan1")?)?;
    for (name, tensor) in trainer.average().1.snapshot()? {
        assert_eq!((tensor - &shipped[&name])?.abs()?.max_all()?.to_scalar::<f32>()?, 0.0, "{name}");
    }
    // A trained encoder finds w of a trained generator from the first step on; a fresh one is off by w's whole variance.
    let first = trainer.step()?.reciprocity.expect("a second update");
    assert!(first < 0.2, "{first}");
    Ok(())
}
