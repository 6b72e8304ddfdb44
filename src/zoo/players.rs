//! The two networks of an adversarial training, and the gradients of both over one shard of a batch.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};

use super::adversarial::{self, Critic, Images, Losses, Objective, Where};
use super::discriminator;
use super::gan::Network;
use super::latent_critic::LatentCritic;
use super::pool::Pool;
use super::projected_discriminator::{Heads, Projection};
use super::schedule::{Point, Recipe};
use super::shards::{self, Grads};
use crate::generators::{Family, Layout, NoiseSite, Stage, Synthesis, class_rows, draw_classes, draw_noise};
use crate::ops;
use crate::params::{Param, Params};
use crate::random::Stream;

/// Images of a shard: one group of the minibatch standard deviation, or of the batch norms.
const GROUP: usize = 8;
const NORM_GROUP: usize = 16;

/// The random numbers of a training, by what they are for.
pub(super) struct Streams {
    z: Stream,
    class: Stream,
    noise: Stream,
    real: Stream,
    r1: Stream,
    between: Stream,
    reciprocal_z: Stream,
    reciprocal_noise: Stream,
}

impl Streams {
    pub fn new(seed: u64) -> Self {
        let stream = |name: &str| Stream::new(seed, &format!("zoo/{name}"));
        Streams {
            z: stream("z"),
            class: stream("class"),
            noise: stream("noise"),
            real: stream("real"),
            r1: stream("r1"),
            between: stream("between"),
            reciprocal_z: stream("reciprocal-z"),
            reciprocal_noise: stream("reciprocal-noise"),
        }
    }
}

/// The discriminator of a family.
pub(super) enum Opponent {
    /// Of the generators that grow; and the same network as constants.
    Growing { trained: discriminator::Discriminator, frozen: discriminator::Discriminator },
    /// Of ALAE: on the w that its encoder finds.
    Latent { trained: LatentCritic, frozen: LatentCritic },
    /// Of any, on the features of a classifier.
    Projected { projection: Box<Projection>, heads: Heads },
}

impl Opponent {
    /// The opponent of a generator of this layout; it groups `group` consecutive images.
    pub fn new(recipe: &Recipe, layout: &Layout, group: usize, projection: Option<Projection>, p: &Params) -> candle_core::Result<Self> {
        if recipe.objective == Objective::Alae {
            let trained = LatentCritic::new(layout, p)?;
            return Ok(Opponent::Latent { frozen: trained.detached(), trained });
        }
        if let Some(projection) = projection {
            let heads = Heads::new(layout.resolution, layout.classes, recipe.minibatch_std, p)?;
            return Ok(Opponent::Projected { projection: Box::new(projection), heads });
        }
        let config = discriminator::Config { channels: layout.channels.clone(), group };
        let trained = discriminator::Discriminator::new(&config, p)?;
        Ok(Opponent::Growing { frozen: trained.detached(), trained })
    }

    pub fn power_iteration(&self) -> candle_core::Result<()> {
        match self {
            Opponent::Growing { .. } | Opponent::Latent { .. } => Ok(()),
            Opponent::Projected { heads, .. } => heads.power_iteration(),
        }
    }
}

/// The images of a shard, which depends on the batch alone. Batch norms take their statistics from a shard ("ghost batch norm", Hoffer et
/// al., NeurIPS 2017).
pub(super) fn shard_size(layout: &Layout, batch: usize) -> usize {
    let most = if layout.family == Family::BigGan { NORM_GROUP } else { GROUP };
    std::iter::successors(Some(most), |n| Some(n / 2)).find(|n| batch.is_multiple_of(*n)).unwrap_or(1)
}

/// What computes one shard of a batch. Shards are independent, so each has a thread of its own, and the gradients are added in the order
/// of the shards whatever the number of cores.
pub(super) struct Players {
    pub generator: Box<Network>,
    pub generator_vars: Vec<Param>,
    pub critic: Opponent,
    pub critic_vars: Vec<Param>,
    pub pool: Pool,
    pub objective: Objective,
    pub streams: Streams,
    pub device: Device,
}

/// One shard's share of the sums over the batch.
pub(super) struct Shard {
    pub critic: Grads,
    pub generator: Grads,
    /// Those of a second update of D (with E) and of G.
    pub second: Option<(Grads, Grads)>,
    pub losses: Losses,
}

impl Players {
    /// The pictures that `stream` picks for `ids`, as places in the pool.
    fn picks(&self, stream: &Stream, ids: &[u64]) -> Vec<usize> {
        ids.iter().map(|&id| self.pool.pick(stream, id)).collect()
    }

    fn real(&self, picks: &[usize], stage: Stage) -> candle_core::Result<Tensor> {
        self.pool.blended(picks, 4 << stage.last, stage.blend, &self.device)
    }

