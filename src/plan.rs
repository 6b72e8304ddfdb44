//! From a resolved study to its stages: sample once; train per arm and seed; evaluate per arm and seed, and the two reference
//! rows; edit, where the study does. Keys chain by content, so they are known before anything runs, and a changed ingredient changes the keys of exactly
//! those stages that depend on it.
//!
//! Longer than other files: which stages there are, and what each depends on, is read in one place.

mod besides;
mod estimate;

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::json;

use crate::inverters::baseline::Baseline;
use crate::inverters::psp;
use crate::machine;
use crate::record::edit;
use crate::record::store::{Finished, Ingredients, Store, canonical, sha256_hex};
use crate::spec::card::Source;
use crate::spec::experiment::{REFERENCE_ROWS, Resolved, ResolvedArm, Subject};
use crate::spec::method::MethodSpec;
use crate::spec::{Card, Profile};
use crate::stages::external::ExternalMethod;
use crate::stages::progress::{duration, size};
use crate::stages::{
    self, BaselineMethod, BaselineSpec, CurveSpec, DirectionsSpec, EditSource, EditStageSpec, EncoderMethod, EvaluateSpec, FactorsSpec,
    FrechetSpec, IdentitySpec, ImageSet, Method, Networks, Protocol, Refinement, SampleSpec, TrainSpec,
};
use crate::zoo::encoders;
use crate::{Error, Result};
use besides::{Besides, judge_of};
pub use estimate::{Costs, Estimate};

/// What a stage computes.
#[derive(Debug, Clone)]
pub enum StageSpec {
    Sample(SampleSpec),
    Train(Box<TrainSpec>),
    TrainBaseline(Box<BaselineSpec>),
    Evaluate(Box<EvaluateSpec>),
    Identity(Box<IdentitySpec>),
    Frechet(Box<FrechetSpec>),
    Factors(FactorsSpec),
    Directions(Box<DirectionsSpec>),
    Edit(Box<EditStageSpec>),
}

impl StageSpec {
    pub fn kind(&self) -> &'static str {
        match self {
            StageSpec::Sample(_) => "sample",
            StageSpec::Train(_) => "train",
            StageSpec::TrainBaseline(_) => "train-baseline",
            StageSpec::Evaluate(_) => "evaluate",
            StageSpec::Identity(_) => "identity",
            StageSpec::Frechet(_) => "frechet",
            StageSpec::Factors(_) => "factors",
            StageSpec::Directions(_) => "directions",
            StageSpec::Edit(_) => "edit",
        }
    }

    fn code(&self) -> u32 {
        match self {
            StageSpec::Sample(_) => stages::SAMPLE_CODE,
            StageSpec::Train(_) => stages::TRAIN_CODE,
            StageSpec::TrainBaseline(_) => stages::BASELINE_CODE,
            StageSpec::Evaluate(_) => stages::EVALUATE_CODE,
            StageSpec::Identity(_) => stages::IDENTITY_CODE,
            StageSpec::Frechet(_) => stages::FRECHET_CODE,
            StageSpec::Factors(_) => stages::FACTORS_CODE,
            StageSpec::Directions(_) => stages::DIRECTIONS_CODE,
            StageSpec::Edit(_) => stages::EDIT_CODE,
        }
    }

    /// The card of the generator that it works with.
    fn generator(&self) -> &str {
        match self {
            StageSpec::Sample(s) => &s.networks.generator,
            StageSpec::Train(s) => &s.networks.generator,
            StageSpec::TrainBaseline(s) => &s.networks.generator,
            StageSpec::Evaluate(s) => &s.networks.generator,
            StageSpec::Identity(s) => &s.networks.generator,
            StageSpec::Frechet(s) => &s.networks.generator,
            StageSpec::Factors(s) => s.sets.first().map_or("", |set| &set.data),
            StageSpec::Directions(s) => &s.generator,
            StageSpec::Edit(s) => &s.networks.generator,
        }
    }

    fn value(&self) -> serde_json::Value {
        let value = match self {
            StageSpec::Sample(s) => serde_json::to_value(s),
            StageSpec::Train(s) => serde_json::to_value(s),
            StageSpec::TrainBaseline(s) => serde_json::to_value(s),
            StageSpec::Evaluate(s) => serde_json::to_value(s),
            StageSpec::Identity(s) => serde_json::to_value(s),
            StageSpec::Frechet(s) => serde_json::to_value(s),
            StageSpec::Factors(s) => serde_json::to_value(s),
            StageSpec::Directions(s) => serde_json::to_value(s),
            StageSpec::Edit(s) => serde_json::to_value(s),
        };
        value.unwrap_or(serde_json::Value::Null)
    }

    /// What makes its reconstructions.
    fn method(&self) -> Option<&Method> {
        match self {
            StageSpec::Evaluate(s) => Some(&s.method),
            StageSpec::Identity(s) => Some(&s.method),
            StageSpec::Frechet(s) => Some(&s.method),
            _ => None,
        }
    }

    /// What is optimised for each image.
    fn refine(&self) -> Option<&Refinement> {
        self.method().and_then(Method::refine)
    }
}

