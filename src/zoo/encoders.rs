//! Encoders of the compared methods on a generator of the zoo, for pictures of your own (`mtv-bench invert --method psp`): the training of
//! the studies ([`train_baseline`]) with more images and narrower last layers.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::card_numbers::Measured;
use super::checkpoint;
use super::curve;
use super::sheet;
use crate::generators::Generator;
use crate::images::Rgb8;
use crate::inverters::baseline::{Baseline, Encoder, SameGenerator};
use crate::inverters::{Inverter, alae};
use crate::objective;
use crate::params::Params;
use crate::record::ImageInfo;
use crate::record::store::{Finished, Ingredients, Store, create_folder};
use crate::spec::Card;
use crate::spec::card;
use crate::stages::progress::Progress;
use crate::stages::reconstruct::{Inverting, Reconstructor, feed_forward};
use crate::stages::{
    BASELINE_CODE, BaselineSpec, CurveRow, CurveSpec, ImageSet, Method, Networks, SampleSpec, StageContext, evaluate, open, sample,
    train_baseline,
};
use crate::{Error, Result, machine};

/// Images of each set behind the numbers of a card.
const IMAGES: usize = 256;
/// Images of each set behind a point of the curve, and the number of points.
pub(super) const CURVE_IMAGES: usize = 16;
const CURVE_POINTS: u64 = 10;
/// The seed of the images that are measured: that of the studies. No training uses it.
const SAMPLE_SEED: u64 = 2023;
/// dB above the references, as the studies ask.
const LEAD: f64 = 3.0;
/// Pictures of a sheet: two rows of targets, their reconstructions below each.
const COLUMNS: usize = 8;

/// How long, and from which random numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub baseline: Baseline,
    /// The card of the generator whose w it makes.
    pub generator: String,
    /// The pictures that it learns from; images of the generator without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pictures: Option<String>,
    /// Bound on the widths of the last layers, see [`Encoder::new`].
    pub width: Option<usize>,
    pub seed: u64,
    /// Training images in all: new ones in every batch.
    pub images: u64,
    pub batch: usize,
    /// Share of the training, at the end, in which the learning rate falls to zero.
    pub decay: f64,
}

/// The networks that belong to an encoder on this generator.
pub fn networks(generator: &str) -> Networks {
    Networks { generator: generator.into(), features: "mini/vgg16".into(), judge: "mini/vgg16_judge".into() }
}

impl Recipe {
    /// The training as a stage.
    fn spec(&self) -> Result<BaselineSpec> {
        let steps = self.images / self.batch as u64;
        Ok(BaselineSpec {
            networks: networks(&self.generator),
            baseline: self.baseline,
            width: self.width,
            pictures: self.pictures.clone(),
            sampling: objective::Recipe::paper().sampling,
            steps,
            batch: self.batch,
            decay: self.decay,
            seed: self.seed,
            curve: CurveSpec {
                every: (steps / CURVE_POINTS).max(1),
                sample: SampleSpec { networks: networks(&self.generator), seed: SAMPLE_SEED, sets: sets(CURVE_IMAGES) },
                metrics: metrics(side(&self.generator)?),
            },
        })
    }

    /// What the card says of the network's shape.
    pub fn shape(&self) -> card::Network {
        card::Network {
            family: self.baseline.family().into(),
            layout: "native".into(),
            fmaps_max: self.width,
            generator: Some(self.generator.clone()),
            ..Default::default()
        }
    }
}

/// The generator's own images and held-out renders, a fifth of which wear what no network saw.
fn sets(images: usize) -> Vec<ImageSet> {
    let set = |set: &str, source: Option<&str>| ImageSet { set: set.into(), images, source: source.map(str::to_string) };
    vec![set("synthesized", None), set("real", Some("mini/faces"))]
}

fn metrics(side: usize) -> Vec<String> {
    vec![format!("psnr@{side}"), format!("lpips-mini@{side}")]
}

