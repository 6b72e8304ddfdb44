//! Scoring many pairs: in parallel, a few pairs at a time, with finished scores taken from a cache.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::{Metric, Size, to_square};
use crate::images::{Files, Pairs, Rgb8};
use crate::record::store::sha256_hex;
use crate::{Error, Result};

/// Raise when any metric's value changes: scores of an older version are then computed again.
const CODE: u32 = 1;
/// Pairs between two calls of a network; so many pictures are held in memory. Without a network none are kept.
const CHUNK: usize = 16;
const CHUNK_PIXELS: usize = 1024;

/// The scores of one pair, in the order of the metrics, or why there are none.
#[derive(Debug)]
pub struct Row {
    pub id: String,
    pub outcome: Result<Vec<f64>>,
    /// All scores came from the cache.
    pub cached: bool,
}

/// Finished scores by the content of the two files: `<folder>/<2 hex digits>/<hash>.json`, metric name to value.
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Cache { folder: folder.into() }
    }

    fn path(&self, files: &Files) -> PathBuf {
        let key = sha256_hex(format!("{CODE} {} {}", sha256_hex(&files.a), sha256_hex(&files.b)).as_bytes());
        self.folder.join(&key[..2]).join(format!("{}.json", &key[2..]))
    }

    /// A damaged entry is no entry.
    fn load(path: &Path) -> Map<String, Value> {
        let read = || serde_json::from_slice(&std::fs::read(path).ok()?).ok();
        read().unwrap_or_default()
    }

    /// Whole or not at all, but without waiting for the disk: a lost entry is only computed again.
    fn store(path: &Path, scores: &Map<String, Value>) -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let file = tempfile::Builder::new().prefix(".").tempfile_in(folder)?;
        std::fs::write(file.path(), serde_json::to_vec(scores)?)?;
        file.persist(path)?;
        Ok(())
    }
}

/// Scores every pair by every metric. `network` identifies the weights behind a metric's network (their hash); `done` is
/// called once for every finished pair, from any thread.
///
/// A pair that can't be read or compared gives a row with its error, and the rest goes on. The result does not depend on
/// the number of threads: a pair's pixel metrics run on one thread, networks one pair at a time.
pub fn score(pairs: &Pairs, metrics: &[Metric], network: &str, cache: Option<&Cache>, done: impl Fn() + Sync) -> Vec<Row> {
    let mut rows = Vec::with_capacity(pairs.len());
    let mut cache_works = true;
    let has_network = metrics.iter().any(Metric::needs_network);
    let size = if has_network { CHUNK } else { CHUNK_PIXELS };
    for start in (0..pairs.len()).step_by(size) {
        let pixels = |i| {
            let part = pixels(pairs, i, metrics, network, cache);
            if !has_network {
                done();
            }
            part
        };
        let chunk: Vec<Part> = (start..(start + size).min(pairs.len())).into_par_iter().map(pixels).collect();
        for part in chunk {
            if has_network {
                done();
            }
            let Part { id, outcome, path, cached } = part;
            let outcome = outcome.and_then(|half| {
                let scores = half.finish(metrics)?;
                if let (Some(path), false, true) = (&path, cached, cache_works) {
                    let mut entry = Cache::load(path);
                    metrics.iter().zip(&scores).for_each(|(m, &v)| {
                        entry.insert(cache_name(m, network), v.into());
                    });
                    // A folder that can't be written costs time, not results: stop trying.
                    cache_works = Cache::store(path, &entry).is_ok();
                }
                Ok(scores)
            });
            rows.push(Row { id, outcome, cached });
        }
    }
    rows
}

fn cache_name(metric: &Metric, network: &str) -> String {
    if metric.needs_network() { format!("{} {network}", metric.name()) } else { metric.name() }
}

struct Part {
    id: String,
    outcome: Result<Half>,
    path: Option<PathBuf>,
    cached: bool,
}

/// A pair whose pixel metrics are done.
struct Half {
    scores: Vec<Option<f64>>,
    /// Kept while a network has still to see them.
    images: Option<(Rgb8, Rgb8)>,
}

impl Half {
    fn finish(self, metrics: &[Metric]) -> Result<Vec<f64>> {
        let score = |(metric, score): (&Metric, Option<f64>)| match (score, &self.images) {
            (Some(score), _) => Ok(score),
            (None, Some((a, b))) => metric.score(a, b),
            (None, None) => Err(Error::internal("a pair lost its images")),
        };
        metrics.iter().zip(self.scores).map(score).collect()
    }
}

fn pixels(pairs: &Pairs, i: usize, metrics: &[Metric], network: &str, cache: Option<&Cache>) -> Part {
    let id = pairs.id(i).to_string();
    let files = match pairs.read(i) {
        Ok(files) => files,
        Err(e) => return Part { id, outcome: Err(e), path: None, cached: false },
    };
    let path = cache.map(|c| c.path(&files));
    let known = path.as_deref().map(Cache::load).unwrap_or_default();
    // JSON has no infinity: null stands for it, as in a record.
    let value = |m: &Metric| known.get(&cache_name(m, network)).and_then(|v| if v.is_null() { Some(f64::INFINITY) } else { v.as_f64() });
    let mut scores: Vec<Option<f64>> = metrics.iter().map(value).collect();
    let cached = scores.iter().all(Option::is_some);
    if cached {
        return Part { id, outcome: Ok(Half { scores, images: None }), path, cached };
    }
    let outcome = pairs.decode(i, &files).and_then(|(a, b)| {
        let mut resized: Option<(usize, Rgb8, Rgb8)> = None;
        for (metric, score) in metrics.iter().zip(&mut scores).filter(|(m, s)| s.is_none() && !m.needs_network()) {
            *score = Some(match metric.size {
                Size::Native => metric.score_prepared(&a, &b)?,
                Size::Square(side) => {
                    if resized.as_ref().is_none_or(|(s, _, _)| *s != side) {
                        resized = Some((side, to_square(&a, side).into_owned(), to_square(&b, side).into_owned()));
                    }
                    match &resized {
                        Some((_, a, b)) => metric.score_prepared(a, b)?,
                        None => return Err(Error::internal("a resized pair was lost")),
                    }
                }
            });
        }
        let images = scores.iter().any(Option::is_none).then_some((a, b));
        Ok(Half { scores, images })
    });
    Part { id, outcome, path, cached }
}
