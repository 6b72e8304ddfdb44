//! Tables as text: for the terminal, and through the templates of paper/templates as Markdown, LaTeX and HTML.

use std::collections::HashMap;

use serde_json::Value;
use tera::{Context, Tera};

use super::html::escaped;
use super::{Cell, Report, Set};
use crate::spec::files;
use crate::{Error, Result};

/// The template's name in paper/templates, for example "table.md".
pub fn render(report: &Report, template: &str, figures: &HashMap<&str, String>) -> Result<String> {
    let mut values = serde_json::to_value(report).map_err(|e| Error::internal(format!("the report as JSON: {e}")))?;
    values["figures"] = serde_json::json!(figures);
    of(template, &values)
}

/// Any values through a template of paper/templates.
///
/// Errors (usage): what is wrong in the template, with its place.
pub fn of(template: &str, values: &Value) -> Result<String> {
    let path = format!("paper/templates/{template}.tera");
    let text = files::read_text(&path)?.ok_or_else(|| Error::internal(format!("the template {path} is not there")))?;
    let fault = |e: tera::Error| {
        let mut message = e.to_string();
        let mut cause = std::error::Error::source(&e);
        while let Some(inner) = cause {
            message = format!("{message}: {inner}");
            cause = inner.source();
        }
        Error::usage(format!("{path}: {message}"))
    };
    let mut tera = Tera::default();
    tera.autoescape_on(vec![".html"]);
    tera.register_filter("latex", |v: &Value, _: &HashMap<String, Value>| Ok(Value::String(latex(text_of(v)?))));
    tera.register_filter("latex_label", |v: &Value, _: &HashMap<String, Value>| Ok(Value::String(latex_label(text_of(v)?))));
    tera.register_filter("html_label", |v: &Value, _: &HashMap<String, Value>| Ok(Value::String(html_label(text_of(v)?))));
    tera.register_filter("pipe", |v: &Value, _: &HashMap<String, Value>| Ok(Value::String(text_of(v)?.replace('|', "\\|"))));
    tera.add_raw_template(template, &text).map_err(fault)?;
    tera.render(template, &Context::from_value(values.clone()).map_err(fault)?).map_err(fault)
}

fn text_of(value: &Value) -> tera::Result<&str> {
    value.as_str().ok_or_else(|| tera::Error::msg("this filter needs a text"))
}

/// Text with everything escaped that LaTeX reads as a command.
pub fn latex(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                out.push('\\');
                out.push(c);
            }
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '<' => out.push_str("\\textless{}"),
            '>' => out.push_str("\\textgreater{}"),
            '∞' => out.push_str("$\\infty$"),
            '–' => out.push_str("--"),
            _ => out.push(c),
        }
    }
    out
}

/// Whether a word of a label is a symbol such as "w", "z_n" or "w/2": printed as mathematics.
fn is_symbol(word: &str) -> bool {
    let mut parts = word.splitn(2, ['_', '/']);
    let letter = parts.next().is_some_and(|p| p.len() == 1 && p.chars().all(|c| c.is_ascii_lowercase()));
    letter && parts.next().is_none_or(|p| !p.is_empty() && p.len() <= 2 && p.chars().all(|c| c.is_ascii_alphanumeric()))
}

fn label(text: &str, symbol: impl Fn(&str) -> String, plain: impl Fn(&str) -> String) -> String {
    let words: Vec<String> = text.split(' ').map(|w| if is_symbol(w) { symbol(w) } else { plain(w) }).collect();
    words.join(" ")
}

fn latex_label(text: &str) -> String {
    label(text, |w| format!("${w}$"), |w| if w == "+" { "$+$".into() } else { latex(w) })
}

fn html_label(text: &str) -> String {
    let symbol = |w: &str| match w.split_once('_') {
        Some((letter, index)) => format!("<i>{letter}</i><sub>{index}</sub>"),
        None => format!("<i>{w}</i>"),
    };
    label(text, symbol, escaped)
}

/// The report for a terminal: what the numbers mean, then the tables, the first metric in full and the others by their means.
pub fn terminal(report: &Report) -> String {
    let mut out = format!("{}\n\n", report.title);
    for line in &report.about {
        out.push_str(&wrapped(line, 110));
    }
    for paragraph in &report.findings {
        out.push('\n');
        out.push_str(&wrapped(paragraph, 110));
    }
    for set in &report.sets {
        out.push_str(&format!("\n{} images ({})\n", set.name, set.images));
        out.push_str(&aligned(&rows(set)));
    }
    if let Some(edits) = &report.edits {
        out.push_str(&format!("\nedits of the first {} images of each set, α = ±{}\n", edits.images, edits.alpha));
        out.push_str(&aligned(&edit_rows(edits)));
        for paragraph in &edits.findings {
            out.push('\n');
            out.push_str(&wrapped(paragraph, 110));
        }
    }
    out
}

fn rows(set: &Set) -> Vec<Vec<String>> {
    let Some(main) = set.columns.first() else { return vec![] };
    let interval = |low: &str, high: &str| if low.is_empty() { String::new() } else { format!("[{low}, {high}]") };
    let with_published = set.columns.iter().any(|c| !c.published.is_empty());
    let mut head = vec!["arm".to_string(), format!("{} mean", main.metric), "sd".into(), "95 % interval".into()];
    head.extend([format!("minus {}", set.first), "95 % interval".into()]);
    head.extend(set.columns[1..].iter().map(|c| c.metric.clone()));
    if with_published {
        head.push("published".into());
    }
    let mut table = vec![head];
    for row in &set.rows {
        let Some(cell) = row.cells.first() else { continue };
        let mut line = vec![row.label.clone(), cell.mean.clone(), cell.sd.clone(), interval(&cell.low, &cell.high)];
        line.extend([cell.difference.clone(), interval(&cell.difference_low, &cell.difference_high)]);
        line.extend(row.cells[1..].iter().map(|c: &Cell| c.mean.clone()));
        if with_published {
            line.push(cell.published.clone());
        }
        table.push(line);
    }
    table
}

fn edit_rows(edits: &super::edits::Section) -> Vec<Vec<String>> {
    let measures = if edits.read { vec!["attribute", "identity", "others"] } else { vec!["LPIPS"] };
    let line = |first: [&str; 4], more: Vec<&str>| first.into_iter().chain(more).map(str::to_string).collect::<Vec<_>>();
    let head = line(["images", "latents", "direction", "edited"], measures);
    let row = |r: &super::edits::Row| {
        let more = if edits.read { vec![r.target.as_str(), &r.identity, &r.others] } else { vec![r.lpips.as_str()] };
        line([&r.set, &r.latents, &r.direction, &r.variant], more)
    };
    std::iter::once(head).chain(edits.rows.iter().map(row)).collect()
}

/// Columns padded to their widest entry, two spaces apart: the first to the left, the others to the right.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let width = |s: &String| s.chars().count();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(|c| rows.iter().filter_map(|r| r.get(c)).map(width).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (c, text) in row.iter().enumerate() {
            let pad = " ".repeat(widths[c] - width(text));
            line.push_str(if c > 0 { "  " } else { "" });
            line.push_str(&if c == 0 { format!("{text}{pad}") } else { format!("{pad}{text}") });
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn wrapped(text: &str, width: usize) -> String {
    let (mut out, mut column) = (String::new(), 0);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            out.push('\n');
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
    out
}
