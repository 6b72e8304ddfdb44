//! `mtv-bench invert`: pictures of your own through a trained encoder, and edits of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::weights::AccessArgs;
use crate::editing::{Rows, shift};
use crate::generators::{Generator, Synthesis};
use crate::images::{Filter, Pictures, Rgb8, Shape, decode, fit};
use crate::inverters::Inverter;
use crate::inverters::baseline::{Encoder, SameGenerator};
use crate::metrics;
use crate::params::Params;
use crate::record::ImageInfo;
use crate::record::store::{Store, create_folder, write_atomic};
use crate::stages::inversion::{Inversion, Inverted};
use crate::stages::progress::Progress;
use crate::stages::{open, sample};
use crate::weights::visible;
use crate::{Error, Result, machine};

mod edits;
mod sheet;
mod trained;

use edits::Edit;

/// Reconstruct pictures with a trained encoder, and edit them along attribute directions.
///
/// For each picture: NAME.reconstruction.png, NAME.latents.safetensors and, with --edit, NAME.edited.png; and grid.png with all of them side by
/// side. A picture that is not square loses its ends, the middle is taken. One that can't be used is named, the rest goes on, and the exit
/// code is then 5.
#[derive(clap::Args)]
pub struct Args {
    /// Pictures (PNG, JPEG, WebP), or folders or archives of them.
    #[arg(required = true, value_name = "PICTURE")]
    pictures: Vec<PathBuf>,
    /// Which encoder: the name of an arm of the run or, without --run, one that ships (psp, indomain, alae, and each with a
    /// generator of its own: psp_native, indomain_native, alae_native). The arm with the best LPIPS if left out.
    #[arg(long, short, value_name = "ARM", conflicts_with = "encoder")]
    method: Option<String>,
    /// The finished run that trained it, for example ablation_mtv.mini. The latest if left out.
    #[arg(long, value_name = "RUN", conflicts_with = "encoder")]
    run: Option<String>,
    /// The folder of a finished training (results/cache/train-...), or the encoder.safetensors in it.
    #[arg(long, value_name = "PATH")]
    encoder: Option<PathBuf>,
    /// Move the picture along a direction, for example smile=1.5 or age=-2; several are added up. The number counts standard deviations of
    /// the generator's own w.
    #[arg(long, value_name = "NAME=ALPHA", value_parser = edits::parse)]
    edit: Vec<(String, f64)>,
    /// A direction of your own for --edit: a .npy file (or .pt, .safetensors) with one vector of the generator's w.
    #[arg(long, value_name = "NAME=FILE", value_parser = edits::parse_file)]
    direction: Vec<(String, PathBuf)>,
    /// Which rows of w are edited: "all", or numbers and ranges as in 0-3,5.
    #[arg(long, default_value = "0-3", value_parser = |s: &str| Rows::try_from(s.to_string()))]
    rows: Rows,
    /// Where the files go.
    #[arg(long, default_value = "inverted", value_name = "DIR")]
    out: PathBuf,
    /// Enlarge pictures that are smaller than the network's, instead of refusing them.
    #[arg(long)]
    enlarge: bool,
    /// What goes to stdout.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Folder with the records and encoders of your runs.
    #[arg(long, default_value = "results", value_name = "DIR")]
    results: PathBuf,
    /// "auto" (the first GPU if there is one), "cpu" or "cuda:N".
    #[arg(long, default_value = "auto")]
    device: String,
    #[command(flatten)]
    access: AccessArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Pictures per forward pass; the result does not depend on it.
const BATCH: usize = 8;

pub fn run(args: Args, quiet: bool) -> Result<()> {
    let progress = Progress::new(quiet);
    let store = Store::new(&args.results);
    let trained = trained::find(&store, args.run.as_deref(), args.method.as_deref(), args.encoder.as_deref())?;
    let device = machine::device(&args.device)?;
    args.access.open(quiet)?.install();
    let generator = open::generator(&trained.networks.generator, &device)?;
    let layout = generator.layout();
    let (side, rows, w_dim) = (layout.resolution, layout.rows, layout.w_dim);
    if rows == 0 {
        return Err(Error::usage(format!("the generator {} has no w: `invert` is for StyleGANs", trained.networks.generator)));
    }
    args.rows.check(rows).map_err(Error::usage)?;
    // Pictures before directions, which take seconds to learn.
    let (pictures, failed) = read_all(&args.pictures, side, args.enlarge, &progress);
    if pictures.is_empty() {
        return Err(Error::corrupt("none of the pictures could be used, each is named above"));
    }
    check_names(&pictures, &args)?;
    let edits = edits::open(&args.edit, &args.direction, &trained, &store, (&device, &progress, w_dim))?;
    let network = Network::open(&trained, generator.as_ref(), &device)?;
    progress.note(&trained.about);
    let bar = progress.bar(pictures.len() as u64, "invert");
    let mut done = Vec::new();
    for batch in pictures.chunks(BATCH) {
        done.extend(invert(&network, batch, &edits, &args.rows)?);
        bar.advance(batch.len() as u64, "");
    }
    bar.finish();
    // Everything is made before anything is written.
    create_folder(&args.out)?;
    let label = edits.iter().map(|e| format!("{} {:+}", e.name, e.alpha)).collect::<Vec<_>>().join(", ");
    let mut list = Vec::new();
    for (picture, one) in pictures.iter().zip(&done) {
        list.push(write(&args.out, picture, one, &label)?);
    }
    let grid = args.out.join("grid.png");
    write_atomic(&grid, &sheet::grid(&pictures, &done, &label)?)?;
    report(&args, &trained, list, &grid)?;
    match failed {
        0 => Ok(()),
        n => Err(Error::corrupt(format!("{n} of {} pictures could not be used, each is named above", n + pictures.len()))),
    }
}

/// A trained encoder with its generator.
enum Network<'a> {
    Mtv(Inversion<'a>),
    Baseline(SameGenerator<'a>, Device),
}

impl<'a> Network<'a> {
    fn open(trained: &trained::Trained, generator: &'a dyn Generator, device: &Device) -> Result<Self> {
        let tensors = trained.tensors(device)?;
        Ok(match &trained.what {
            trained::What::Mtv(method) => Network::Mtv(Inversion::trained(generator, method, tensors, device)?),
            trained::What::Baseline(baseline, width) => {
                let params = Params::frozen(tensors, DType::F32, device, &trained.place);
                let encoder = Encoder::new(*baseline, *width, generator.layout(), generator.centre(), &params)?;
                params.finish()?;
                Network::Baseline(SameGenerator { encoder, generator }, device.clone())
            }
        })
    }

    fn invert(&self, infos: &[ImageInfo], images: &[Rgb8]) -> Result<Inverted> {
        match self {
            Network::Mtv(inversion) => inversion.invert_images(&infos.iter().collect::<Vec<_>>(), images, 0),
            Network::Baseline(inverter, device) => {
                let ids = infos.iter().map(|i| sample::number(&i.id)).collect::<Result<Vec<_>>>()?;
                let noise = sample::evaluation_noise(inverter.generator, &infos[0].set, 0, &ids, device)?;
                Ok(Inverted::of_w(inverter.invert(&Rgb8::to_batch(images, device)?)?, noise))
            }
        }
    }

    fn render(&self, inverted: &Inverted, w: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Network::Mtv(inversion) => inversion.render(inverted, w)?,
            Network::Baseline(inverter, _) => inverter.render(w, &Synthesis { noise: inverted.noise(), ..Default::default() })?,
        })
    }
}

