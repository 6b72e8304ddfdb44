//! The directions that `--edit` names: those of the study edit_real for the encoder's generator, or files of the user.

use std::path::PathBuf;
use std::time::Duration;

use candle_core::{Device, Tensor};

use super::trained::Trained;
use crate::editing::dot;
use crate::plan::{Plan, StageSpec};
use crate::record::edit::Direction;
use crate::record::store::Store;
use crate::runner::Runner;
use crate::spec::{Profile, Study, files};
use crate::stages::directions::{of_tensors, plain_spread};
use crate::stages::open;
use crate::stages::progress::Progress;
use crate::{Error, Result, machine, weights};

/// The study whose directions these are.
const STUDY: &str = "edit_real";

/// More standard deviations than this leave nothing of a picture.
const MOST: f64 = 20.0;

/// One move.
pub struct Edit {
    pub name: String,
    pub alpha: f64,
    /// Length of one alpha.
    pub unit: f64,
    /// [1, w_dim], of length 1.
    pub direction: Tensor,
}

/// "smile=1.5".
pub fn parse(text: &str) -> std::result::Result<(String, f64), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("\"{text}\" is no edit: write NAME=ALPHA, for example smile=1.5"))?;
    let alpha: f64 = value.trim().parse().map_err(|_| format!("\"{value}\" is no number"))?;
    if !alpha.is_finite() || alpha.abs() > MOST {
        return Err(format!("alpha counts standard deviations: at most {MOST} of them make sense, and faces end near 3"));
    }
    Ok((name.trim().to_string(), alpha))
}

/// "smile=directions/smile.npy".
pub fn parse_file(text: &str) -> std::result::Result<(String, PathBuf), String> {
    let (name, file) = text.split_once('=').ok_or_else(|| format!("\"{text}\" is no direction: write NAME=FILE"))?;
    Ok((name.trim().to_string(), PathBuf::from(file)))
}

/// The wanted edits. Directions that nobody gave as a file are taken from the store or learned now.
///
/// Errors: an unknown name (with the nearest one), a file that is no direction of this generator's w.
pub fn open(
    wanted: &[(String, f64)],
    given: &[(String, PathBuf)],
    trained: &Trained,
    store: &Store,
    (device, progress, w_dim): (&Device, &Progress, usize),
) -> Result<Vec<Edit>> {
    if let Some((name, _)) = given.iter().find(|(name, _)| !wanted.iter().any(|(w, _)| w == name)) {
        return Err(Error::usage(format!("the direction \"{name}\" is given but not used: add --edit {name}=1")));
    }
    let mut learned: Option<Learned> = None;
    let mut edits = Vec::new();
    for (name, alpha) in wanted {
        if let Some((_, file)) = given.iter().find(|(n, _)| n == name) {
            let tensors = weights::open(file)?.tensors;
            let direction = of_tensors(tensors, w_dim).map_err(|e| e.at(file.display()))?;
            let generator = open::generator(&trained.networks.generator, device)?;
            edits.push(Edit {
                name: name.clone(),
                alpha: *alpha,
                unit: plain_spread(generator.as_ref(), &direction, device)?,
                direction: tensor(&direction, device)?,
            });
            continue;
        }
        let found = match &learned {
            Some(found) => found,
            None => learned.insert(learn(trained, store, device, progress)?),
        };
        let Some((info, direction)) = found.iter().find(|(info, _)| info.name == *name) else {
            let names: Vec<&str> = found.iter().map(|(info, _)| info.name.as_str()).collect();
            let hint = files::suggestion(name, names.iter().copied());
            return Err(Error::usage(format!("there is no edit \"{name}\"{hint} (or a file of yours: --direction {name}=FILE)")));
        };
        edits.push(Edit { name: name.clone(), alpha: *alpha, unit: info.unit, direction: direction.clone() });
    }
    Ok(edits)
}

type Learned = Vec<(Direction, Tensor)>;

/// The directions stage of the study for this generator, from the store if it is there.
fn learn(trained: &Trained, store: &Store, device: &Device, progress: &Progress) -> Result<Learned> {
    let generator = &trained.networks.generator;
    let profile = Profile::load(&trained.profile)?;
    let plan = Plan::of(Study::load(STUDY)?.resolve(&profile, None)?, &profile, None, machine::backend(device))?;
    let of_generator = |s: &StageSpec| matches!(s, StageSpec::Directions(d) if d.generator == *generator);
    let Some(stage) = plan.stages.iter().position(|s| of_generator(&s.spec)) else {
        return Err(Error::usage(format!(
            "no directions are known for the generator {generator}: give your own with --direction NAME=FILE"
        )));
    };
    let checkpoint_every = Duration::from_secs_f64(profile.checkpoint_seconds);
    let done = Runner { plan: &plan, store, device, progress, checkpoint_every, recompute: profile.recompute }.stage(stage)?;
    let infos: Vec<Direction> = done.json("directions.json")?;
    let tensors = done.tensors("directions.safetensors", device)?;
    let with_tensor = |info: Direction| {
        let tensor = tensors.get(&info.name).cloned().ok_or_else(|| Error::corrupt("the learned directions are incomplete"))?;
        Ok((info, tensor))
    };
    infos.into_iter().map(with_tensor).collect()
}

fn tensor(direction: &[f64], device: &Device) -> Result<Tensor> {
    debug_assert!((dot(direction, direction) - 1.0).abs() < 1e-9);
    let values: Vec<f32> = direction.iter().map(|v| *v as f32).collect();
    Ok(Tensor::from_vec(values, (1, direction.len()), device)?)
}
