//! Everything that ships as TOML loads, validates and resolves; what a key depends on.

use mtv_bench::objective::{Distance, Recipe, Types, Views};
use mtv_bench::plan::Plan;
use mtv_bench::record::store::{Ingredients, canonical};
use mtv_bench::spec::card::Source;
use mtv_bench::spec::document::Document;
use mtv_bench::spec::experiment::ResolvedArm;
use mtv_bench::spec::{Card, Profile, Study, files};
use serde_json::json;

use crate::sandbox::STUDY;

#[test]
fn every_study_resolves_in_every_profile() {
    let (studies, profiles) = (Study::names(), Profile::names());
    assert!(studies.contains(&"ablation_mtv".to_string()) && studies.contains(&"recipes".to_string()));
    assert_eq!(profiles, ["mini", "paper", "standard", "tiny"]);
    for name in studies {
        let study = Study::load(&name).unwrap_or_else(|e| panic!("{e}"));
        for profile in &profiles {
            let profile = Profile::load(profile).unwrap_or_else(|e| panic!("{e}"));
            let resolved = study.resolve(&profile, None).unwrap_or_else(|e| panic!("{name}, {}: {e}", profile.name));
            let plan = Plan::of(resolved.clone(), &profile, None, "cpu").unwrap_or_else(|e| panic!("{name}: {e}"));
            // Per generator sample and two reference rows, and evaluation per arm and seed, once where nothing is trained.
            let seeds = |arm: &ResolvedArm| if arm.trains() { resolved.seeds.len() } else { 1 };
            let evaluations: usize = resolved.arms.iter().map(seeds).sum();
            let trainings = plan.stages.iter().filter(|s| s.title.starts_with("train ")).count();
            // Edits: directions, the generator's own w, and each arm, per seed.
            let edits = resolved.edit.as_ref().map_or(0, |_| resolved.seeds.len() * (2 + resolved.arms.len()));
            let besides = plan.stages.iter().filter(|s| matches!(s.spec.kind(), "identity" | "frechet" | "factors")).count();
            assert_eq!(
                plan.stages.len() - besides,
                3 * resolved.subjects().len() + evaluations + trainings + edits,
                "{name}, {}",
                profile.name
            );
            // A training per arm and seed; arms that differ in what is optimised after it share theirs.
            let alone = resolved.arms.iter().filter(|a| a.trains() && a.refine.is_none()).count();
            assert_eq!(trainings, alone * resolved.seeds.len(), "{name}, {}", profile.name);
            let keys: std::collections::HashSet<String> = plan.stages.iter().map(|s| s.ingredients.key()).collect();
            assert_eq!(keys.len(), plan.stages.len(), "{name}, {}: two stages have one key", profile.name);
        }
    }
}

#[test]
fn every_study_tells_its_cost_in_every_profile() {
    for name in Study::names() {
        let cost = Study::load(&name).unwrap_or_else(|e| panic!("{e}")).experiment.cost;
        assert_eq!(cost.keys().cloned().collect::<Vec<_>>(), Profile::names(), "{name}");
    }
}

#[test]
fn every_card_is_valid() {
    let names = Card::names();
    assert!(names.len() >= 4);
    for name in names {
        let card = Card::load(&name).unwrap_or_else(|e| panic!("{e}"));
        assert!(!card.licence.name.is_empty() && !card.title.is_empty(), "{name}");
        if let Source::Embedded(embedded) = &card.source {
            let path = format!("baselines/{}", embedded.file);
            let bytes = files::read(&path).ok().flatten().unwrap_or_else(|| panic!("{name}: {path} is not there"));
            assert_eq!(Some(mtv_bench::record::store::sha256_hex(&bytes)), card.sha256, "{path}");
            assert_eq!(Some(bytes.len() as u64), card.bytes.or(Some(bytes.len() as u64)), "{path}");
        }
    }
}

#[test]
fn the_ablation_is_that_of_figure_9() {
    let study = Study::load("ablation_mtv").unwrap_or_else(|e| panic!("{e}"));
    let profile = Profile::load("paper").unwrap_or_else(|e| panic!("{e}"));
    let r = study.resolve(&profile, None).unwrap_or_else(|e| panic!("{e}"));
    let types: Vec<Types> = r.arms.iter().map(|a| a.recipe.latents.types).collect();
    assert_eq!(types, [Types::Z, Types::WHalf, Types::W, Types::WZn, Types::WZnZc]);
    for arm in &r.arms {
        // "Without attentions", case 2, and nothing else changed.
        let mut wanted = Recipe::paper().case2();
        wanted.attention.views = Views::None;
        wanted.latents.types = arm.recipe.latents.types;
        assert_eq!(arm.recipe, wanted, "{}", arm.name);
        assert_eq!((arm.steps, arm.batch, arm.decay), (7 * 30_000, 2, 0.0));
    }
}