/// One stage of a plan.
#[derive(Debug, Clone)]
pub struct Stage {
    /// "train w, seed 1".
    pub title: String,
    pub spec: StageSpec,
    pub ingredients: Ingredients,
    /// Earlier stages by role: positions in the plan.
    pub needs: Vec<(&'static str, usize)>,
    /// The row that it belongs to; the sample belongs to none.
    pub row: Option<String>,
    pub seed: u64,
    /// Images that it works through, the unit of its cost.
    pub units: u64,
    /// What costs alike: kind, generator and latents.
    pub cost_key: String,
}

/// Whether a stage has to run.
#[derive(Debug)]
pub enum State {
    Cached(Finished),
    /// It has to run; in words why.
    Runs(String),
}

/// The stages of a study, in the order in which they run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub resolved: Resolved,
    /// Name of the run's folder: study.profile, and the seed if it was given.
    pub run: String,
    pub stages: Vec<Stage>,
    pub cards: Vec<Card>,
    cost: crate::spec::profile::Cost,
    recompute: bool,
}

/// A card of a method, and that of its generator where it is an encoder of the zoo.
fn with_generator(card: &str) -> Result<Vec<String>> {
    let generator = encoders::shape(&Card::load(card)?).map(|shape| shape.generator.to_string());
    Ok(std::iter::once(card.to_string()).chain(generator).collect())
}

/// What a card contributes to a key: its weights and whatever decides how they are used.
fn card_key(card: &Card) -> String {
    let weights = match (&card.sha256, &card.source) {
        (Some(sha), _) => json!(sha),
        (None, source) => json!(source),
    };
    sha256_hex(canonical(&json!([weights, card.network, card.pixel_range, card.resolution])).as_bytes())
}

