//! The objective: Eqs. 2 to 8 of the paper in every reading that a [`Recipe`] offers. Every term is returned by name with its
//! weight, so that a NaN names its term and an optimizer step can take a group of terms by itself.

mod iteration;
mod recipe;
mod ssim;
mod strengths;
pub mod vectors;

pub use iteration::{Batch, Iteration, compared, decode, decoded_latent, forward, step, steps};
pub use recipe::*;
pub use ssim::{map as ssim_map, ssim};
pub use strengths::{decoded_strengths, paired_strengths};

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use crate::attention::{center, grad_cam};
use crate::error::{Error, Kind};
use crate::inverters::mtv::Latents;
use crate::ops;
use crate::perceptual::lpips::Lpips;
use crate::perceptual::vgg16::{Backward, Vgg16, scale_input};

/// Images taller than this are halved before SSIM and the perceptual term see them.
const MAX_HEIGHT: usize = 256;

/// One term of the loss.
#[derive(Clone)]
pub struct Term {
    pub group: Group,
    /// What is compared and how, such as "x/ssim", "view_1/kl", "w/cosine".
    pub name: String,
    /// Its factor in the loss.
    pub weight: f64,
    /// A scalar.
    pub value: Tensor,
}

/// The terms of one iteration.
#[derive(Default)]
pub struct Losses {
    pub terms: Vec<Term>,
}

impl Losses {
    /// The weighted sum of the terms of these groups, the scalar to differentiate; None where no such term exists.
    pub fn total(&self, groups: &[Group]) -> Result<Option<Tensor>> {
        let of = |t: &&Term| groups.contains(&t.group);
        let terms: Vec<&Term> = self.terms.iter().filter(of).collect();
        if terms.is_empty() {
            return Ok(None);
        }
        let values: Vec<Tensor> = terms.iter().map(|t| t.value.flatten_all()).collect::<Result<_>>()?;
        let values = Tensor::cat(&values, 0)?;
        let weights: Vec<f64> = terms.iter().map(|t| t.weight).collect();
        let weights = Tensor::new(weights, values.device())?.to_dtype(values.dtype())?;
        Ok(Some((values * weights)?.sum_all()?))
    }

    /// The unweighted values by name, read from the device at once.
    pub fn values(&self) -> Result<Vec<(&str, f64)>> {
        if self.terms.is_empty() {
            return Ok(Vec::new());
        }
        let values: Vec<Tensor> = self.terms.iter().map(|t| t.value.detach().flatten_all()).collect::<Result<_>>()?;
        let values = Tensor::cat(&values, 0)?.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()?;
        Ok(self.terms.iter().map(|t| t.name.as_str()).zip(values).collect())
    }

    /// The values as [`Losses::values`].
    ///
    /// Errors: [`Kind::Diverged`] naming the first term that is NaN or infinite, and the step.
    pub fn checked(&self, step: u64) -> crate::Result<Vec<(&str, f64)>> {
        let values = self.values()?;
        match values.iter().find(|(_, v)| !v.is_finite()) {
            Some((name, value)) => {
                Err(Error::new(Kind::Diverged, format!("the loss term \"{name}\" became {value} at step {step}: training stopped")))
            }
            None => Ok(values),
        }
    }
}

/// Which of the image terms are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    All,
    /// Only those with a gradient: the others are constants that no step needs, but a log may want.
    Live,
}

/// The image part L_TSA and the latent part L_MTV of Eq. 8.
pub struct Objective {
    recipe: Recipe,
    vgg: Option<Arc<Vgg16>>,
    lpips: Option<Arc<Lpips>>,
    center: Option<center::Center>,
}

/// What the loss of one pair of images shares between its terms and its views.
struct Pair {
    target: Tensor,
    pred: Tensor,
    /// Width of the data's range.
    range: f64,
    /// The taps of both, where a term or a view has needed them.
    taps: Option<(Vec<Tensor>, Vec<Tensor>)>,
}

