//! Runs a plan: each stage is taken from the store or executed, and the record is written after each.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use candle_core::Device;

use crate::error::Kind;
use crate::machine;
use crate::plan::{Costs, Plan, StageSpec, State};
use crate::record::edit::{Direction, Edit, Edits};
use crate::record::factors::Factors;
use crate::record::frechet::Frechet;
use crate::record::store::{Finished, Lock, Store, canonical, create_folder, sha256_hex, write_atomic};
use crate::record::views::Views;
use crate::record::{ArmInfo, CurvePoint, ImageInfo, Provenance, Record, Score, StageCost, Timing, TracePoint};
use crate::spec::experiment::REFERENCE_ROWS;
use crate::stages::progress::{Progress, duration, size};
use crate::stages::{self, CurveRow, ScoreRow, StageContext, TimeRow, TraceRow};
use crate::{Error, Result};

/// Version of the record's format.
pub const RECORD_FORMAT: u32 = 1;

/// Seed that the scores of the rows without training carry.
pub const REFERENCE_SEED: u64 = 0;

/// Where and how a plan runs.
pub struct Runner<'a> {
    pub plan: &'a Plan,
    pub store: &'a Store,
    pub device: &'a Device,
    pub progress: &'a Progress,
    pub checkpoint_every: Duration,
    /// As [`StageContext::recompute`].
    pub recompute: bool,
}

/// What a run leaves.
pub struct Done {
    pub record: Record,
    pub folder: PathBuf,
    /// Stages that were executed now; 0 when everything was cached.
    pub executed: usize,
    /// The record differs from what the folder held before.
    pub changed: bool,
    /// The finished stages, in the order of the plan.
    pub stages: Vec<Finished>,
}

