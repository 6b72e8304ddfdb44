//! What this code measures on a network of the zoo for its model card, and the bars that a card holds the numbers to.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Device;

use super::adversarial::Objective;
use super::card_pictures::{draw_pictures, nearest_sheet, save_samples};
use super::classifier;
use super::drawing::{Split, tensor};
use super::encoders;
use super::faces::{self, Factor};
use super::form::Form;
use super::heat_maps;
use super::identity;
use super::judge::Judge;
use super::measure::{PICTURES, SAMPLE_SEED, Sampler, Seen, frechet, judge_r2, noise_strengths};
use super::networks::{self, Network, Training};
use super::objects;
use super::source::Source;
use crate::Result;
use crate::generators::Generator;
use crate::generators::biggan::Truncation;
use crate::inverters::Inverter;
use crate::perceptual::vgg16::scale_input;
use crate::spec::card::significant;

/// Held-out pictures among which persons are looked for: nearly every one of the 1024 persons has two.
const IDENTITY_PICTURES: usize = 4096;
/// Samples from which the linear rules on w are fitted and tested.
const SEPARATED: usize = 8000;

/// What was measured on a network.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    pub numbers: BTreeMap<String, f64>,
    /// Mean absolute noise strength per layer.
    pub noise_strengths: Vec<f64>,
    /// Bars of the zoo that the network misses, in words.
    pub missed: Vec<String>,
}

impl Measured {
    pub(super) fn put(&mut self, name: &str, value: f64) -> f64 {
        let shown = significant(value);
        self.numbers.insert(name.into(), shown);
        shown
    }

    pub(super) fn bar(&mut self, what: &str, value: f64, good: bool, wanted: &str) {
        if !good {
            self.missed.push(format!("{what} is {value:.3}, wanted {wanted}"));
        }
    }
}

/// Measures the weights in `bytes`; `judge` opens the judge of the network's source, where one is needed. `pictures`: where the
/// card's pictures go, if anywhere.
pub fn measure(
    network: &Network,
    bytes: &[u8],
    judge: impl FnOnce() -> Result<Judge>,
    pictures: Option<&Path>,
    device: &Device,
) -> Result<Measured> {
    let source = network.source();
    match &network.training {
        Training::Generator { recipe, .. } if recipe.objective == Objective::Alae => {
            let (alae, judge) = (networks::open_alae(bytes, network.name, device)?, judge()?);
            let mut m = measure_generator(alae.decoder(), &source, &judge, pictures, device)?;
            encoders::measure_inverter(&mut m, &alae, &encoders::networks(network.name), pictures, device)?;
            Ok(m)
        }
        Training::Generator { form, .. } => {
            let (generator, judge) = (networks::open_generator(bytes, network.name, device)?, judge()?);
            let Form::BigGan { .. } = form else {
                return measure_generator(generator.as_ref(), &source, &judge, pictures, device);
            };
            // Like the others, it is measured without truncation.
            let whole = networks::open_biggan(bytes, network.name, Truncation::NONE, device)?;
            let mut m = measure_generator(&whole, &source, &judge, pictures, device)?;
            measure_truncated(&mut m, generator.as_ref(), &source, &judge, pictures, device)?;
            Ok(m)
        }
        Training::Classifier(_) => {
            let vgg = networks::open_classifier(bytes, network.name, device)?;
            measure_classifier(&vgg, &source, device)
        }
        Training::ObjectClassifier(_) => {
            let vgg = networks::open_classifier(bytes, network.name, device)?;
            if let Some(folder) = pictures {
                heat_maps::draw(&vgg, &source, &folder.join("cam.png"), device)?;
            }
            heat_maps::measure(&vgg, &source, PICTURES, device)
        }
        Training::Judge(_) | Training::ObjectJudge(_) => {
            let judge = networks::open_judge(&source, bytes, network.name, device)?;
            let mut m = Measured::default();
            let (r2, accuracy) = judge_r2(&judge, &source, PICTURES, device)?;
            for (name, r2) in source.factors().iter().zip(r2) {
                m.put(&format!("r2_{}", name.replace('-', "_")), r2);
            }
            if matches!(source, Source::Objects(_)) {
                m.put("accuracy", accuracy);
            }
            let (a, b) =
                (Seen::held_out(&judge, &source, 0, PICTURES, device)?, Seen::held_out(&judge, &source, PICTURES, PICTURES, device)?);
            m.put("frechet_floor", frechet(&a.features, &b.features));
            m.put("source_diversity", a.diversity());
            Ok(m)
        }
        Training::Encoder(recipe) => encoders::measure(recipe, bytes, network.name, pictures, device),
        Training::Identity(_) => {
            let network = networks::open_identity(bytes, network.name, device)?;
            let mut m = Measured::default();
            let ranking = identity::rank(&network, &source, IDENTITY_PICTURES, PICTURES, device)?;
            let first = m.put("first_of_100", ranking.first_of_100);
            m.put("cosine_same_person", ranking.same);
            m.put("cosine_other_person", ranking.other);
            m.bar("the share of held-out pairs that rank first among 100", first, first >= 0.95, "at least 0.95");
            Ok(m)
        }
    }
}

