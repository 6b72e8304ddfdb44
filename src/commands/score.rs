//! `mtv-bench score`: image metrics of any two sets of pictures, whoever made them.

mod networks;
mod report;

use std::io::Write;
use std::path::PathBuf;

use crate::commands::weights::AccessArgs;
use crate::images::Pairs;
use crate::metrics::scoring::{self, Cache};
use crate::metrics::sets::SetMetric;
use crate::metrics::{self, METRICS, Metric};
use crate::stages::progress::Progress;
use crate::{Error, Result};
use networks::{attach, set_distances};
use report::{Report, Summary};

/// Score pictures against their originals.
///
/// Pictures of the two sets pair by name (without ending, with subfolder), never by order. A set is a folder, a .zip or a
/// .tar. A metric's name says its whole protocol: measure@size, where @512 brings both pictures to 512x512 pixels (8-bit,
/// Pillow's bilinear filter) and @native takes them as they are.
///
/// Pictures that can't be read, or that have no partner, are reported; the rest is scored, and the exit code is then 5 or 9.
#[derive(clap::Args)]
pub struct Args {
    /// The first set, for example the originals.
    #[arg(required_unless_present_any = ["pairs", "list"])]
    a: Option<PathBuf>,
    /// The second set, for example the reconstructions.
    #[arg(required_unless_present_any = ["pairs", "list"])]
    b: Option<PathBuf>,
    /// Pairs from a CSV file with the columns a and b (paths beside that file) and, if wanted, name.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["a", "b"])]
    pairs: Option<PathBuf>,
    /// Measures, or full names such as ssim-uniform7@512; and distances of the whole sets, such as fid-clean.
    #[arg(long, short, value_delimiter = ',', default_value = "psnr,ssim-uniform7,ssim-gauss-wang,mse,cosine")]
    metrics: Vec<String>,
    /// Size for measures that are given without one: native, or a side in pixels (the paper's Table III: 512).
    #[arg(long, default_value = "native")]
    size: String,
    /// What goes to stdout: the summary as a table, one row per pair as csv, or everything as json.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Also write one row per pair to this CSV file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Also write everything to this JSON file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Pictures without a partner are no error.
    #[arg(long)]
    allow_unmatched: bool,
    /// Where finished scores and features are kept, by the content of the files.
    #[arg(long, value_name = "FOLDER", default_value = "results/cache")]
    cache: PathBuf,
    /// Compute everything, keep nothing.
    #[arg(long)]
    no_cache: bool,
    /// The network behind lpips-mini: a card.
    #[arg(long, value_name = "CARD", default_value = "mini/vgg16_judge")]
    features: String,
    /// List the measures and end.
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    access: AccessArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
}

pub fn run(args: Args, quiet: bool) -> Result<()> {
    if args.list {
        return print(&measures());
    }
    let (mut metrics, set_metrics) = chosen(&args)?;
    args.access.open(quiet)?.install();
    let progress = Progress::new(quiet);
    let network = attach(&mut metrics, &args.features)?;
    let distances = set_distances(&args, &set_metrics, &progress)?;
    if metrics.is_empty() {
        return Report { pairs: None, metrics: &[], rows: &[], summary: Vec::new(), distances }.deliver(&args);
    }
    let pairs = match (&args.pairs, &args.a, &args.b) {
        (Some(list), _, _) => Pairs::of_list(list)?,
        (None, Some(a), Some(b)) => Pairs::of_sets(a, b)?,
        _ => return Err(Error::usage("score needs two sets of pictures, or --pairs")),
    };
    let cache = (!args.no_cache).then(|| Cache::new(args.cache.join("scores")));
    let bar = progress.bar(pairs.len() as u64, "score");
    let rows = scoring::score(&pairs, &metrics, &network, cache.as_ref(), || bar.advance(1, ""));
    bar.finish();
    let summary = metrics.iter().enumerate().map(|(k, m)| Summary::of(k, m, &rows)).collect();
    Report { pairs: Some(&pairs), metrics: &metrics, rows: &rows, summary, distances }.deliver(&args)
}

fn print(text: &str) -> Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes()).map_err(|e| Error::resource(format!("writing to stdout: {e}")))
}

fn measures() -> String {
    let direction = |higher| if higher { "higher is better" } else { "lower is better" };
    let pairs = METRICS.iter().map(|m| (m.name.to_string(), m.about.to_string(), m.higher_is_better));
    let all = pairs.chain(SetMetric::all().map(|m| (m.name(), m.about(), false)));
    all.map(|(name, about, higher)| format!("{name:<16} {about}; {}\n", direction(higher))).collect()
}

/// Where a name of the field stands for several measures: which there are.
fn ambiguous(name: &str) -> Option<Error> {
    let all = METRICS.iter().map(|m| m.name.to_string()).chain(SetMetric::all().map(SetMetric::name));
    let meant: Vec<String> = all.filter(|full| full.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))).collect();
    (!meant.is_empty()).then(|| Error::usage(format!("{name} is several measures with different values: choose {}", meant.join(", "))))
}

fn chosen(args: &Args) -> Result<(Vec<Metric>, Vec<SetMetric>)> {
    let (mut metrics, mut set_metrics) = (Vec::<Metric>::new(), Vec::new());
    for name in &args.metrics {
        let twice = || Err(Error::usage(format!("the metric {name} is given twice")));
        if let Some(metric) = SetMetric::by_name(name) {
            if set_metrics.contains(&metric) {
                return twice();
            }
            set_metrics.push(metric);
            continue;
        }
        let full = if name.contains('@') { name.clone() } else { format!("{name}@{}", args.size) };
        let metric = metrics::by_name(&full).map_err(|e| ambiguous(name).unwrap_or(e))?;
        if metrics.iter().any(|m| m.name() == metric.name()) {
            return twice();
        }
        metrics.push(metric);
    }
    Ok((metrics, set_metrics))
}
