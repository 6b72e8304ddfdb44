//! What a card says in words of how its network came about and what its numbers are.

use super::adversarial::Objective;
use super::encoders;
use super::form::Form;
use super::networks::{Network, Training};
use super::objects::CLASSES;
use super::schedule::{Recipe, Start};
use super::source::{SEED, Source};

fn of_alae(start: Option<&Start>) -> String {
    let start = start.map_or(String::new(), |s| {
        format!(
            " Against the paper's ALAE: G and F go on from {}, E from {} (their training comes on top of this one's images), and D alone is new; \
            there is no style mixing; D and G take their step from one pass of D(E(x)).",
            s.generator, s.encoder
        )
    });
    format!("{start} Weights as 16-bit floats, in the names of the published files. {}", encoders::of_numbers())
}

/// A discriminator that is not the family's own.
fn of_projected(recipe: &Recipe, card: &str, judge: &str, and_objective: &str) -> String {
    let std = if recipe.minibatch_std { " Its heads see the minibatch standard deviation, as PGGAN's discriminator does." } else { "" };
    format!(
        " Not the family's own discriminator{and_objective}: the discriminator is a projected one (Sauer et al., NeurIPS 2021) on the frozen \
        features of {card} and the pixels, which needs far fewer images (src/zoo/projected_discriminator.rs).{std} {judge}, which measures, \
        had no part in it."
    )
}

/// The bounds of the noise strengths, and why there are any.
fn of_noise(bounds: Option<(f64, f64)>) -> String {
    match bounds {
        None => String::new(),
        Some((_, 0.0)) => ", without noise: what noise draws, w does not".into(),
        Some((least, most)) => format!(
            ", with every noise strength kept between {least} and {most}: nothing that a projected discriminator learns asks for noise, and \
            without the bounds most strengths die"
        ),
    }
}

/// The phases after the first.
fn of_phases(recipe: &Recipe, judge: &str) -> String {
    let phase = |(before, next): (&Recipe, &Recipe)| {
        let noise = if next.noise == before.noise { String::new() } else { of_noise(next.noise) };
        let class = match next.class {
            Some(class) if before.class.is_none() => format!(", of pictures of the class \"{}\" alone", CLASSES[class]),
            _ => String::new(),
        };
        let std = match (&before.projected_on, before.minibatch_std, next.minibatch_std) {
            (Some(_), false, true) => " whose heads see the minibatch standard deviation, as PGGAN's does",
            _ => "",
        };
        let kernels = next.kernel_scale.map_or(String::new(), |scale| {
            format!(
                " Its demodulated kernels are multiplied by {scale} first, which changes no image and makes every step turn them further."
            )
        });
        let objective = if next.objective == before.objective { String::new() } else { format!(", with {}", next.objective.title()) };
        let critic = match &next.projected_on {
            Some(card) if before.projected_on.is_none() => of_projected(next, card, judge, " and objective in this part"),
            _ => String::new(),
        };
        let images = next.total();
        format!(
            " Then {images} images more go on from the averaged generator, against a new discriminator{std}{objective}{class}{noise}.{kernels}{critic}"
        )
    };
    recipe.phases().zip(recipe.phases().skip(1)).map(phase).collect()
}

