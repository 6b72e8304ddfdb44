//! From scores per image to the numbers of a table: which scores belong together, and what they say with what certainty.

use super::Record;
use super::stats::{self, Bootstrap, Components, Interval, resamples};
use crate::random::Stream;
use crate::{Error, Result};

/// Resamples behind every interval.
pub const RESAMPLES: usize = 2000;

/// The scores of one arm, set and metric: one row per seed, one column per image, in the record's order of images.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    pub seeds: Vec<u64>,
    pub values: Vec<Vec<f64>>,
}

impl Grid {
    /// `None` if the record has no such scores at all.
    ///
    /// Errors (corrupt): an image without a score or with two, or a score of an image that the record does not list.
    pub fn of(record: &Record, arm: &str, set: &str, metric: &str) -> Result<Option<Grid>> {
        let place: std::collections::HashMap<&str, usize> =
            record.images.iter().filter(|i| i.set == set).enumerate().map(|(n, i)| (i.id.as_str(), n)).collect();
        let mut grid = Grid { seeds: vec![], values: vec![] };
        let bad = |s: &super::Score, what: &str| {
            Err(Error::corrupt(format!(
                "record {}.{}: arm \"{}\", seed {}, set \"{}\", {}, image \"{}\": {what}",
                record.study, record.profile, s.arm, s.seed, s.set, s.metric, s.image
            )))
        };
        for s in record.scores.iter().filter(|s| s.arm == arm && s.set == set && s.metric == metric) {
            let Some(&column) = place.get(s.image.as_str()) else { return bad(s, "the image is not in the record's list") };
            let row = grid.seeds.iter().position(|&seed| seed == s.seed).unwrap_or_else(|| {
                grid.seeds.push(s.seed);
                grid.values.push(vec![f64::NAN; place.len()]);
                grid.seeds.len() - 1
            });
            if !grid.values[row][column].is_nan() {
                return bad(s, "scored twice");
            }
            if s.value.is_nan() {
                return bad(s, "the score is not a number");
            }
            grid.values[row][column] = s.value;
        }
        for (row, seed) in grid.values.iter().zip(&grid.seeds) {
            let missing = row.iter().filter(|v| v.is_nan()).count();
            if missing > 0 {
                return Err(Error::corrupt(format!(
                    "record {}.{}: arm \"{arm}\", seed {seed}, set \"{set}\": {missing} of {} images have no {metric}",
                    record.study,
                    record.profile,
                    row.len()
                )));
            }
        }
        Ok((!grid.seeds.is_empty()).then_some(grid))
    }

    /// `self - other`, image by image and seed by seed; a row that does not depend on the seed (a reference) is paired with
    /// every seed. `None` if the two share neither seeds nor images. Two infinite scores differ by 0.
    pub fn minus(&self, other: &Grid) -> Option<Grid> {
        let row = |g: &Grid, seed: u64| -> Option<usize> {
            g.seeds.iter().position(|&s| s == seed).or(if g.seeds.len() == 1 { Some(0) } else { None })
        };
        let seeds = if self.seeds.len() >= other.seeds.len() { &self.seeds } else { &other.seeds };
        let mut out = Grid { seeds: vec![], values: vec![] };
        for &seed in seeds {
            let (Some(a), Some(b)) = (row(self, seed), row(other, seed)) else { continue };
            if self.values[a].len() != other.values[b].len() {
                return None;
            }
            out.seeds.push(seed);
            out.values.push(self.values[a].iter().zip(&other.values[b]).map(|(x, y)| if x == y { 0.0 } else { x - y }).collect());
        }
        (!out.seeds.is_empty()).then_some(out)
    }

    /// The mean over the seeds of each image.
    pub fn by_image(&self) -> Vec<f64> {
        let n = self.values.first().map_or(0, Vec::len);
        (0..n).map(|i| self.values.iter().map(|row| row[i]).sum::<f64>() / self.values.len() as f64).collect()
    }

    /// The mean over the images of each seed.
    pub fn by_seed(&self) -> Vec<f64> {
        self.values.iter().map(|row| stats::mean(row)).collect()
    }

    pub fn summary(&self) -> Summary {
        let by_image = self.by_image();
        let finite = self.values.iter().flatten().all(|v| v.is_finite());
        let n = by_image.len();
        let interval = (finite && n > 1).then(|| {
            if self.values.len() == 1 {
                Bootstrap::of_mean(&by_image, &image_resamples(n)).interval95()
            } else {
                let seeds = resamples(&Stream::new(0, "bootstrap/seeds"), self.values.len(), RESAMPLES);
                let mut means = stats::two_level(&self.values, &seeds, &image_resamples(n));
                means.sort_by(f64::total_cmp);
                Interval { low: stats::quantile(&means, 0.025), high: stats::quantile(&means, 0.975) }
            }
        });
        Summary {
            mean: stats::mean(&by_image),
            sd: (finite && n > 1).then(|| stats::sd(&by_image)),
            interval,
            images: n,
            seeds: self.seeds.len(),
            components: if finite { stats::components(&self.values) } else { None },
        }
    }
}

/// The resamples of `n` images: the same for every arm and metric, so that differences between arms stay paired.
pub fn image_resamples(n: usize) -> Vec<Vec<u32>> {
    resamples(&Stream::new(0, "bootstrap/images"), n, RESAMPLES)
}

/// What a grid says.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Infinite if one score is (PSNR of identical images).
    pub mean: f64,
    /// Standard deviation over images (of the means over seeds); `None` for a single image or an infinite score.
    pub sd: Option<f64>,
    /// 95 % interval of the mean. One seed: BCa over images, which speaks of that training only. Several: percentile of the
    /// two-level bootstrap, seeds and images drawn anew.
    pub interval: Option<Interval>,
    pub images: usize,
    pub seeds: usize,
    /// Variance between seeds and between images; two seeds or more.
    pub components: Option<Components>,
}