impl Plan {
    /// The plan of a resolved study on a backend ("cpu", "cuda" or "cuda-tf32").
    pub fn of(resolved: Resolved, profile: &Profile, seed: Option<u64>, backend: &str) -> Result<Plan> {
        let subjects = resolved.subjects();
        let mut names: Vec<&str> = vec![];
        for Networks { generator, features, judge } in subjects.iter().map(|s| &s.networks) {
            names.extend([generator, features, judge].map(String::as_str));
        }
        names.extend(resolved.sets.iter().filter_map(|s| s.source.as_deref()));
        let of_methods =
            resolved.arms.iter().flat_map(|a| a.method.cards()).map(|(_, card)| with_generator(card)).collect::<Result<Vec<_>>>()?;
        names.extend(of_methods.iter().flatten().map(String::as_str));
        let besides = subjects.iter().map(|s| Besides::of(&resolved, s)).collect::<Result<Vec<_>>>()?;
        let more: Vec<String> = besides.iter().flat_map(Besides::cards).collect();
        names.extend(more.iter().map(String::as_str));
        names.extend(resolved.edit.iter().flat_map(|e| e.directions.iter().map(|d| d.source.card())));
        names.sort();
        names.dedup();
        let cards = names.into_iter().map(Card::load).collect::<Result<Vec<_>>>()?;
        let run = match seed {
            None => format!("{}.{}", resolved.name, resolved.profile),
            Some(s) => format!("{}.{}.seed{s}", resolved.name, resolved.profile),
        };
        let mut plan =
            Plan { run, stages: Vec::new(), cards, cost: profile.cost.clone(), recompute: profile.recompute, resolved: resolved.clone() };
        let images = resolved.sets.iter().map(|s| s.images as u64).sum::<u64>();
        for subject in &subjects {
            let named = |title: &str| subject.name.map_or(title.to_string(), |name| format!("{title}, {name}"));
            let drawn = SampleSpec { networks: subject.networks.clone(), seed: resolved.evaluation_seed, sets: subject.sets.clone() };
            let sample = plan.add(named("sample"), StageSpec::Sample(drawn), vec![], None, 0, images, backend)?;
            let besides = Besides::of(&resolved, subject)?;
            if let Some(spec) = besides.factors() {
                plan.add(named("factors"), spec, vec![("sample", sample)], None, 0, images, backend)?;
            }
            for (name, label) in REFERENCE_ROWS {
                let method = if name == "mean_image" { Method::MeanImage } else { Method::MeanLatent };
                let spec = StageSpec::Evaluate(Box::new(evaluation(&resolved, subject, method.clone(), None)?));
                let (needs, row) = (vec![("sample", sample)], || Some(name.to_string()));
                plan.add(named(&format!("evaluate {label}")), spec, needs.clone(), row(), 0, images, backend)?;
                if let Some(spec) = besides.identity(&method, None) {
                    plan.add(named(&format!("identity {label}")), spec, needs, row(), 0, images, backend)?;
                }
            }
            let mut trained: Vec<(&ResolvedArm, u64, usize)> = Vec::new();
            for arm in &subject.arms {
                // What nothing random has gone into is done once.
                let seeds = if arm.trains() { &resolved.seeds[..] } else { &resolved.seeds[..1] };
                for &seed in seeds {
                    let row = || Some(arm.name.clone());
                    let mut needs = vec![("sample", sample)];
                    if arm.trains() {
                        let title = format!("train {}, seed {seed}", arm.label);
                        let units = arm.steps * arm.batch as u64;
                        let train = plan.add_once(title, training(&resolved, subject, arm, seed), row(), seed, units, backend)?;
                        needs.push(("train", train));
                        if arm.method.is_mtv() && arm.refine.is_none() {
                            trained.push((arm, seed, train));
                        }
                    }
                    let method = method_of(arm, if arm.trains() { seed } else { 0 })?;
                    let evaluated: u64 = resolved.sets.iter().map(|s| arm.images.unwrap_or(s.images).min(s.images) as u64).sum();
                    let spec = StageSpec::Evaluate(Box::new(evaluation(&resolved, subject, method.clone(), arm.images)?));
                    let steps = spec.refine().map_or(0, Refinement::steps);
                    let amount = |n: u64| if steps > 0 { format!(", {n} images x {steps} steps") } else { String::new() };
                    let title = |what: &str, n: u64| format!("{what} {}, seed {seed}{}", arm.label, amount(n));
                    let evaluate = title("evaluate", evaluated);
                    plan.add(evaluate, spec, needs.clone(), row(), seed, evaluated * steps.max(1), backend)?;
                    if let Some(spec) = besides.identity(&method, arm.images) {
                        let identity = title("identity", evaluated);
                        plan.add(identity, spec, needs.clone(), row(), seed, evaluated * steps.max(1), backend)?;
                    }
                    if let Some((spec, n)) = besides.frechet(&method) {
                        needs.retain(|(role, _)| *role == "train");
                        plan.add(title("frechet", n), spec, needs, row(), seed, 2 * n * steps.max(1), backend)?;
                    }
                }
            }
            plan.edits(subject, sample, &trained, backend)?;
        }
        Ok(plan)
    }

    /// As [`Plan::add`], unless the plan has this very stage already: arms that differ in what comes after it share a training.
    fn add_once(&mut self, title: String, spec: StageSpec, row: Option<String>, seed: u64, units: u64, backend: &str) -> Result<usize> {
        let added = self.add(title, spec, vec![], row, seed, units, backend)?;
        let key = self.stages[added].ingredients.key();
        match self.stages[..added].iter().position(|s| s.ingredients.key() == key) {
            Some(earlier) => {
                self.stages.pop();
                Ok(earlier)
            }
            None => Ok(added),
        }
    }

