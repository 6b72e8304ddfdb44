//! The tables of a record: a set of images, compared in one way, by all arms of which every image is scored.
//!
//! A study may compare its images in several ways (protocols), and an arm may be too slow for all of them. An arm that has only the first
//! images is shown in a table of those, beside the others on the same images, and never in a table of more.

use std::collections::BTreeMap;

use super::ImageInfo;
use crate::spec::experiment::Resolved;

/// The sets of a study.
pub struct Views {
    protocols: Vec<crate::stages::Protocol>,
    /// Arm to number of images, for the arms that are limited.
    limits: BTreeMap<String, usize>,
    drawn: Vec<ImageInfo>,
}

/// The sets in which one arm stands.
pub struct Mine<'a> {
    views: &'a Views,
    limit: Option<usize>,
}

/// "real (first 24)", "real (paper-table3, first 24)".
fn first(set: &str, count: usize) -> String {
    match set.strip_suffix(')') {
        Some(open) => format!("{open}, first {count})"),
        None => format!("{set} (first {count})"),
    }
}

impl Views {
    pub fn of(resolved: &Resolved) -> Self {
        let limits = resolved.arms.iter().filter_map(|a| Some((a.name.clone(), a.images?))).collect();
        Views { protocols: resolved.protocols.clone(), limits, drawn: Vec::new() }
    }

    /// Takes the images of a sample.
    pub fn images(&mut self, drawn: Vec<ImageInfo>) {
        self.drawn.extend(drawn);
    }

    fn counts(&self) -> Vec<usize> {
        let mut counts: Vec<usize> = self.limits.values().copied().collect();
        counts.sort_unstable();
        counts.dedup();
        counts
    }

    /// The place of an image in its set.
    fn place(&self, set: &str, image: &str) -> usize {
        self.drawn.iter().filter(|i| i.set == set).position(|i| i.id == image).unwrap_or(usize::MAX)
    }

    /// The images of every table.
    pub fn list(&self) -> Vec<ImageInfo> {
        let mut all = Vec::new();
        let mut sets: Vec<&str> = self.drawn.iter().map(|i| i.set.as_str()).collect();
        sets.dedup();
        for limit in std::iter::once(None).chain(self.counts().into_iter().map(Some)) {
            for name in self.protocol_names() {
                for set in &sets {
                    let of = self.drawn.iter().filter(|i| i.set == *set);
                    for info in of.take(limit.unwrap_or(usize::MAX)) {
                        let compared = name(set);
                        let set = limit.map_or(compared.clone(), |n| first(&compared, n));
                        all.push(ImageInfo { set, ..info.clone() });
                    }
                }
            }
        }
        all
    }

    fn protocol_names(&self) -> Vec<Box<dyn Fn(&str) -> String + '_>> {
        match self.protocols.is_empty() {
            true => vec![Box::new(str::to_string)],
            false => self.protocols.iter().map(|p| Box::new(move |set: &str| p.set(set)) as Box<dyn Fn(&str) -> String>).collect(),
        }
    }

    /// For the arm of this name; None for a row that belongs to no arm.
    pub fn sets_of(&self, arm: Option<&str>) -> Mine<'_> {
        Mine { views: self, limit: arm.and_then(|a| self.limits.get(a)).copied() }
    }
}

impl Mine<'_> {
    /// The tables that a score of this compared set ("real (paper-table3)") and image belongs to.
    pub fn of(&self, set: &str, image: &str) -> Vec<String> {
        let counts = self.views.counts();
        if counts.is_empty() {
            return vec![set.to_string()];
        }
        let place = self.views.place(set.split(" (").next().unwrap_or(set), image);
        let whole = self.limit.is_none().then(|| set.to_string());
        let parts = counts.into_iter().filter(|&n| place < n && self.limit.is_none_or(|limit| n <= limit)).map(|n| first(set, n));
        whole.into_iter().chain(parts).collect()
    }
}
