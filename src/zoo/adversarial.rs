//! What generator and discriminator of a mini GAN are trained for, and the gradients of both from one pass of D.
//!
//! One pass of D over the generated images serves both losses: D's loss is sent back to the images with a seed per image, and the
//! image gradient is rescaled per image into that of G's loss. With the logistic loss a seed is at least [`FLOOR`]: without it the
//! gradients vanish once D is sure, and the training dies; so it is with the hinge loss, to which an image below its margin means nothing,
//! while G learns from every image. With the Wasserstein loss the scale is -1 and nothing is approximated.

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor, Var, bail};
use serde::{Deserialize, Serialize};

use super::discriminator::{Dual, Penalty};
use crate::ops;
use crate::optim::Rule;

/// The least seed of the logistic loss and of the hinge loss at a generated image, see above.
const FLOOR: f64 = 2e-3;
/// R1 is computed every so many steps, with as many times the weight.
const R1_EVERY: u64 = 8;

/// The losses of both players.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Objective {
    /// StyleGAN's: the non-saturating logistic loss (Goodfellow et al., NeurIPS 2014) with lazy R1 (Mescheder et al., ICML 2018;
    /// Karras et al., CVPR 2020), whose weight is the recipe's gamma.
    #[default]
    Logistic,
    /// PGGAN's: the Wasserstein loss with a gradient penalty between real and generated images in every step (Gulrajani et al.,
    /// NeurIPS 2017, target 1) and `drift * mean D(real)^2` (Karras et al., ICLR 2018).
    WganGp { lambda: f64, drift: f64 },
    /// ALAE's: the logistic loss and lazy R1 of D(E(x)), and in every step a second update of E, G and F by latent reciprocity,
    /// `mean (E(G(w)) - w)^2` (Pidhorskyi et al., CVPR 2020).
    Alae,
    /// BigGAN's: D's hinge loss, `mean max(0, 1 - D(real)) + mean max(0, 1 + D(fake))`, and `-mean D(fake)` for G, without a penalty (Lim
    /// and Ye, 2017; Brock et al., ICLR 2019).
    Hinge,
}

/// Where the gradient of D is penalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// At other real images.
    Real,
    /// On the lines between the step's real and generated images.
    Between,
}

impl Objective {
    /// PGGAN's, with the paper's weights.
    pub const PGGAN: Objective = Objective::WganGp { lambda: 10.0, drift: 1e-3 };

    pub fn is_logistic(&self) -> bool {
        *self == Objective::Logistic
    }

    /// In words, for a card.
    pub fn title(&self) -> String {
        match self {
            Objective::Logistic => format!("the non-saturating loss and R1 every {R1_EVERY} steps"),
            Objective::Alae => format!("the non-saturating loss and R1 every {R1_EVERY} steps of D(E(x)), and latent reciprocity"),
            Objective::WganGp { lambda, drift } => {
                format!("the Wasserstein loss, a gradient penalty of {lambda} in every step and a drift of {drift}")
            }
            Objective::Hinge => "the hinge loss".to_string(),
        }
    }

