//! `mtv-bench zoo`: train the mini networks, measure them, draw their pictures.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use crate::record::store::{Lock, create_folder};
use crate::spec::Card;
use crate::zoo::drawing::Split;
use crate::zoo::faces::UNSEEN_EVERY;
use crate::zoo::judge::Judge;
use crate::zoo::networks::{self, Network, WEIGHTS};
use crate::zoo::source::{self, Source};
use crate::zoo::{model_card, recipes, sheet};
use crate::{Error, Result, machine};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the networks of the zoo and what their cards say.
    List,
    /// Train a network. Its state is saved every minute; a killed training goes on with --resume and ends with the same weights.
    Train {
        /// The network, for example "mini/stylegan1" (or "stylegan1").
        name: String,
        /// Go on from the state in the folder.
        #[arg(long)]
        resume: bool,
        /// Shorten or lengthen a generator's training, or what is left of it, to about this many minutes on this machine.
        #[arg(long)]
        budget_minutes: Option<f64>,
        /// Another seed than the shipped network's.
        #[arg(long, conflicts_with = "resume")]
        seed: Option<u64>,
        /// "cpu" (the zoo has no training on other devices).
        #[arg(long, default_value = "cpu")]
        device: String,
        /// Folder of the state, the sample pictures and the finished weights.
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
    },
    /// Measure trained weights and write them with their card and pictures into the project.
    Card {
        name: String,
        /// The weights that `zoo train` left.
        #[arg(long, value_name = "FILE")]
        weights: Option<PathBuf>,
        /// The state folder of the same training done again: the card shows its curve, and says so where it ended in other weights.
        #[arg(long, value_name = "DIR")]
        curve: Option<PathBuf>,
        /// Weights of the judge of the network's source, where it is not shipped yet.
        #[arg(long, value_name = "FILE")]
        judge: Option<PathBuf>,
        #[arg(long, value_name = "DIR", default_value = "baselines")]
        out: PathBuf,
    },
    /// Measure shipped networks again and compare with their cards: within 2 % (or 0.01) per number, files to the byte.
    Verify {
        /// The network; all that ship without it.
        name: Option<String>,
    },
    /// Draw a sheet of a picture source: 64 samples, one factor from -1 to 1, or all factors.
    Sheet {
        /// "faces", "objects", or "cars" of the latter.
        source: String,
        /// A factor, for example "smile" or "scale".
        #[arg(long)]
        factor: Option<String>,
        /// A labelled row for each factor, from -1 to 1.
        #[arg(long, conflicts_with_all = ["factor", "unseen", "masks"])]
        factors: bool,
        /// The held-out faces with accessories that the generators never see.
        #[arg(long, conflicts_with = "factor")]
        unseen: bool,
        /// The masks beside the pictures.
        #[arg(long)]
        masks: bool,
        /// PNG, or JPEG where its name ends in .jpg.
        #[arg(long, value_name = "FILE", default_value = "sheet.png")]
        out: PathBuf,
    },
}

pub fn run(args: Args) -> Result<()> {
    match args.action {
        Action::List => list(),
        Action::Train { name, resume, budget_minutes, seed, device, state } => {
            let network = Network::named(&name)?;
            let network = match seed {
                Some(seed) => network.with_seed(seed),
                None => network,
            };
            if budget_minutes.is_some_and(|m| !(m > 0.0 && m < 1e6)) {
                return Err(Error::usage("--budget-minutes must be above 0"));
            }
            let device = machine::device(&device)?;
            let folder = state.unwrap_or_else(|| state_folder(&network));
            create_folder(&folder)?;
            let _lock = Lock::take(&folder.join("lock"), &format!("the training in {}", folder.display()))?;
            network.train(&folder, resume, budget_minutes, &device, |line| println!("{line}"))?;
            println!("{}", folder.join(WEIGHTS).display());
            Ok(())
        }
        Action::Card { name, weights, curve, judge, out } => {
            let network = Network::named(&name)?;
            let device = candle_core::Device::Cpu;
            let weights = weights.unwrap_or_else(|| state_folder(&network).join(WEIGHTS));
            let open = || match judge {
                Some(path) => open_judge(&network, &path),
                None => shipped_judge(&network),
            };
            let measured = model_card::write(&network, &weights, curve.as_deref(), open, &out, &device)?;
            for (name, value) in &measured.numbers {
                println!("{name}: {value}");
            }
            for missed in &measured.missed {
                println!("missed: {missed}");
            }
            println!("{}", out.join(format!("{}.toml", network.name)).display());
            Ok(())
        }
        Action::Verify { name } => verify(name.as_deref()),
        Action::Sheet { source, factors: true, out, .. } => {
            sheet::save(&out, &sheet::of_factors(&picture_source(&source)?)?)?;
            println!("{}", out.display());
            Ok(())
        }
        Action::Sheet { source, factor, unseen, masks, out, .. } => {
            draw_sheet(&picture_source(&source)?, factor.as_deref(), unseen, masks, &out)
        }
    }
}