/// A picture as the network takes it.
struct Input {
    name: String,
    place: String,
    image: Rgb8,
}

/// What was made of a picture.
struct Made {
    reconstruction: Rgb8,
    edited: Option<Rgb8>,
    /// "w", "w edited" and whatever else E gave, without the batch.
    latents: BTreeMap<String, Tensor>,
    psnr: f64,
}

/// Every picture that can be used; the others are named on stderr and counted.
fn read_all(paths: &[PathBuf], side: usize, enlarge: bool, progress: &Progress) -> (Vec<Input>, usize) {
    let (mut pictures, mut failed) = (Vec::new(), 0);
    let mut take = |name: String, place: String, image: Result<Rgb8>| {
        let fitted = image.and_then(|image| {
            let (w, h) = (image.width(), image.height());
            if w != h {
                progress.note(&format!("note: {place} is {w}x{h}: its middle {0}x{0} is taken", w.min(h)));
            }
            fit(&image, side, Filter::Lanczos, Shape::Crop, enlarge).map_err(|e| e.at(&place))
        });
        match fitted {
            Ok(image) => pictures.push(Input { name, place, image }),
            Err(e) => {
                eprintln!("FAIL  {e}");
                failed += 1;
            }
        }
    };
    for path in paths {
        let place = visible(&path.display().to_string());
        let archive =
            path.is_dir() || path.extension().is_some_and(|e| ["zip", "tar", "mdb", "parquet"].iter().any(|a| e.eq_ignore_ascii_case(a)));
        if archive {
            match Pictures::open(path) {
                Ok(set) => {
                    set.list().iter().for_each(|p| take(p.id.replace('/', "_"), set.place(p), set.read(p)));
                }
                Err(e) => take(String::new(), place, Err(e)),
            }
            continue;
        }
        let bytes = match std::fs::read(path) {
            Ok(bytes) => Ok(bytes),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Error::missing(format!("{place}: there is no such file"))),
            Err(e) => Err(Error::io(path, "reading", e)),
        };
        let image = bytes.and_then(|bytes| decode(&bytes).map_err(|e| e.at(&place)));
        let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        take(name, place, image);
    }
    (pictures, failed)
}

