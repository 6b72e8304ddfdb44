//! Adversarial training of a mini generator with progressive growth (Karras et al., ICLR 2018); the losses are in `adversarial`.
//!
//! Everything random is a function of (seed, stream, image number), so a training that was killed and resumed equals one that was
//! not.

mod run;

use std::path::Path;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::adversarial::{Losses, Objective};
use super::checkpoint;
use super::curve::{self, Meter};
use super::latent_critic::{self, LatentCritic};
use super::moving_average::Towards;
use super::players::{self, Opponent, Players, Streams};
use super::pool::Pool;
use super::projected_discriminator;
use super::schedule::{Point, Recipe};
use super::shards::{self, Shards};
use crate::error::Kind;
use crate::generators::stylegan2::is_demodulated_kernel;
use crate::generators::{Family, Generator, Stage, Tensors, is_noise_strength, spectral};
use crate::optim::Optimizer;
use crate::params::Params;
use crate::spec::card::Curve;
use crate::{Error, Result};

const EMA: f64 = 0.998;
const STATE: &str = "state.safetensors";
/// Power iterations that make the spectral norms of fresh weights.
const SPECTRAL_PASSES: usize = 20;

/// Builds the generator from its parameters.
pub trait Build: Fn(&Params) -> candle_core::Result<Box<Network>> {}
impl<F: Fn(&Params) -> candle_core::Result<Box<Network>>> Build for F {}
/// A generator that threads may share.
pub type Network = dyn Generator + Send + Sync;

/// A training in progress.
pub struct Trainer {
    recipe: Recipe,
    players: Players,
    threads: Shards,
    generator_params: Params,
    average: Box<Network>,
    average_params: Params,
    critic_params: Params,
    /// The average of E and D, where they ship with the generator.
    critic_average: Option<Params>,
    generator_steps: Optimizer,
    critic_steps: Optimizer,
    device: Device,
    /// Steps taken, images shown, steps since the last growth, seconds spent.
    step: u64,
    shown: u64,
    since_growth: u64,
    last: usize,
    seconds: f64,
    meter: Meter,
}

/// What a checkpoint says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Progress {
    pub recipe: Recipe,
    pub step: u64,
    pub shown: u64,
    since_growth: u64,
    last: usize,
    pub seconds: f64,
    #[serde(default)]
    meter: Meter,
}

impl Trainer {
    /// A training at its beginning.
    pub fn new(recipe: Recipe, build: impl Build, pool: Pool, device: &Device) -> Result<Self> {
        let given = match &recipe.start {
            Some(start) => {
                let critic_seed = recipe.seed.wrapping_add(1);
                Some((latent_critic::started(start, critic_seed, device)?, start.generator.clone()))
            }
            None => None,
        };
        Self::build(recipe, build, pool, device, given, None)
    }

    /// A training that starts from this generator, with a new D; `origin` names it in errors.
    ///
    /// Errors: tensors of another network.
    pub fn from_generator(
        recipe: Recipe,
        build: impl Build,
        pool: Pool,
        device: &Device,
        (generator, origin): (Tensors, String),
    ) -> Result<Self> {
        let parts = ["generator/", "average/"].into_iter().flat_map(|part| checkpoint::prefixed(part, generator.clone()));
        Self::build(recipe, build, pool, device, Some((parts.collect(), origin)), None)
    }

    /// A training where `folder` left it.
    ///
    /// Errors: no state there, or one of another network.
    pub fn resume(folder: &Path, build: impl Build, pool: impl FnOnce(&Recipe) -> Pool, device: &Device) -> Result<Self> {
        let path = folder.join(STATE);
        let (tensors, about) = checkpoint::resume(&path, device)?;
        let progress: Progress =
            serde_json::from_value(about).map_err(|e| Error::corrupt(format!("{}: no state of a training: {e}", path.display())))?;
        let pool = pool(&progress.recipe);
        Self::build(progress.recipe.clone(), build, pool, device, Some((tensors, path.display().to_string())), Some(progress))
    }

    /// Whether `folder` holds the state of a training.
    pub fn has_state(folder: &Path) -> bool {
        folder.join(STATE).is_file()
    }

