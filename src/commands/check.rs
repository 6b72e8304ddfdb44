//! `mtv-bench check`: compares records with the committed golden scores.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::Kind;
use crate::record::Record;
use crate::record::compare::{self, Verdict};
use crate::record::golden::Golden;
use crate::record::store::{create_folder, folder_of, write_atomic};
use crate::report::verdicts;
use crate::{Error, Result};

/// Compare records with the committed golden scores of their study and profile.
///
/// Exit code 0 if nothing got worse than the golden seeds allow (inconclusive comparisons are named), 3 after a loss beyond that,
/// 9 if the two can't be compared. Several records of one study are taken together as several seeds.
#[derive(clap::Args)]
pub struct Args {
    /// record.json files, or folders that hold one; without any, those of every run below results/runs.
    pub records: Vec<PathBuf>,
    /// The golden file, instead of results/golden/STUDY.PROFILE.json.
    #[arg(long)]
    pub golden: Option<PathBuf>,
    /// Write the golden scores from these records (at least three seeds) instead of comparing.
    #[arg(long)]
    pub bless: bool,
    /// An inconclusive comparison fails, too.
    #[arg(long)]
    pub strict: bool,
    /// Write the outcome as JUnit XML.
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Write the outcome as Markdown.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

pub fn run(args: Args) -> Result<()> {
    let mut groups: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for path in record_files(&args.records)? {
        let record = Record::read(&path)?;
        groups.entry(format!("{}.{}", record.study, record.profile)).or_default().push(record);
    }
    if args.golden.is_some() && groups.len() > 1 {
        let names: Vec<&str> = groups.keys().map(String::as_str).collect();
        return Err(Error::usage(format!("one golden file can't serve several studies: {}", names.join(", "))));
    }
    let golden_file = |name: &str| args.golden.clone().unwrap_or_else(|| Path::new("results/golden").join(format!("{name}.json")));
    if args.bless {
        for (name, records) in &groups {
            let path = golden_file(name);
            create_folder(folder_of(&path))?;
            Golden::of(records)?.write(&path)?;
            println!("{}", path.display());
        }
        return Ok(());
    }
    // Without names every run is meant, but only those that somebody has blessed.
    if args.records.is_empty() && args.golden.is_none() {
        groups.retain(|name, _| {
            let there = golden_file(name).exists();
            if !there {
                eprintln!("note: {name} has no golden scores and is passed over");
            }
            there
        });
        if groups.is_empty() {
            return Err(Error::missing("no run below results/runs has golden scores in results/golden"));
        }
    }
    let checks =
        groups.iter().map(|(name, records)| compare::check(&Golden::read(&golden_file(name))?, records)).collect::<Result<Vec<_>>>()?;
    for check in &checks {
        print!("{}", verdicts::terminal(check));
    }
    for (path, text) in [(&args.junit, verdicts::junit(&checks)), (&args.markdown, verdicts::markdown(&checks))] {
        if let Some(path) = path {
            write_atomic(path, text.as_bytes())?;
        }
    }
    outcome(&checks, args.strict)
}

/// The error that the worst verdict is, if it is one.
fn outcome(checks: &[compare::Check], strict: bool) -> Result<()> {
    let named = |v: Verdict| checks.iter().filter(|c| c.verdict() == v).map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
    let (refused, failed, open) = (named(Verdict::NotComparable), named(Verdict::Fail), named(Verdict::Inconclusive));
    if !failed.is_empty() {
        return Err(Error::new(Kind::Regression, format!("{failed}: scores got worse than the spread over the golden seeds allows")));
    }
    if !refused.is_empty() {
        return Err(Error::new(Kind::Incomparable, format!("{refused}: not comparable with the golden scores, for the reasons above")));
    }
    if !open.is_empty() && strict {
        return Err(Error::new(Kind::Regression, format!("{open}: inconclusive, and --strict was given; add images or seeds")));
    }
    if !open.is_empty() {
        eprintln!("warning: {open}: inconclusive; add images or seeds, or give --strict to fail");
    }
    Ok(())
}

fn record_files(given: &[PathBuf]) -> Result<Vec<PathBuf>> {
    if !given.is_empty() {
        return Ok(given.iter().map(|p| if p.is_dir() { p.join("record.json") } else { p.clone() }).collect());
    }
    let runs = Path::new("results/runs");
    let mut files: Vec<PathBuf> = match std::fs::read_dir(runs) {
        Ok(entries) => entries.flatten().map(|e| e.path().join("record.json")).filter(|p| p.exists()).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => vec![],
        Err(e) => return Err(Error::io(runs, "reading", e)),
    };
    files.sort();
    if files.is_empty() {
        return Err(Error::missing("results/runs holds no record: run a study first, or name a record.json"));
    }
    Ok(files)
}
