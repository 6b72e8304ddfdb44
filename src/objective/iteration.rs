//! Lines 6 to 12 of Algorithm 1 as functions: the forward pass of one iteration with all its losses, and the optimizer steps
//! on them. Drawing samples and noise is the caller's.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, bail};

use super::{DecodeWith, Detach, Group, LatentsFrom, Losses, NoGradient, Objective, Recipe, Types, Which, ZnPairing};
use super::{decoded_strengths, paired_strengths};
use crate::generators::{Family, Generator, Synthesis};
use crate::inverters::mtv::{Encoder, Input, Latents};
use crate::ops;
use crate::optim::Optimizer;

/// What the iteration starts from.
pub struct Batch<'a> {
    /// Images G(z), [n, 3, H, W].
    pub x: &'a Tensor,
    /// What E should find: w [n, rows, w] and z_c for a StyleGAN, z, and for BigGAN c = [z; embed(y)] [n, condition].
    pub target: &'a Latents,
    /// Class ids [n] of a conditional generator.
    pub classes: Option<&'a Tensor>,
    /// What the encoder of a BigGAN is told, [n, condition].
    pub condition: Option<&'a Tensor>,
    /// Noise of E(x), of G that makes x', of E(x').
    pub noise_e1: &'a [Tensor],
    /// None: the maps that the generator's checkpoint stores.
    pub noise_g2: Option<&'a [Tensor]>,
    pub noise_e2: &'a [Tensor],
}

/// What one forward pass gave.
pub struct Iteration {
    /// E(x).
    pub latents: Latents,
    /// x' = G(E(x)).
    pub x_prime: Tensor,
    /// E(x'), where the recipe takes latents from it.
    pub latents_2: Option<Latents>,
    pub losses: Losses,
}

/// Algorithm 1, lines 6 to 11: E(x), x' = G(E(x)), if need be E(x'), and every term of L_E.
pub fn forward(objective: &Objective, encoder: &Encoder, generator: &dyn Generator, batch: &Batch, which: Which) -> Result<Iteration> {
    let recipe = objective.recipe();
    let from = recipe.latents.latents_from;
    let encode = |x: &Tensor, noise| encoder.forward(x, &Input { noise, condition: batch.condition, train: true });
    let latents = encode(batch.x, batch.noise_e1)?;
    // Case 1 keeps no graph of the generator.
    let all = recipe.attention.detach == Detach::All;
    let decoded = if all { detached(&latents) } else { latents.clone() };
    let x_prime = decode(recipe, encoder, generator, &decoded, batch.classes, batch.noise_g2)?;
    let x_prime = if all { x_prime.detach() } else { x_prime };
    let latents_2 = if from == LatentsFrom::X { None } else { Some(encode(&x_prime, batch.noise_e2)?) };

    let family = generator.layout().family;
    let types = recipe.latents.types;
    let target = compared(types, family, batch.target)?;
    let passes: Vec<&Latents> = match (from, &latents_2) {
        (LatentsFrom::X, _) | (_, None) => vec![&latents],
        (LatentsFrom::XPrime, Some(second)) => vec![second],
        (LatentsFrom::Both, Some(second)) => vec![&latents, second],
    };
    let passes = passes.into_iter().map(|l| compared(types, family, l)).collect::<Result<Vec<_>>>()?;
    let strengths = if recipe.latents.zn_pairing == ZnPairing::Place && matches!(types, Types::WZn | Types::WZnZc) {
        paired_strengths(&encoder.noise_strengths(), &generator.layout().noise, &generator.noise_strengths()?)?
    } else {
        None
    };
    let mut terms = objective.image_terms(batch.x, &x_prime, which)?;
    terms.extend(objective.latent_terms(&target, &passes.iter().collect::<Vec<_>>(), strengths.as_ref())?);
    Ok(Iteration { latents, x_prime, latents_2, losses: Losses { terms } })
}

