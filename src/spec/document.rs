//! A TOML file with its text, so that every mistake in it is shown with file, line, column and the line itself.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use super::files;
use crate::{Error, Result};

/// A TOML file and its text.
#[derive(Debug, Clone)]
pub struct Document {
    pub path: String,
    pub text: String,
}

impl Document {
    /// Reads `path` from the current folder or from the binary; `None` when neither has it.
    pub fn open(path: &str) -> Result<Option<Self>> {
        Ok(files::read_text(path)?.map(|text| Document { path: path.into(), text }))
    }

    /// Reads the file into `T`.
    ///
    /// Errors: a syntax error, an unknown or missing key, a value of the wrong type or out of range; always with its place.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        toml::from_str(&self.text).map_err(|e| self.at(e.span(), &plain(e.message())))
    }

    /// An error at the value that `place` leads to, keys and array positions from the top: `["arms", "2", "latents"]`.
    /// If the value is not in the file, at the nearest table above it that is.
    pub fn error(&self, place: &[&str], message: &str) -> Error {
        self.at(self.find(place), message)
    }

    fn find(&self, place: &[&str]) -> Option<Range<usize>> {
        let table = DeTable::parse(&self.text).ok()?;
        let mut span = None;
        let mut value = DeValue::Table(table.into_inner());
        for step in place {
            let next = match value {
                DeValue::Table(mut t) => t.remove(*step),
                DeValue::Array(a) => step.parse().ok().and_then(|i: usize| a.into_iter().nth(i)),
                _ => None,
            };
            let Some(next) = next else { break };
            span = Some(next.span());
            value = next.into_inner();
        }
        span
    }

    fn at(&self, span: Option<Range<usize>>, message: &str) -> Error {
        let Some(span) = span else { return Error::usage(format!("{}: {message}", self.path)) };
        let start = span.start.min(self.text.len());
        let before = &self.text[..start];
        let line = before.matches('\n').count() + 1;
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let column = self.text[line_start..start].chars().count() + 1;
        let source = self.text[line_start..].lines().next().unwrap_or("");
        let width = self.text.get(span).map_or(1, |s| s.lines().next().unwrap_or("").chars().count()).clamp(1, 60);
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        Error::usage(format!(
            "{}:{line}:{column}: {message}\n{margin} |\n{number} | {source}\n{margin} | {}{}",
            self.path,
            " ".repeat(column - 1),
            "^".repeat(width)
        ))
    }
}

/// serde's message in the words of someone who writes TOML, with the nearest known name.
fn plain(message: &str) -> String {
    let message = message.trim();
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let kind =
        [("unknown field ", "unknown key"), ("unknown variant ", "unknown value")].iter().find(|(theirs, _)| message.starts_with(theirs));
    match (kind, names.split_first()) {
        (Some((_, ours)), Some((wrong, known))) => format!("{ours} \"{wrong}\"{}", files::suggestion(wrong, known.iter().copied())),
        _ => match (message.strip_prefix("missing field "), names.first()) {
            (Some(_), Some(name)) => format!("the key \"{name}\" is missing here"),
            _ => message.lines().collect::<Vec<_>>().join("; "),
        },
    }
}