/// Height and width of a generator's pictures.
fn side(generator: &str) -> Result<usize> {
    Card::load(generator)?.resolution.ok_or_else(|| Error::usage(format!("baselines/{generator}.toml: the resolution is missing")))
}

/// Trains to the end, with its state and then its curve in `folder`: the weights and the seconds that it took over all resumptions.
///
/// Errors: as [`train_baseline::run`]; an unusable folder.
pub fn train(recipe: &Recipe, folder: &Path, resume: bool, device: &Device) -> Result<(BTreeMap<String, Tensor>, f64)> {
    let spec = recipe.spec()?;
    let cards = [&spec.networks.generator, &spec.networks.features, &spec.networks.judge];
    let inputs = cards.into_iter().map(|name| Ok((format!("card {name}"), Card::load(name)?.sha256.unwrap_or_default())));
    let ingredients = Ingredients {
        kind: "train-baseline".into(),
        code: BASELINE_CODE,
        spec: serde_json::to_value(&spec).map_err(|e| Error::internal(e.to_string()))?,
        inputs: inputs.collect::<Result<_>>()?,
    };
    let store = Store::new(folder);
    if !resume {
        let earlier = folder.join("cache");
        if earlier.exists() {
            std::fs::remove_dir_all(&earlier).map_err(|e| Error::io(&earlier, "removing an earlier training", e))?;
        }
    } else if store.find(&ingredients).is_err() && !store.interrupted(&ingredients) {
        return Err(checkpoint::nothing_to_resume(folder));
    }
    let done = match store.find(&ingredients) {
        Ok(done) => done,
        Err(_) => run(&spec, &store, &ingredients, device)?,
    };
    curve::write(&curve::of_stage(&done.json::<Vec<CurveRow>>("curves.json")?), folder)?;
    Ok((done.tensors("encoder.safetensors", device)?, done.manifest.seconds))
}

fn run(spec: &BaselineSpec, store: &Store, ingredients: &Ingredients, device: &Device) -> Result<Finished> {
    let work = store.begin(ingredients)?;
    let mut context = StageContext {
        device,
        progress: &Progress::new(false),
        work: &work,
        inputs: Default::default(),
        checkpoint_every: Duration::from_secs(60),
        side_by_side: 1,
        recompute: false,
    };
    train_baseline::run(spec, &mut context)?;
    work.finish(machine::peak_memory_of(device))
}

/// What a card says of an encoder that this module trained.
pub struct Shape<'a> {
    pub baseline: Baseline,
    pub width: Option<usize>,
    /// The card of the generator whose w it makes.
    pub generator: &'a str,
}

/// None for the card of anything else, a published encoder for example.
pub fn shape(card: &Card) -> Option<Shape<'_>> {
    let network = card.network.as_ref()?;
    let baseline = Baseline::ENCODERS.into_iter().find(|b| b.family() == network.family)?;
    // The file of ALAE holds its generator, too.
    let embedded = matches!(card.source, card::Source::Embedded(_));
    let own = (baseline == Baseline::Alae && embedded).then_some(card.name.as_str());
    Some(Shape { baseline, width: network.fmaps_max, generator: network.generator.as_deref().or(own)? })
}

/// The tensors of the encoder of a card that has a [`shape`].
///
/// Errors: as [`open::tensors`].
pub fn tensors(card: &Card) -> Result<BTreeMap<String, Tensor>> {
    let tensors = open::tensors(card)?;
    let whole = card.network.as_ref().is_some_and(|network| network.generator.is_none());
    Ok(if whole { checkpoint::part(&tensors, alae::ENCODER) } else { tensors })
}

/// A shipped encoder with its own generator, for a study on another one.
pub struct Native {
    encoder: Encoder,
    generator: Box<dyn Generator>,
}