    /// `given`: tensors to start from and where they are from; with `progress` they are the state of a training, else D may be missing.
    fn build(
        recipe: Recipe,
        build: impl Build,
        pool: Pool,
        device: &Device,
        given: Option<(Tensors, String)>,
        progress: Option<Progress>,
    ) -> Result<Self> {
        if recipe.batch == 0 || recipe.stages.is_empty() || pool.is_empty() {
            return Err(Error::usage("a training needs images, stages and a batch size above 0"));
        }
        if let Some((least, most)) = recipe.noise.filter(|(least, most)| !(0.0 <= *least && least <= most)) {
            return Err(Error::usage(format!("noise strengths cannot be kept between {least} and {most}")));
        }
        let dtype = candle_core::DType::F32;
        let critic_seed = recipe.seed.wrapping_add(1);
        let params = |part: &str, seed: u64| {
            let own = given.as_ref().map(|(tensors, origin)| (checkpoint::part(tensors, part), origin));
            match own {
                Some((tensors, origin)) if progress.is_some() || !tensors.is_empty() => Params::trainable(tensors, dtype, device, origin),
                _ => Params::fresh(seed, dtype, device),
            }
        };
        let generator_params = params("generator/", recipe.seed);
        let generator = build(&generator_params)?;
        let layout = generator.layout().clone();
        if recipe.stages.len() + 1 != layout.channels.len() {
            let (have, need) = (recipe.stages.len(), layout.channels.len() - 1);
            return Err(Error::usage(format!("{have} stages given; growth from 8 to {} px has {need}", layout.resolution)));
        }
        if let Some(scale) = recipe.kernel_scale
            && !(layout.family == Family::StyleGan2 && scale.is_finite() && scale > 0.0)
        {
            return Err(Error::usage(format!("kernel_scale = {scale}: it must be above 0, and only StyleGANv2 has demodulated kernels")));
        }
        // The average starts as the generator itself: initial values depend on seed and name only.
        let average_params = params("average/", recipe.seed);
        let average = build(&average_params)?;
        let critic_params = params("critic/", critic_seed);
        let group = players::shard_size(&layout, recipe.batch);
        let critic =
            Opponent::new(&recipe, &layout, group, projected_discriminator::projection(&recipe, &pool, &layout, device)?, &critic_params)?;
        let critic_average = match recipe.objective {
            Objective::Alae => {
                let params = params("critic-average/", critic_seed);
                LatentCritic::new(&layout, &params)?;
                Some(params)
            }
            _ => None,
        };
        for params in [&generator_params, &average_params, &critic_params].into_iter().chain(&critic_average) {
            params.finish()?;
        }
        let rule = recipe.objective.rule();
        let mut trainer = Trainer {
            generator_steps: Optimizer::new(rule, generator_params.vars()),
            critic_steps: Optimizer::new(rule, critic_params.vars()),
            players: Players {
                generator,
                generator_vars: generator_params.vars(),
                critic,
                critic_vars: critic_params.vars(),
                pool,
                objective: recipe.objective,
                streams: Streams::new(recipe.seed),
                device: device.clone(),
            },
            threads: Shards::new(recipe.batch / group)?,
            generator_params,
            average,
            average_params,
            critic_params,
            critic_average,
            device: device.clone(),
            step: 0,
            shown: 0,
            since_growth: 0,
            last: 1,
            seconds: 0.0,
            meter: Meter::default(),
            recipe,
        };
        let (Some((tensors, _)), Some(progress)) = (given, progress) else {
            for _ in 0..SPECTRAL_PASSES {
                trainer.players.power_iteration()?;
                trainer.average.power_iteration()?;
            }
            trainer.scale_kernels(&trainer.generator_params)?;
            trainer.scale_kernels(&trainer.average_params)?;
            trainer.hold_noise(&trainer.generator_params)?;
            trainer.hold_noise(&trainer.average_params)?;
            return Ok(trainer);
        };
        trainer.generator_steps.load_state(checkpoint::part(&tensors, "generator-steps/"))?;
        trainer.critic_steps.load_state(checkpoint::part(&tensors, "critic-steps/"))?;
        (trainer.step, trainer.shown, trainer.seconds) = (progress.step, progress.shown, progress.seconds);
        (trainer.since_growth, trainer.last, trainer.meter) = (progress.since_growth, progress.last, progress.meter);
        Ok(trainer)
    }

    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Scales what is left of every stage, and the phases that go on from this one; what was done stays as it was.
    pub fn reschedule(&mut self, by: f64) {
        let left = self.recipe.left(self.shown);
        self.recipe = self.recipe.rescheduled(&left, by);
    }

    pub fn shown(&self) -> u64 {
        self.shown
    }

    pub fn done(&self) -> bool {
        self.shown >= self.recipe.total()
    }

    /// The averaged generator and its parameters.
    pub fn average(&self) -> (&dyn Generator, &Params) {
        (self.average.as_ref(), &self.average_params)
    }

    /// The averaged encoder and discriminator of ALAE.
    pub fn average_critic(&self) -> candle_core::Result<Option<Tensors>> {
        self.critic_average.as_ref().map(Params::snapshot).transpose()
    }

    /// The tensors of the averaged generator as they ship: with standing statistics, where it has batch norms.
    pub fn weights(&self) -> candle_core::Result<Tensors> {
        let mut tensors = self.average_params.snapshot()?;
        tensors.extend(self.average.standing_statistics(self.recipe.seed)?);
        Ok(tensors)
    }

    /// The present stage.
    pub fn stage(&self) -> Stage {
        self.recipe.at(self.shown).stage
    }

    /// The resolution of the present stage.
    pub fn resolution(&self) -> usize {
        4 << self.stage().last
    }

    /// The curve up to here.
    pub fn curve(&self) -> &Curve {
        &self.meter.curve
    }