fn state_folder(network: &Network) -> PathBuf {
    Path::new("results/cache/zoo").join(network.name)
}

fn open_judge(network: &Network, path: &Path) -> Result<Judge> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "reading", e))?;
    networks::open_judge(&network.source(), &bytes, &path.display().to_string(), &candle_core::Device::Cpu)
}

fn shipped_judge(network: &Network) -> Result<Judge> {
    let name = network.judge();
    networks::open_judge(&network.source(), &model_card::shipped(name)?, name, &candle_core::Device::Cpu)
}

/// Every network is measured before the first that differs ends the command.
fn verify(name: Option<&str>) -> Result<()> {
    let networks = match name {
        Some(name) => vec![Network::named(name)?],
        None => recipes::all().into_iter().filter(|n| model_card::shipped(n.name).is_ok()).collect(),
    };
    let mut failed = None;
    for network in networks {
        match model_card::verify(&network, || shipped_judge(&network), &candle_core::Device::Cpu) {
            Ok(lines) => {
                println!("{}: as its card says", network.name);
                lines.iter().for_each(|line| println!("    {line}"));
            }
            Err(error) => {
                println!("{}: {}", network.name, error.message);
                failed = failed.or(Some(error));
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

fn list() -> Result<()> {
    for network in recipes::all() {
        println!("{}: {}", network.name, network.title);
        let Some(training) = Card::load(network.name).ok().and_then(|card| card.training) else {
            println!("    not shipped; mtv-bench zoo train {}", network.name);
            continue;
        };
        let minutes = training.seconds / 60.0;
        println!("    {} images in {minutes:.0} minutes, seed {}, {}", training.images, training.seed, training.machine);
        for key in [
            "frechet_distance",
            "frechet_floor",
            "diversity",
            "source_diversity",
            "share_glasses",
            "accuracy",
            "cam_energy_in_mask_128px",
            "mask_area",
            "first_of_100",
            "psnr_synthesized",
            "psnr_real",
        ] {
            if let Some(value) = training.measured.get(key) {
                println!("    {key} {value}");
            }
        }
    }
    Ok(())
}

fn picture_source(name: &str) -> Result<Source> {
    let card = format!("mini/{}", name.trim_start_matches("mini/"));
    Source::named(&card, source::SEED)
        .ok_or_else(|| Error::usage(format!("there is no source \"{name}\"; there are faces, objects and cars")))
}

fn draw_sheet(source: &Source, factor: Option<&str>, unseen: bool, masks: bool, out: &Path) -> Result<()> {
    let pictures: Vec<_> = match factor {
        Some(name) => {
            let Some(place) = source.factors().iter().position(|f| *f == name) else {
                return Err(Error::usage(format!("there is no factor \"{name}\"; there are {}", source.factors().join(", "))));
            };
            let at = |i: u64| source.draw_with(Split::Train, i / 8, Some((place, (i % 8) as f32 / 3.5 - 1.0)));
            (0..64).map(at).collect()
        }
        None if unseen => (0..64).map(|i| source.draw(Split::HeldOut, UNSEEN_EVERY * i + UNSEEN_EVERY - 1)).collect(),
        None => (0..64).map(|i| source.draw(Split::Train, i)).collect(),
    };
    let grey: Vec<Vec<u8>> = pictures.iter().map(|p| p.mask.iter().flat_map(|&v| [v; 3]).collect()).collect();
    let bytes: Vec<&[u8]> = match masks {
        true => pictures.iter().zip(&grey).flat_map(|(p, mask)| [p.rgb.as_slice(), mask.as_slice()]).collect(),
        false => pictures.iter().map(|p| p.rgb.as_slice()).collect(),
    };
    sheet::save(out, &sheet::of_bytes(&bytes, 64, if masks { 16 } else { 8 }, 1))?;
    println!("{}", out.display());
    Ok(())
}