    /// What [`Losses::penalty`] is, where there is one.
    pub fn penalised(&self) -> Option<&'static str> {
        match self {
            Objective::Logistic | Objective::Alae => Some("|grad D|^2"),
            Objective::WganGp { .. } => Some("(|grad D| - 1)^2"),
            Objective::Hinge => None,
        }
    }

    /// How both players step.
    pub fn rule(&self) -> Rule {
        match self {
            Objective::Logistic | Objective::WganGp { .. } => Rule::PAPER,
            Objective::Alae => Rule::RELEASED,
            Objective::Hinge => Rule::Adam { beta1: 0.0, beta2: 0.999, eps: 1e-8, equalized: true },
        }
    }

    /// Where the gradient of D is penalised in step `step`, if anywhere.
    pub fn penalty_in(&self, step: u64) -> Option<Where> {
        match self {
            Objective::Logistic | Objective::Alae => step.is_multiple_of(R1_EVERY).then_some(Where::Real),
            Objective::WganGp { .. } => Some(Where::Between),
            Objective::Hinge => None,
        }
    }

    /// The penalty of a shard that is this share of the batch, and what its value is to be multiplied by to be reported.
    fn penalty(&self, gamma: f64, share: f64) -> Option<(Penalty, f64)> {
        match *self {
            Objective::Logistic | Objective::Alae => {
                let gamma = gamma * R1_EVERY as f64 * share;
                Some((Penalty::R1 { gamma }, 2.0 / gamma * share))
            }
            Objective::WganGp { lambda, .. } => Some((Penalty::WganGp { lambda: lambda * share }, 1.0 / lambda)),
            Objective::Hinge => None,
        }
    }

    /// The derivatives of D's loss by the score of a generated and of a real image, and of G's loss by that of a generated one, for
    /// a batch of one.
    fn at_fake(&self, score: f64) -> f64 {
        match self {
            Objective::Logistic | Objective::Alae => sigmoid(score).max(FLOOR),
            Objective::WganGp { .. } => 1.0,
            Objective::Hinge => f64::from(score > -1.0).max(FLOOR),
        }
    }

    fn at_real(&self, score: f64) -> f64 {
        match self {
            Objective::Logistic | Objective::Alae => -sigmoid(-score),
            Objective::WganGp { drift, .. } => 2.0 * drift * score - 1.0,
            Objective::Hinge => -f64::from(score < 1.0),
        }
    }

    fn of_generator(&self, score: f64) -> f64 {
        match self {
            Objective::Logistic | Objective::Alae => -sigmoid(-score),
            Objective::WganGp { .. } | Objective::Hinge => -1.0,
        }
    }
}

/// Mean scores of one step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Losses {
    pub real: f64,
    pub fake: f64,
    /// What [`Objective::penalised`] says, on average, in the steps that have a penalty.
    pub penalty: Option<f64>,
    /// Latent reciprocity, where it is trained.
    pub reciprocity: Option<f64>,
}

impl Losses {
    /// With the share of another shard of the same batch.
    pub fn plus(self, other: Losses) -> Losses {
        let sum = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a + b).or(a).or(b);
        Losses {
            real: self.real + other.real,
            fake: self.fake + other.fake,
            penalty: sum(self.penalty, other.penalty),
            reciprocity: sum(self.reciprocity, other.reciprocity),
        }
    }

    pub fn are_finite(&self) -> bool {
        let more = [self.penalty, self.reciprocity];
        self.real.is_finite() && self.fake.is_finite() && more.iter().flatten().all(|v| v.is_finite())
    }
}

/// Images `t * real + (1 - t) * fake` on the lines between two batches [n, 3, r, r], one share t in [0, 1] per image.
pub fn between(real: &Tensor, fake: &Tensor, shares: &[f32]) -> Result<Tensor> {
    let t = Tensor::from_slice(shares, (shares.len(), 1, 1, 1), real.device())?.to_dtype(real.dtype())?;
    real.broadcast_mul(&t)? + fake.broadcast_mul(&t.affine(-1.0, 1.0)?)?
}

/// D as one step sees it: images to scores [n, 1], generated images before real ones.
pub struct Critic<'a> {
    pub trained: &'a dyn Fn(&Dual) -> Result<Dual>,
    /// The same network as constants; only penalties need it.
    pub frozen: &'a dyn Fn(&Dual) -> Result<Dual>,
}

/// The gradients of one shard.
pub struct Round {
    pub critic: GradStore,
    pub generator: GradStore,
    pub losses: Losses,
}