    /// The classes of the generated images and of the pictures `picks`, each as rows [n, classes].
    fn rows(&self, of_fake: Option<&Tensor>, picks: &[usize], like: &Tensor) -> candle_core::Result<[Tensor; 2]> {
        let layout = self.generator.layout();
        let of_real: Vec<u32> = picks.iter().map(|&i| self.pool.label(i).class).collect();
        let of_real = Tensor::from_vec(of_real, picks.len(), &self.device)?;
        Ok([class_rows(layout, of_fake, like)?, class_rows(layout, Some(&of_real), like)?])
    }

    /// Before every step: one power iteration of every spectral norm, whatever the number of shards.
    pub fn power_iteration(&self) -> candle_core::Result<()> {
        self.generator.power_iteration()?;
        self.critic.power_iteration()
    }

    /// The gradients of both players over the images `ids`, a part of a batch of `batch`.
    pub fn shard(&self, ids: &[u64], batch: usize, point: Point, penalty: Option<Where>) -> candle_core::Result<Shard> {
        let Point { stage, gamma, .. } = point;
        let layout = self.generator.layout();
        let z = self.streams.z.normal_rows(ids, &[layout.z_dim], &self.device)?;
        let classes = draw_classes(layout, &self.streams.class, ids, &self.device)?;
        let noise = draw_noise(&sites(layout, stage), &self.streams.noise, ids, &self.device)?;
        let with = Synthesis { noise: Some(&noise), stage: Some(stage), ..Default::default() };
        let fake = self.generator.synthesize_to_train(&self.generator.map(&z, classes.as_ref())?, &with)?;
        let picks = self.picks(&self.streams.real, ids);
        let real = self.real(&picks, stage)?;
        let penalised = match penalty {
            None => None,
            Some(Where::Real) => Some(self.real(&self.picks(&self.streams.r1, ids), stage)?),
            Some(Where::Between) => {
                let shares: Vec<f32> = ids.iter().map(|&id| self.streams.between.below(id, 1 << 24) as f32 / (1 << 24) as f32).collect();
                Some(adversarial::between(&real, &fake.detach(), &shares)?)
            }
        };
        let penalised = penalised.as_ref().map(|images| (images, gamma));
        let mut second = None;
        let mut round = match &self.critic {
            Opponent::Growing { trained, frozen } => {
                let critic = Critic { trained: &|x| trained.scores(x, stage), frozen: &|x| frozen.scores(x, stage) };
                adversarial::round(&self.objective, &critic, &fake, &real, batch, penalised)?
            }
            Opponent::Latent { trained, frozen } => {
                let critic = Critic { trained: &|x| trained.scores(x, stage), frozen: &|x| frozen.scores(x, stage) };
                let round = adversarial::round(&self.objective, &critic, &fake, &real, batch, penalised)?;
                second = Some(self.reciprocity(trained, ids, batch, stage)?);
                round
            }
            Opponent::Projected { projection, heads } => {
                let rows = if layout.classes > 0 { Some(self.rows(classes.as_ref(), &picks, &fake)?) } else { None };
                let scores = |maps: &[Tensor], images: Images| heads.scores(maps, rows.as_ref().map(|rows| &rows[images as usize]));
                adversarial::projected_round(&|x| projection.maps(x), &scores, &fake, &real, batch)?
            }
        };
        let take = |critic: &GradStore, generator: &GradStore| {
            (shards::take(&self.critic_vars, critic), shards::take(&self.generator_vars, generator))
        };
        let (critic, generator) = take(&round.critic, &round.generator);
        let second = second.map(|(value, grads)| {
            round.losses.reciprocity = Some(value);
            take(&grads, &grads)
        });
        Ok(Shard { critic, generator, second, losses: round.losses })
    }

    /// Latent reciprocity of images of their own, `mean (E(G(w)) - w)^2` with w = F(z) as a constant target: this shard's share of its value,
    /// and the gradients of E, G and F.
    fn reciprocity(&self, critic: &LatentCritic, ids: &[u64], batch: usize, stage: Stage) -> candle_core::Result<(f64, GradStore)> {
        let layout = self.generator.layout();
        let z = self.streams.reciprocal_z.normal_rows(ids, &[layout.z_dim], &self.device)?;
        let noise = draw_noise(&sites(layout, stage), &self.streams.reciprocal_noise, ids, &self.device)?;
        let rows = self.generator.map(&z, None)?;
        let with = Synthesis { noise: Some(&noise), stage: Some(stage), ..Default::default() };
        let found = critic.encode(&self.generator.synthesize_to_train(&rows, &with)?, stage)?;
        let wanted = rows.detach().narrow(1, 0, 1)?.squeeze(1)?;
        let loss = (ops::mse(&found, &wanted)? * (ids.len() as f64 / batch as f64))?;
        Ok((loss.detach().to_dtype(DType::F64)?.to_scalar()?, ops::backward(&loss)?))
    }
}

/// The noise sites that a stage has.
pub(super) fn sites(layout: &Layout, stage: Stage) -> Vec<NoiseSite> {
    layout.noise.iter().filter(|site| site.resolution <= 4 << stage.last).copied().collect()
}