#[test]
fn gan_reconstruction_has_every_gan_and_size_of_the_paper() {
    use mtv_bench::generators::Family;
    let study = Study::load("gan_reconstruction").unwrap_or_else(|e| panic!("{e}"));
    let resolve = |profile: &str| {
        let profile = Profile::load(profile).unwrap_or_else(|e| panic!("{e}"));
        study.resolve(&profile, None).unwrap_or_else(|e| panic!("{e}"))
    };
    let paper = resolve("paper");
    let mut families = std::collections::BTreeSet::new();
    for arm in &paper.arms {
        let own = arm.generator.as_ref().unwrap_or_else(|| panic!("{}: no generator of its own", arm.name));
        let card = Card::load(&own.card).unwrap_or_else(|e| panic!("{e}"));
        // Section V: the learning rate, seven epochs of 30,000 iterations, batch 8, 4, 2 at 256, 512, 1024 px.
        let batch = match card.resolution {
            Some(256) => 8,
            Some(512) => 4,
            Some(1024) => 2,
            other => panic!("{}: {other:?}", arm.name),
        };
        assert_eq!((arm.batch, arm.steps, arm.recipe.optimizer.lr, arm.recipe.sampling.psi), (batch, 210_000, 0.0015, 0.7), "{}", arm.name);
        // Section IV: case 2 for StyleGANv1 on FFHQ and LSUN car alone.
        let case2 = ["stylegan1_ffhq_1024", "stylegan1_car_512"].contains(&card.name.as_str());
        let base = if case2 { Recipe::paper().case2() } else { Recipe::paper() };
        assert_eq!((arm.recipe.encoder.clone(), arm.recipe.attention.detach), (base.encoder, base.attention.detach), "{}", arm.name);
        families.insert((card.network.map(|n| n.family).unwrap_or_default(), card.resolution));
    }
    let has = |family: &str, sizes: &[usize]| sizes.iter().all(|s| families.contains(&(family.to_string(), Some(*s))));
    assert!(has("pggan", &[1024]) && has("stylegan1", &[256, 512, 1024]) && has("stylegan2", &[256, 1024]) && has("biggan", &[256, 512]));
    // The untrained networks are of all families.
    let tiny: Vec<String> = resolve("tiny").arms.iter().filter_map(|a| a.generator.as_ref().map(|g| g.card.clone())).collect();
    assert!(Family::ALL.iter().all(|f| tiny.contains(&format!("tiny/{}", f.name()))), "{tiny:?}");
}

/// An arm with a generator of its own brings the networks that know its pictures; the study's, named again, change nothing.
#[test]
fn an_arm_may_bring_the_networks_that_know_its_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.toml");
    let networks = |features: &str| {
        let own = format!("generator = \"tiny/stylegan2\"\nfeatures = \"{features}\"\nlatents = \"w\"");
        std::fs::write(&path, STUDY.replace("latents = \"w\"", &own)).unwrap();
        let profile = Profile::load("tiny").unwrap_or_else(|e| panic!("{e}"));
        let study = Study::load(path.to_str().unwrap()).unwrap_or_else(|e| panic!("{e}"));
        let resolved = study.resolve(&profile, None).unwrap_or_else(|e| panic!("{e}"));
        let plan = Plan::of(resolved.clone(), &profile, None, "cpu").unwrap_or_else(|e| panic!("{e}"));
        assert!(plan.cards.iter().any(|c| c.name == resolved.subjects()[0].networks.features), "{features}");
        let subjects: Vec<_> = resolved.subjects().into_iter().map(|s| s.networks).collect();
        (subjects, serde_json::to_value(&resolved.arms[0].generator).unwrap())
    };
    let (own, _) = networks("mini/vgg16_objects");
    assert_eq!((own[0].features.as_str(), own[0].judge.as_str()), ("mini/vgg16_objects", "tiny/vgg16_judge"));
    assert_eq!((own[1].generator.as_str(), own[1].features.as_str()), ("tiny/stylegan1", "tiny/vgg16"));
    let (same, generator) = networks("vgg16");
    assert_eq!(same[0].features, "tiny/vgg16");
    assert_eq!(generator, json!({ "card": "tiny/stylegan2", "set": "tiny_stylegan2" }));
}

