//! The training of the mini networks: exact gradients of both players, resuming, and what a trained network opens as.
//!
//! Longer than other files: every family of training passes the same checks.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use mtv_bench::generators::biggan::{self, BigGan};
use mtv_bench::generators::stylegan1::{Config, StyleGan1};
use mtv_bench::generators::{Family, Generator, Stage};
use mtv_bench::params::Params;
use mtv_bench::perceptual::Vgg16;
use mtv_bench::perceptual::vgg16;
use mtv_bench::random::Stream;
use mtv_bench::stages::open;
use mtv_bench::zoo::adversarial::{self, Critic, Images, Objective};
use mtv_bench::zoo::checkpoint;
use mtv_bench::zoo::curve;
use mtv_bench::zoo::discriminator::{self, Discriminator, Dual, Penalty};
use mtv_bench::zoo::drawing::Split;
use mtv_bench::zoo::faces::Source;
use mtv_bench::zoo::form::Form;
use mtv_bench::zoo::gan::{self, Trainer};
use mtv_bench::zoo::linear_algebra::Symmetric;
use mtv_bench::zoo::networks::{Network, Training};
use mtv_bench::zoo::objects;
use mtv_bench::zoo::pool::Pool;
use mtv_bench::zoo::projected_discriminator::{Heads, Projection};
use mtv_bench::zoo::schedule::Recipe;
use mtv_bench::zoo::source::{self, Subject};

const CPU: Device = Device::Cpu;

#[test]
fn what_is_left_of_a_training_can_be_rescheduled() -> mtv_bench::Result<()> {
    let mut trainer = Trainer::new(recipe(), build, pool(&recipe()), &CPU)?;
    trainer.step()?;
    assert_eq!(trainer.recipe().left(trainer.shown()), [8, 24]);
    trainer.reschedule(0.5);
    assert_eq!(trainer.recipe().stages, [12, 12]);
    (0..2).try_for_each(|_| trainer.step().map(|_| ()))?;
    trainer.reschedule(2.0);
    // 24 shown: the first stage is over, 0 of the second is left.
    assert_eq!((trainer.recipe().stages.clone(), trainer.done()), (vec![12, 12], true));
    Ok(())
}

#[test]
fn a_smaller_batch_is_the_average_of_the_larger() -> candle_core::Result<()> {
    let source = source::Source::Faces(Source::new(2));
    let large = source.batch(Split::Train, &[0, 1], 64, &CPU)?;
    let small = source.batch(Split::Train, &[0, 1], 16, &CPU)?;
    let averaged = mtv_bench::ops::avg_pool2(&mtv_bench::ops::avg_pool2(&large)?)?;
    let off = (averaged - small)?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(off < 1e-5, "{off}");
    assert!(source.batch(Split::Train, &[0], 24, &CPU).is_err());
    Ok(())
}

/// The value of a penalty as a function of the weights, in f64, against the gradient that the tangent form gives.
#[test]
fn penalties_have_exact_gradients() -> candle_core::Result<()> {
    let config = discriminator::Config { channels: vec![(4, 5), (8, 4)], group: 4 };
    let p = Params::fresh(9, DType::F64, &CPU);
    let d = Discriminator::new(&config, &p)?;
    let frozen = d.detached();
    let x = Stream::new(1, "x").normal((4, 3, 8, 8), &CPU)?.to_dtype(DType::F64)?;
    for blend in [1.0, 0.4] {
        let stage = Stage { last: 1, blend };
        for penalty in [Penalty::R1 { gamma: 3.0 }, Penalty::WganGp { lambda: 10.0 }] {
            let at = || penalty.at(&x, |x| d.scores(x, stage), |x| frozen.scores(x, stage));
            let grads = at()?.1.backward()?;
            for param in p.vars() {
                let Some(grad) = grads.get(param.var.as_tensor()) else {
                    assert!(param.name.contains("bias") || blend == 1.0, "{}", param.name);
                    continue;
                };
                let place = grad.elem_count() / 2;
                let found = grad.flatten_all()?.to_vec1::<f64>()?[place];
                let slope = slope(&param.var, place, &|| Ok(at()?.0))?;
                let off = (slope - found).abs() / slope.abs().max(1e-2);
                assert!(off < 1e-5, "{} {penalty:?}: {found} against {slope}", param.name);
            }
        }
    }
    Ok(())
}

#[test]
fn the_minibatch_deviation_keeps_groups_apart() -> candle_core::Result<()> {
    let x = Stream::new(1, "x").normal((8, 2, 4, 4), &CPU)?;
    let both = Dual::plain(&x).minibatch_std(4)?.value;
    let second = Dual::plain(&x.narrow(0, 4, 4)?.contiguous()?).minibatch_std(4)?.value;
    let off = (both.narrow(0, 4, 4)? - second)?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert_eq!(off, 0.0);
    assert!(Dual::plain(&x).minibatch_std(3).is_err());
    Ok(())
}