/// The notes of a card.
pub fn of(network: &Network) -> String {
    match &network.training {
        Training::Generator { form, .. } if form.resolution() < 64 => {
            format!("For tests: {} px.", form.resolution())
        }
        Training::Generator { recipe, form, .. } => {
            let (source, judge) = (network.source(), network.judge());
            let flat = matches!(form, Form::Pggan(_));
            let grows = recipe.stages.iter().filter(|images| **images > 0).count() > 1;
            let growing = if grows { ", growing from 8 px," } else { ", at their full size from the start," };
            let samples = match form {
                Form::Pggan(_) => "",
                Form::BigGan { .. } => " of truncation 1, each class equally often",
                Form::StyleGan1(_) | Form::StyleGan2(_) => " with full noise and no truncation",
            };
            let common = format!(
                "Learned from {} pictures of {} (seed {}){growing} with {}{}. \
                Distances and factors are those of {judge} on 8-bit samples{samples}; spread_* is the standard deviation \
                of a regressed factor relative to that on held-out renders",
                recipe.pool,
                source.clone().of_class(recipe.class).name(),
                SEED,
                recipe.objective.title(),
                of_noise(recipe.noise),
            );
            let of_source = match source {
                Source::Faces(_) => {
                    let latent = if flat { "z" } else { "w" };
                    format!(
                        "; separable_extremes_* is the accuracy of a linear SVM on {latent}, on held-out samples of the highest and lowest tenth of \
                        the factor, which is how InterFaceGAN states separability and edit_real learns its directions; separable_* the balanced \
                        accuracy over all samples, however near to 0 their factor (logistic regression on 6000 samples, tested on 2000). It never \
                        saw an accessory."
                    )
                }
                Source::Objects(_) => {
                    let held_out = if source.class().is_some() { "; held-out renders are those of the class alone, on the curve those of the phase" } else { "" };
                    format!(
                        "{held_out}; share_* how often the judge sees a class; recognized the share of pictures of whose class it is sure (a \
                        probability of 0.9 or more)."
                    )
                }
            };
            let of_critic = match (&recipe.projected_on, form) {
                (Some(card), _) => {
                    // The hinge loss is BigGAN's own.
                    let and_objective = if matches!(form, Form::BigGan { .. }) { "" } else { " and objective" };
                    of_projected(recipe, card, judge, and_objective)
                }
                (None, Form::StyleGan1(_)) if recipe.objective == Objective::Alae => of_alae(recipe.start.as_ref()),
                (None, Form::StyleGan1(_) | Form::BigGan { .. }) => String::new(),
                (None, Form::StyleGan2(_)) => " Against the paper's StyleGANv2: its discriminator has no residual blocks.".into(),
                (None, Form::Pggan(_)) => " Against the paper's PGGAN: both networks take their step from one pass of the discriminator, whose \
                    blocks pool before the second convolution."
                    .into(),
            };
            let of_form = match form {
                Form::StyleGan1(_) | Form::Pggan(_) => "",
                Form::StyleGan2(_) if grows => {
                    " It grows (a block's toRGB fades in), and there is no path length regulariser and no style mixing."
                }
                Form::StyleGan2(_) => " There is no path length regulariser and no style mixing.",
                Form::BigGan { .. } => {
                    " class_accuracy: how often the judge sees the class that was asked for; recognized_* how often, of the images of a class, it \
                    is sure and right. *_truncated is at truncation 0.4, as the studies use the network. The discriminator is told the class \
                    (Miyato and Koyama, ICLR 2018). Attention stands at half the resolution; batch norms take their statistics from 16 images."
                }
            };
            format!("{common}{of_source}{of_critic}{}{of_form}", of_phases(recipe, judge))
        }
        Training::Encoder(recipe) => encoders::notes(recipe),
        Training::Classifier(_) => {
            "Classes are grouped: three equally likely bins of each factor and two of glasses, one softmax per group \
            (src/zoo/classifier.rs). A quarter of the steps saw the pictures at 128 px."
                .into()
        }
        Training::ObjectClassifier(_) => {
            "Ten classes in the order of src/zoo/objects.rs. Every third step saw the pictures at 128 px, where relu5_3 is 8x8: give \
            Grad-CAM cam_side = 128. cam_energy_in_mask is the share of the map's sum on the object, mask_area the object's share of the \
            picture, centre_prior_in_mask what a fixed Gaussian in the middle would have, cam_energy_in_mask_random the mean over five networks \
            of this shape with random weights (over their maps that are not 0 everywhere: cam_flat_maps_random is the share of those). \
            cam.png: of each class the first held-out picture, its mask, and below each map over it the share on the object, with the class \
            that the network found where it is another."
                .into()
        }
        Training::Judge(_) => "Reads the 25 factors; its 128 hidden features are the space of fd-mini, which is not FID. No other network \
            was trained with it."
            .into(),
        Training::ObjectJudge(_) => {
            "Reads class and 13 factors of an object; its 128 hidden features are the space of the Fréchet distance on the cards, which \
            is not FID. No other network was trained with it."
                .into()
        }
        Training::Identity(_) => {
            "Learned from pairs of pictures of the 4096 training persons; measured on the 1024 held-out persons, of whom it saw none. \
            first_of_100: the share of pairs in which the second picture of a person is nearer to the first than 99 pictures of others."
                .into()
        }
    }
}