/// results/bench/true_size.md has a row for every cell of the paper profile, and `plan` prices the profile from those rows.
#[test]
fn the_paper_profile_is_priced_from_measured_steps() {
    let profile = Profile::load("paper").unwrap_or_else(|e| panic!("{e}"));
    let study = Study::load("gan_reconstruction").unwrap_or_else(|e| panic!("{e}"));
    let resolved = study.resolve(&profile, None).unwrap_or_else(|e| panic!("{e}"));
    let table = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/results/bench/true_size.md")).unwrap();
    let mut step_seconds = 0.0;
    for arm in &resolved.arms {
        let own = arm.generator.as_ref().unwrap_or_else(|| panic!("{}", arm.name));
        // Two readings of one network cost the same.
        let same = resolved.arms.iter().find(|a| a.generator == arm.generator && a.batch == arm.batch).unwrap_or(arm);
        let start = format!("| {} |", same.label);
        let row = table.lines().find(|l| l.starts_with(&start)).unwrap_or_else(|| panic!("no row {start}"));
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let number = |i: usize| cells[i].parse::<f64>().unwrap_or_else(|_| panic!("{row}: column {i}"));
        assert_eq!(number(4) as usize, arm.batch, "{row}");
        assert!(cells[11].starts_with("yes, all"), "{row}");
        let cost = profile.cost.cpu.get(&own.card).unwrap_or_else(|| panic!("{} has no price", own.card));
        assert!((cost.train_seconds * arm.batch as f64 - number(7)).abs() < 0.1, "{row}: {cost:?}");
        let peak = (cost.memory_fixed_mb + cost.memory_per_image_mb * arm.batch as f64) / 1e3;
        assert!((peak - number(8)).abs() < 0.02, "{row}: {cost:?}");
        step_seconds += number(7);
    }
    // The plan's estimate is the sum of its steps, and some evaluation.
    let plan = |backend: &str| {
        let plan = Plan::of(resolved.clone(), &profile, None, backend).unwrap_or_else(|e| panic!("{e}"));
        let folder = tempfile::tempdir().unwrap();
        plan.estimate(&mtv_bench::record::store::Store::new(folder.path())).seconds
    };
    let steps = step_seconds * 210_000.0;
    assert!((steps..1.1 * steps).contains(&plan("cpu")), "{} for steps of {steps}", plan("cpu"));
    // Nothing measured on a CPU prices a GPU.
    assert_ne!(plan("cuda"), plan("cpu"));
}

#[test]
fn an_arm_replaces_whole_tables_and_nothing_else() {
    let study = Study::load("recipes").unwrap_or_else(|e| panic!("{e}"));
    let profile = Profile::load("tiny").unwrap_or_else(|e| panic!("{e}"));
    let arms = study.resolve(&profile, None).unwrap_or_else(|e| panic!("{e}")).arms;
    let paper = &arms[0].recipe;
    let mut mse = paper.clone();
    mse.terms.distance = Distance::Mse;
    assert_eq!(arms[1].recipe, mse);
    assert_ne!(paper.terms.distance, Distance::Mse);
    let released = &arms.iter().find(|a| a.name == "released").expect("the arm").recipe;
    assert_eq!(released.terms, Recipe::released().terms);
    // The study's own tables stay where the arm gives only another preset.
    assert_eq!(released.attention.views, Views::None);
}

fn plan_of(text: &str, seed: Option<u64>) -> Plan {
    let document = Document { path: "small.toml".into(), text: text.into() };
    let experiment = document.parse().unwrap_or_else(|e| panic!("{e}"));
    let profile = Profile::load("tiny").unwrap_or_else(|e| panic!("{e}"));
    let resolved = Study { document, experiment }.resolve(&profile, seed).unwrap_or_else(|e| panic!("{e}"));
    Plan::of(resolved, &profile, seed, "cpu").unwrap_or_else(|e| panic!("{e}"))
}

/// Titles of the stages of `b` whose keys are not in `a`.
fn changed(a: &Plan, b: &Plan) -> Vec<String> {
    let keys: Vec<String> = a.stages.iter().map(|s| s.ingredients.key()).collect();
    b.stages.iter().filter(|s| !keys.contains(&s.ingredients.key())).map(|s| s.title.clone()).collect()
}