fn build(p: &Params) -> candle_core::Result<Box<gan::Network>> {
    let config = Config { z_dim: 8, w_dim: 8, fmaps_base: 64, fmaps_max: 8, mapping_layers: 2, mapping_fmaps: 8, ..Config::paper(16) };
    Ok(Box::new(StyleGan1::new(&config, p)?))
}

fn build_pggan(p: &Params) -> candle_core::Result<Box<gan::Network>> {
    Form::pggan(16, 8, 64).build(p)
}

fn recipe() -> Recipe {
    // Five steps, two of them while 16 px fades in.
    Recipe {
        seed: 1,
        batch: 8,
        lr: 3e-3,
        critic_lr: None,
        stages: vec![16, 24],
        fade: 16,
        gamma: vec![(0, 0.4), (16, 0.7)],
        decay: 0.5,
        pool: 12,
        objective: Objective::Logistic,
        start: None,
        projected_on: None,
        minibatch_std: false,
        noise: None,
        kernel_scale: None,
        class: None,
        then: None,
    }
}

fn pggan_recipe() -> Recipe {
    Recipe { gamma: vec![], objective: Objective::PGGAN, ..recipe() }
}

fn build_stylegan2_of_classes(p: &Params) -> candle_core::Result<Box<gan::Network>> {
    let Form::StyleGan2(plain) = Form::stylegan2(16, 8, 64) else { unreachable!("a StyleGANv2") };
    Form::StyleGan2(mtv_bench::generators::stylegan2::Config { label_size: 10, mapping_layers: 2, ..plain }).build(p)
}

fn build_stylegan2(p: &Params) -> candle_core::Result<Box<gan::Network>> {
    Form::stylegan2(16, 8, 64).build(p)
}

fn build_biggan(p: &Params) -> candle_core::Result<Box<gan::Network>> {
    Form::BigGan { widths: vec![32, 32, 16, 16, 8], latent: 8, classes: 10 }.build(p)
}

/// At 16 px from the start, two shards of 16 images.
fn biggan_recipe() -> Recipe {
    Recipe { batch: 32, lr: 1e-3, critic_lr: Some(2e-3), stages: vec![0, 128], fade: 0, ..projected_recipe() }
}

/// The images of the first stage are enlarged for the classifier.
fn projected_recipe() -> Recipe {
    Recipe { gamma: vec![], objective: Objective::Hinge, projected_on: Some("mini/vgg16_objects".into()), ..recipe() }
}

fn objects_pool(recipe: &Recipe) -> Pool {
    Pool::draw(&source::Source::Objects(objects::Source::new(1)), Split::Train, recipe.pool)
}

fn pool(recipe: &Recipe) -> Pool {
    Pool::draw(&source::Source::Faces(Source::new(1)), Split::Train, recipe.pool)
}

