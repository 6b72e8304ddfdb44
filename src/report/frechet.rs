//! The table of Fréchet distances: generators and reconstructions against the pictures that the generator learned from.

use serde::Serialize;

use super::trained;
use crate::record::frechet::{Between, Frechet};
use crate::record::{Record, stats};

/// Distances of the arms that share features and number of images.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Distances {
    /// The protocol: features and their size.
    pub features: String,
    /// What the numbers are and are not.
    pub about: Vec<String>,
    pub rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub label: String,
    pub set: String,
    /// Pictures, or empty where nobody knows what the generator learned from.
    pub data: String,
    /// In the order of [`COLUMNS`]; empty where there is none.
    pub cells: Vec<String>,
}

const COLUMNS: [Between; 4] = [Between::Floor, Between::GeneratedSource, Between::ReconstructedSource, Between::ReconstructedGenerated];

/// One table for each kind of features.
pub(super) fn distances(record: &Record) -> Vec<Distances> {
    let mut tables: Vec<(&Frechet, Vec<Row>)> = vec![];
    for arm in trained(record) {
        let mine: Vec<&Frechet> = record.frechet.iter().filter(|f| f.arm == arm.name).collect();
        let Some(first) = mine.first() else { continue };
        let cells = COLUMNS.map(|between| cell(&mine.iter().filter(|f| f.between == between).copied().collect::<Vec<_>>()));
        let row = Row { label: arm.label.clone(), set: first.set.clone(), data: first.data.clone(), cells: cells.to_vec() };
        match tables.iter_mut().find(|(f, _)| (&f.features, f.images) == (&first.features, first.images)) {
            Some((_, rows)) => rows.push(row),
            None => tables.push((first, vec![row])),
        }
    }
    let table = |(first, rows): (&Frechet, Vec<Row>)| Distances { features: first.features.clone(), about: about(first), rows };
    tables.into_iter().map(table).collect()
}

/// "5.31 ± 0.12", and the spread over the seeds where it has any.
fn cell(found: &[&Frechet]) -> String {
    if found.is_empty() {
        return String::new();
    }
    let values: Vec<f64> = found.iter().map(|f| f.value).collect();
    let errors: Vec<f64> = found.iter().filter_map(|f| f.error).collect();
    // Features have no unit and no common scale.
    let mean = stats::mean(&values);
    let shown = |value: f64| super::number(value, if mean.abs() < 10.0 { 3 } else { 1 });
    let mut text = shown(mean);
    if !errors.is_empty() {
        text += &format!(" ± {}", shown(stats::mean(&errors)));
    }
    let sd = stats::sd(&values);
    if sd > 0.0 {
        text += &format!(" (seeds ± {})", shown(sd));
    }
    text
}

fn about(f: &Frechet) -> Vec<String> {
    let mut about = vec![format!(
        "{} images on each side, {} features of {}. The generator's images are truncated as the evaluation's are; the pictures are held out. The floor \
         is the distance of as many pictures to as many others: what a perfect generator would have.",
        f.images,
        f.width,
        f.features.split('@').next().unwrap_or_default()
    )];
    if f.images <= f.width {
        about.push(format!(
            "{} images are no more than the {} features: the covariances are singular, and the values say little beyond their order.",
            f.images, f.width
        ));
    } else if f.images < 20 * f.width {
        about.push(format!(
            "{} images are few for {} features: every distance is too large, by about as much as the floor. Compare at equal numbers only.",
            f.images, f.width
        ));
    }
    about.push(
        "± is the standard error of a jackknife over tenths of the images. It knows nothing of that bias, which is why no bootstrap interval stands here: \
         a bootstrap would add the bias a second time."
            .into(),
    );
    about
}
