//! What `score` prints and writes: the summary table, CSV, JSON, and what was left out.

use serde_json::{Value, json};

use super::networks::SetDistance;
use super::{Args, Format, print};
use crate::error::Kind;
use crate::images::Pairs;
use crate::metrics::scoring::Row;
use crate::metrics::{self, Metric};
use crate::random::Stream;
use crate::record::stats::{self, Bootstrap};
use crate::record::store::write_atomic;
use crate::{Error, Result};

/// Resamples of an interval.
const RESAMPLES: usize = 2000;

/// One metric over all pairs that have a score.
pub(super) struct Summary {
    name: String,
    n: usize,
    /// Pairs whose score is +infinity: identical pictures under PSNR.
    infinite: usize,
    /// Over the finite scores.
    mean: f64,
    /// 95 % bootstrap interval (BCa) of that mean over images.
    low: f64,
    high: f64,
    sd: f64,
    min: f64,
    median: f64,
    max: f64,
}

impl Summary {
    pub fn of(k: usize, metric: &Metric, rows: &[Row]) -> Summary {
        let all: Vec<f64> = rows.iter().filter_map(|r| r.outcome.as_ref().ok().map(|s| s[k])).collect();
        let finite: Vec<f64> = all.iter().copied().filter(|v| v.is_finite()).collect();
        let mut sorted = finite.clone();
        sorted.sort_by(f64::total_cmp);
        let interval = match finite.len() {
            0 | 1 => None,
            _ => Some(Bootstrap::of_mean_drawn(&finite, &Stream::new(0, "score/bootstrap"), RESAMPLES).interval95()),
        };
        Summary {
            name: metric.name(),
            n: all.len(),
            infinite: all.len() - finite.len(),
            mean: if finite.is_empty() && !all.is_empty() { f64::INFINITY } else { stats::mean(&finite) },
            low: interval.map_or(f64::NAN, |i| i.low),
            high: interval.map_or(f64::NAN, |i| i.high),
            sd: stats::sd(&finite),
            min: stats::quantile(&sorted, 0.0),
            median: stats::quantile(&sorted, 0.5),
            max: stats::quantile(&sorted, 1.0),
        }
    }
}

pub(super) struct Report<'a> {
    /// None where only whole sets are compared.
    pub pairs: Option<&'a Pairs>,
    pub metrics: &'a [Metric],
    pub rows: &'a [Row],
    pub summary: Vec<Summary>,
    pub distances: Vec<SetDistance>,
}

