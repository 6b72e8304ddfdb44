//! Optimisation for single images: one loop, whatever moves. Latents ("In-Domain (I)", Image2StyleGAN, w+) or the weights of the
//! encoder ("MTV-TSA (OE)", section V.D) are the parameters; a closure makes the image and its losses from them.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

use super::Inverter;
use crate::generators::Synthesis;
use crate::objective::{Group, Losses, NoGradient, Term};
use crate::ops;
use crate::optim::{Optimizer, Rule};
use crate::params::Param;

/// How long and how fast.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    pub steps: u64,
    pub lr: f64,
    /// The optimizer steps of one iteration, each on the sum of its groups; all use the graph of one forward pass.
    pub groups: Vec<Vec<Group>>,
    pub no_gradient: NoGradient,
}

impl Schedule {
    /// One optimizer step an iteration, on everything.
    pub fn plain(steps: u64, lr: f64) -> Self {
        Schedule { steps, lr, groups: vec![vec![Group::Image, Group::View1, Group::View2, Group::Latents]], no_gradient: NoGradient::Skip }
    }
}

/// What one forward pass gave.
pub struct Pass {
    /// [n, 3, r, r], before this iteration's update.
    pub image: Tensor,
    pub losses: Losses,
}

/// Runs the schedule. `forward` makes the image and the losses of the current parameters; `seen` gets the number of updates that the
/// image has behind it, the pass, whose graph may be gone, and the last gradients, after this iteration's update.
pub fn refine(
    optimizer: &mut Optimizer,
    schedule: &Schedule,
    mut forward: impl FnMut() -> Result<Pass>,
    mut seen: impl FnMut(u64, &Pass, &GradStore) -> Result<()>,
) -> Result<()> {
    for step in 0..schedule.steps {
        let pass = forward()?;
        let mut last = None;
        for (i, groups) in schedule.groups.iter().enumerate() {
            let Some(total) = pass.losses.total(groups)? else { continue };
            // The last step frees the graph as it goes.
            let grads = if i + 1 == schedule.groups.len() { ops::backward(&total)? } else { total.backward()? };
            match schedule.no_gradient {
                NoGradient::Skip => optimizer.step(&grads, schedule.lr)?,
                NoGradient::Zero => optimizer.step_or_decay(&grads, schedule.lr)?,
            }
            last = Some(grads);
        }
        if let Some(grads) = last {
            seen(step, &pass, &grads)?;
        }
    }
    Ok(())
}

/// Latents as parameters of their own.
pub struct Latents {
    pub var: Var,
    pub optimizer: Optimizer,
}

impl Latents {
    /// From `start` [n, rows, w_dim], by Adam as In-Domain and Image2StyleGAN use it (betas 0.9 and 0.999).
    pub fn new(start: &Tensor) -> Result<Self> {
        let var = Var::from_tensor(&start.detach().copy()?)?;
        let param = Param { name: "latent".into(), var: var.clone(), coef: 1.0 };
        let rule = Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, equalized: false };
        Ok(Latents { var, optimizer: Optimizer::new(rule, vec![param]) })
    }
}

/// The weights of In-Domain's three terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guided {
    /// Squared pixel differences, images in [-1, 1].
    pub pixels: f64,
    /// Squared differences of the features.
    pub features: f64,
    /// Squared difference of the latent and E(G(latent)): the domain term.
    pub regulariser: f64,
}

/// The loss of In-Domain inversion's optimisation (its Eq. 4): pixels, features, and the encoder as a regulariser. Means within an image and
/// sums over images, so that images optimised side by side do not change each other.
pub fn guided(
    inverter: &dyn Inverter,
    latent: &Tensor,
    with: &Synthesis,
    (images, wanted): (&Tensor, &Tensor),
    features: &dyn Fn(&Tensor) -> Result<Tensor>,
    weights: &Guided,
) -> Result<Pass> {
    let image = inverter.render(latent, with)?;
    let n = images.dim(0)? as f64;
    let mut losses = Losses::default();
    let mut push = |name: &str, weight: f64, value: Tensor| {
        losses.terms.push(Term { group: Group::Image, name: name.into(), weight: weight * n, value });
    };
    push("pixels", weights.pixels, ops::mse(&image, images)?);
    push("features", weights.features, ops::mse(&features(&image)?, wanted)?);
    if weights.regulariser != 0.0 {
        push("regulariser", weights.regulariser, ops::mse(latent, &inverter.invert(&image)?)?);
    }
    Ok(Pass { image, losses })
}
