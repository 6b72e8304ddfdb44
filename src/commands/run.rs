//! `mtv-bench run`: runs a study, or goes on with an interrupted run, and ends with its table and the path of its record.

use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::time::Duration;

use super::weights::AccessArgs;
use crate::machine;
use crate::plan::{Plan, StageSpec, State};
use crate::record::store::Store;
use crate::report::{Report, table};
use crate::runner::{Done, Runner};
use crate::spec::{Profile, Study};
use crate::stages::fetch;
use crate::stages::progress::Progress;
use crate::stages::render::{self, Shown};
use crate::{Error, Result};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub choice: Choice,
}

/// Which study, at which size, where: shared by `run` and `plan`.
#[derive(clap::Args)]
pub struct Choice {
    /// Name of a study (see `list`), or a .toml file.
    pub study: String,
    /// Sizes and networks: tiny, mini, standard or paper.
    #[arg(long, short, default_value = "mini")]
    pub profile: String,
    /// First seed; a run with a given seed is kept apart.
    #[arg(long)]
    pub seed: Option<u64>,
    /// "auto" (the first GPU if there is one), "cpu" or "cuda:N".
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// On CUDA: "f32", or "tf32" for faster, coarser products. Belongs to the key of every stage.
    #[arg(long, default_value = "f32")]
    pub precision: String,
    /// Folder for records and cached stages.
    #[arg(long, default_value = "results")]
    pub out: PathBuf,
    #[command(flatten)]
    pub access: AccessArgs,
    /// Run the commands of external methods that the study names; `plan` shows them.
    #[arg(long)]
    pub allow_commands: bool,
}

impl Choice {
    /// Everything that is decided before a stage runs.
    pub fn open(&self) -> Result<(Profile, Plan, Store, candle_core::Device)> {
        let study = Study::load(&self.study)?;
        let profile = Profile::load(&self.profile)?;
        let resolved = study.resolve(&profile, self.seed)?;
        let device = machine::device(&self.device)?;
        machine::set_precision(&self.precision, &device)?;
        let plan = Plan::of(resolved, &profile, self.seed, machine::backend(&device))?;
        Ok((profile, plan, Store::new(&self.out), device))
    }
}

pub fn run(args: Args, quiet: bool) -> Result<()> {
    let (profile, plan, store, device) = args.choice.open()?;
    let runs = |(i, _): &(usize, String)| !matches!(plan.state(&store, *i), State::Cached(_));
    if let Some((i, command)) = plan.commands().into_iter().find(runs).filter(|_| !args.choice.allow_commands) {
        let title = &plan.stages[i].title;
        return Err(Error::usage(format!("{title}: the study runs `{command}`; give --allow-commands if you trust it")));
    }
    let access = args.choice.access.open(quiet)?;
    fetch::run(&plan.cards, &access, args.choice.access.accept_licence)?;
    access.install();
    let progress = Progress::new(quiet);
    let checkpoint_every = Duration::from_secs_f64(profile.checkpoint_seconds);
    let done = Runner { plan: &plan, store: &store, device: &device, progress: &progress, checkpoint_every, recompute: profile.recompute }
        .run()?;
    if done.executed == 0 {
        progress.note(&format!("{}: nothing to do, all {} stages are cached", plan.run, plan.stages.len()));
    }
    print!("{}", report(&plan, &done)?);
    println!("{}", done.folder.join("record.json").display());
    Ok(())
}

/// Renders the run's report unless nothing has changed; returns the table for the terminal.
fn report(plan: &Plan, done: &Done) -> Result<String> {
    let folder = done.folder.join("report");
    if !done.changed && folder.join("table.md").exists() {
        return Ok(table::terminal(&Report::of(&done.record)?));
    }
    let mut show = Shown::default();
    for (stage, finished) in plan.stages.iter().zip(&done.stages) {
        match (&stage.spec, &stage.row) {
            (StageSpec::Sample(_), _) => show.targets.extend(render::pictures(&finished.path("images.safetensors"))?),
            (StageSpec::Edit(_), Some(row)) => {
                if let Entry::Vacant(first) = show.edited.entry(row.clone()) {
                    first.insert(render::pictures(&finished.path("edits.safetensors"))?);
                }
            }
            // The figure shows the first seed.
            (StageSpec::Evaluate(_), Some(row)) => {
                let shown = show.reconstructions.entry(row.clone()).or_default();
                for (name, picture) in render::pictures(&finished.path("reconstructions.safetensors"))? {
                    shown.entry(name).or_insert(picture);
                }
                if !show.worst.contains_key(row) {
                    show.worst.insert(row.clone(), render::pictures(&finished.path("worst.safetensors"))?);
                }
            }
            _ => {}
        }
    }
    render::run(&done.record, &show, &folder)
}