/// The encoder of a card with the generator that the card names.
///
/// Errors: as [`open_shipped`]; the generator's.
pub fn open_native(card: &Card, device: &Device) -> Result<Native> {
    let Some(Shape { generator: name, .. }) = shape(card) else {
        return Err(Error::internal(format!("{}: not an encoder of the zoo", card.name)));
    };
    let generator = open::generator(name, device)?;
    let encoder = open_shipped(card, (name, generator.as_ref()), device)?;
    Ok(Native { encoder, generator })
}

impl Inverter for Native {
    fn input_size(&self) -> usize {
        self.generator.layout().resolution
    }

    fn invert(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        self.encoder.forward(images)
    }

    fn decoder(&self) -> &dyn Generator {
        self.generator.as_ref()
    }
}

/// The encoder of a card, on the generator of this card.
///
/// Errors: the card is not that of such an encoder or names another generator; its weights are missing, damaged or of another shape.
pub fn open_shipped(card: &Card, generator: (&str, &dyn Generator), device: &Device) -> Result<Encoder> {
    let origin = format!("baselines/{}", card.name);
    let Some(shape) = shape(card) else {
        return Err(Error::usage(format!("{origin}.toml: not an encoder on a generator of the zoo")));
    };
    if shape.generator != generator.0 {
        return Err(Error::usage(format!("{origin}.toml: this encoder makes w of {}, not of {}", shape.generator, generator.0)));
    }
    build(shape.baseline, shape.width, tensors(card)?, generator.1, &origin, device)
}

fn build(
    baseline: Baseline,
    width: Option<usize>,
    tensors: BTreeMap<String, Tensor>,
    generator: &dyn Generator,
    origin: &str,
    device: &Device,
) -> Result<Encoder> {
    let params = Params::frozen(tensors, DType::F32, device, origin);
    let open = || -> candle_core::Result<Encoder> {
        let encoder = Encoder::new(baseline, width, generator.layout(), generator.centre(), &params)?;
        params.finish()?;
        Ok(encoder)
    };
    open().map_err(|e| Error::corrupt(Error::from(e).message))
}

/// Measures the weights in `bytes`: PSNR and LPIPS on both sets, beside the mean image and G(mean w). `pictures`: where the sheets of
/// targets and reconstructions go, if anywhere.
pub fn measure(recipe: &Recipe, bytes: &[u8], origin: &str, pictures: Option<&Path>, device: &Device) -> Result<Measured> {
    let networks = networks(&recipe.generator);
    let generator = open::generator(&networks.generator, device)?;
    let generator = generator.as_ref();
    let (tensors, _) = checkpoint::read(bytes, origin, device)?;
    let encoder = build(recipe.baseline, recipe.width, tensors, generator, origin, device)?;
    let mut m = Measured::default();
    measure_inverter(&mut m, &SameGenerator { encoder, generator }, &networks, pictures, device)?;
    Ok(m)
}

