//! Pairs of pictures: two sets matched by id, or the lines of a CSV file. Never by order.

use std::path::{Path, PathBuf};

use super::source::{Picture, Pictures};
use super::{Rgb8, decode};
use crate::{Error, Result};

/// Pictures to compare, by name.
pub struct Pairs {
    source: Source,
    /// Ids that only the first or only the second set has, in order.
    pub only_a: Vec<String>,
    pub only_b: Vec<String>,
    /// Files of the two sets that are no pictures.
    pub others: usize,
}

enum Source {
    Sets { a: Pictures, b: Pictures, matched: Vec<(usize, usize)> },
    Listed(Vec<Line>),
}

struct Line {
    id: String,
    a: PathBuf,
    b: PathBuf,
}

/// The two files of a pair, read but not decoded.
pub struct Files {
    pub a: Vec<u8>,
    pub b: Vec<u8>,
}

impl Pairs {
    /// The pictures that two sets have in common, by id (the name without its ending).
    ///
    /// Errors: as [`Pictures::open`]; not one id in common.
    pub fn of_sets(a: &Path, b: &Path) -> Result<Self> {
        let (first, second) = (Pictures::open(a)?, Pictures::open(b)?);
        let ids = |p: &[Picture]| p.iter().map(|p| p.id.clone()).collect::<Vec<_>>();
        let place = |i: usize| second.list().binary_search_by(|p| p.id.cmp(&first.list()[i].id)).ok();
        let matched: Vec<(usize, usize)> = (0..first.list().len()).filter_map(|i| Some((i, place(i)?))).collect();
        if matched.is_empty() {
            let show = |p: &Pictures| ids(&p.list()[..p.list().len().min(3)]).join(", ");
            return Err(Error::new(
                crate::error::Kind::Incomparable,
                format!("{} and {} have no name in common ({} ... and {} ...)", a.display(), b.display(), show(&first), show(&second)),
            ));
        }
        let alone = |x: &Pictures, y: &Pictures| x.list().iter().filter(|p| y.find(&p.id).is_none()).map(|p| p.id.clone()).collect();
        let (only_a, only_b) = (alone(&first, &second), alone(&second, &first));
        let others = first.others.len() + second.others.len();
        Ok(Pairs { source: Source::Sets { a: first, b: second, matched }, only_a, only_b, others })
    }

    /// The pairs of a CSV file with the columns `a` and `b` (paths, relative to the file's folder) and, if wanted, `name`.
    ///
    /// Errors (kind usage): the line and what is wrong with it, a name that occurs twice, no line at all.
    pub fn of_list(path: &Path) -> Result<Self> {
        let wrong = |line: u64, what: &str| Error::usage(format!("{}:{line}: {what}", path.display()));
        let bytes = std::fs::read(path).map_err(|e| Error::missing(format!("{}: {e}", path.display())))?;
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes.as_slice());
        let header = reader.headers().map_err(|e| wrong(1, &e.to_string()))?.clone();
        let column = |name: &str| header.iter().position(|h| h == name);
        let (Some(a), Some(b)) = (column("a"), column("b")) else {
            return Err(wrong(1, "the first line must name the columns \"a\" and \"b\" (and may name \"name\")"));
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        let (mut lines, mut seen) = (Vec::new(), std::collections::BTreeSet::new());
        for record in reader.records() {
            let record = record.map_err(|e| wrong(e.position().map_or(0, |p| p.line()), &e.to_string()))?;
            let line = record.position().map_or(0, |p| p.line());
            let cell = |i: usize| record.get(i).filter(|c| !c.is_empty()).ok_or_else(|| wrong(line, "an empty cell"));
            let (a, b) = (cell(a)?, cell(b)?);
            let id = column("name").map_or(Ok(a), cell)?.to_string();
            if !seen.insert(id.clone()) {
                return Err(wrong(line, &format!("the name \"{id}\" occurs twice")));
            }
            lines.push(Line { id, a: folder.join(a), b: folder.join(b) });
        }
        if lines.is_empty() {
            return Err(wrong(2, "no pair in the list"));
        }
        Ok(Pairs { source: Source::Listed(lines), only_a: Vec::new(), only_b: Vec::new(), others: 0 })
    }

    pub fn len(&self) -> usize {
        match &self.source {
            Source::Sets { matched, .. } => matched.len(),
            Source::Listed(lines) => lines.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of pair `i`.
    pub fn id(&self, i: usize) -> &str {
        match &self.source {
            Source::Sets { a, matched, .. } => &a.list()[matched[i].0].id,
            Source::Listed(lines) => &lines[i].id,
        }
    }

    /// Both files of pair `i`; an error names the file.
    pub fn read(&self, i: usize) -> Result<Files> {
        match &self.source {
            Source::Sets { a, b, matched } => Ok(Files { a: a.bytes(&a.list()[matched[i].0])?, b: b.bytes(&b.list()[matched[i].1])? }),
            Source::Listed(lines) => {
                let read = |p: &PathBuf| std::fs::read(p).map_err(|e| Error::corrupt(format!("{}: {e}", p.display())));
                Ok(Files { a: read(&lines[i].a)?, b: read(&lines[i].b)? })
            }
        }
    }

    /// Both pictures of pair `i`; an error names the file.
    pub fn decode(&self, i: usize, files: &Files) -> Result<(Rgb8, Rgb8)> {
        let place = |first: bool| match &self.source {
            Source::Sets { a, matched, .. } if first => a.place(&a.list()[matched[i].0]),
            Source::Sets { b, matched, .. } => b.place(&b.list()[matched[i].1]),
            Source::Listed(lines) => if first { &lines[i].a } else { &lines[i].b }.display().to_string(),
        };
        let a = decode(&files.a).map_err(|e| e.at(place(true)))?;
        let b = decode(&files.b).map_err(|e| e.at(place(false)))?;
        Ok((a, b))
    }
}