    /// One step of both networks.
    ///
    /// Errors: kind `Diverged` if a score is not finite; the state in the folder is then the last good one.
    pub fn step(&mut self) -> Result<Losses> {
        let point = self.recipe.at(self.shown);
        let losses = self.try_step(point)?;
        if !losses.are_finite() {
            let Losses { real, fake, penalty, reciprocity } = losses;
            let others = [("penalty", penalty), ("reciprocity", reciprocity)];
            let others: String = others.into_iter().filter_map(|(what, value)| Some(format!(", {what} {}", value?))).collect();
            let message = format!("training diverged at step {} (D(real) {real}, D(fake) {fake}{others})", self.step);
            return Err(Error::new(Kind::Diverged, message));
        }
        self.meter.count([(curve::CRITIC_REAL, losses.real), (curve::CRITIC_FAKE, losses.fake)]);
        Ok(losses)
    }

    fn try_step(&mut self, point: Point) -> candle_core::Result<Losses> {
        let n = self.recipe.batch;
        let ids: Vec<u64> = (self.shown..self.shown + n as u64).collect();
        let penalty = self.recipe.objective.penalty_in(self.step);
        let players = &self.players;
        players.power_iteration()?;
        let shards = self.threads.run(&ids, |ids| players.shard(ids, n, point, penalty))?;
        let losses = shards.iter().fold(Losses::default(), |sum, shard| sum.plus(shard.losses));
        let critic = shards::summed(self.critic_steps.params(), shards.iter().map(|s| &s.critic))?;
        let generator = shards::summed(self.generator_steps.params(), shards.iter().map(|s| &s.generator))?;
        self.critic_steps.step_named(&critic, point.critic_lr)?;
        self.generator_steps.step_named(&generator, point.lr)?;
        if shards.iter().any(|s| s.second.is_some()) {
            let seconds = || shards.iter().filter_map(|s| s.second.as_ref());
            let critic = shards::summed(self.critic_steps.params(), seconds().map(|(critic, _)| critic))?;
            let generator = shards::summed(self.generator_steps.params(), seconds().map(|(_, generator)| generator))?;
            self.critic_steps.step_named(&critic, point.critic_lr)?;
            self.generator_steps.step_named(&generator, point.lr)?;
        }
        self.hold_noise(&self.generator_params)?;
        self.follow(point.stage)?;
        self.step += 1;
        self.shown += n as u64;
        Ok(losses)
    }

    /// Multiplies the demodulated kernels by the recipe's factor.
    fn scale_kernels(&self, generator: &Params) -> candle_core::Result<()> {
        let Some(scale) = self.recipe.kernel_scale else { return Ok(()) };
        for param in generator.vars().into_iter().filter(|param| is_demodulated_kernel(&param.name)) {
            param.var.set(&(param.var.as_tensor() * scale)?)?;
        }
        Ok(())
    }

    /// Keeps every noise strength within the recipe's bounds, and its sign.
    fn hold_noise(&self, generator: &Params) -> candle_core::Result<()> {
        let Some((least, most)) = self.recipe.noise else { return Ok(()) };
        for param in generator.vars().into_iter().filter(|param| is_noise_strength(&param.name)) {
            let strength = param.var.as_tensor();
            let held = strength.abs()?.clamp(least, most)?;
            param.var.set(&strength.ge(0.0)?.where_cond(&held, &held.neg()?)?)?;
        }
        Ok(())
    }

    /// Moves the average. Its window starts again at each growth, or the new layers would lag for thousands of steps.
    fn follow(&mut self, stage: Stage) -> candle_core::Result<()> {
        if stage.last != self.last {
            (self.last, self.since_growth) = (stage.last, 0);
        }
        self.since_growth += 1;
        let t = self.since_growth as f64;
        let keep = EMA.min((1.0 + t) / (10.0 + t));
        let of_critic = self.critic_average.iter().flat_map(|average| average.vars().into_iter().zip(self.critic_params.vars()));
        for (average, param) in self.average_params.vars().into_iter().zip(self.generator_params.vars()).chain(of_critic) {
            // The average has singular vectors of its own: those of its weights.
            if !spectral::is_vector(&param.name) {
                Towards { weight: 1.0 - keep }.apply(average.var.as_tensor(), param.var.as_tensor())?;
            }
        }
        self.average.power_iteration()
    }

    /// Writes the whole state into `folder`, atomically.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let parts = [
            ("generator/", self.generator_params.snapshot()?),
            ("average/", self.average_params.snapshot()?),
            ("critic/", self.critic_params.snapshot()?),
            ("generator-steps/", self.generator_steps.state()?),
            ("critic-steps/", self.critic_steps.state()?),
        ];
        let of_critic = self.average_critic()?.map(|tensors| ("critic-average/", tensors));
        let tensors = parts.into_iter().chain(of_critic).flat_map(|(prefix, tensors)| checkpoint::prefixed(prefix, tensors)).collect();
        let progress = Progress {
            recipe: self.recipe.clone(),
            step: self.step,
            shown: self.shown,
            since_growth: self.since_growth,
            last: self.last,
            seconds: self.seconds,
            meter: self.meter.clone(),
        };
        let about = serde_json::to_value(progress).map_err(|e| Error::internal(e.to_string()))?;
        checkpoint::save(&folder.join(STATE), &tensors, &about)
    }

    /// Seconds of training so far, over all resumptions.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }
}