/// No file may be written twice, and no picture overwritten.
fn check_names(pictures: &[Input], args: &Args) -> Result<()> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for picture in pictures {
        if let Some(other) = seen.insert(&picture.name, &picture.place) {
            let text = format!("{} and {other} would both be written as {}: rename one, or invert them apart", picture.place, picture.name);
            return Err(Error::usage(text));
        }
    }
    let same = |a: &Path, b: &Path| matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    let written = pictures.iter().flat_map(|p| ["reconstruction.png", "edited.png"].map(|e| args.out.join(format!("{}.{e}", p.name))));
    for path in written.chain([args.out.join("grid.png")]) {
        if let Some(given) = args.pictures.iter().find(|given| same(given, &path)) {
            return Err(Error::usage(format!("{} would be overwritten: choose another folder with --out", given.display())));
        }
    }
    Ok(())
}

fn invert(network: &Network, batch: &[Input], edits: &[Edit], rows: &Rows) -> Result<Vec<Made>> {
    let images: Vec<Rgb8> = batch.iter().map(|p| p.image.clone()).collect();
    // The noise of E and of G is that of the picture, whatever its name and its neighbours are.
    let infos = images.iter().map(|image| {
        let sha256 = image.sha256();
        let number = u64::from_str_radix(&sha256[..15], 16).map_err(|e| Error::internal(e.to_string()))?;
        Ok(ImageInfo { set: "invert".into(), id: format!("picture{number}"), sha256, unseen: Vec::new() })
    });
    let infos = infos.collect::<Result<Vec<_>>>()?;
    let inverted = network.invert(&infos, &images)?;
    let plain = Rgb8::from_batch(&network.render(&inverted, &inverted.w)?)?;
    let mut moved = inverted.w.clone();
    for edit in edits {
        moved = shift::shift(&moved, &edit.direction, edit.alpha * edit.unit, rows, None)?;
    }
    let edited = match edits.is_empty() {
        true => None,
        false => Some(Rgb8::from_batch(&network.render(&inverted, &moved)?)?),
    };
    let metric = metrics::by_name(&format!("psnr@{}", images[0].width()))?;
    let at = |t: &Option<Tensor>, i: usize| t.as_ref().map(|t| Ok::<_, Error>(t.get(i)?.to_device(&Device::Cpu)?)).transpose();
    let one = |i: usize| -> Result<Made> {
        let mut latents = BTreeMap::from([("w".to_string(), inverted.w.get(i)?.to_device(&Device::Cpu)?)]);
        latents.extend(at(&inverted.latents.z, i)?.map(|t| ("z".to_string(), t)));
        latents.extend(at(&inverted.latents.constant, i)?.map(|t| ("z_c".to_string(), t)));
        if edited.is_some() {
            latents.insert("w edited".into(), moved.get(i)?.to_device(&Device::Cpu)?);
        }
        let psnr = metric.score(&images[i], &plain[i])?;
        Ok(Made { reconstruction: plain[i].clone(), edited: edited.as_ref().map(|e| e[i].clone()), latents, psnr })
    };
    (0..images.len()).map(one).collect()
}

fn write(out: &Path, picture: &Input, made: &Made, label: &str) -> Result<Value> {
    let path = |ending: &str| out.join(format!("{}.{ending}", picture.name));
    let (reconstruction, latents) = (path("reconstruction.png"), path("latents.safetensors"));
    write_atomic(&reconstruction, &made.reconstruction.to_png()?)?;
    let bytes = safetensors::serialize(&made.latents, None).map_err(|e| Error::internal(format!("writing latents: {e}")))?;
    write_atomic(&latents, &bytes)?;
    let mut entry = json!({
        "picture": picture.place,
        "psnr": if made.psnr.is_finite() { json!(made.psnr) } else { Value::Null },
        "reconstruction": reconstruction.display().to_string(),
        "latents": latents.display().to_string(),
    });
    if let Some(edited) = &made.edited {
        let file = path("edited.png");
        write_atomic(&file, &edited.to_png()?)?;
        entry["edited"] = json!(file.display().to_string());
        entry["edit"] = json!(label);
    }
    Ok(entry)
}

fn report(args: &Args, trained: &trained::Trained, list: Vec<Value>, grid: &Path) -> Result<()> {
    if args.format == Format::Json {
        let all = json!({
            "encoder": trained.place,
            "generator": trained.networks.generator,
            "pictures": list,
            "grid": grid.display().to_string(),
        });
        println!("{}", serde_json::to_string_pretty(&all).map_err(|e| Error::internal(e.to_string()))?);
        return Ok(());
    }
    for entry in &list {
        let text = |key: &str| entry[key].as_str().unwrap_or_default();
        let psnr = entry["psnr"].as_f64().map_or("identical".into(), |p| format!("{p:.2} dB"));
        let edited = if text("edited").is_empty() { String::new() } else { format!(", {}", text("edited")) };
        println!("{}: {psnr}, {}{edited}", text("picture"), text("reconstruction"));
    }
    println!("{}", grid.display());
    Ok(())
}
