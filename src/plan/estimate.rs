//! What the stages that have to run will take: by what such stages took on this machine before, else by the constants of the profile.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Plan, Stage, StageSpec, State};
use crate::record::store::{Store, write_atomic};
use crate::stages::{Refinement, reconstruct};
use crate::{Error, Result, machine};

/// What the stages that have to run are expected to take.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Estimate {
    pub stages: usize,
    pub seconds: f64,
    pub memory: u64,
    pub disk: u64,
}

/// What stages took on this machine, in `cache/costs.json`.
#[derive(Debug, Default)]
pub struct Costs(BTreeMap<String, Measured>);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Measured {
    seconds_per_unit: f64,
}

impl Costs {
    pub fn load(store: &Store) -> Costs {
        let path = store.root().join("cache/costs.json");
        let map = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Costs(map.unwrap_or_default())
    }

    /// Remembers what one unit (one image) of this kind of stage took.
    pub fn remember(&mut self, store: &Store, stage: &Stage, seconds: f64) -> Result<()> {
        self.0.insert(stage.cost_key.clone(), Measured { seconds_per_unit: seconds / stage.units.max(1) as f64 });
        let text = serde_json::to_vec_pretty(&self.0).map_err(|e| Error::internal(e.to_string()))?;
        write_atomic(&store.root().join("cache/costs.json"), &text)
    }
}

impl Plan {
    /// Time, memory and disk of the stages that have to run, in seconds and bytes.
    pub fn estimate(&self, store: &Store) -> Estimate {
        let costs = Costs::load(store);
        let mut e = Estimate::default();
        for (i, stage) in self.stages.iter().enumerate() {
            if let State::Cached(_) = self.state(store, i) {
                continue;
            }
            e.stages += 1;
            let backend = stage.ingredients.inputs.get("device").map_or("", String::as_str);
            let cost = self.cost.of(stage.spec.generator(), backend);
            let (per_unit, batch, disk) = match &stage.spec {
                StageSpec::Train(s) => (cost.train_seconds, s.batch, self.cost.disk_per_arm_mb * 1e6),
                StageSpec::TrainBaseline(s) => (cost.train_seconds, s.batch, self.cost.disk_per_arm_mb * 1e6),
                // A step of one image costs what an image of a training costs: forward and back through the encoder and the generator.
                spec if spec.refine().is_some() => (
                    cost.train_seconds,
                    self.resolved.evaluation_batch,
                    stage.units as f64 * 3e4 / spec.refine().map_or(1, Refinement::steps).max(1) as f64,
                ),
                _ => (cost.evaluate_seconds, self.resolved.evaluation_batch, stage.units as f64 * 3e4),
            };
            let measured = costs.0.get(&stage.cost_key);
            e.seconds += measured.map_or(per_unit, |c| c.seconds_per_unit) * stage.units as f64;
            // The constants were measured on trainings, which keep the graph; an evaluation needs far less.
            let looks = matches!(stage.spec, StageSpec::Sample(_) | StageSpec::Factors(_)) || stage.spec.method().is_some();
            let graph = !looks || stage.spec.refine().is_some();
            let batch = match stage.spec.refine() {
                Some(refinement) if reconstruct::one_by_one(Some(refinement)) => 1,
                _ => batch,
            };
            let per_image = match &stage.spec {
                StageSpec::Train(_) if self.recompute => cost.recomputed_per_image_mb.unwrap_or(cost.memory_per_image_mb),
                _ if graph => cost.memory_per_image_mb,
                _ => 0.25 * cost.memory_per_image_mb,
            };
            let memory = (cost.memory_fixed_mb + per_image * batch as f64) * 1e6;
            e.memory = e.memory.max(memory as u64);
            e.disk += disk as u64;
        }
        e
    }

    /// How many images may be optimised at the same time, each with a network of its own: as many as there are threads, and as the memory
    /// that is free holds by the profile's estimate.
    pub fn side_by_side(&self, i: usize) -> usize {
        let backend = self.stages[i].ingredients.inputs.get("device").map_or("", String::as_str);
        let cost = self.cost.of(self.stages[i].spec.generator(), backend);
        let each = (cost.memory_fixed_mb + cost.memory_per_image_mb) * 1e6;
        let room = machine::available_memory().map_or(1.0, |free| 0.8 * free as f64 / each.max(1.0));
        let most = if backend == "cpu" { rayon::current_num_threads() } else { 1 };
        (room as usize).clamp(1, most.max(1))
    }
}
