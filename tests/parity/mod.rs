//! Parity with the reference implementations, driven by the manifests in tests/fixtures (and in `MTV_PARITY_DIR`).
//! `harness` says how checks are written; every other file holds the checks of one area.

mod baselines;
mod containers;
mod editing;
mod encoders;
mod generators;
mod harness;
mod metrics;
mod networks;
mod other_packages;
mod r1;
mod recipe;
mod stats;

use harness::{Check, areas, judge};

/// Every check. A fixture goes to the first one that knows it.
fn checks() -> Vec<Check> {
    [
        baselines::CHECKS,
        containers::CHECKS,
        editing::CHECKS,
        encoders::CHECKS,
        generators::CHECKS,
        metrics::CHECKS,
        networks::CHECKS,
        r1::CHECKS,
        recipe::CHECKS,
        stats::CHECKS,
    ]
    .concat()
}

/// The folders that have their own test below, so that they run side by side.
const AREAS: [&str; 5] = ["mtv_tsa", "paper_recipe", "generators", "baselines", "metrics"];

#[test]
fn mtv_tsa() {
    judge("mtv_tsa", &checks());
}

#[test]
fn paper_recipe() {
    judge("paper_recipe", &checks());
}

#[test]
fn generators() {
    judge("generators", &checks());
}

#[test]
fn baselines() {
    judge("baselines", &checks());
}

#[test]
fn metrics() {
    judge("metrics", &checks());
}

#[test]
fn no_folder_is_empty_or_left_out() {
    let (names, empty) = areas();
    assert!(empty.is_empty(), "no folder with a MANIFEST.json in {empty:?}");
    for other in names.iter().filter(|name| !AREAS.contains(&name.as_str())) {
        judge(other, &checks());
    }
}