/// What [`measure`] measures, of any encoder with its generator.
pub(super) fn measure_inverter(
    m: &mut Measured,
    inverter: &dyn Inverter,
    networks: &Networks,
    pictures: Option<&Path>,
    device: &Device,
) -> Result<()> {
    let generator = inverter.decoder();
    let side = generator.layout().resolution;
    let metrics = evaluate::open_metrics(&metrics(side), networks, device)?;
    for set in sets(IMAGES) {
        let drawn = sample::draw(&set, SAMPLE_SEED, generator, device)?;
        let (infos, targets): (Vec<&ImageInfo>, Vec<Rgb8>) = drawn.iter().map(|d| (&d.info, d.image.clone())).unzip();
        let in_groups = |of: &dyn Fn(&[&ImageInfo], &[Rgb8]) -> Result<Vec<Rgb8>>| -> Result<Vec<Rgb8>> {
            let groups = infos.chunks(COLUMNS).zip(targets.chunks(COLUMNS));
            groups.map(|(infos, targets)| of(infos, targets)).collect::<Result<Vec<_>>>().map(|g| g.concat())
        };
        let mut means = |row: &str, images: &[Rgb8]| -> Result<[f64; 2]> {
            let scores = evaluate::score_all(&metrics, &targets, images)?;
            let mean = |k: usize| scores.iter().map(|s| s[k]).sum::<f64>() / scores.len().max(1) as f64;
            let mut put = |name: &str, value: f64| m.put(&format!("{name}_{}{row}", set.set), value);
            Ok([put("psnr", mean(0)), put("lpips", mean(1))])
        };
        let own = in_groups(&|infos, targets| feed_forward(inverter, infos, targets, SAMPLE_SEED, device))?;
        let [psnr, lpips] = means("", &own)?;
        let mut references = Vec::new();
        for (row, method) in [("_mean_image", Method::MeanImage), ("_mean_w", Method::MeanLatent)] {
            let spec = Inverting { networks, method: &method, seed: SAMPLE_SEED };
            let reference = Reconstructor::open(spec, None, generator, device)?;
            references.push(means(row, &in_groups(&|infos, targets| Ok(reference.run(infos, targets, false)?.images))?)?);
        }
        let best = |k: usize, better: fn(f64, f64) -> f64| references.iter().map(|r| r[k]).reduce(better).unwrap_or(f64::NAN);
        let above = psnr - best(0, f64::max);
        m.bar(&format!("the PSNR above the better reference on {} images", set.set), above, above >= LEAD, &format!("at least {LEAD} dB"));
        let share = lpips / best(1, f64::min);
        m.bar(&format!("the LPIPS relative to the better reference's on {} images", set.set), share, share <= 0.7, "at most 0.7");
        if let Some(folder) = pictures {
            create_folder(folder)?;
            let rows = targets.chunks(COLUMNS).zip(own.chunks(COLUMNS)).take(2);
            let cells: Vec<&[u8]> = rows.flat_map(|(t, r)| t.iter().chain(r)).map(Rgb8::data).collect();
            sheet::save(&folder.join(format!("{}.png", set.set)), &sheet::of_bytes(&cells, side, COLUMNS, 1))?;
        }
    }
    Ok(())
}

/// What differs from the published method, for the card.
pub fn notes(recipe: &Recipe) -> String {
    let learned_from = match &recipe.pictures {
        Some(pictures) => format!("on the training pictures of {pictures}"),
        None => "on the generator's own truncated images (psi 0.7 on the first half of the rows)".into(),
    };
    let method = match recipe.baseline {
        Baseline::Psp => format!(
            "pSp's encoder: a body of five IR-SE blocks, map2style per row. Published: 24 blocks, trained on FFHQ photographs with the \
            squared error, 0.8 LPIPS and 0.1 of an identity term; here {learned_from} and without the identity term, as the identity network of \
            the zoo only judges."
        ),
        Baseline::Indomain => format!(
            "In-Domain's encoder. Published: trained on photographs against the generator's own discriminator; here {learned_from} against a \
            discriminator that starts untrained, and relative to the mean w."
        ),
        Baseline::Alae => "ALAE's encoder. Published: trained with the generator, the mapping and a latent discriminator; here by latent \
            reciprocity alone on a generator that is trained already, with one w for all rows."
            .into(),
        Baseline::Image2stylegan => String::new(),
    };
    // As native encoders ship (networks.rs): all of the zoo is to fit into 40 MB.
    let halved = if recipe.pictures.is_some() { " Weights as 16-bit floats." } else { "" };
    format!("{method}{halved} {}", of_numbers())
}

/// What the numbers of an encoder's card are.
pub(super) fn of_numbers() -> String {
    format!(
        "Numbers are means over {IMAGES} of the generator's images (seed {SAMPLE_SEED}, which no training uses) and the first {IMAGES} \
        held-out pictures of mini/faces, every fifth with an accessory that no network saw; LPIPS is that of mini/vgg16_judge. Targets and \
        reconstructions of the generator's images share their noise. Sheets: targets above their reconstructions."
    )
}