/// Accuracy per group on held-out faces at 64 px.
fn measure_classifier(vgg: &crate::perceptual::Vgg16, source: &Source, device: &Device) -> Result<Measured> {
    let groups: Vec<&str> = source.factors().iter().copied().filter(|f| *f != "glasses").chain(["glasses"]).collect();
    let mut right = vec![0usize; groups.len()];
    for first in (0..PICTURES).step_by(100) {
        let drawn = source.draw_all(Split::HeldOut, &source.plain_held_out(first, 100));
        let images = tensor(drawn.iter().map(|p| p.rgb.as_slice()), 64, device)?;
        let logits = vgg.logits(&scale_input(&images)?)?.to_vec2::<f32>()?;
        for (picture, logits) in drawn.iter().zip(logits) {
            for (group, bin) in classifier::bins(&picture.label.factors).into_iter().enumerate() {
                let bins = &logits[3 * group..(3 * group + 3).min(logits.len())];
                let top = bins.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i);
                right[group] += (top == bin) as usize;
            }
        }
    }
    let mut m = Measured::default();
    let mut sum = 0.0;
    for (name, right) in groups.iter().zip(right) {
        sum += m.put(&format!("accuracy_{}", name.replace('-', "_")), right as f64 / PICTURES as f64);
    }
    m.put("accuracy", sum / groups.len() as f64);
    Ok(m)
}