#[test]
fn a_key_changes_with_what_the_stage_depends_on_and_with_nothing_else() {
    let text = crate::sandbox::STUDY;
    let base = plan_of(text, None);
    assert_eq!(changed(&base, &plan_of(text, None)), Vec::<String>::new());
    // Another recipe of one arm: that arm alone.
    let recipe = text.replace("latents = \"w+zn\"", "latents = \"w+zn\"\nrecipe = { terms = { distance = \"mse\" } }");
    assert_eq!(changed(&base, &plan_of(&recipe, None)), ["train w + z_n, seed 1", "evaluate w + z_n, seed 1"]);
    // Other words: nothing.
    let words = text
        .replace("A small study", "Another title")
        .replace("label = \"w\"", "label = \"just w\"")
        .replace("name = \"w\"", "name = \"ww\"");
    assert_eq!(changed(&base, &plan_of(&words, None)), Vec::<String>::new());
    // Another seed: the trainings, not the images and the reference rows.
    let seed2 = changed(&base, &plan_of(text, Some(2)));
    assert_eq!(seed2, ["train w, seed 2", "evaluate w, seed 2", "train w + z_n, seed 2", "evaluate w + z_n, seed 2"]);
    // Another metric: the evaluations, no training.
    let metric = changed(&base, &plan_of(&text.replace("\"psnr\", \"lpips\"", "\"psnr\", \"mse\""), None));
    assert_eq!(metric.len(), 4);
    assert!(metric.iter().all(|t| t.starts_with("evaluate")), "{metric:?}");
    // Another device: everything, because rounding differs.
    let document = Document { path: "small.toml".into(), text: text.into() };
    let experiment = document.parse().unwrap_or_else(|e| panic!("{e}"));
    let profile = Profile::load("tiny").unwrap_or_else(|e| panic!("{e}"));
    let resolved = Study { document, experiment }.resolve(&profile, None).unwrap_or_else(|e| panic!("{e}"));
    let cuda = Plan::of(resolved, &profile, None, "cuda").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(changed(&base, &cuda).len(), cuda.stages.len());
}

#[test]
fn canonical_json_has_one_text_per_value() {
    let a = json!({"b": [1, 2.5, null], "a": {"y": "\"", "x": true}});
    let b = json!({"a": {"x": true, "y": "\""}, "b": [1, 2.5, null]});
    assert_eq!(canonical(&a), r#"{"a":{"x":true,"y":"\""},"b":[1,2.5,null]}"#);
    assert_eq!(canonical(&a), canonical(&b));
    assert_ne!(canonical(&a), canonical(&json!({"a": {"x": true, "y": "\""}, "b": [2.5, 1, null]})));
}

#[test]
fn the_reason_names_the_changed_ingredient() {
    let of = |spec| Ingredients { kind: "train".into(), code: 1, spec, inputs: Default::default() };
    let old = of(json!({"recipe": {"distance": "mse", "kl": "sample"}, "steps": 5}));
    let new = of(json!({"recipe": {"distance": "norm_sample", "kl": "sample"}, "steps": 5}));
    assert_eq!(new.differences(&old), ["recipe.distance: \"norm_sample\" instead of \"mse\""]);
    assert_eq!(new.differences(&new), Vec::<String>::new());
}

#[test]
fn a_card_without_hash_must_say_so() {
    let card = include_str!("../baselines/tiny/vgg16.toml").replace("[source.seeded]\nseed = 2", "[source.embedded]\nfile = \"x\"");
    let document = |text: String| Document { path: "baselines/tiny/vgg16.toml".into(), text };
    let error = Card::of(&document(card.clone())).expect_err("no hash");
    assert!(error.message.contains("this card has no sha256; add it, or say `pinned = false`"), "{error}");
    let open = card.replace("pixel_range", "pinned = false\npixel_range");
    Card::of(&document(open)).unwrap_or_else(|e| panic!("{e}"));
    let short = card.replace("pixel_range", "sha256 = \"abc\"\npixel_range");
    let error = Card::of(&document(short)).expect_err("a short hash");
    assert!(error.message.contains("baselines/tiny/vgg16.toml:5:10: a SHA-256 has 64 lower-case hexadecimal digits"), "{error}");
}
