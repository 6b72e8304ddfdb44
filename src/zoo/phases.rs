//! A generator's training from its recipe to the tensors that ship: one phase, or several of which each goes on from the averaged generator
//! of the one before, against a new discriminator.
//!
//! A later phase has a folder within that of the one before, with the generator that it starts from; so a training that was stopped goes
//! on in the phase in which it was.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use super::checkpoint;
use super::curve::{self, Gauge};
use super::drawing::Split;
use super::form::Form;
use super::gan::Trainer;
use super::measure::mean_w;
use super::model_card;
use super::networks::{self, Network};
use super::pool::Pool;
use super::schedule::Recipe;
use super::source::Source;
use crate::generators::biggan::{self, Truncation};
use crate::generators::{Target, Tensors};
use crate::inverters::alae;
use crate::params::Params;
use crate::record::store::create_folder;
use crate::spec::card::Curve;
use crate::{Error, Result};

/// Latents over which the mean w is taken.
const CENTRE_LATENTS: usize = 10_000;
/// The folder of the next phase, and in it the generator that it starts from.
const NEXT: &str = "then";
const START: &str = "start.safetensors";

/// What the generator that a phase starts from says of itself.
#[derive(Serialize, Deserialize)]
struct Before {
    /// Of the phase that starts.
    recipe: Recipe,
    /// Of the phases before it, each without the next.
    done: Vec<Recipe>,
    /// Of all phases before it.
    images: u64,
    seconds: f64,
    #[serde(default)]
    curve: Curve,
}

impl Before {
    /// What all phases were trained by, where the last one had this recipe.
    fn whole(&self, last: &Recipe) -> Recipe {
        self.done.iter().rev().fold(last.clone(), |then, recipe| Recipe { then: Some(Box::new(then)), ..recipe.clone() })
    }
}

struct Phase {
    folder: PathBuf,
    before: Before,
    start: Option<Tensors>,
}

impl Phase {
    fn next_folder(&self) -> PathBuf {
        self.folder.join(NEXT)
    }

    /// The phase after this one, where this one is done.
    fn next(&self, device: &Device) -> Result<Option<Phase>> {
        let folder = self.next_folder();
        let path = folder.join(START);
        if !path.is_file() {
            return Ok(None);
        }
        let (tensors, about) = checkpoint::load(&path, device)?;
        let before = serde_json::from_value(about)
            .map_err(|e| Error::corrupt(format!("{}: not what a phase of a training starts from: {e}", path.display())))?;
        Ok(Some(Phase { folder, before, start: Some(tensors) }))
    }

    /// Where `resume`, the training as it was left.
    fn trainer(&self, network: &Network, form: &Form, resume: bool, device: &Device) -> Result<Trainer> {
        let draw = |recipe: &Recipe| Pool::draw(&pictures(network, recipe), Split::Train, recipe.pool);
        let build = |p: &Params| form.build(p);
        let recipe = self.before.recipe.clone();
        match &self.start {
            Some(start) if !(resume && Trainer::has_state(&self.folder)) => {
                let origin = self.folder.join(START).display().to_string();
                Trainer::from_generator(recipe.clone(), build, draw(&recipe), device, (start.clone(), origin))
            }
            None if !resume => Trainer::new(recipe.clone(), build, draw(&recipe), device),
            _ => Trainer::resume(&self.folder, build, draw, device),
        }
    }
}