/// The gradients of both players, from images `fake` [n, 3, r, r], in the generator's graph, and `real` of the same shape: a shard of
/// a batch of `batch`. `penalised`: the images at which the gradient of D is penalised, and the recipe's gamma.
pub fn round(
    objective: &Objective,
    critic: &Critic,
    fake: &Tensor,
    real: &Tensor,
    batch: usize,
    penalised: Option<(&Tensor, f64)>,
) -> Result<Round> {
    let (n, count) = (fake.dim(0)?, batch as f64);
    let leaf = Var::from_tensor(&fake.detach())?;
    let both = Tensor::cat(&[leaf.as_tensor(), real], 0)?;
    let scores = (critic.trained)(&Dual::plain(&both))?.value;
    let values = scores.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    let column = |values: Vec<f64>, shape: &[usize]| Tensor::from_vec(values, shape, fake.device())?.to_dtype(fake.dtype());
    let (of_fake, of_real) = values.split_at(n);
    let fake_seeds: Vec<f64> = of_fake.iter().map(|&s| objective.at_fake(s) / count).collect();
    let seeds = fake_seeds.iter().copied().chain(of_real.iter().map(|&s| objective.at_real(s) / count)).collect();
    let mut loss = (&scores * column(seeds, &[2 * n, 1])?)?.sum_all()?;
    let mut penalty = None;
    if let Some((images, gamma)) = penalised
        && let Some((of_shard, reported)) = objective.penalty(gamma, n as f64 / count)
    {
        let (value, surrogate) = of_shard.at(images, critic.trained, critic.frozen)?;
        penalty = Some(value * reported);
        loss = (loss + surrogate)?;
    }
    let critic_grads = ops::backward(&loss)?;
    let Some(image_grad) = critic_grads.get(leaf.as_tensor()) else { bail!("D's scores do not depend on the images") };
    let scale = of_fake.iter().zip(&fake_seeds).map(|(&s, seed)| objective.of_generator(s) / count / seed).collect();
    let image_grad = image_grad.detach().broadcast_mul(&column(scale, &[n, 1, 1, 1])?)?;
    let generator_grads = ops::backward(&(fake * image_grad)?.sum_all()?)?;
    let mean = |scores: &[f64]| scores.iter().sum::<f64>() / count;
    let losses = Losses { real: mean(of_real), fake: mean(of_fake), penalty, reciprocity: None };
    Ok(Round { critic: critic_grads, generator: generator_grads, losses })
}

/// The images of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Images {
    Generated,
    Real,
}

/// As [`round`], of a D that is a frozen projection of an image to maps and heads that learn, with the hinge loss of every score of a
/// head: `heads` turns the maps of the generated or of the real images into scores [n, any number].
///
/// Each player has a pass of the heads of its own: the images of a batch have many scores each, so the gradient of one loss is no multiple
/// of the other's.
pub fn projected_round(
    projection: &dyn Fn(&Tensor) -> Result<Vec<Tensor>>,
    heads: &dyn Fn(&[Tensor], Images) -> Result<Tensor>,
    fake: &Tensor,
    real: &Tensor,
    batch: usize,
) -> Result<Round> {
    let leaf = Var::from_tensor(&fake.detach())?;
    let of_fake = projection(leaf.as_tensor())?;
    let cuts = of_fake.iter().map(|map| Var::from_tensor(&map.detach())).collect::<Result<Vec<_>>>()?;
    let constants = |maps: &[Tensor]| maps.iter().map(Tensor::detach).collect::<Vec<_>>();
    let (on_fake, on_real) = (heads(&constants(&of_fake), Images::Generated)?, heads(&projection(real)?, Images::Real)?);
    let share = 1.0 / (batch * on_fake.dim(1)?) as f64;
    let beyond = |signed: &Tensor| (signed + 1.0)?.relu()?.sum_all();
    let critic = ops::backward(&((beyond(&on_fake)? + beyond(&on_real.neg()?)?)? * share)?)?;
    let for_generator = heads(&cuts.iter().map(|cut| cut.as_tensor().clone()).collect::<Vec<_>>(), Images::Generated)?;
    let to_maps = ops::backward(&(for_generator.sum_all()? * -share)?)?;
    let mut along = Tensor::zeros((), fake.dtype(), fake.device())?;
    for (map, cut) in of_fake.iter().zip(&cuts) {
        let Some(grad) = to_maps.get(cut.as_tensor()) else { bail!("D's scores do not depend on one of the maps") };
        along = (along + (map * grad.detach())?.sum_all()?)?;
    }
    let to_image = ops::backward(&along)?;
    let Some(image_grad) = to_image.get(leaf.as_tensor()) else { bail!("the maps do not depend on the images") };
    let generator = ops::backward(&(fake * image_grad.detach())?.sum_all()?)?;
    let mean = |scores: &Tensor| Ok::<_, candle_core::Error>(scores.detach().sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()? * share);
    let losses = Losses { real: mean(&on_real)?, fake: mean(&on_fake)?, ..Default::default() };
    Ok(Round { critic, generator, losses })
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