/// x' = G(E(x)): the latents that the recipe lets the generator have. `noise` None: the generator's stored maps.
///
/// Errors: latents that this generator does not take.
pub fn decode(
    recipe: &Recipe,
    encoder: &Encoder,
    generator: &dyn Generator,
    latents: &Latents,
    classes: Option<&Tensor>,
    noise: Option<&[Tensor]>,
) -> Result<Tensor> {
    let layout = generator.layout();
    let latent = decoded_latent(recipe, generator, latents, classes)?;
    let style = matches!(layout.family, Family::StyleGan1 | Family::StyleGan2);
    let constant = match recipe.latents.decode_with {
        DecodeWith::WZc | DecodeWith::WZcZn if style => latents.constant.as_ref(),
        _ => None,
    };
    let strengths = match recipe.latents.decode_with {
        DecodeWith::WZcZn if style => Some(decoded_strengths(&encoder.noise_strengths(), &layout.noise, &generator.noise_strengths()?)),
        _ => None,
    };
    generator.synthesize(&latent, &Synthesis { noise, constant, strengths: strengths.as_deref(), stage: None })
}

/// The latent that the generator takes for these of E: w itself, or z through the mapping network.
///
/// Errors: neither is there.
pub fn decoded_latent(recipe: &Recipe, generator: &dyn Generator, latents: &Latents, classes: Option<&Tensor>) -> Result<Tensor> {
    match (&latents.w, &latents.z) {
        (Some(w), _) => Ok(w.clone()),
        // With the truncation under which x was sampled.
        (None, Some(z)) => generator.truncate(&generator.map(z, classes)?, recipe.sampling.psi, generator.layout().rows / 2, None),
        (None, None) => bail!("the encoder gave neither w nor z"),
    }
}

fn detached(latents: &Latents) -> Latents {
    let detach = |t: &Option<Tensor>| t.as_ref().map(Tensor::detach);
    Latents { w: detach(&latents.w), z: detach(&latents.z), c: detach(&latents.c), constant: detach(&latents.constant) }
}

/// The latents that L_MTV compares for this family and these types. PGGAN's z is pixel-normalised: its generator does the
/// same first, so the length of z can't be observed.
pub fn compared(types: Types, family: Family, latents: &Latents) -> Result<Latents> {
    let (w, z, c, constant) = (latents.w.clone(), latents.z.clone(), latents.c.clone(), latents.constant.clone());
    Ok(match (family, types) {
        (Family::Pggan, _) => Latents { z: z.map(|z| ops::pixel_norm(&z, 1e-8)).transpose()?, ..Default::default() },
        (Family::BigGan, _) => Latents { c, z, ..Default::default() },
        (_, Types::Z) => Latents { z, ..Default::default() },
        (_, Types::WHalf | Types::W | Types::WZn) => Latents { w, ..Default::default() },
        (_, Types::WZnZc) => Latents { w, constant, ..Default::default() },
    })
}

/// Line 12: the optimizer steps of the recipe, each on the gradient of its groups. All use the graph of one forward pass; a
/// later step sees the weights that an earlier one has changed, with the activations from before, as the released code does. The last
/// one frees the graph: `losses` can't be differentiated again.
pub fn steps(objective: &Objective, losses: &Losses, optimizer: &mut Optimizer, lr: f64) -> Result<()> {
    let recipe = &objective.recipe().optimizer;
    for (i, groups) in recipe.steps.iter().enumerate() {
        // The last step frees the graph as it goes.
        let backward = if i + 1 == recipe.steps.len() { ops::backward } else { Tensor::backward };
        update(losses, groups, backward, recipe.no_gradient, optimizer, lr)?;
    }
    Ok(())
}

/// One optimizer step on the summed terms of `groups`; the graph stays.
pub fn step(losses: &Losses, groups: &[Group], no_gradient: NoGradient, optimizer: &mut Optimizer, lr: f64) -> Result<()> {
    update(losses, groups, Tensor::backward, no_gradient, optimizer, lr)
}

fn update(
    losses: &Losses,
    groups: &[Group],
    backward: fn(&Tensor) -> Result<GradStore>,
    no_gradient: NoGradient,
    optimizer: &mut Optimizer,
    lr: f64,
) -> Result<()> {
    let grads = match losses.total(groups)? {
        Some(total) => backward(&total)?,
        None if no_gradient == NoGradient::Skip => return Ok(()),
        None => Tensor::zeros((), candle_core::DType::F32, &candle_core::Device::Cpu)?.backward()?,
    };
    match no_gradient {
        NoGradient::Skip => optimizer.step(&grads, lr),
        NoGradient::Zero => optimizer.step_or_decay(&grads, lr),
    }
}