impl Runner<'_> {
    /// Runs what is not cached.
    ///
    /// Errors: Busy if another process works on the run; Resource if memory or disk will not do; Diverged; whatever a stage says.
    pub fn run(&self) -> Result<Done> {
        let folder = self.store.run_folder(&self.plan.run);
        create_folder(&folder)?;
        let _lock = Lock::take(&folder.join("lock"), &format!("the run {}", self.plan.run))?;
        interruptible();
        self.check_machine()?;
        let mut costs = Costs::load(self.store);
        // The reasons are those of the start: later the nearest cached stage would be one of this very run.
        let reasons: Vec<State> = (0..self.plan.stages.len()).map(|i| self.plan.state(self.store, i)).collect();
        let mut finished: Vec<(Finished, bool)> = Vec::new();
        for (i, stage) in self.plan.stages.iter().enumerate() {
            let position = format!("[{}/{}] {}", i + 1, self.plan.stages.len(), stage.title);
            let result = match self.store.find(&stage.ingredients) {
                Ok(done) => (done, true),
                Err(_) => {
                    if let State::Runs(why) = &reasons[i] {
                        self.progress.note(&format!("{position}: {why}"));
                    }
                    let inputs = stage.needs.iter().map(|(role, n)| (role.to_string(), finished[*n].0.clone())).collect();
                    let done = self.execute(i, inputs)?;
                    costs.remember(self.store, stage, done.manifest.seconds)?;
                    (done, false)
                }
            };
            finished.push(result);
            if !finished[i].1 {
                write_record(&folder, &self.record(&finished)?)?;
            }
        }
        let record = self.record(&finished)?;
        let executed = finished.iter().filter(|(_, cached)| !cached).count();
        // Although every stage is cached, the words of a study may have changed (labels, the order that is claimed, notes), or another run may
        // have made the stages that are new.
        let changed = executed > 0 || Record::read(&folder.join("record.json")).map_or(true, |old| !of_the_same(&old, &record));
        if changed {
            write_record(&folder, &record)?;
        }
        Ok(Done { record, folder, executed, changed, stages: finished.into_iter().map(|(f, _)| f).collect() })
    }

    /// One stage that needs no other, from the store or executed.
    pub fn stage(&self, i: usize) -> Result<Finished> {
        let stage = &self.plan.stages[i];
        match self.store.find(&stage.ingredients) {
            Ok(done) => Ok(done),
            Err(_) => {
                self.progress.note(&format!("{}: not here yet, made once", stage.title));
                self.execute(i, BTreeMap::new())
            }
        }
    }

    fn execute(&self, i: usize, inputs: BTreeMap<String, Finished>) -> Result<Finished> {
        let (stage, side_by_side) = (&self.plan.stages[i], self.plan.side_by_side(i));
        let work = self.store.begin(&stage.ingredients)?;
        machine::reset_peak_memory_of(self.device);
        let mut context = StageContext {
            device: self.device,
            progress: self.progress,
            work: &work,
            inputs,
            checkpoint_every: self.checkpoint_every,
            side_by_side,
            recompute: self.recompute,
        };
        let result = match &stage.spec {
            StageSpec::Sample(spec) => stages::sample::run(spec, &mut context),
            StageSpec::Train(spec) => stages::train::run(spec, &mut context),
            StageSpec::TrainBaseline(spec) => stages::train_baseline::run(spec, &mut context),
            StageSpec::Evaluate(spec) => stages::evaluate::run(spec, &mut context),
            StageSpec::Identity(spec) => stages::identity::run(spec, &mut context),
            StageSpec::Frechet(spec) => stages::frechet::run(spec, &mut context),
            StageSpec::Factors(spec) => stages::factors::run(spec, &mut context),
            StageSpec::Directions(spec) => stages::directions::run(spec, &mut context),
            StageSpec::Edit(spec) => stages::edit::run(spec, &mut context),
        };
        drop(context);
        match result {
            Ok(()) => work.finish(machine::peak_memory_of(self.device)),
            Err(error) if error.kind == Kind::Diverged => {
                let kept = format!("; the last good checkpoint is kept in {}", work.folder().display());
                Err(Error::new(Kind::Diverged, format!("{}: {}{kept}", stage.title, error.message)))
            }
            Err(error) => Err(error.at(&stage.title)),
        }
    }

    /// Refuses to start what this machine can't finish.
    fn check_machine(&self) -> Result<()> {
        let need = self.plan.estimate(self.store);
        if need.stages == 0 {
            return Ok(());
        }
        self.progress.note(&format!(
            "{}: {} of {} stages to run, about {}",
            self.plan.run,
            need.stages,
            self.plan.stages.len(),
            duration(need.seconds)
        ));
        if let Some(available) = machine::available_memory().filter(|_| self.device.is_cpu())
            && need.memory > available
        {
            return Err(Error::resource(format!(
                "{} needs about {} of memory, {} are available; use a smaller profile or batch",
                self.plan.run,
                size(need.memory),
                size(available)
            )));
        }
        if let Some(free) = machine::free_disk(self.store.root())
            && need.disk > free
        {
            return Err(Error::resource(format!(
                "{}: about {} of disk are needed, {} are free; free some space or choose another folder with --out",
                self.store.root().display(),
                size(need.disk),
                size(free)
            )));
        }
        Ok(())
    }

    /// The record of the stages that are finished so far.
    fn record(&self, finished: &[(Finished, bool)]) -> Result<Record> {
        let resolved = &self.plan.resolved;
        let mut views = Views::of(resolved);
        let (mut traces, mut timings) = (Vec::new(), Vec::new());
        let (mut frechet, mut factors) = (Vec::new(), Vec::new());
        let mut scores = Vec::new();
        let mut curves = Vec::new();
        let mut costs = Vec::new();
        let mut edits = resolved.edit.as_ref().map(|_| Edits::default());
        for (stage, (done, cached)) in self.plan.stages.iter().zip(finished) {
            let arm = || stage.row.clone().unwrap_or_default();
            match &stage.spec {
                StageSpec::Sample(_) => views.images(done.json::<Vec<ImageInfo>>("images.json")?),
                StageSpec::Train(_) | StageSpec::TrainBaseline(_) => {
                    let rows: Vec<CurveRow> = done.json("curves.json")?;
                    curves.extend(rows.into_iter().map(|r| CurvePoint {
                        arm: arm(),
                        seed: stage.seed,
                        set: r.set,
                        images: r.images,
                        metric: r.metric,
                        value: r.value,
                    }));
                }
                StageSpec::Directions(_) => {
                    let found: Vec<Direction> = done.json("directions.json")?;
                    edits.get_or_insert_default().directions.extend(found.into_iter().map(|d| Direction { seed: stage.seed, ..d }));
                }
                StageSpec::Edit(_) => {
                    let found: Vec<Edit> = done.json("edits.json")?;
                    let of_arm = found.into_iter().map(|e| Edit { arm: arm(), seed: stage.seed, ..e });
                    edits.get_or_insert_default().curves.extend(of_arm);
                }
                StageSpec::Frechet(_) => {
                    let found: Vec<Frechet> = done.json("frechet.json")?;
                    frechet.extend(found.into_iter().map(|f| Frechet { arm: arm(), seed: stage.seed, ..f }));
                }
                StageSpec::Factors(_) => factors.extend(done.json::<Vec<Factors>>("factors.json")?),
                StageSpec::Evaluate(_) | StageSpec::Identity(_) => {
                    let rows: Vec<ScoreRow> = done.json("scores.json")?;
                    let mine = views.sets_of(stage.row.as_deref());
                    for r in rows {
                        for set in mine.of(&r.set, &r.image) {
                            scores.push(Score {
                                arm: arm(),
                                seed: stage.seed,
                                set,
                                image: r.image.clone(),
                                metric: r.metric.clone(),
                                value: r.value.unwrap_or(f64::INFINITY),
                            });
                        }
                    }
                    if done.manifest.files.contains_key("traces.json") {
                        let rows: Vec<TraceRow> = done.json("traces.json")?;
                        traces.extend(rows.into_iter().map(|r| TracePoint {
                            arm: arm(),
                            seed: stage.seed,
                            set: r.set,
                            image: r.image,
                            step: r.step,
                            metric: r.metric,
                            value: r.value,
                        }));
                        let rows: Vec<TimeRow> = done.json("times.json")?;
                        timings.extend(rows.into_iter().map(|r| Timing {
                            arm: arm(),
                            seed: stage.seed,
                            set: r.set,
                            images: r.images,
                            side_by_side: r.side_by_side,
                            start_seconds: r.start_seconds,
                            step_seconds: r.step_seconds,
                        }));
                    }
                }
            }
            costs.push(StageCost {
                stage: stage.title.clone(),
                key: done.manifest.key.clone(),
                cached: *cached,
                seconds: done.manifest.seconds,
                peak_memory_bytes: done.manifest.peak_memory_bytes,
            });
        }
        // PGGAN and BigGAN have no w: their row is G at z = 0.
        let flat = |c: &crate::spec::Card| {
            c.kind == crate::spec::card::Kind::Generator && c.network().is_ok_and(|n| !n.family.starts_with("stylegan"))
        };
        let more = if self.plan.cards.iter().any(flat) { " or G(z = 0)" } else { "" };
        let reference = REFERENCE_ROWS.map(|(name, label)| {
            let label = if name == "mean_latent" { format!("{label}{more}") } else { label.to_string() };
            ArmInfo { name: name.into(), label, reference: true }
        });
        let arms = resolved.arms.iter().map(|a| ArmInfo { name: a.name.clone(), label: a.label.clone(), reference: false });
        let images = views.list();
        let list = serde_json::to_value(&images).map_err(|e| Error::internal(e.to_string()))?;
        Ok(Record {
            format: RECORD_FORMAT,
            study: resolved.name.clone(),
            profile: resolved.profile.clone(),
            spec: serde_json::to_value(resolved).map_err(|e| Error::internal(e.to_string()))?,
            arms: reference.into_iter().chain(arms).collect(),
            seeds: resolved.seeds.clone(),
            images,
            scores,
            curves,
            traces,
            edits,
            frechet,
            factors,
            provenance: Provenance { timings, ..self.provenance(sha256_hex(canonical(&list).as_bytes()), costs) },
        })
    }

    fn provenance(&self, image_list_sha256: String, stages: Vec<StageCost>) -> Provenance {
        let cards = &self.plan.cards;
        let hash = |c: &crate::spec::Card| {
            let seeded = matches!(c.source, crate::spec::card::Source::Seeded(_));
            c.sha256.clone().unwrap_or_else(|| if seeded { "drawn from a seed".into() } else { "not pinned".into() })
        };
        let limited = |c: &&crate::spec::Card| c.licence.non_commercial || !c.licence.note.is_empty();
        let licence = |c: &crate::spec::Card| match c.licence.note.is_empty() {
            true => c.licence.name.clone(),
            false => format!("{}: {}", c.licence.name, c.licence.note),
        };
        Provenance {
            version: env!("CARGO_PKG_VERSION").into(),
            git_commit: env!("MTV_BENCH_COMMIT").into(),
            git_dirty: env!("MTV_BENCH_DIRTY") == "true",
            device: machine::describe(self.device),
            cpu: machine::cpu(),
            threads: rayon::current_num_threads(),
            dtype: machine::precision().into(),
            date: machine::date(),
            weights: cards.iter().map(|c| (c.name.clone(), hash(c))).collect(),
            licences: cards.iter().filter(limited).map(|c| (c.name.clone(), licence(c))).collect(),
            image_list_sha256,
            stages,
            timings: Vec::new(),
        }
    }
}