impl Objective {
    /// `vgg` serves the perceptual term and Grad-CAM, `lpips` the recipe value of that name; `like` has the images' shape, dtype and
    /// device.
    ///
    /// Errors: the recipe needs a network that is not given, or larger images.
    pub fn new(recipe: &Recipe, vgg: Option<Arc<Vgg16>>, lpips: Option<Arc<Lpips>>, like: &Tensor) -> Result<Self> {
        let grad_cam = matches!(recipe.attention.views, Views::GradCam | Views::GradCamReleased);
        let perceptual = recipe.weights.perceptual != 0.0;
        if vgg.is_none() && (grad_cam || perceptual) {
            bail!("the recipe needs a VGG network for its perceptual term or for Grad-CAM")
        }
        if lpips.is_none() && perceptual && recipe.terms.perceptual == Perceptual::Lpips {
            bail!("the recipe's perceptual term needs the heads of LPIPS")
        }
        let (_, _, h, w) = like.dims4()?;
        if let (true, Some(vgg)) = (grad_cam, &vgg) {
            // The classifier's last pool needs two rows of relu5_3.
            let (side, least) = (h.min(w).max(recipe.attention.cam_side), 1 << vgg.config().blocks.len());
            if side < least {
                bail!("Grad-CAM needs images of at least {least} pixels, or cam_side = {least}; these have {side}")
            }
        }
        let center = match recipe.attention.views {
            Views::Center => Some(center::Center::new(h, w, like.dtype(), like.device())?),
            _ => None,
        };
        Ok(Objective { recipe: recipe.clone(), vgg, lpips, center })
    }

    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// L1 = TSA(x, x') + mu1 TSA(x1, x1') + mu2 TSA(x2, x2') of Eqs. 6 to 8, images [n, 3, H, W] in [-1, 1]. `x` is a constant;
    /// its features are computed once per view.
    pub fn image_terms(&self, x: &Tensor, x_prime: &Tensor, which: Which) -> Result<Vec<Term>> {
        let x = &x.detach();
        let detach = self.recipe.attention.detach;
        let mut terms = Vec::new();
        if which == Which::Live && (detach == Detach::All || !x_prime.track_op()) {
            return Ok(terms);
        }
        let x_prime = &if detach == Detach::All { x_prime.detach() } else { x_prime.clone() };
        let mut pair = Pair::new(x, x_prime, 2.0);
        self.tsa(&mut terms, Group::Image, "x", 1.0, &mut pair)?;
        let views = self.recipe.attention.views;
        let released = views == Views::GradCamReleased;
        if views == Views::None || (which == Which::Live && (detach == Detach::Views || released)) {
            return Ok(terms);
        }
        if detach == Detach::Views || released {
            pair.pred = pair.pred.detach();
            pair.taps = pair.taps.map(|(a, b)| (a, b.iter().map(Tensor::detach).collect()));
        }
        for (which, mut view) in self.views(&mut pair)?.into_iter().enumerate() {
            let (group, name) = [(Group::View1, "view_1"), (Group::View2, "view_2")][which];
            if let Some(view) = &mut view {
                self.tsa(&mut terms, group, name, self.recipe.attention.mu[which], view)?;
            }
        }
        Ok(terms)
    }

    /// The two view pairs; None where its weight is 0.
    fn views(&self, pair: &mut Pair) -> Result<[Option<Pair>; 2]> {
        let wanted = self.recipe.attention.mu.map(|mu| mu != 0.0);
        let both = |which: usize, view: &dyn Fn(&Tensor) -> Result<Tensor>| -> Result<Option<Pair>> {
            if !wanted[which] {
                return Ok(None);
            }
            Ok(Some(Pair::new(&view(&pair.target)?, &view(&pair.pred)?, 2.0)))
        };
        match (self.recipe.attention.views, &self.center, &self.vgg) {
            (Views::Center, Some(center), _) => Ok([both(0, &|x| center.view(x, 0))?, both(1, &|x| center.view(x, 1))?]),
            (Views::CenterCrop, _, _) => Ok([both(0, &|x| center::crop(x, 0))?, both(1, &|x| center::crop(x, 1))?]),
            (Views::GradCam, _, Some(vgg)) => {
                let (_, _, h, w) = pair.target.dims4()?;
                let (a, b) = self.last_features(vgg, pair)?;
                let of_x = grad_cam::channels(vgg, &a, None)?;
                let of_pred = grad_cam::channels(vgg, &b, Some(&of_x.classes))?;
                let map = |features: &Tensor, channels: &grad_cam::Channels| {
                    grad_cam::resize(&grad_cam::normalize(&grad_cam::raw_map(features, &channels.alpha)?)?, h, w)
                };
                let (map_a, map_b) = (map(&a, &of_x)?, map(&b, &of_pred)?);
                let masked = (grad_cam::mask(&map_a, &pair.target)?, grad_cam::mask(&map_b, &pair.pred)?);
                Ok([wanted[0].then(|| Pair::new(&map_a, &map_b, 1.0)), wanted[1].then(|| Pair::new(&masked.0, &masked.1, 2.0))])
            }
            (Views::GradCamReleased, _, Some(vgg)) => {
                let released = |x: &Tensor| -> Result<(Tensor, Tensor)> {
                    let mask = grad_cam::released(vgg, x, grad_cam::ReleasedKind::PlusPlus, Backward::Guided, None)?.mask;
                    let (_, cam) = grad_cam::overlay(&mask, x)?;
                    Ok((mask, cam))
                };
                let ((mask_a, cam_a), (mask_b, cam_b)) = (released(&pair.target)?, released(&pair.pred)?);
                Ok([wanted[0].then(|| Pair::new(&mask_a, &mask_b, 1.0)), wanted[1].then(|| Pair::new(&cam_a, &cam_b, 1.0))])
            }
            _ => Ok([None, None]),
        }
    }

