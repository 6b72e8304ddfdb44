//! The outcome of `check` for people and machines: a terminal's table, Markdown for a pull request, JUnit XML for a CI service.

use super::html::escaped;
use super::table::aligned;
use super::{info, number};
use crate::record::compare::{Cell, Check, Verdict};

fn seeds(list: &[u64]) -> String {
    list.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

fn digits(cell: &Cell) -> usize {
    info(&cell.metric).map_or(3, |i| i.digits)
}

fn row(cell: &Cell) -> Vec<String> {
    let value = |v: f64| number(v, digits(cell));
    vec![
        cell.verdict.words().to_string(),
        cell.arm.label.clone(),
        cell.set.clone(),
        cell.metric.clone(),
        value(cell.golden),
        value(cell.new),
        cell.reason.clone(),
    ]
}

const HEAD: [&str; 7] = ["verdict", "arm", "images", "metric", "golden", "new", "why"];

fn headline(check: &Check) -> String {
    format!(
        "{}: {} (seeds {} against golden seeds {})",
        check.name,
        check.verdict().words(),
        seeds(&check.seeds),
        seeds(&check.golden_seeds)
    )
}

/// Plain text: the metric that decides for every arm, then what else got worse.
pub fn terminal(check: &Check) -> String {
    let mut out = format!("{}\n", headline(check));
    for reason in &check.refusals {
        out.push_str(&format!("  {reason}\n"));
    }
    let mut table = vec![HEAD.map(str::to_string).to_vec()];
    table.extend(check.cells.iter().filter(|c| c.gates || noteworthy(c)).map(row));
    if table.len() > 1 {
        out.push_str(&aligned_left(&table));
        out.push_str(&format!("{} other comparisons pass or improve\n", check.cells.len() + 1 - table.len()));
    }
    out
}

/// Text columns; only the two numbers stand to the right.
fn aligned_left(table: &[Vec<String>]) -> String {
    let width = |c: usize| table.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let padded: Vec<Vec<String>> = table
        .iter()
        .map(|row| {
            let pad = |(c, text): (usize, &String)| if (4..6).contains(&c) { text.clone() } else { format!("{text:<0$}", widths[c]) };
            row.iter().enumerate().map(pad).collect()
        })
        .collect();
    aligned(&padded)
}

/// A comparison that does not decide but got worse.
fn noteworthy(cell: &Cell) -> bool {
    !cell.gates && matches!(cell.verdict, Verdict::Fail | Verdict::Inconclusive)
}

/// Markdown for a pull request.
pub fn markdown(checks: &[Check]) -> String {
    let mut out = String::from("## Scores against golden\n");
    for check in checks {
        out.push_str(&format!("\n### {}\n\n", headline(check)));
        for reason in &check.refusals {
            out.push_str(&format!("- {}\n", reason.replace('|', "\\|")));
        }
        let part = |title: &str, cells: Vec<&Cell>| {
            if cells.is_empty() {
                return String::new();
            }
            let mut text = format!("{title}\n\n| {} | loss p (Holm) |\n|{}\n", HEAD.join(" | "), ":---|".repeat(HEAD.len() + 1));
            for cell in cells {
                let p = cell.loss_p.filter(|_| !cell.gates).map_or(String::new(), |p| format!("{p:.3}"));
                let fields: Vec<String> = row(cell).iter().map(|f| f.replace('|', "\\|")).collect();
                let bold = if matches!(cell.verdict, Verdict::Fail | Verdict::Inconclusive) { "**" } else { "" };
                text.push_str(&format!("| {bold}{}{bold} | {} | {p} |\n", fields[0], fields[1..].join(" | ")));
            }
            text
        };
        out.push_str(&part("What decides:", check.cells.iter().filter(|c| c.gates).collect()));
        let others = part("", check.cells.iter().filter(|c| !c.gates).collect());
        if !others.is_empty() {
            out.push_str(&format!("\n<details><summary>Other metrics (they do not decide)</summary>\n{others}\n</details>\n"));
        }
    }
    out
}

/// JUnit XML: a suite per study and profile, a case per comparison. Inconclusive ones and losses that do not decide are skipped
/// cases with a message; a refused comparison is one case in error.
pub fn junit(checks: &[Check]) -> String {
    let mut suites = String::new();
    for check in checks {
        let mut cases = String::new();
        let (mut failures, mut skipped) = (0, 0);
        for cell in &check.cells {
            let name = format!("{} {} {}", cell.arm.name, cell.set, cell.metric);
            let why = escaped(&cell.reason);
            let inside = match cell.verdict {
                Verdict::Fail if cell.gates => {
                    failures += 1;
                    format!("<failure message=\"{why}\"/>")
                }
                Verdict::Fail | Verdict::Inconclusive | Verdict::NotComparable => {
                    skipped += 1;
                    format!("<skipped message=\"{}: {why}\"/>", cell.verdict.words())
                }
                Verdict::Pass | Verdict::Improved => format!("<system-out>{}: {why}</system-out>", cell.verdict.words()),
            };
            cases.push_str(&format!(
                "    <testcase classname=\"{}\" name=\"{}\">{inside}</testcase>\n",
                escaped(&check.name),
                escaped(&name)
            ));
        }
        if !check.refusals.is_empty() {
            let why = escaped(&check.refusals.join("; "));
            cases.push_str(&format!(
                "    <testcase classname=\"{}\" name=\"comparable\"><error message=\"{why}\"/></testcase>\n",
                escaped(&check.name)
            ));
        }
        let errors = usize::from(!check.refusals.is_empty());
        suites.push_str(&format!(
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\">\n{cases}  </testsuite>\n",
            escaped(&check.name),
            check.cells.len() + errors
        ));
    }
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n{suites}</testsuites>\n")
}
