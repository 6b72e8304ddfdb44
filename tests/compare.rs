//! The comparison of methods: what a study may ask for, and that an optimisation's numbers depend on nothing but the image.

use std::collections::BTreeSet;

use mtv_bench::images::Rgb8;
use mtv_bench::inverters::baseline::Baseline;
use mtv_bench::random::Stream;
use mtv_bench::stages::{BaselineMethod, Method, Protocol, protocol, reconstruct};

use crate::sandbox::{STUDY, Sandbox};

fn study(arms: &str) -> String {
    let (head, _) = STUDY.split_once("[[arms]]").expect("the study has arms");
    let (_, tail) = STUDY.split_once("[evaluate]").expect("the study is evaluated");
    format!("{head}{arms}\n[evaluate]{tail}")
}

fn refused(arms: &str, message: &str) {
    let sandbox = Sandbox::new();
    sandbox.write("small.toml", study(arms));
    let output = sandbox.run(&["plan", "small.toml", "--profile", "tiny"]);
    assert_eq!(output.code, Some(2), "{}", output.stderr);
    assert!(output.stderr.contains("small.toml:") && output.stderr.contains(message), "{}", output.stderr);
}

fn arm(name: &str, rest: &str) -> String {
    format!("[[arms]]\nname = \"{name}\"\nlabel = \"{name}\"\n{rest}\n")
}

#[test]
fn combinations_that_do_not_exist_are_refused_with_their_place() {
    refused(&arm("a", "method = { psp = {} }\nrefine = { encoder = {} }"), "only the encoder of \"mtv\" is optimised per image");
    refused(&arm("a", "method = { psp = {} }\nlatents = \"w\""), "only \"mtv\" has types of latents; \"psp\" makes w+");
    refused(&arm("a", "method = { psp = {} }\nrecipe = { case = 2 }"), "a recipe is that of \"mtv\"");
    refused(&arm("a", "method = { pspp = {} }"), "unknown value \"pspp\"; did you mean \"psp\"?");
    refused(&arm("a", "method = { psp = { weights = \"alae_ffhq_1024\" } }"), "is of the family \"alae\", not \"psp\"");
    refused(&arm("a", "method = { indomain = { weights = \"indomain_ffhq_256_encoder\" } }"), "`weights` and `decoder` together");
    refused(&arm("a", "method = { alae = {} }\ngenerator = \"pggan_celebahq_1024\""), "has no rows of w, which this needs");
    refused(&arm("a", "latents = \"w\"\nrefine = { latent = { lr = -1.0 } }"), "a learning rate is a number above 0");
    refused(
        &arm("a", "latents = \"w\"\nrefine = { latent = { steps = { minni = 4 } } }"),
        "there is no profile \"minni\"; did you mean \"mini\"?",
    );
    refused(&arm("a", "latents = \"w\"\nimages = { minni = 4 }"), "there is no profile \"minni\"; did you mean \"mini\"?");
}