    /// relu5_3 of both images, from the taps of the perceptual term where these are at the same size.
    fn last_features(&self, vgg: &Vgg16, pair: &mut Pair) -> Result<(Tensor, Tensor)> {
        let (_, _, h, w) = pair.target.dims4()?;
        let side = self.recipe.attention.cam_side;
        if side == 0 && h <= MAX_HEIGHT {
            let (a, b) = pair.taps(vgg)?;
            return Ok((last(a)?, last(b)?));
        }
        let enlarged = |x: &Tensor| -> Result<Tensor> {
            let matrix = |n: usize| center::resize_matrix(side.max(n), n, 0, n, x.dtype(), x.device());
            let x = if side == 0 { x.clone() } else { ops::matmul_resize(x, &matrix(h)?, &matrix(w)?)? };
            vgg.features(&scale_input(&x)?)
        };
        Ok((enlarged(&pair.target)?, enlarged(&pair.pred)?))
    }

    /// Eq. 7 for one pair [n, 1|3, H, W]: every weighted term times `mu`. `range` is the width of the data's range.
    pub fn pair_terms(&self, group: Group, name: &str, mu: f64, target: &Tensor, pred: &Tensor, range: f64) -> Result<Vec<Term>> {
        let mut terms = Vec::new();
        self.tsa(&mut terms, group, name, mu, &mut Pair::new(target, pred, range))?;
        Ok(terms)
    }

    fn tsa(&self, terms: &mut Vec<Term>, group: Group, name: &str, mu: f64, pair: &mut Pair) -> Result<()> {
        let weights = &self.recipe.weights;
        vector_terms(&self.recipe, terms, group, name, mu, &pair.target, &pair.pred)?;
        let mut push = |kind: &str, weight: f64, value: Tensor| {
            terms.push(Term { group, name: format!("{name}/{kind}"), weight: mu * weight, value });
        };
        if let (Some(vgg), true) = (&self.vgg, weights.perceptual != 0.0) {
            let lpips = self.lpips.clone().filter(|_| self.recipe.terms.perceptual == Perceptual::Lpips);
            let compare = move |a: &[Tensor], b: &[Tensor]| match &lpips {
                Some(lpips) => lpips.between(a, b)?.mean_all(),
                None => feature_mse(a, b),
            };
            let value = if self.recipe.attention.views == Views::GradCam {
                // Its views want the taps, too.
                let (a, b) = pair.taps(vgg)?;
                compare(a, b)?
            } else {
                let vgg = vgg.clone();
                let run = move |t: &[Tensor]| Ok(vec![compare(&taps(&vgg, &t[0])?, &taps(&vgg, &t[1])?)?]);
                ops::segment(&[&pair.target, &pair.pred], run)?.swap_remove(0)
            };
            push("perceptual", weights.perceptual, value);
        }
        if weights.ssim != 0.0 {
            let (a, b) = (shrunk(&pair.target)?, shrunk(&pair.pred)?);
            push("ssim", weights.ssim, ssim(self.recipe.terms.ssim, &a, &b, pair.range)?.affine(-1.0, 1.0)?);
        }
        Ok(())
    }