fn weights(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let (tensors, _) = checkpoint::load(&folder.join("state.safetensors"), &CPU).expect("a state");
    let bytes = |t: &Tensor| match t.dtype() {
        DType::I64 => t.flatten_all().and_then(|t| t.to_vec1::<i64>()).expect("i64").iter().flat_map(|v| v.to_le_bytes()).collect(),
        _ => t.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("f32").iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    tensors.iter().map(|(name, t)| (name.clone(), bytes(t))).collect()
}

#[test]
fn a_training_resumed_after_every_step_equals_an_unbroken_one() -> mtv_bench::Result<()> {
    type Build = fn(&Params) -> candle_core::Result<Box<gan::Network>>;
    type Draw = fn(&Recipe) -> Pool;
    let cases: [(Build, Recipe, Draw); 6] = [
        (build, recipe(), pool),
        (build_pggan, pggan_recipe(), pool),
        (build_biggan, biggan_recipe(), objects_pool),
        (build, projected_recipe(), objects_pool),
        (build_stylegan2_of_classes, projected_recipe(), objects_pool),
        (build, crate::zoo_alae::recipe(), pool),
    ];
    for (build, recipe, pool) in cases {
        let (whole, broken) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
        let mut trainer = Trainer::new(recipe.clone(), build, pool(&recipe), &CPU)?;
        let start = trainer.average().1.snapshot()?;
        trainer.run(whole.path(), 1e9, |_| Ok(None), |_| ())?;
        let end = trainer.average().1.snapshot()?;
        let moved = |(name, t): (&String, &Tensor)| (t - &end[name]).and_then(|d| d.abs()?.max_all()?.to_scalar::<f32>()).expect("f32");
        assert!(start.iter().map(moved).fold(0.0, f32::max) > 1e-4);

        let mut trainer = Trainer::new(recipe.clone(), build, pool(&recipe), &CPU)?;
        while !trainer.done() {
            trainer.step()?;
            trainer.save(broken.path())?;
            trainer = Trainer::resume(broken.path(), build, pool, &CPU)?;
        }
        assert_eq!(weights(whole.path()), weights(broken.path()));
    }
    Ok(())
}

/// The slope of `loss` in one value of a variable, by moving it.
pub fn slope(var: &Var, place: usize, loss: &dyn Fn() -> candle_core::Result<f64>) -> candle_core::Result<f64> {
    let (values, shape) = (var.as_tensor().flatten_all()?.to_vec1::<f64>()?, var.as_tensor().shape().clone());
    let moved = |by: f64| {
        let mut values = values.clone();
        values[place] += by;
        var.set(&Tensor::from_vec(values, &shape, &CPU)?)?;
        loss()
    };
    let slope = (moved(1e-6)? - moved(-1e-6)?) / 2e-6;
    moved(0.0)?;
    Ok(slope)
}

/// The gradients of one pass against the published losses, whose slopes are taken by moving single weights.
#[test]
fn one_pass_gives_the_gradients_of_the_published_losses() -> candle_core::Result<()> {
    const GAMMA: f64 = 0.6;
    let stage = Stage { last: 1, blend: 0.7 };
    // A group of one: only the Wasserstein loss is exact for both players where images of a group see each other.
    for (objective, group) in [(Objective::Logistic, 1), (Objective::PGGAN, 2), (Objective::Hinge, 1)] {
        let p = Params::fresh(4, DType::F64, &CPU);
        let d = Discriminator::new(&discriminator::Config { channels: vec![(4, 6), (8, 4)], group }, &p)?;
        let frozen = d.detached();
        let images = |name: &str| Stream::new(1, name).normal((4, 3, 8, 8), &CPU)?.to_dtype(DType::F64);
        let (real, base, other) = (images("real")?, images("fake")?, images("other")?);
        let g = Var::from_tensor(&Tensor::new(&[0.9f64, -1.3, 0.4], &CPU)?.reshape((1, 3, 1, 1))?)?;
        let fake = |g: &Tensor| base.broadcast_mul(g);
        let between = adversarial::between(&real, &base, &[0.1, 0.5, 0.8, 1.0])?;
        let at = if objective.is_logistic() { &other } else { &between };
        let scores = |x: &Tensor| -> candle_core::Result<Vec<f64>> { d.scores(&Dual::plain(x), stage)?.value.flatten_all()?.to_vec1() };
        let softplus = |v: f64| v.max(0.0) + (-v.abs()).exp().ln_1p();
        let mean = |v: Vec<f64>| v.iter().sum::<f64>() / v.len() as f64;
        let loss_of_d = || -> candle_core::Result<f64> {
            let (of_fake, of_real) = (scores(&fake(g.as_tensor())?)?, scores(&real)?);
            let slope = discriminator::input_gradient(at, |x| frozen.scores(x, stage))?;
            let norms = slope.flatten_from(1)?.sqr()?.sum(1)?.sqrt()?.to_vec1::<f64>()?;
            Ok(match objective {
                // Every eighth step, with eight times the weight.
                Objective::Logistic | Objective::Alae => {
                    mean(of_fake.into_iter().map(softplus).collect())
                        + mean(of_real.into_iter().map(|s| softplus(-s)).collect())
                        + 8.0 * GAMMA / 2.0 * mean(norms.iter().map(|n| n * n).collect())
                }
                Objective::WganGp { lambda, drift } => {
                    let squares = of_real.iter().map(|s| s * s).collect();
                    mean(of_fake) - mean(of_real) + drift * mean(squares) + lambda * mean(norms.iter().map(|n| (n - 1.0).powi(2)).collect())
                }
                // No image is beyond the margin here; see the next test.
                Objective::Hinge => {
                    assert!(of_fake.iter().all(|s| *s > -1.0) && of_real.iter().all(|s| *s < 1.0), "{of_fake:?} {of_real:?}");
                    mean(of_fake.into_iter().map(|s| (1.0 + s).max(0.0)).collect())
                        + mean(of_real.into_iter().map(|s| (1.0 - s).max(0.0)).collect())
                }
            })
        };
        let loss_of_g = || -> candle_core::Result<f64> {
            let of_fake = scores(&fake(g.as_tensor())?)?;
            Ok(match objective {
                Objective::Logistic | Objective::Alae => mean(of_fake.into_iter().map(|s| softplus(-s)).collect()),
                Objective::WganGp { .. } | Objective::Hinge => -mean(of_fake),
            })
        };
        let critic = Critic { trained: &|x| d.scores(x, stage), frozen: &|x| frozen.scores(x, stage) };
        let round = adversarial::round(&objective, &critic, &fake(g.as_tensor())?, &real, 4, Some((at, GAMMA)))?;
        let close = |found: f64, wanted: f64, what: &str| {
            assert!((found - wanted).abs() < 1e-5 * wanted.abs().max(1e-2), "{objective:?}, {what}: {found} against {wanted}");
        };
        for param in p.vars() {
            let place = param.var.as_tensor().elem_count() / 2;
            let found = round.critic.get(param.var.as_tensor()).expect("a gradient").flatten_all()?.to_vec1::<f64>()?[place];
            close(found, slope(&param.var, place, &loss_of_d)?, &param.name);
        }
        let found = round.generator.get(g.as_tensor()).expect("a gradient").flatten_all()?.to_vec1::<f64>()?;
        for (place, found) in found.into_iter().enumerate() {
            close(found, slope(&g, place, &loss_of_g)?, "G");
        }
    }
    Ok(())
}

#[test]
fn a_projected_discriminator_gives_the_gradients_of_the_hinge_loss() -> candle_core::Result<()> {
    [false, true].into_iter().try_for_each(compare_projected)
}

/// Frozen maps, heads that learn and three classes, against the hinge loss whose slopes are taken by moving single weights.
fn compare_projected(minibatch_std: bool) -> candle_core::Result<()> {
    let images = |name: &str| Stream::new(2, name).normal((4, 3, 32, 32), &CPU)?.to_dtype(DType::F64);
    let (real, base) = (images("real")?, images("fake")?);
    let config = vgg16::Config::vgg16([2, 3, 4, 4, 4], 1, &[]);
    let fresh = Params::fresh(3, DType::F64, &CPU);
    Vgg16::new(&config, &fresh)?;
    let vgg = Vgg16::new(&config, &Params::frozen(fresh.snapshot()?, DType::F64, &CPU, "frozen"))?;
    let projection = Projection::new(vgg, &real)?;
    let p = Params::fresh(4, DType::F64, &CPU);
    let heads = Heads::new(32, 3, minibatch_std, &p)?;
    (0..20).try_for_each(|_| heads.power_iteration())?;
    let g = Var::from_tensor(&Tensor::new(&[0.9f64, -1.3, 0.4], &CPU)?.reshape((1, 3, 1, 1))?)?;
    let fake = || base.broadcast_mul(g.as_tensor());
    // Other classes for the pictures than for the images of G.
    let rows = |classes: [usize; 4]| Tensor::new(&classes.map(|c| [0, 1, 2].map(|k| f64::from(u8::from(c == k)))), &CPU);
    let (of_fake, of_real) = (rows([0, 1, 2, 1])?, rows([2, 0, 0, 1])?);
    let of = |images: Images| if images == Images::Generated { &of_fake } else { &of_real };
    let heads_of = |maps: &[Tensor], images: Images| heads.scores(maps, Some(of(images)));
    let scores = |x: &Tensor, images: Images| heads_of(&projection.maps(x)?, images)?.flatten_all()?.to_vec1::<f64>();
    let mean = |v: Vec<f64>, f: fn(f64) -> f64| v.iter().map(|s| f(*s)).sum::<f64>() / v.len() as f64;
    let (on_fake, on_real) = (|| scores(&fake()?, Images::Generated), || scores(&real, Images::Real));
    let loss_of_d = || Ok(mean(on_fake()?, |s| (1.0 + s).max(0.0)) + mean(on_real()?, |s| (1.0 - s).max(0.0)));
    let loss_of_g = || Ok(-mean(on_fake()?, |s| s));
    let round = adversarial::projected_round(&|x| projection.maps(x), &heads_of, &fake()?, &real, 4)?;
    assert!((round.losses.fake - mean(on_fake()?, |s| s)).abs() < 1e-9 && (round.losses.real - mean(on_real()?, |s| s)).abs() < 1e-9);
    for param in p.vars().iter().filter(|p| !p.name.contains("weight_u") && !p.name.contains("weight_v")) {
        let place = param.var.as_tensor().elem_count() / 2;
        let found = round.critic.get(param.var.as_tensor()).expect("a gradient").flatten_all()?.to_vec1::<f64>()?[place];
        let wanted = slope(&param.var, place, &loss_of_d)?;
        assert!((found - wanted).abs() < 1e-5 * wanted.abs().max(1e-3), "{}: {found} against {wanted}", param.name);
    }
    let found = round.generator.get(g.as_tensor()).expect("a gradient").flatten_all()?.to_vec1::<f64>()?;
    for (place, found) in found.into_iter().enumerate() {
        let wanted = slope(&g, place, &loss_of_g)?;
        assert!((found - wanted).abs() < 1e-5 * wanted.abs().max(1e-3), "G: {found} against {wanted}");
    }
    Ok(())
}

/// A map of an enlarged image is the map that the full size has.
#[test]
fn a_projection_enlarges_what_is_small() -> mtv_bench::Result<()> {
    let pictures = objects_pool(&recipe()).images(&[0, 1, 2, 3], 32, &CPU)?;
    let projection = Projection::new(open::vgg16("mini/vgg16_objects", &CPU)?, &pictures)?;
    let small = mtv_bench::ops::avg_pool2(&pictures)?;
    let (of_small, of_large) = (projection.maps(&small)?, projection.maps(&mtv_bench::ops::upsample2(&small)?)?);
    assert_eq!(of_small.iter().map(|m| m.dims4().map(|d| d.3)).collect::<candle_core::Result<Vec<_>>>()?, [32, 16, 8, 4]);
    for (a, b) in of_small.iter().zip(&of_large) {
        assert_eq!((a - b)?.abs()?.max_all()?.to_scalar::<f32>()?, 0.0);
    }
    Ok(())
}

/// Beyond its margin an image has next to no part in D's loss, and still its part in G's.
#[test]
fn the_hinge_loss_beyond_its_margins() -> candle_core::Result<()> {
    let rows = |values: &[f64]| Tensor::from_slice(values, (4, 2, 1, 1), &CPU);
    let w = Var::from_tensor(&Tensor::new(&[[1.0f64], [-0.5]], &CPU)?)?;
    let g = Var::from_tensor(&Tensor::new(&[1.0f64, 1.0], &CPU)?.reshape((1, 2, 1, 1))?)?;
    // The scores are 2, -3, 0, -2 and 3, 0.5, -1, 1.5.
    let (base, real) = (rows(&[2.0, 0.0, -3.0, 0.0, 0.5, 1.0, 0.0, 4.0])?, rows(&[3.0, 0.0, 0.0, -1.0, -1.0, 0.0, 1.0, -1.0])?);
    let scores = |x: &Dual| x.linear(|x| x.flatten_from(1)?.matmul(w.as_tensor()));
    let critic = Critic { trained: &scores, frozen: &scores };
    let round = adversarial::round(&Objective::Hinge, &critic, &base.broadcast_mul(g.as_tensor())?, &real, 4, None)?;
    let of_w = round.critic.get(w.as_tensor()).expect("a gradient").flatten_all()?.to_vec1::<f64>()?;
    // Generated images 0 and 2, real images 1 and 2.
    let wanted = [(2.0 + 0.5 + 1.0) / 4.0, (0.0 + 1.0 + 1.0) / 4.0];
    for (found, wanted) in of_w.iter().zip(wanted) {
        assert!((found - wanted).abs() < 4e-3, "{found} against {wanted}");
    }
    // Of -mean(w . (g x)).
    let of_g = round.generator.get(g.as_tensor()).expect("a gradient").flatten_all()?.to_vec1::<f64>()?;
    for (found, wanted) in of_g.iter().zip([-(2.0 - 3.0 + 0.5) / 4.0, 0.5 * (1.0 + 4.0) / 4.0]) {
        assert!((found - wanted).abs() < 1e-9, "{found} against {wanted}");
    }
    Ok(())
}

#[test]
fn power_iterations_find_the_spectral_norms() -> candle_core::Result<()> {
    let p = Params::fresh(3, DType::F32, &CPU);
    let config = biggan::Config { orthogonal: true, ..biggan::Config::of_channels(&[32, 32, 16, 16, 8], 8, 10)? };
    let g = BigGan::new(&config, biggan::Truncation::NONE, &p)?;
    let worst = || -> candle_core::Result<f32> {
        let off = g.sigmas()?.iter().map(|(_, s)| Ok((s.to_scalar::<f32>()? - 1.0).abs())).collect::<candle_core::Result<Vec<_>>>()?;
        Ok(off.into_iter().fold(0.0, f32::max))
    };
    // Fresh weights are orthogonal: all singular values are 1, and one iteration finds one of them.
    assert!(worst()? > 0.5);
    g.power_iteration()?;
    assert!(worst()? < 1e-4, "{}", worst()?);
    // A weight that was learned: its largest singular value, by the eigenvalues of W W^T.
    let param = p.vars().into_iter().find(|p| p.name == "generator.layers.0.conv_1.weight_orig").expect("a weight");
    let noise = Stream::new(1, "noise").normal(param.var.shape(), &CPU)?;
    param.var.set(&(param.var.as_tensor() + noise)?)?;
    (0..200).try_for_each(|_| g.power_iteration())?;
    let w = param.var.as_tensor().flatten_from(1)?.to_dtype(DType::F64)?;
    let mut square = Symmetric::zeros(w.dim(0)?);
    w.t()?.contiguous()?.to_vec2::<f64>()?.iter().for_each(|column| square.add_outer(column, 1.0));
    let largest = square.eigenvalues().into_iter().fold(0.0, f64::max).sqrt();
    let found = f64::from(worst()?) + 1.0;
    assert!((found / largest - 1.0).abs() < 1e-3, "{found} against {largest}");
    Ok(())
}

/// Standing statistics included: what was trained opens as any BigGAN does, and gives about the images that it gave in training.
#[test]
fn a_trained_biggan_opens_as_a_published_one() -> mtv_bench::Result<()> {
    let mut trainer = Trainer::new(biggan_recipe(), build_biggan, objects_pool(&biggan_recipe()), &CPU)?;
    while !trainer.done() {
        trainer.step()?;
    }
    let tensors = trainer.weights()?;
    let target = mtv_bench::generators::Target::new(DType::F32, &CPU, "trained");
    let opened = biggan::open(tensors.clone(), &target, None, biggan::Truncation::NONE)?;
    let layout = opened.layout();
    assert_eq!((layout.family, layout.resolution, layout.z_dim, layout.classes), (Family::BigGan, 16, 8, 10));
    let ids: Vec<u64> = (0..400).collect();
    let classes = Tensor::from_vec((0..400).map(|i| i % 10).collect::<Vec<u32>>(), 400, &CPU)?;
    let z = opened.draw_z(&Stream::new(1, "z"), &ids, &CPU)?;
    let images = opened.synthesize(&opened.map(&z, Some(&classes))?, &Default::default())?;
    let learned = trainer.average().0;
    let in_training = learned.synthesize_to_train(&learned.map(&z, Some(&classes))?, &Default::default())?.detach();
    let spread = (&in_training - in_training.mean_keepdim(0)?.broadcast_as(in_training.shape())?)?.abs()?.mean_all()?.to_scalar::<f32>()?;
    let off = (images - in_training)?.abs()?.mean_all()?.to_scalar::<f32>()?;
    assert!(off < 0.2 * spread, "{off} beside {spread}");
    // The published way to open it takes the row of truncation 0.4, which is another.
    let published = mtv_bench::generators::open(tensors, &target)?;
    let other = published.synthesize(&published.map(&z, Some(&classes))?, &Default::default())?;
    let again = opened.with_truncation(biggan::Truncation::PAPER)?;
    let again = again.synthesize(&again.map(&z, Some(&classes))?, &Default::default())?;
    assert_eq!((other - again)?.abs()?.max_all()?.to_scalar::<f32>()?, 0.0);
    Ok(())
}

#[test]
fn a_state_from_before_there_were_objectives_still_goes_on() {
    let old = r#"{"seed":1,"batch":8,"lr":0.003,"stages":[16,24],"fade":16,"gamma":[[0,0.4],[16,0.7]],"decay":0.5,"pool":12}"#;
    assert_eq!(serde_json::from_str::<Recipe>(old).expect("a recipe"), recipe());
    assert_eq!(serde_json::to_string(&recipe()).expect("a recipe"), old);
    for recipe in [pggan_recipe(), biggan_recipe()] {
        let text = serde_json::to_string(&recipe).expect("a recipe");
        assert_eq!(serde_json::from_str::<Recipe>(&text).expect("a recipe"), recipe);
    }
}

/// Training's toRGB of every resolution is part of the published layout, so that what was trained opens as any PGGAN does.
#[test]
fn a_trained_pggan_opens_as_a_published_one() -> mtv_bench::Result<()> {
    let mut trainer = Trainer::new(pggan_recipe(), build_pggan, pool(&pggan_recipe()), &CPU)?;
    while !trainer.done() {
        trainer.step()?;
    }
    let tensors = trainer.average().1.snapshot()?;
    let opened = mtv_bench::generators::open(tensors, &mtv_bench::generators::Target::new(DType::F32, &CPU, "trained"))?;
    let layout = opened.layout();
    assert_eq!((layout.family, layout.resolution, layout.z_dim), (Family::Pggan, 16, 8));
    let z = Stream::new(1, "zoo/sample-z").normal_rows(&[0, 1], &[8], &CPU)?;
    let images = opened.synthesize(&opened.map(&z, None)?, &Default::default())?;
    let off = (images - trainer.samples(&[0, 1])?)?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(off < 1e-5, "{off}");
    Ok(())
}

#[test]
fn a_recipe_whose_parts_do_not_fit_is_refused() {
    let refused = |recipe: Recipe, build: fn(&Params) -> candle_core::Result<Box<gan::Network>>, why: &str| {
        let pool = objects_pool(&recipe);
        let error = Trainer::new(recipe, build, pool, &CPU).err().expect("refused");
        assert!(error.message.contains(why), "{}", error.message);
    };
    refused(Recipe { objective: Objective::Logistic, ..projected_recipe() }, build, "needs the hinge loss");
    refused(Recipe { projected_on: None, ..biggan_recipe() }, build_biggan, "a generator with classes needs");
    refused(Recipe { minibatch_std: true, ..recipe() }, build, "minibatch_std is of");
    refused(Recipe { noise: Some((0.4, 0.1)), ..projected_recipe() }, build, "between 0.4 and 0.1");
    refused(Recipe { kernel_scale: Some(0.5), ..projected_recipe() }, build, "only StyleGANv2");
    refused(Recipe { kernel_scale: Some(0.0), ..projected_recipe() }, build_stylegan2, "kernel_scale = 0");
}

fn noise_strengths(params: &Params) -> BTreeMap<String, Vec<f32>> {
    let strengths = params.vars().into_iter().filter(|p| p.name.contains("noise_"));
    strengths.map(|p| (p.name, p.var.flatten_all().and_then(|t| t.to_vec1()).expect("f32"))).collect()
}

/// Fresh networks have none: the bounds lift them at once, and the average is within them too; a sign that was learned stays.
#[test]
fn noise_strengths_stay_within_the_bounds_of_the_recipe() -> mtv_bench::Result<()> {
    let forms: [fn(&Params) -> candle_core::Result<Box<gan::Network>>; 2] = [build, build_stylegan2];
    for build in forms {
        let bounded = Recipe { noise: Some((0.02, 0.021)), ..recipe() };
        let mut trainer = Trainer::new(bounded.clone(), build, pool(&bounded), &CPU)?;
        let (mut steps, mut start) = (0, noise_strengths(trainer.average().1));
        assert_eq!(start.len(), trainer.average().0.layout().noise.len());
        loop {
            for strength in start.values().chain(noise_strengths(trainer.average().1).values()).flatten() {
                assert!((0.01999..=0.02101).contains(&strength.abs()), "{strength} after {steps} steps");
            }
            if trainer.done() {
                break;
            }
            trainer.step()?;
            steps += 1;
        }
        let mut tensors = trainer.average().1.snapshot()?;
        for (name, tensor) in tensors.iter_mut().filter(|(name, _)| name.contains("noise_")) {
            assert!(start.contains_key(name));
            *tensor = (tensor.ones_like()? * -0.5)?;
        }
        let trainer = Trainer::from_generator(bounded.clone(), build, pool(&bounded), &CPU, (tensors, "test".into()))?;
        start = noise_strengths(trainer.average().1);
        assert!(start.values().flatten().all(|s| (s + 0.021).abs() < 1e-6), "{start:?}");
    }
    Ok(())
}

/// Shorter kernels draw the same images and are turned further by a step; a training that goes on does not shorten them again.
#[test]
fn demodulated_kernels_are_scaled_once() -> mtv_bench::Result<()> {
    let values = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("f32");
    let length = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let mut turned = Vec::new();
    let mut drawn = Vec::new();
    for kernel_scale in [None, Some(0.25)] {
        let recipe = Recipe { kernel_scale, ..projected_recipe() };
        let mut trainer = Trainer::new(recipe.clone(), build_stylegan2, objects_pool(&recipe), &CPU)?;
        drawn.push((values(&trainer.samples(&[0, 1])?), trainer.average().1.snapshot()?));
        trainer.step()?;
        let folder = tempfile::tempdir().expect("folder");
        trainer.save(folder.path())?;
        let kernels =
            |trainer: &Trainer| -> mtv_bench::Result<Vec<f32>> { Ok(values(&trainer.average().1.snapshot()?["synthesis.layer2.weight"])) };
        let after = kernels(&trainer)?;
        assert_eq!(kernels(&Trainer::resume(folder.path(), build_stylegan2, objects_pool, &CPU)?)?, after);
        let before = values(&drawn.last().expect("one").1["synthesis.layer2.weight"]);
        let by: Vec<f32> = before.iter().zip(&after).map(|(a, b)| a - b).collect();
        turned.push(length(&by) / length(&before));
    }
    let [(images, full), (of_short, short)] = &drawn[..] else { unreachable!("two") };
    for (name, tensor) in full {
        let scale = if name.starts_with("synthesis.layer") && !name.contains("style") && name.ends_with(".weight") { 0.25 } else { 1.0 };
        assert!(values(tensor).iter().zip(values(&short[name])).all(|(a, b)| (a * scale - b).abs() < 1e-6), "{name}");
    }
    assert!(images.iter().zip(of_short).all(|(a, b)| (a - b).abs() < 1e-3));
    assert!((turned[1] / turned[0] - 4.0).abs() < 0.5, "{turned:?}");
    Ok(())
}

/// What a training goes on from is the averaged generator alone: D and the optimizers are new.
#[test]
fn a_phase_starts_from_the_generator_with_a_new_discriminator() -> mtv_bench::Result<()> {
    let mut first = Trainer::new(projected_recipe(), build, objects_pool(&projected_recipe()), &CPU)?;
    first.step()?;
    first.step()?;
    let generator = first.average().1.snapshot()?;
    let states = [0, 1].map(|_| tempfile::tempdir().expect("folder"));
    let next = Trainer::from_generator(
        projected_recipe(),
        build,
        objects_pool(&projected_recipe()),
        &CPU,
        (generator.clone(), "the first phase".into()),
    )?;
    next.save(states[0].path())?;
    Trainer::new(projected_recipe(), build, objects_pool(&projected_recipe()), &CPU)?.save(states[1].path())?;
    let [next, fresh] = states.map(|s| weights(s.path()));
    for (name, bytes) in &next {
        match name.split_once('/') {
            Some(("generator" | "average", own)) => {
                let values = generator[own].flatten_all()?.to_vec1::<f32>()?;
                assert_eq!(*bytes, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(), "{name}");
            }
            _ => assert_eq!(bytes, &fresh[name], "{name}"),
        }
    }
    assert_eq!(next.keys().collect::<Vec<_>>(), fresh.keys().collect::<Vec<_>>());
    Ok(())
}

/// A training of two phases ends with the same weights wherever it was stopped; a new one in the same folder begins at the beginning.
#[test]
fn a_training_of_two_phases_goes_on_in_the_phase_in_which_it_was() -> mtv_bench::Result<()> {
    let then = Recipe { stages: vec![0, 24], fade: 0, noise: Some((0.02, 0.4)), ..recipe() };
    let recipe = Recipe { then: Some(Box::new(then)), ..recipe() };
    let form = Form::stylegan1(16, 8, 64, 2);
    let network = Network {
        name: "mini/two_phases",
        title: "A test",
        training: Training::Generator { recipe: recipe.clone(), form, subject: Subject::Faces },
    };
    assert_eq!(network.images(), 64);
    let reseeded = network.clone().with_seed(5);
    let Training::Generator { recipe: other, .. } = &reseeded.training else { panic!("a generator") };
    assert!(other.phases().all(|phase| phase.seed == 5));
    let folder = tempfile::tempdir().expect("folder");
    let (path, second) = (folder.path(), folder.path().join("then"));
    let result = || std::fs::read(path.join("weights.safetensors")).expect("weights");
    // The file says how long it took, which differs.
    let shipped = || -> mtv_bench::Result<_> {
        let (tensors, about) = checkpoint::load(&path.join("weights.safetensors"), &CPU)?;
        let values = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1::<f32>());
        let tensors = tensors.iter().map(|(name, t)| Ok((name.clone(), values(t)?))).collect::<candle_core::Result<BTreeMap<_, _>>>()?;
        let curve = curve::read(path)?.expect("a curve");
        Ok((tensors, about["images"].as_u64(), about["recipe"].clone(), curve))
    };
    let train = |resume: bool| -> mtv_bench::Result<Vec<String>> {
        let mut lines = Vec::new();
        network.train(path, resume, None, &CPU, |line| lines.push(line.to_string()))?;
        Ok(lines)
    };
    let lines = train(false)?;
    let whole = shipped()?;
    assert_eq!(whole.1, Some(64));
    assert_eq!(serde_json::from_value::<Recipe>(whole.2.clone()).expect("a recipe"), recipe);
    assert!(lines.iter().any(|line| line.contains("going on")), "{lines:?}");
    // A point at the end of each of trainings so short.
    assert_eq!(whole.3.images, [40, 64]);
    assert_eq!(
        whole.3.values.iter().map(|(name, v)| (name.as_str(), v.len())).collect::<Vec<_>>(),
        [("critic_fake", 2), ("critic_real", 2)]
    );
    let strengths = whole.0.iter().filter(|(name, _)| name.contains("noise_weight")).flat_map(|(_, values)| values);
    assert!(strengths.clone().count() > 0 && strengths.clone().all(|s| s.abs() > 0.0199));
    // Stopped when the second phase had only begun; before it; and at the end.
    std::fs::remove_file(second.join("state.safetensors")).expect("a state");
    let lines = train(true)?;
    assert_eq!(shipped()?, whole);
    assert!(!lines.iter().any(|line| line.contains("going on")), "{lines:?}");
    std::fs::remove_dir_all(&second).expect("a folder");
    train(true)?;
    assert_eq!(shipped()?, whole);
    train(true)?;
    assert_eq!(shipped()?, whole);
    // What an earlier training left is not gone on from.
    std::fs::write(second.join("start.safetensors"), b"of an earlier training").expect("written");
    let before = result();
    let error = train(true).expect_err("damaged");
    assert!(error.message.contains("start.safetensors"), "{}", error.message);
    assert_eq!(result(), before);
    train(false)?;
    assert_eq!(shipped()?, whole);
    Ok(())
}

#[test]
fn a_state_with_nan_is_not_saved() -> mtv_bench::Result<()> {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("state.safetensors");
    let good = BTreeMap::from([("a".to_string(), Tensor::new(&[1f32, 2.0], &CPU)?)]);
    checkpoint::save(&path, &good, &serde_json::json!({}))?;
    let bad = BTreeMap::from([("a".to_string(), Tensor::new(&[1f32, f32::NAN], &CPU)?)]);
    let error = checkpoint::save(&path, &bad, &serde_json::json!({})).expect_err("NaN");
    assert_eq!(error.kind, mtv_bench::error::Kind::Diverged);
    assert_eq!(checkpoint::load(&path, &CPU)?.0["a"].to_vec1::<f32>()?, [1.0, 2.0]);
    Ok(())
}