/// Three optimisations of three kinds, in two ways of dividing the work.
#[test]
fn an_optimised_image_depends_on_no_other() {
    let arms = [
        arm("psp_i", "method = { psp = {} }\nrefine = { latent = { steps = { tiny = 2 } } }\nimages = { tiny = 3 }"),
        arm("start", "method = { image2stylegan = {} }\nrefine = { latent = { steps = { tiny = 2 } } }\nimages = { tiny = 3 }"),
        arm("oe", "latents = \"w+zn+zc\"\nrefine = { encoder = { steps = { tiny = 2 } } }\nimages = { tiny = 3 }"),
    ];
    let text = study(&arms.concat())
        .replace("figure_images = 2", "figure_images = 2\ntradeoff = [\"psnr\"]")
        .replace("metrics = [", "protocols = [\"matched\", \"paper-table3\"]\nmetrics = [");
    let sandbox = Sandbox::new();
    sandbox.write("small.toml", text);
    let run = |out: &str, threads: &str| {
        let output = sandbox.run(&["run", "small.toml", "--profile", "tiny", "--threads", threads, "--out", out, "--quiet"]);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        sandbox.record(out, "small.tiny")
    };
    let (one, two) = (run("one", "1"), run("two", "2"));
    assert_eq!((&one.scores, &one.traces), (&two.scores, &two.traces));

    // Limited arms stand in the tables of the first images, and the reference rows beside them.
    let sets = |name: &str| -> BTreeSet<&str> { one.scores.iter().filter(|s| s.arm == name).map(|s| s.set.as_str()).collect() };
    let part = BTreeSet::from(["synthesized (first 3)", "synthesized (paper-table3, first 3)"]);
    assert_eq!(sets("oe"), part);
    assert!(sets("mean_image").is_superset(&part) && sets("mean_image").contains("synthesized (paper-table3)"));
    assert_eq!(one.images.iter().filter(|i| i.set == "synthesized (first 3)").count(), 3);
    // The way of each: its start, one step, two steps, on three images.
    for name in ["psp_i", "start", "oe"] {
        let steps: Vec<u64> = one.traces.iter().filter(|t| t.arm == name).map(|t| t.step).collect();
        assert_eq!(steps.len(), 9, "{name}: {steps:?}");
        assert_eq!(BTreeSet::from_iter(steps), BTreeSet::from([0, 1, 2]), "{name}");
        let last = one.traces.iter().find(|t| t.arm == name && t.step == 2).expect("a last look");
        let score = one
            .scores
            .iter()
            .find(|s| s.arm == name && s.image == last.image && s.metric == last.metric && s.set == "synthesized (first 3)");
        assert_eq!(score.map(|s| s.value), Some(last.value), "{name}");
    }
    assert!(one.provenance.timings.iter().all(|t| t.start_seconds >= 0.0 && t.step_seconds > 0.0));
    let table = std::fs::read_to_string(sandbox.path("one/runs/small.tiny/report/table.md")).expect("a table");
    assert!(table.contains("Quality against seconds, synthesized images") && table.contains("| oe | start |"), "{table}");
    assert!(sandbox.path("one/runs/small.tiny/report/tradeoff.png").exists());
    // Nothing impossible in our own table: differences and spreads are not read as scores.
    let lint = sandbox.run(&["lint-table", "one/runs/small.tiny/report/table.md"]);
    assert!(lint.code == Some(0) && lint.stdout.contains(" 0 impossible"), "{}{}", lint.stdout, lint.stderr);
    assert!(!lint.stdout.contains("mixed protocols"), "{}", lint.stdout);
}

#[test]
fn looks_are_the_start_of_each_decade_and_the_end() {
    assert_eq!(reconstruct::looks(1), [1]);
    assert_eq!(reconstruct::looks(24), [1, 2, 5, 10, 20, 24]);
    assert_eq!(reconstruct::looks(200), [1, 2, 5, 10, 20, 50, 100, 200]);
}

fn picture(side: usize) -> Rgb8 {
    let stream = Stream::new(5, "picture");
    Rgb8::new(side, side, (0..3 * side * side).map(|i| stream.below(i as u64, 256) as u8).collect()).expect("a picture")
}

#[test]
fn the_papers_protocol_stores_each_method_in_its_own_way() {
    let of = |baseline| Method::Baseline(Box::new(BaselineMethod { baseline, published: Default::default(), seed: 1, refine: None }));
    let (image, table3) = (picture(64), Protocol::PaperTable3);
    let stored = |method: &Method, protocol, common| protocol::stored(method, protocol, &image, 64, common).expect("an image");
    let (psp, indomain, alae) = (of(Baseline::Psp), of(Baseline::Indomain), of(Baseline::Alae));
    // Half of the metrics' side, and for pSp through a lossy file.
    assert_eq!(stored(&indomain, table3, None).width(), 32);
    assert_eq!(stored(&psp, table3, None).width(), 32);
    assert_ne!(stored(&psp, table3, None), stored(&indomain, table3, None));
    assert_eq!(stored(&alae, table3, None), image);
    // Matched: all alike, target included.
    assert_eq!(stored(&psp, Protocol::Matched, None), image);
    assert_eq!(stored(&psp, Protocol::Matched, Some(16)), stored(&alae, Protocol::Matched, Some(16)));
    assert_eq!(protocol::target(Protocol::Matched, &image, Some(16)), stored(&alae, Protocol::Matched, Some(16)));
    assert_eq!(protocol::target(table3, &image, Some(16)), image);
    // In-Domain's targets are shrunk without antialiasing: of four columns only the middle two count.
    let mut striped = image.data().to_vec();
    striped.iter_mut().enumerate().for_each(|(i, v)| *v = if i / 3 % 4 == 0 || i / 3 % 4 == 3 { 255 } else { 0 });
    let striped = Rgb8::new(64, 64, striped).expect("a picture");
    let input = |method: &Method, protocol| protocol::input(method, protocol, &striped, 16).expect("an input");
    assert!(input(&indomain, Some(table3)).data().iter().all(|v| *v == 0));
    assert!(input(&indomain, Some(Protocol::Matched)).data().iter().all(|v| *v > 60));
    assert!(protocol::own_input(&indomain, table3, &striped, 16) && !protocol::own_input(&psp, table3, &striped, 16));
}