    /// The edits of a generator's own images and of each trained arm's inversions, by seed.
    fn edits(&mut self, subject: &Subject, sample: usize, trained: &[(&ResolvedArm, u64, usize)], backend: &str) -> Result<()> {
        let resolved = self.resolved.clone();
        let Some(edit) = &resolved.edit else { return Ok(()) };
        let images = |sets: usize| subject.sets.iter().take(sets).map(|s| s.images.min(edit.images) as u64).sum::<u64>() * edit.steps();
        for &seed in &resolved.seeds {
            let spec = edit.directions_spec(&subject.networks.generator, seed);
            let samples = spec.learn.as_ref().map_or(1, |l| l.samples);
            let title = format!("directions, seed {seed}");
            let directions = self.add(title, StageSpec::Directions(Box::new(spec)), vec![], None, seed, samples, backend)?;
            let mut add = |label: &str, row: &str, source: EditSource, train: Option<usize>, units: u64| {
                let spec = edit.stage_spec(&resolved, &subject.networks, source);
                let needs = [Some(("sample", sample)), Some(("directions", directions)), train.map(|t| ("train", t))];
                let needs = needs.into_iter().flatten().collect();
                let title = format!("edit {label}, seed {seed}");
                self.add(title, StageSpec::Edit(Box::new(spec)), needs, Some(row.into()), seed, units, backend).map(|_| ())
            };
            add("own w", edit::OWN, EditSource::Own, None, images(1))?;
            for (arm, _, train) in trained.iter().filter(|(_, s, _)| *s == seed) {
                let method = EncoderMethod { recipe: arm.recipe.clone(), seed, refine: None };
                add(&arm.label, &arm.name, EditSource::Encoder(Box::new(method)), Some(*train), images(subject.sets.len()))?;
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn add(
        &mut self,
        title: String,
        spec: StageSpec,
        needs: Vec<(&'static str, usize)>,
        row: Option<String>,
        seed: u64,
        units: u64,
        backend: &str,
    ) -> Result<usize> {
        let mut inputs = BTreeMap::from([("device".to_string(), backend.to_string())]);
        for card in self.used(&spec)? {
            inputs.insert(format!("card {card}"), card_key(self.card(&card)?));
        }
        for (role, i) in &needs {
            inputs.insert(format!("stage {role}"), self.stages[*i].ingredients.key());
        }
        let latents = match &spec {
            StageSpec::Train(s) => s.recipe.latents.types.name(),
            StageSpec::TrainBaseline(s) => s.baseline.title(),
            spec => match spec.refine() {
                Some(Refinement::Encoder(_)) => "encoder steps",
                Some(Refinement::Latent(_)) => "latent steps",
                None => "",
            },
        };
        let cost_key = format!("{} {} {latents} {backend}", spec.kind(), spec.generator());
        let ingredients = Ingredients { kind: spec.kind().into(), code: spec.code(), spec: spec.value(), inputs };
        self.stages.push(Stage { title, spec, ingredients, needs, row, seed, units, cost_key });
        Ok(self.stages.len() - 1)
    }

    /// The cards that a stage opens.
    fn used(&self, spec: &StageSpec) -> Result<Vec<String>> {
        let sources = |sets: &[ImageSet]| sets.iter().filter_map(|s| s.source.clone()).collect::<Vec<_>>();
        // Of a method that reconstructs.
        fn opened<'a>(networks: &'a Networks, method: &Method) -> Vec<&'a String> {
            let features = method.refine().map(|_| &networks.features);
            std::iter::once(&networks.generator).chain(features).collect()
        }
        let published = match spec.method() {
            Some(Method::Baseline(m)) => m.published.values().map(|card| with_generator(card)).collect::<Result<Vec<_>>>()?.concat(),
            _ => Vec::new(),
        };
        let (n, more) = match spec {
            StageSpec::Sample(s) => (vec![&s.networks.generator], sources(&s.sets)),
            StageSpec::Train(s) => (vec![&s.networks.generator, &s.networks.features, &s.networks.judge], sources(&s.curve.sample.sets)),
            StageSpec::TrainBaseline(s) => {
                (vec![&s.networks.generator, &s.networks.features, &s.networks.judge], sources(&s.curve.sample.sets))
            }
            StageSpec::Evaluate(s) => {
                let mut networks = opened(&s.networks, &s.method);
                networks.push(&s.networks.judge);
                (networks, published)
            }
            StageSpec::Identity(s) => (opened(&s.networks, &s.method), published.into_iter().chain([s.identity.clone()]).collect()),
            StageSpec::Frechet(s) => {
                let more = s.data.iter().chain([&s.features]).cloned();
                (opened(&s.networks, &s.method), published.into_iter().chain(more).collect())
            }
            StageSpec::Factors(s) => {
                (vec![], s.sets.iter().flat_map(|set| [Some(set.data.clone()), judge_of(&set.data)]).flatten().collect())
            }
            StageSpec::Directions(s) => (vec![&s.generator], s.directions.iter().map(|d| d.source.card().to_string()).collect()),
            StageSpec::Edit(s) => (vec![&s.networks.generator, &s.networks.judge], s.reader.iter().cloned().collect()),
        };
        let mut all: Vec<String> = n.into_iter().cloned().chain(more).collect();
        all.sort();
        all.dedup();
        Ok(all)
    }

    fn card(&self, name: &str) -> Result<&Card> {
        self.cards.iter().find(|c| c.name == name).ok_or_else(|| Error::internal(format!("the plan has no card {name}")))
    }

    /// Whether stage `i` is in the store, and if not why it runs.
    pub fn state(&self, store: &Store, i: usize) -> State {
        let stage = &self.stages[i];
        match store.find(&stage.ingredients) {
            Ok(finished) => State::Cached(finished),
            Err(Some(damage)) => State::Runs(damage),
            Err(None) if store.interrupted(&stage.ingredients) => State::Runs("goes on from its checkpoint".into()),
            Err(None) => State::Runs(self.why(store, i)),
        }
    }

    /// What separates stage `i` from the nearest cached one of its kind.
    fn why(&self, store: &Store, i: usize) -> String {
        let wanted = &self.stages[i].ingredients;
        for (role, before) in &self.stages[i].needs {
            if *role == "train" && store.find(&self.stages[*before].ingredients).is_err() {
                return "its training runs".into();
            }
        }
        let others = store.all(&wanted.kind);
        let nearest = others.iter().map(|m| wanted.differences(&m.ingredients)).min_by_key(Vec::len);
        match nearest {
            None => "never ran".into(),
            Some(d) if d.len() > 3 => {
                format!("never ran; the nearest cached one differs in {} and {} more", d[..2].join("; "), d.len() - 2)
            }
            Some(d) => format!("never ran; the nearest cached one differs in {}", d.join("; ")),
        }
    }

    /// The stages that run a command of the study, and the command.
    pub fn commands(&self) -> Vec<(usize, String)> {
        let command = |(i, stage): (usize, &Stage)| match stage.spec.method() {
            Some(Method::External(m)) if !m.command.is_empty() => Some((i, m.shown())),
            _ => None,
        };
        self.stages.iter().enumerate().filter_map(command).collect()
    }

    /// The plan for people: every stage, whether it is cached and why not, and what the rest costs.
    pub fn describe(&self, store: &Store) -> String {
        let mut text = String::new();
        let r = &self.resolved;
        let _ = writeln!(text, "{}, profile {}: {} ({})", r.name, r.profile, r.title, r.paper);
        for card in &self.cards {
            let from = match &card.source {
                Source::Embedded(_) => "built in",
                Source::Seeded(_) => "drawn from a seed",
                Source::Hub(_) | Source::Url(_) => "fetched from its source",
                Source::Manual(_) => "fetched by you",
            };
            let limit = if card.licence.non_commercial { ", NOT for commercial use" } else { "" };
            let bytes = card.bytes.map(|b| format!(", {}", size(b))).unwrap_or_default();
            let _ = writeln!(text, "  {}: {}{bytes}, {}{limit}", card.name, from, card.licence.name);
        }
        for (stage, command) in self.commands() {
            let _ = writeln!(text, "  {}: runs `{command}` (with --allow-commands only)", self.stages[stage].title);
        }
        let width = self.stages.iter().map(|s| s.title.chars().count()).max().unwrap_or(0);
        for (i, stage) in self.stages.iter().enumerate() {
            let key = &stage.ingredients.key()[..12];
            let pad = " ".repeat(width - stage.title.chars().count());
            let _ = match self.state(store, i) {
                State::Cached(f) => writeln!(text, "  {}{pad}  {key}  cached (took {})", stage.title, duration(f.manifest.seconds)),
                State::Runs(why) => writeln!(text, "  {}{pad}  {key}  runs: {why}", stage.title),
            };
        }
        let e = self.estimate(store);
        if e.stages == 0 {
            let _ = writeln!(text, "Nothing to do: all {} stages are cached.", self.stages.len());
        } else {
            let free = |bytes: Option<u64>, what: &str| bytes.map(|b| format!(" ({} {what})", size(b))).unwrap_or_default();
            let _ = writeln!(
                text,
                "{} of {} stages run: about {}, {} of memory{}, {} of disk{}",
                e.stages,
                self.stages.len(),
                duration(e.seconds),
                size(e.memory),
                free(machine::available_memory(), "available"),
                size(e.disk),
                free(machine::free_disk(store.root()), "free")
            );
            if !self.cost.measured.is_empty() {
                let _ = writeln!(text, "These estimates: {}.", self.cost.measured);
            }
        }
        text
    }
}

fn training(resolved: &Resolved, subject: &Subject, arm: &ResolvedArm, seed: u64) -> StageSpec {
    let sets = subject.sets.iter().map(|s| ImageSet { images: s.images.min(resolved.curve.images), ..s.clone() }).collect();
    let curve = CurveSpec {
        every: (arm.steps / resolved.curve.points).max(1),
        sample: SampleSpec { networks: subject.networks.clone(), seed: resolved.evaluation_seed, sets },
        metrics: resolved.curve.metrics.clone(),
    };
    let (networks, steps, batch, decay) = (subject.networks.clone(), arm.steps, arm.batch, arm.decay);
    match arm.method.baseline() {
        None => StageSpec::Train(Box::new(TrainSpec { networks, recipe: arm.recipe.clone(), steps, batch, decay, seed, curve })),
        Some(baseline) => {
            let sampling = arm.recipe.sampling.clone();
            StageSpec::TrainBaseline(Box::new(BaselineSpec {
                networks,
                baseline,
                width: None,
                pictures: None,
                sampling,
                steps,
                batch,
                decay,
                seed,
                curve,
            }))
        }
    }
}

fn method_of(arm: &ResolvedArm, seed: u64) -> Result<Method> {
    let refine = arm.refine.clone();
    if let MethodSpec::External(external) = &arm.method {
        return Ok(Method::External(Box::new(ExternalMethod::of(external).map_err(|e| e.at(format!("the arm \"{}\"", arm.name)))?)));
    }
    Ok(match arm.method.baseline() {
        None => Method::Encoder(Box::new(EncoderMethod { recipe: arm.recipe.clone(), seed, refine })),
        Some(baseline) => {
            let published = arm.method.cards().into_iter().map(|(key, card)| (key.to_string(), card.to_string())).collect();
            Method::Baseline(Box::new(BaselineMethod { baseline, published, seed, refine }))
        }
    })
}

/// The side at which all methods are stored when matched: the smallest that a network of its own works at, None where none is smaller than
/// the study's generator.
fn common_side(resolved: &Resolved) -> Result<Option<usize>> {
    if !resolved.protocols.contains(&Protocol::Matched) {
        return Ok(None);
    }
    let mut sides = Vec::new();
    for arm in resolved.arms.iter().filter(|a| a.is_published()) {
        for (_, card) in arm.method.cards() {
            let card = Card::load(card)?;
            // The published pSp shrinks its own images.
            let shrinks = arm.method.baseline() == Some(Baseline::Psp) && encoders::shape(&card).is_none();
            sides.extend(if shrinks { Some(psp::SIDE) } else { card.resolution });
        }
    }
    let own = Card::load(&resolved.networks.generator)?.resolution;
    Ok(sides.into_iter().min().filter(|side| own.is_none_or(|own| *side < own)))
}

fn evaluation(resolved: &Resolved, subject: &Subject, method: Method, images: Option<usize>) -> Result<EvaluateSpec> {
    // The way of an optimisation and its times; the rows that every study has are known without.
    let reference = matches!(method, Method::MeanImage | Method::MeanLatent);
    let trace = if reference { vec![] } else { resolved.trace.clone() };
    Ok(EvaluateSpec {
        networks: subject.networks.clone(),
        method,
        seed: resolved.evaluation_seed,
        metrics: resolved.metrics.clone(),
        figure_images: resolved.report.figure_images,
        batch: resolved.evaluation_batch,
        images,
        protocols: resolved.protocols.clone(),
        common_side: common_side(resolved)?,
        trace,
    })
}
