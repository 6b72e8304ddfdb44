//! The last stage: a record and the stored reconstructions become tables and figures in the run's folder.
//!
//! ```text
//! report/table.md  table.tex  report.html      the tables (the HTML file holds the figures, too)
//! report/reconstructions.png  .svg              targets and reconstructions (Fig. 9 of the paper, for ablation_mtv)
//! report/worst.png  .svg                        the images that the best arm reconstructs worst
//! report/curves.png  .svg                       convergence, if the record has curves
//! report/tradeoff.png  .svg                     quality against seconds per image, if the study asks for it
//! report/figure-8.png  .svg                     grids of some arms, if the study asks for them
//! report/edits.png  .svg  edit_curves.png  .svg  edited pictures and what the edits moved, if the study edits (Fig. 12)
//! report/spec.toml  provenance.json            what was run, and where
//! ```
//!
//! The same record and pictures give the same bytes; only provenance.json tells dates and times.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use crate::images::Rgb8;
use crate::record::Record;
use crate::record::store::{create_folder, write_atomic};
use crate::report::figure::{self, Pictures};
use crate::report::html::{self, Picture};
use crate::report::{Report, curves, edit_curves, edit_grid, gallery, table, tradeoff};
use crate::spec::experiment::FigureSpec;
use crate::{Error, Result};

/// The pictures that a stage stored: a safetensors file of u8 `[height, width, 3]` tensors named "set/image id".
///
/// Errors (corrupt): unreadable, or a tensor of another shape or type.
pub fn pictures(file: &Path) -> Result<Pictures> {
    let at = |what: &str| Error::corrupt(format!("{}: {what}", file.display()));
    let tensors =
        candle_core::safetensors::load(file, &Device::Cpu).map_err(|e| at(e.to_string().lines().next().unwrap_or("unreadable")))?;
    tensors.into_iter().map(|(name, tensor)| Ok((name.clone(), picture(&tensor).map_err(|e| at(&format!("\"{name}\": {e}")))?))).collect()
}

fn picture(tensor: &Tensor) -> Result<Rgb8> {
    match *tensor.dims() {
        [height, width, 3] if tensor.dtype() == DType::U8 => Rgb8::new(width, height, tensor.flatten_all()?.to_vec1::<u8>()?),
        _ => Err(Error::corrupt(format!("not an 8-bit [height, width, 3] picture: {:?} {:?}", tensor.dtype(), tensor.dims()))),
    }
}

/// The pictures that the figures show.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// All evaluation images.
    pub targets: Pictures,
    /// By arm, the reconstructions of one seed; without any the image grid is left out.
    pub reconstructions: BTreeMap<String, Pictures>,
    /// By arm, the worst reconstructions of the first seed.
    pub worst: BTreeMap<String, Pictures>,
    /// By arm, the edited pictures of the first seed, with the names that the stage gives.
    pub edited: BTreeMap<String, Pictures>,
}