fn measure_generator(
    generator: &dyn Generator,
    source: &Source,
    judge: &Judge,
    pictures: Option<&Path>,
    device: &Device,
) -> Result<Measured> {
    let sampler = Sampler { generator, seed: SAMPLE_SEED, device };
    let resolution = generator.layout().resolution;
    if let Some(folder) = pictures {
        draw_pictures(&sampler, folder)?;
    }
    let mut m = Measured { noise_strengths: noise_strengths(generator)?, ..Default::default() };
    let (ceiling, mean) = sampler.ceiling_and_mean_psnr(256)?;
    m.put("psnr_mean_image", mean);
    if !m.noise_strengths.is_empty() {
        m.put("psnr_fresh_noise", ceiling);
        let (least, most) = m.noise_strengths.iter().fold((f64::MAX, 0.0f64), |(a, b), &v| (a.min(v), b.max(v)));
        m.bar("the least noise strength", least, least > 0.01, "above 0.01");
        m.bar("the largest noise strength", most, most < 0.4, "below 0.4");
        m.bar("the PSNR of two noise draws above that of the mean image", ceiling - mean, ceiling - mean >= 8.0, "at least 8 dB");
    }
    if resolution != 64 {
        // The judge knows 64 px only.
        return Ok(m);
    }
    let real = Seen::held_out(judge, source, 0, PICTURES, device)?;
    let other = Seen::held_out(judge, source, PICTURES, PICTURES, device)?;
    let seen = Seen::through(judge, PICTURES, |first, count| sampler.images(first, count))?;
    let fd = m.put("frechet_distance", frechet(&seen.features, &real.features));
    m.put("frechet_floor", frechet(&other.features, &real.features));
    m.put("frechet_pictures", PICTURES as f64);
    let diversity = m.put("diversity", seen.diversity());
    let of_source = m.put("source_diversity", real.diversity());
    let spreads: Vec<f64> = seen.spread().iter().zip(real.spread()).map(|(a, b)| a / b).collect();
    for (name, ratio) in source.factors().iter().zip(&spreads) {
        m.put(&format!("spread_{}", name.replace('-', "_")), *ratio);
    }
    let train = Seen::through(judge, 2 * PICTURES, |first, count| {
        source.batch(Split::Train, &(first as u64..(first + count) as u64).collect::<Vec<_>>(), 64, device)
    })?;
    let median = |mut d: Vec<(usize, f64)>| {
        d.sort_by(|a, b| a.1.total_cmp(&b.1));
        d[d.len() / 2].1
    };
    let nearest = seen.nearest(&train);
    if let Some(folder) = pictures {
        nearest_sheet(&sampler, source, &nearest, folder)?;
    }
    m.put("nearest_training_picture", median(nearest));
    m.put("source_nearest_training_picture", median(real.nearest(&train)));

    // What a distance of 3 means to the faces' judge, whose floor is an eighth: features of different judges have different scales.
    let most = match source {
        Source::Faces(_) => 3.0,
        Source::Objects(_) => 24.0 * m.numbers["frechet_floor"],
    };
    m.bar("the Fréchet distance", fd, fd <= most, &format!("at most {most:.1}"));
    m.bar("the diversity relative to the source's", diversity / of_source, diversity >= 0.95 * of_source, "at least 0.95");
    // A factor that the judge can't read has no spread to speak of.
    let (r2, accuracy) = judge_r2(judge, source, PICTURES, device)?;
    let narrow: Vec<String> = (source.factors().iter().zip(&spreads).zip(r2))
        .filter(|((_, ratio), r2)| **ratio < 0.7 && *r2 >= 0.5)
        .map(|((name, ratio), _)| format!("{name} {ratio:.2}"))
        .collect();
    if !narrow.is_empty() {
        m.missed.push(format!("the spread of these factors relative to the source's, wanted at least 0.7: {}", narrow.join(", ")));
    }
    match source {
        Source::Faces(_) => measure_faces(&mut m, &sampler, judge, &seen, &real)?,
        Source::Objects(_) => measure_objects(&mut m, source.class(), &seen, &real),
    }
    if let Some(share) = class_accuracy(&sampler, &seen)? {
        m.put("class_accuracy", share);
        m.bar("the share of pictures that the judge finds of their class", share, share >= 0.8 * accuracy, "at least 0.8 of the source's");
    }
    if let Some(asked) = sampler.classes(0, seen.len())? {
        measure_classes(&mut m, &asked.to_vec1()?, source, &seen, &real);
    }
    Ok(m)
}

/// The share of the pictures, from number 0 on, that the judge finds of the class that was asked for; None without classes.
fn class_accuracy(sampler: &Sampler, seen: &Seen) -> Result<Option<f64>> {
    let Some(asked) = sampler.classes(0, seen.len())? else { return Ok(None) };
    let right = asked.to_vec1::<u32>()?.iter().zip(&seen.classes).filter(|(a, b)| a == b).count();
    Ok(Some(right as f64 / seen.len().max(1) as f64))
}

/// The generator at the truncation at which the studies open it.
fn measure_truncated(
    m: &mut Measured,
    generator: &dyn Generator,
    source: &Source,
    judge: &Judge,
    pictures: Option<&Path>,
    device: &Device,
) -> Result<()> {
    let sampler = Sampler { generator, seed: SAMPLE_SEED, device };
    if let Some(folder) = pictures {
        save_samples(&sampler, &folder.join("samples_truncated.png"))?;
    }
    let real = Seen::held_out(judge, source, 0, PICTURES, device)?;
    let seen = Seen::through(judge, PICTURES, |first, count| sampler.images(first, count))?;
    m.put("frechet_distance_truncated", frechet(&seen.features, &real.features));
    m.put("diversity_truncated", seen.diversity());
    m.put("recognized_truncated", seen.recognized());
    if let Some(share) = class_accuracy(&sampler, &seen)? {
        m.put("class_accuracy_truncated", share);
    }
    Ok(())
}