    /// L2 of Eq. 8: nu1 MTV(w, w') + nu2 MTV(z_c, z_c') + MTV(z_n, z_n'), for the types that `target` and `pred` both have.
    ///
    /// `preds` are the latents of E(x), of E(x'), or of both, whose losses are averaged; `strengths` the paired noise strengths
    /// (target, prediction), which do not depend on the image. A target with a graph gets its gradient, too.
    pub fn latent_terms(&self, target: &Latents, preds: &[&Latents], strengths: Option<&(Tensor, Tensor)>) -> Result<Vec<Term>> {
        let latents = &self.recipe.latents;
        let mut terms = Vec::new();
        for (i, pred) in preds.iter().enumerate() {
            let share = 1.0 / preds.len() as f64;
            let suffix = if i == 0 { "" } else { "_2" };
            let pairs = [
                ("w", latents.nu_w, &target.w, &pred.w),
                ("z", latents.nu_w, &target.z, &pred.z),
                ("zc", latents.nu_c, &target.constant, &pred.constant),
                ("c", latents.nu_c, &target.c, &pred.c),
            ];
            for (name, nu, a, b) in pairs {
                if let (Some(a), Some(b)) = (a, b)
                    && nu != 0.0
                {
                    vector_terms(&self.recipe, &mut terms, Group::Latents, &format!("{name}{suffix}"), nu * share, a, b)?;
                }
            }
        }
        if let Some((a, b)) = strengths
            && latents.nu_n != 0.0
        {
            vector_terms(&self.recipe, &mut terms, Group::Latents, "zn", latents.nu_n, a, b)?;
        }
        Ok(terms)
    }
}

/// Eq. 5: distance, cosine and KL divergence of two tensors of one shape, each weighted term times `factor`.
pub fn vector_terms(
    recipe: &Recipe,
    terms: &mut Vec<Term>,
    group: Group,
    name: &str,
    factor: f64,
    target: &Tensor,
    pred: &Tensor,
) -> Result<()> {
    if target.dims() != pred.dims() {
        bail!("{name}: the target has shape {:?}, the prediction {:?}", target.dims(), pred.dims())
    }
    let (kinds, weights) = (&recipe.terms, &recipe.weights);
    let mut push = |kind: &str, weight: f64, value: &dyn Fn() -> Result<Tensor>| -> Result<()> {
        if weight != 0.0 {
            terms.push(Term { group, name: format!("{name}/{kind}"), weight: factor * weight, value: value()? });
        }
        Ok(())
    };
    push("distance", weights.distance, &|| vectors::distance(kinds.distance, target, pred))?;
    push("cosine", weights.cosine, &|| vectors::cosine(kinds.cosine, target, pred))?;
    push("kl", weights.kl, &|| vectors::kl(kinds.kl, target, pred))
}

impl Pair {
    fn new(target: &Tensor, pred: &Tensor, range: f64) -> Self {
        Pair { target: target.detach(), pred: pred.clone(), range, taps: None }
    }

    fn taps(&mut self, vgg: &Vgg16) -> Result<(&[Tensor], &[Tensor])> {
        if self.taps.is_none() {
            self.taps = Some((taps(vgg, &self.target)?, taps(vgg, &self.pred)?));
        }
        match &self.taps {
            Some((a, b)) => Ok((a, b)),
            None => bail!("no features"),
        }
    }
}

/// The features of an image in [-1, 1], as the perceptual term sees it.
fn taps(vgg: &Vgg16, x: &Tensor) -> Result<Vec<Tensor>> {
    vgg.taps(&scale_input(&shrunk(x)?)?)
}

fn last(taps: &[Tensor]) -> Result<Tensor> {
    match taps.last() {
        Some(t) => Ok(t.clone()),
        None => bail!("a VGG network without blocks"),
    }
}

/// The paper's LPIPS term: the sum over the taps of the mean squared difference.
fn feature_mse(a: &[Tensor], b: &[Tensor]) -> Result<Tensor> {
    let layer = |(a, b): (&Tensor, &Tensor)| ops::mse(b, a);
    let layers = a.iter().zip(b).map(layer).collect::<Result<Vec<_>>>()?;
    Tensor::stack(&layers, 0)?.sum_all()
}

/// The five (or however many) parts of [`feature_mse`], for inspection.
pub fn feature_mse_layers(a: &[Tensor], b: &[Tensor]) -> Result<Vec<f64>> {
    let layer = |(a, b): (&Tensor, &Tensor)| ops::mse(b, a)?.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>();
    a.iter().zip(b).map(layer).collect()
}

/// Halved by 2x2 means until at most 256 high.
fn shrunk(x: &Tensor) -> Result<Tensor> {
    let mut x = x.clone();
    while x.dim(2)? > MAX_HEIGHT {
        x = ops::avg_pool2(&x)?;
    }
    Ok(x)
}