/// Whether two records are of the same study, the same weights and the same stages.
fn of_the_same(a: &Record, b: &Record) -> bool {
    let keys = |r: &Record| r.provenance.stages.iter().map(|s| s.key.clone()).collect::<Vec<_>>();
    a.spec == b.spec && a.provenance.weights == b.provenance.weights && keys(a) == keys(b)
}

fn write_record(folder: &std::path::Path, record: &Record) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(record).map_err(|e| Error::internal(e.to_string()))?;
    text.push(b'\n');
    write_atomic(&folder.join("record.json"), &text)
}

/// Ctrl-C ends the process at once: every file is written whole or not at all, so the next start goes on from the last
/// checkpoint. The handler only says so.
fn interruptible() {
    #[cfg(unix)]
    {
        extern "C" fn stop(signal: libc::c_int) {
            let text = b"\ninterrupted: the same command goes on from the last checkpoint\n";
            // SAFETY: write and _exit may be called in a signal handler.
            unsafe {
                libc::write(2, text.as_ptr().cast(), text.len());
                libc::_exit(128 + signal);
            }
        }
        let handler = stop as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: installs a handler that calls async-signal-safe functions only.
        unsafe {
            libc::signal(libc::SIGINT, handler);
            libc::signal(libc::SIGTERM, handler);
        }
    }
}