/// Writes the report into `folder` and returns the table for the terminal.
///
/// Errors: corrupt record, or a folder that can't be written.
pub fn run(record: &Record, shown: &Shown, folder: &Path) -> Result<String> {
    let report = Report::of(record)?;
    let Shown { targets, reconstructions, worst, edited } = shown;
    let grid = if reconstructions.values().all(Pictures::is_empty) { None } else { Some(figure::grid(record, targets, reconstructions)?) };
    let worst = gallery::worst(record, targets, worst)?;
    let curves = curves::curves(record)?;
    let mut files: Vec<(&str, Vec<u8>)> = vec![];
    let mut embedded = vec![];
    if let Some(grid) = &grid {
        files.push(("reconstructions.png", grid.png.clone()));
        files.push(("reconstructions.svg", grid.svg.clone().into_bytes()));
        embedded.push(("reconstructions", Picture::Png(&grid.png)));
    }
    if let Some(worst) = &worst {
        files.push(("worst.png", worst.png.clone()));
        files.push(("worst.svg", worst.svg.clone().into_bytes()));
        embedded.push(("worst", Picture::Png(&worst.png)));
    }
    if let Some(curves) = &curves {
        files.push(("curves.png", curves.png.clone()));
        files.push(("curves.svg", curves.svg.clone().into_bytes()));
        embedded.push(("curves", Picture::Svg(&curves.svg)));
    }
    let figures = chosen(record, targets, reconstructions)?;
    for (name, figure) in &figures {
        files.push((name.0.as_str(), figure.png.clone()));
        files.push((name.1.as_str(), figure.svg.clone().into_bytes()));
    }
    let tradeoff = tradeoff::figure(record)?;
    if let Some(figure) = &tradeoff {
        files.push(("tradeoff.png", figure.png.clone()));
        files.push(("tradeoff.svg", figure.svg.clone().into_bytes()));
        embedded.push(("tradeoff", Picture::Svg(&figure.svg)));
    }
    let (edits, edit_curves) = (edit_grid::grid(record, targets, edited)?, edit_curves::curves(record)?);
    if let Some(edits) = &edits {
        files.push(("edits.png", edits.png.clone()));
        files.push(("edits.svg", edits.svg.clone().into_bytes()));
        embedded.push(("edits", Picture::Png(&edits.png)));
    }
    if let Some(curves) = &edit_curves {
        files.push(("edit_curves.png", curves.png.clone()));
        files.push(("edit_curves.svg", curves.svg.clone().into_bytes()));
        embedded.push(("edit_curves", Picture::Svg(&curves.svg)));
    }
    files.push(("table.md", table::render(&report, "table.md", &Default::default())?.into_bytes()));
    files.push(("table.tex", table::render(&report, "table.tex", &Default::default())?.into_bytes()));
    files.push(("report.html", html::page(&report, &embedded)?.into_bytes()));
    files.push(("spec.toml", spec_toml(&record.spec)?.into_bytes()));
    files.push(("provenance.json", json(&record.provenance)?));
    create_folder(folder)?;
    for (name, bytes) in &files {
        write_atomic(&folder.join(name), bytes)?;
    }
    remove_stale(folder, &files)?;
    Ok(table::terminal(&report))
}

/// The grids of `report.figures`, with the names of their files; those without a picture are left out.
fn chosen(
    record: &Record,
    targets: &Pictures,
    reconstructions: &BTreeMap<String, Pictures>,
) -> Result<Vec<((String, String), crate::report::ink::Figure)>> {
    let listed = record.spec.pointer("/report/figures").cloned().unwrap_or(Value::Array(vec![]));
    let wanted: Vec<FigureSpec> = serde_json::from_value(listed).map_err(|e| Error::corrupt(format!("the record's figures: {e}")))?;
    let mut out = vec![];
    for figure in wanted {
        let part: BTreeMap<String, Pictures> =
            reconstructions.iter().filter(|(arm, _)| figure.arms.contains(arm)).map(|(a, p)| (a.clone(), p.clone())).collect();
        let set = figure.set.name();
        let here = |key: &str| key.strip_prefix(set).is_some_and(|rest| rest.starts_with('/'));
        if !part.values().any(|p| p.keys().any(|k| here(k))) {
            continue;
        }
        let mut record = record.clone();
        record.images.retain(|i| i.set == set || i.set.starts_with(&format!("{set} (")));
        // The rows stand in the order of the figure.
        record.arms.sort_by_key(|a| figure.arms.iter().position(|name| *name == a.name).unwrap_or(usize::MAX));
        out.push(((format!("{}.png", figure.name), format!("{}.svg", figure.name)), figure::grid(&record, targets, &part)?));
    }
    Ok(out)
}

/// Figures of an earlier record that this one does not have.
fn remove_stale(folder: &Path, files: &[(&str, Vec<u8>)]) -> Result<()> {
    let names = ["reconstructions", "worst", "curves", "tradeoff", "edits", "edit_curves"]
        .map(|name| [format!("{name}.png"), format!("{name}.svg")]);
    for name in names.as_flattened() {
        let path: PathBuf = folder.join(name);
        if files.iter().all(|(written, _)| written != name) && path.exists() {
            std::fs::remove_file(&path).map_err(|e| Error::io(&path, "removing", e))?;
        }
    }
    Ok(())
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| Error::internal(format!("writing JSON: {e}")))?;
    text.push(b'\n');
    Ok(text)
}

/// The resolved study as TOML, which has no null: such keys are left out.
fn spec_toml(spec: &Value) -> Result<String> {
    toml::to_string_pretty(&without_null(spec)).map_err(|e| Error::internal(format!("writing the study as TOML: {e}")))
}

fn without_null(value: &Value) -> Value {
    match value {
        Value::Object(map) => map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_null(v))).collect(),
        Value::Array(items) => items.iter().filter(|v| !v.is_null()).map(without_null).collect(),
        other => other.clone(),
    }
}