impl Report<'_> {
    /// Writes what was asked for, then says what was left out.
    pub fn deliver(&self, args: &Args) -> Result<()> {
        if let Some(path) = &args.csv {
            write_atomic(path, self.csv()?.as_bytes())?;
        }
        let json = || serde_json::to_string_pretty(&self.json()).map_err(|e| Error::internal(e.to_string()));
        if let Some(path) = &args.json {
            write_atomic(path, json()?.as_bytes())?;
        }
        match args.format {
            Format::Table => print(&self.table())?,
            Format::Csv => print(&self.csv()?)?,
            Format::Json => print(&(json()? + "\n"))?,
        }
        self.verdict(args.allow_unmatched)
    }

    fn unmatched(&self) -> [&[String]; 2] {
        self.pairs.map_or([&[], &[]], |p| [&p.only_a, &p.only_b])
    }

    fn failed(&self) -> impl Iterator<Item = (&str, &Error)> {
        let pairs = self.rows.iter().filter_map(|r| r.outcome.as_ref().err().map(|e| (r.id.as_str(), e)));
        pairs.chain(self.distances.first().into_iter().flat_map(|d| d.failed.iter().map(|(id, e)| (id.as_str(), e))))
    }

    /// PSNR of the mean MSE, which is never above the mean PSNR, for each size at which both were asked for.
    fn psnr_of_mean_mse(&self) -> impl Iterator<Item = (String, f64)> {
        self.summary.iter().filter(|s| s.n > 0).filter_map(|s| {
            let size = s.name.strip_prefix("mse@")?;
            Some((format!("PSNR of the mean mse@{size}"), metrics::of_mse(s.mean)))
        })
    }

    /// One row per pair: name, the scores, and the error of a pair that has none.
    fn csv(&self) -> Result<String> {
        let fail = |e: csv::Error| Error::internal(format!("CSV: {e}"));
        let mut out = csv::Writer::from_writer(Vec::new());
        let names = self.metrics.iter().map(Metric::name);
        out.write_record(std::iter::once("name".to_string()).chain(names).chain(["error".to_string()])).map_err(fail)?;
        for row in self.rows {
            let (scores, error) = match &row.outcome {
                Ok(scores) => (scores.iter().map(|v| v.to_string()).collect(), String::new()),
                Err(e) => (vec![String::new(); self.metrics.len()], e.message.clone()),
            };
            out.write_record(std::iter::once(row.id.clone()).chain(scores).chain([error])).map_err(fail)?;
        }
        let bytes = out.into_inner().map_err(|e| Error::internal(format!("CSV: {e}")))?;
        String::from_utf8(bytes).map_err(|e| Error::internal(format!("CSV: {e}")))
    }

    fn json(&self) -> Value {
        let pairs: Vec<Value> = self
            .rows
            .iter()
            .map(|row| match &row.outcome {
                Ok(scores) => {
                    let infinite = scores.iter().any(|v| v.is_infinite());
                    let scores: serde_json::Map<_, _> = self.metrics.iter().zip(scores).map(|(m, &v)| (m.name(), v.into())).collect();
                    if infinite {
                        json!({"name": row.id, "scores": scores, "infinite": true})
                    } else {
                        json!({"name": row.id, "scores": scores})
                    }
                }
                Err(e) => json!({"name": row.id, "error": e.message}),
            })
            .collect();
        let summary = self.summary.iter().map(|s| {
            json!({
                "metric": s.name, "n": s.n, "infinite": s.infinite, "mean": s.mean, "interval95": [s.low, s.high], "sd": s.sd,
                "min": s.min, "median": s.median, "max": s.max,
            })
        });
        let derived: serde_json::Map<_, _> = self.psnr_of_mean_mse().map(|(name, v)| (name, v.into())).collect();
        json!({
            "format": 1,
            "version": env!("CARGO_PKG_VERSION"),
            "about": "null stands for +infinity in a score; mean and interval are over the finite scores of these pictures",
            "metrics": self.metrics.iter().map(|m| json!({"name": m.name(), "higher_is_better": m.info.higher_is_better, "about": m.info.about})).collect::<Vec<_>>(),
            "summary": summary.collect::<Vec<_>>(),
            "derived": derived,
            "pairs": pairs,
            "sets": self.distances.iter().map(|d| json!({"metric": d.name, "value": d.value, "n": d.counts, "warning": d.warning})).collect::<Vec<_>>(),
            "unmatched": {"a": self.unmatched()[0], "b": self.unmatched()[1]},
        })
    }

    fn table(&self) -> String {
        let mut out = String::new();
        for d in &self.distances {
            let from = if d.reused { ", saved features" } else { "" };
            out += &format!("{}: {} ({} and {} pictures{from})\n", d.name, number(d.value), d.counts[0], d.counts[1]);
            if let Some(warning) = &d.warning {
                out += &format!("  warning: {warning}\n");
            }
        }
        if self.pairs.is_none() {
            return out;
        }
        let width = self.summary.iter().map(|s| s.name.len()).max().unwrap_or(0).max(6);
        out += &format!(
            "{:<width$}  {:>7}  {:>10}  {:>23}  {:>9}  {:>10}  {:>10}  {:>10}\n",
            "metric", "n", "mean", "95 % interval", "sd", "min", "median", "max"
        );
        for s in &self.summary {
            let interval = if s.low.is_nan() { "-".into() } else { format!("{} .. {}", number(s.low), number(s.high)) };
            out += &format!(
                "{:<width$}  {:>7}  {:>10}  {:>23}  {:>9}  {:>10}  {:>10}  {:>10}\n",
                s.name,
                s.n,
                number(s.mean),
                interval,
                number(s.sd),
                number(s.min),
                number(s.median),
                number(s.max)
            );
        }
        out += "\n";
        for s in self.summary.iter().filter(|s| s.infinite > 0 && s.infinite < s.n) {
            out += &format!("{}: {} of {} pairs are infinite (identical pictures) and not in its row.\n", s.name, s.infinite, s.n);
        }
        for (name, value) in self.psnr_of_mean_mse().filter(|(_, v)| v.is_finite()) {
            out += &format!("{name}: {} dB (the mean PSNR can't be below it).\n", number(value));
        }
        out += "The intervals speak of these pictures (bootstrap over pairs, BCa), not of another training.\n";
        let cached = self.rows.iter().filter(|r| r.cached).count();
        if cached > 0 {
            out += &format!("{cached} of {} pairs were taken from the cache.\n", self.rows.len());
        }
        out
    }

    /// Everything that was left out, on stderr; an error where that makes the result incomplete.
    fn verdict(&self, allow_unmatched: bool) -> Result<()> {
        if let Some(pairs) = self.pairs.filter(|p| p.others > 0) {
            eprintln!("{} left alone: no pictures by their names", count(pairs.others, "file"));
        }
        for (side, alone) in ["first", "second"].into_iter().zip(self.unmatched()) {
            if !alone.is_empty() {
                eprintln!("only in the {side} set ({}): {}", alone.len(), some(alone));
            }
        }
        let mut kinds = Vec::new();
        for (i, (id, error)) in self.failed().enumerate() {
            kinds.push(error.kind);
            if i < 20 {
                eprintln!("not scored: {id}: {}", error.message);
            }
        }
        if kinds.len() > 20 {
            eprintln!("not scored: {} more (all of them in the CSV and JSON output)", kinds.len() - 20);
        }
        let unmatched: usize = self.unmatched().iter().map(|alone| alone.len()).sum();
        if let Some(&kind) = kinds.first() {
            return Err(Error::new(kind, format!("{} could not be scored (named above)", count(kinds.len(), "pair or picture"))));
        }
        if unmatched > 0 && !allow_unmatched {
            return Err(Error::new(
                Kind::Incomparable,
                format!("{} without a partner (named above); with --allow-unmatched that is no error", count(unmatched, "picture")),
            ));
        }
        Ok(())
    }
}

/// "1 file", "2 files"; "pairs or pictures".
fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {}s", what.replace(" or ", "s or ")) }
}

fn some(names: &[String]) -> String {
    let shown = names.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > 10 { format!("{shown}, ... (all of them in the JSON output)") } else { shown }
}

/// Five significant digits at least, without an exponent for the sizes that occur.
fn number(v: f64) -> String {
    match v.abs() {
        _ if v.is_nan() => "-".into(),
        _ if v.is_infinite() => "inf".into(),
        a if a >= 1000.0 => format!("{v:.1}"),
        a if a >= 10.0 => format!("{v:.3}"),
        _ => format!("{v:.5}"),
    }
}