/// Glasses, and whether smile, glasses and yaw are linearly separable in w, or in the latent of a generator without w: no bar there.
///
/// The bar is on the extremes, as the field states separability (InterFaceGAN, CVPR 2020) and as `edit_real` learns its directions. Over all
/// samples, most of them near 0, InterFaceGAN's own boundaries are far less accurate, too; that share stands beside it.
fn measure_faces(m: &mut Measured, sampler: &Sampler, judge: &Judge, seen: &Seen, real: &Seen) -> Result<()> {
    let glasses = m.put("share_glasses", seen.share(Factor::Glasses as usize));
    m.put("source_share_glasses", real.share(Factor::Glasses as usize));
    m.bar("the share of pictures with glasses", glasses, glasses >= 0.22, "at least 0.22");
    let separated = [Factor::Smile, Factor::Glasses, Factor::Yaw].map(|f| f as usize);
    for (factor, found) in separated.iter().zip(sampler.separability(judge, SEPARATED, &separated)?) {
        let name = faces::FACTORS[*factor];
        m.put(&format!("separable_{name}"), found.all);
        let share = m.put(&format!("separable_extremes_{name}"), found.extremes);
        let barred = sampler.generator.layout().rows > 0;
        m.bar(&format!("the accuracy of a linear rule for the extremes of {name} on w"), share, !barred || share >= 0.9, "at least 0.90");
    }
    Ok(())
}

/// How often each class appears, and in how many pictures it is plain which.
fn measure_objects(m: &mut Measured, class: Option<usize>, seen: &Seen, real: &Seen) {
    let (shares, of_source) = (seen.class_shares(objects::CLASSES.len()), real.class_shares(objects::CLASSES.len()));
    let recognized = m.put("recognized", seen.recognized());
    let known = m.put("source_recognized", real.recognized());
    let enough = recognized >= 0.8 * known;
    m.bar("the share of pictures of whose object the judge is sure, relative to the source's", recognized / known, enough, "at least 0.8");
    if let Some(class) = class {
        let share = m.put(&format!("share_{}", objects::CLASSES[class]), shares[class]);
        let enough = share >= 0.8 * of_source[class];
        m.bar("the share of pictures that the judge finds of the class", share, enough, "at least 0.8 of the source's");
        return;
    }
    let (mut least, mut rarest) = (f64::MAX, "");
    for ((name, share), source) in objects::CLASSES.iter().zip(&shares).zip(&of_source) {
        m.put(&format!("share_{name}"), *share);
        if share / source < least {
            (least, rarest) = (share / source, name);
        }
    }
    m.bar(&format!("the share of the rarest class ({rarest}) relative to the source's"), least, least >= 0.5, "at least 0.5");
}

/// Of the images of each class that was asked for, the share of which the judge is sure and right: the mean over all hides a class that the
/// generator did not learn.
fn measure_classes(m: &mut Measured, asked: &[u32], source: &Source, seen: &Seen, real: &Seen) {
    let pictures = source.draw_all(Split::HeldOut, &source.plain_held_out(0, real.len()));
    let shown: Vec<u32> = pictures.iter().map(|picture| picture.label.class).collect();
    let (mut least, mut of) = (f64::MAX, "");
    let (found, wanted) = (seen.recognized_as(asked, objects::CLASSES.len()), real.recognized_as(&shown, objects::CLASSES.len()));
    for ((name, found), wanted) in objects::CLASSES.iter().zip(found).zip(wanted) {
        m.put(&format!("recognized_{name}"), found);
        m.put(&format!("source_recognized_{name}"), wanted);
        if found / wanted < least {
            (least, of) = (found / wanted, name);
        }
    }
    let what =
        format!("the share of images of the least recognized class ({of}) of which the judge is sure and right, relative to the source's");
    m.bar(&what, least, least >= 0.7, "at least 0.7");
}
