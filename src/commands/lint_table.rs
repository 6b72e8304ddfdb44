//! `mtv-bench lint-table`: looks for impossible values in a table of scores.

use std::path::{Path, PathBuf};

use crate::report::lint::{self, Peak, Severity, Table};
use crate::{Error, Result};

/// Look for values that can't be true in a table of scores: CSV, Markdown or TOML.
///
/// Exit code 5 if something is impossible. The unit of an MSE is read from its column's head, as in "MSE (e^2)".
#[derive(clap::Args)]
pub struct Args {
    /// A .csv, .md or .toml file. In TOML: `[[table]]` with `rows` of keys and values and, if needed, `mse_unit`.
    pub file: PathBuf,
    /// The range of the values behind the MSE: 255, 1 (for [0, 1]) or 2 (for [-1, 1]). Without it, any of them will do.
    #[arg(long, value_name = "WIDTH")]
    pub mse_range: Option<f64>,
}

pub fn run(args: Args) -> Result<()> {
    if let Some(width) = args.mse_range
        && !(width > 0.0 && width.is_finite())
    {
        return Err(Error::usage(format!("--mse-range: {width} is not the width of a range")));
    }
    let tables = read(&args.file)?;
    let rows: usize = tables.iter().map(|t| t.rows.len()).sum();
    let found: Vec<lint::Finding> = tables.iter().flat_map(|t| lint::lint(t, args.mse_range.map(Peak))).collect();
    print!("{}", lint::terminal(&found));
    let impossible = found.iter().filter(|f| f.severity == Severity::Impossible).count();
    println!("{}: {rows} rows, {impossible} impossible, {} doubtful", args.file.display(), found.len() - impossible);
    if impossible > 0 {
        return Err(Error::corrupt(format!("{}: {impossible} of {rows} rows can't be true", args.file.display())));
    }
    Ok(())
}

/// The tables of a file.
///
/// Errors: Missing if there is no such file; Usage if it holds no table of scores.
pub fn read(path: &Path) -> Result<Vec<Table>> {
    let text = std::fs::read_to_string(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::missing(format!("{}: no such file", path.display())),
        std::io::ErrorKind::InvalidData => Error::usage(format!("{}: not a text file (UTF-8 is expected)", path.display())),
        _ => Error::io(path, "reading", e),
    })?;
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_lowercase();
    let tables = match ending.as_str() {
        "csv" => csv(&text),
        "md" | "markdown" => markdown(&text),
        "toml" => toml_tables(&text),
        _ => Err(Error::usage("a table is read from .csv, .md or .toml")),
    };
    tables.map_err(|e| e.at(path.display()))
}

fn csv(text: &str) -> Result<Vec<Table>> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(text.as_bytes());
    let fault = |e: csv::Error| Error::usage(format!("not CSV: {e}"));
    let fields = |r: &csv::StringRecord| r.iter().map(str::to_string).collect::<Vec<_>>();
    let heads = fields(reader.headers().map_err(fault)?);
    let lines = reader.records().map(|r| r.map(|r| fields(&r)).map_err(fault)).collect::<Result<Vec<_>>>()?;
    Ok(vec![lint::table(&heads, &lines, None)?])
}

/// Every pipe table that has a column of scores. Differences and spreads are none: a table with signed numbers, or with several in one
/// cell, is passed over.
fn markdown(text: &str) -> Result<Vec<Table>> {
    let is_row = |line: &str| line.trim_start().starts_with('|');
    let fields = |line: &str| line.trim().trim_matches('|').split('|').map(|f| f.trim().to_string()).collect::<Vec<_>>();
    let is_rule = |line: &str| line.contains('-') && line.chars().all(|c| "|:- ".contains(c));
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let (mut tables, mut fault) = (vec![], None);
    for block in lines.chunk_by(|a, b| is_row(a) && is_row(b)).filter(|b| b.len() > 2 && is_rule(b[1])) {
        let rows: Vec<Vec<String>> = block[2..].iter().map(|l| fields(l)).collect();
        if rows.iter().flatten().any(|f| signed(f) || several(f)) {
            continue;
        }
        match lint::table(&fields(block[0]), &rows, None) {
            Ok(table) => tables.push(table),
            Err(e) => fault = Some(e),
        }
    }
    if tables.is_empty() { Err(fault.unwrap_or_else(|| Error::usage("no Markdown table with a head and a rule"))) } else { Ok(tables) }
}

/// "+0.21", but not the arm "+ AT1".
fn signed(field: &str) -> bool {
    field.strip_prefix('+').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// "0.05 / 2.10 / 0.40".
fn several(field: &str) -> bool {
    let mut parts = field.split(" / ");
    let number = |p: Option<&str>| p.is_some_and(|p| p.trim().parse::<f64>().is_ok());
    number(parts.next()) && number(parts.next())
}

fn toml_tables(text: &str) -> Result<Vec<Table>> {
    let file: toml::Table = text.parse().map_err(|e| Error::usage(format!("not TOML: {e}")))?;
    let Some(tables) = file.get("table").and_then(|t| t.as_array()) else {
        return Err(Error::usage("no [[table]] with rows"));
    };
    tables
        .iter()
        .map(|table| {
            let rows: Vec<&toml::Table> =
                table.get("rows").and_then(|r| r.as_array()).into_iter().flatten().filter_map(|r| r.as_table()).collect();
            let mut heads: Vec<String> = vec![];
            for key in rows.iter().flat_map(|r| r.keys()).filter(|k| *k != "method") {
                if !heads.contains(key) {
                    heads.push(key.clone());
                }
            }
            heads.insert(0, "method".into());
            let unit = table.get("mse_unit").and_then(|u| u.as_float().or(u.as_integer().map(|i| i as f64)));
            let lines: Vec<Vec<String>> =
                rows.iter().map(|r| heads.iter().map(|h| r.get(h).map_or(String::new(), text_of)).collect()).collect();
            lint::table(&heads, &lines, unit)
        })
        .collect()
}

fn text_of(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Float(v) => format!("{v}"),
        other => other.to_string(),
    }
}
