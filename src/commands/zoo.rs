//! `mtv-bench zoo`: train the mini networks, measure them, draw their pictures.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use crate::record::store::{Lock, create_folder};
use crate::spec::Card;
use crate::zoo::faces::{FACTORS, Factor, Source, Split};
use crate::zoo::judge::Judge;
use crate::zoo::networks::{self, Network, SOURCE_SEED, WEIGHTS};
use crate::zoo::{model_card, sheet};
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
        /// Shorten or lengthen a generator's training to about this many minutes on this machine.
        #[arg(long, conflicts_with = "resume")]
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
        /// Weights of the judge, where mini/judge is not shipped yet.
        #[arg(long, value_name = "FILE")]
        judge: Option<PathBuf>,
        #[arg(long, value_name = "DIR", default_value = "baselines")]
        out: PathBuf,
    },
    /// Measure a shipped network again and compare with its card.
    Verify { name: String },
    /// Draw a sheet of the face source: samples, or one factor from -1 to 1.
    Faces {
        /// A factor, for example "smile"; without it, 64 pictures.
        #[arg(long)]
        factor: Option<String>,
        /// The held-out pictures with accessories that the generators never see.
        #[arg(long, conflicts_with = "factor")]
        unseen: bool,
        #[arg(long, value_name = "FILE", default_value = "faces.png")]
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
        Action::Card { name, weights, judge, out } => {
            let network = Network::named(&name)?;
            let device = candle_core::Device::Cpu;
            let weights = weights.unwrap_or_else(|| state_folder(&network).join(WEIGHTS));
            let judge = match (judge, network.name) {
                (Some(path), _) => open_judge(&path)?,
                (None, "mini/judge") => open_judge(&weights)?,
                (None, _) => shipped_judge()?,
            };
            let measured = model_card::write(&network, &weights, &judge, &out, &device)?;
            for (name, value) in &measured.numbers {
                println!("{name}: {value}");
            }
            for missed in &measured.missed {
                println!("missed: {missed}");
            }
            println!("{}", out.join(format!("{}.toml", network.name)).display());
            Ok(())
        }
        Action::Verify { name } => {
            let network = Network::named(&name)?;
            for line in model_card::verify(&network, &shipped_judge()?, &candle_core::Device::Cpu)? {
                println!("{line}");
            }
            Ok(())
        }
        Action::Faces { factor, unseen, out } => faces(factor.as_deref(), unseen, &out),
    }
}

fn state_folder(network: &Network) -> PathBuf {
    Path::new("results/cache/zoo").join(network.name)
}

fn open_judge(path: &Path) -> Result<Judge> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "reading", e))?;
    networks::open_judge(&bytes, &path.display().to_string(), &candle_core::Device::Cpu)
}

fn shipped_judge() -> Result<Judge> {
    networks::open_judge(&model_card::shipped("mini/judge")?, "baselines/mini/judge.safetensors", &candle_core::Device::Cpu)
}

fn list() -> Result<()> {
    for network in networks::all() {
        println!("{}: {}", network.name, network.title);
        let Some(training) = Card::load(network.name).ok().and_then(|card| card.training) else {
            println!("    not shipped; mtv-bench zoo train {}", network.name);
            continue;
        };
        let minutes = training.seconds / 60.0;
        println!("    {} images in {minutes:.0} minutes, seed {}, {}", training.images, training.seed, training.machine);
        for key in ["frechet_distance", "frechet_floor", "diversity", "source_diversity", "share_glasses", "accuracy"] {
            if let Some(value) = training.measured.get(key) {
                println!("    {key} {value}");
            }
        }
    }
    Ok(())
}

fn faces(factor: Option<&str>, unseen: bool, out: &Path) -> Result<()> {
    let source = Source::new(SOURCE_SEED);
    let pictures: Vec<_> = match factor {
        Some(name) => {
            let Some(factor) = Factor::named(name) else {
                return Err(Error::usage(format!("there is no factor \"{name}\"; there are {}", FACTORS.join(", "))));
            };
            let at = |i: u64| source.draw_with(Split::Train, i / 8, &[(factor, (i % 8) as f32 / 3.5 - 1.0)]);
            (0..64).map(at).collect()
        }
        None if unseen => (0..64).map(|i| source.draw(Split::HeldOut, 5 * i + 4)).collect(),
        None => (0..64).map(|i| source.draw(Split::Train, i)).collect(),
    };
    let bytes: Vec<&[u8]> = pictures.iter().map(|p| p.rgb.as_slice()).collect();
    sheet::save(out, &sheet::of_bytes(&bytes, 64, 8, 1))?;
    println!("{}", out.display());
    Ok(())
}