/// Trains `network`, whose recipe and form these are: the tensors as they ship, and what their file says of itself.
///
/// Errors: divergence, an unusable folder.
pub(super) fn train(
    network: &Network,
    (recipe, form): (&Recipe, &Form),
    folder: &Path,
    resume: bool,
    minutes: Option<f64>,
    device: &Device,
    report: &mut dyn FnMut(&str),
) -> Result<(Tensors, serde_json::Value)> {
    let before = Before { recipe: recipe.clone(), done: Vec::new(), images: 0, seconds: 0.0, curve: Curve::default() };
    let mut phase = Phase { folder: folder.into(), before, start: None };
    if resume {
        while let Some(next) = phase.next(device)? {
            phase = next;
        }
    } else if phase.next_folder().exists() {
        std::fs::remove_dir_all(phase.next_folder()).map_err(|e| Error::io(&phase.next_folder(), "removing", e))?;
    }
    let mut minutes = minutes;
    loop {
        let mut trainer = phase.trainer(network, form, resume, device)?;
        if let Some(minutes) = minutes.take() {
            trainer.reschedule(minutes * 60.0 / seconds_left(network, form, &trainer, device)?.max(1e-9));
        }
        for recipe in trainer.recipe().phases() {
            report(&format!("images per stage: {:?}", recipe.stages));
        }
        let gauge = gauge(network, form, trainer.recipe(), device, report)?;
        let distance = |trainer: &Trainer| gauge.as_ref().map(|gauge| distance(gauge, form, trainer, device)).transpose();
        trainer.run(&phase.folder, 180.0, distance, &mut *report)?;
        let images = phase.before.images + trainer.shown();
        let seconds = phase.before.seconds + trainer.seconds();
        let mut curve = phase.before.curve.clone();
        curve.extend(trainer.curve(), phase.before.images);
        let Some(next) = &trainer.recipe().then else {
            let tensors = finished(form, &trainer, device)?;
            curve::write(&curve, folder)?;
            return Ok((tensors, network.about(&phase.before.whole(trainer.recipe()), images, seconds)?));
        };
        report(&format!("going on from the averaged generator, against a new discriminator, state in {}", phase.next_folder().display()));
        let mut done = phase.before.done.clone();
        done.push(Recipe { then: None, ..trainer.recipe().clone() });
        let before = Before { recipe: (**next).clone(), done, images, seconds, curve };
        let start = trainer.average().1.snapshot()?;
        create_folder(&phase.next_folder())?;
        let about = serde_json::to_value(&before).map_err(|e| Error::internal(e.to_string()))?;
        checkpoint::save(&phase.next_folder().join(START), &start, &about)?;
        phase = Phase { folder: phase.next_folder(), before, start: Some(start) };
    }
}

/// The pictures of a phase: those of the network, of the class that the phase sees.
fn pictures(network: &Network, recipe: &Recipe) -> Source {
    network.source().of_class(recipe.class)
}

/// What measures the generator on the way, where that is worth it.
fn gauge<'a>(
    network: &Network,
    form: &Form,
    recipe: &Recipe,
    device: &'a Device,
    report: &mut dyn FnMut(&str),
) -> Result<Option<Gauge<'a>>> {
    if !Gauge::is_worth(form.resolution(), recipe.total()) {
        return Ok(None);
    }
    let name = network.judge();
    let Ok(bytes) = model_card::shipped(name) else {
        report(&format!("the curve will have no Fréchet distances: {name} is not there"));
        return Ok(None);
    };
    let judge = networks::open_judge(&network.source(), &bytes, name, device)?;
    Ok(Some(Gauge::new(pictures(network, recipe), judge, device)))
}

fn distance(gauge: &Gauge, form: &Form, trainer: &Trainer, device: &Device) -> Result<f64> {
    if !matches!(form, Form::BigGan { .. }) {
        return gauge.distance(trainer.average().0, trainer.stage());
    }
    // Its batch norms need the statistics with which it ships.
    let target = Target::new(DType::F32, device, "the generator in training");
    gauge.distance(&biggan::open(finished(form, trainer, device)?, &target, None, Truncation::NONE)?, trainer.stage())
}

/// The averaged generator, and what else belongs into its file.
fn finished(form: &Form, trainer: &Trainer, device: &Device) -> Result<Tensors> {
    let mut tensors = trainer.weights()?;
    if let Some(name) = form.centre() {
        tensors.insert(name.into(), mean_w(trainer.average().0, trainer.recipe().seed, CENTRE_LATENTS, device)?);
    }
    Ok(match trainer.average_critic()? {
        Some(critic) => alae::published(tensors, critic),
        None => tensors,
    })
}

/// Seconds that the rest of this phase and the later ones take on this machine, from a few steps at each resolution.
fn seconds_left(network: &Network, form: &Form, trainer: &Trainer, device: &Device) -> Result<f64> {
    let recipe = trainer.recipe();
    let mut left = recipe.left(trainer.shown());
    for later in recipe.phases().skip(1) {
        left.iter_mut().zip(&later.stages).for_each(|(left, images)| *left += images);
    }
    let mut seconds = 0.0;
    for (place, &images) in left.iter().enumerate().filter(|(_, images)| **images > 0) {
        let mut probe = vec![0; left.len()];
        probe[place] = 1 << 40;
        let probe = Recipe { stages: probe, ..recipe.clone() };
        let mut trainer =
            Trainer::new(probe, |p: &Params| form.build(p), Pool::draw(&pictures(network, recipe), Split::Train, 64), device)?;
        trainer.step()?;
        let start = std::time::Instant::now();
        (0..8).try_for_each(|_| trainer.step().map(|_| ()))?;
        seconds += start.elapsed().as_secs_f64() / (8 * recipe.batch) as f64 * images as f64;
    }
    Ok(seconds)
}
