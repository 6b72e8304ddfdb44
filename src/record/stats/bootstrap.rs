//! Bootstrap intervals (Efron 1987) as `scipy.stats.bootstrap` computes them, given the resampled indices.

use super::{normal_cdf, normal_quantile, quantile, sd};
use crate::random::Stream;

/// An interval; `low` may be -infinity and `high` +infinity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

impl Interval {
    pub fn contains(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }

    fn is_nan(&self) -> bool {
        self.low.is_nan() || self.high.is_nan()
    }
}

/// How the interval is read off the resampled estimates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Quantiles of the estimates.
    Percentile,
    /// Those quantiles mirrored at the estimate.
    Basic,
    /// Bias-corrected and accelerated quantiles.
    Bca,
}

/// Which ends are bounded: an interval, or an upper or lower bound alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Both,
    /// Upper bound; the low end is -infinity.
    Less,
    /// Lower bound; the high end is +infinity.
    Greater,
}

/// `count` resamples, with replacement, of `n` items; resample b is item b of the stream.
pub fn resamples(stream: &Stream, n: usize, count: usize) -> Vec<Vec<u32>> {
    (0..count as u64).map(|b| draw(stream, b, n).collect()).collect()
}

/// The items of resample `b`.
fn draw(stream: &Stream, b: u64, n: usize) -> impl Iterator<Item = u32> {
    use rand::Rng;
    let mut rng = stream.at(b);
    // The high half of a 64-bit product maps 64 random bits to 0..n; the bias is below n / 2^64.
    (0..n).map(move |_| ((u128::from(rng.next_u64()) * n as u128) >> 64) as u32)
}

/// The bootstrap distribution of a statistic of `n` items.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// The statistic of the sample itself.
    pub estimate: f64,
    /// The statistic of each resample, in the order of the resamples.
    pub values: Vec<f64>,
    /// Bias correction z0; NaN where the data are degenerate.
    pub bias: f64,
    /// Acceleration a; NaN where the data are degenerate.
    pub acceleration: f64,
    sorted: Vec<f64>,
}

impl Bootstrap {
    /// Applies `statistic`, a function of item indices below `n`, to the sample, to every resample and, for the
    /// acceleration, to the `n` samples that leave one item out.
    pub fn new(n: usize, resamples: &[Vec<u32>], statistic: impl Fn(&[u32]) -> f64) -> Self {
        let all: Vec<u32> = (0..n as u32).collect();
        let estimate = statistic(&all);
        let values: Vec<f64> = resamples.iter().map(|r| statistic(r)).collect();
        let left_out = (0..n).map(|skip| {
            let rest: Vec<u32> = all.iter().copied().filter(|&i| i as usize != skip).collect();
            statistic(&rest)
        });
        Self::from_parts(estimate, values, left_out)
    }

    /// From the estimate, the resampled estimates and those that leave one item out.
    fn from_parts(estimate: f64, values: Vec<f64>, left_out: impl Iterator<Item = f64>) -> Self {
        let below = values.iter().filter(|&&v| v < estimate).count();
        let not_above = values.iter().filter(|&&v| v <= estimate).count();
        let bias = normal_quantile((below + not_above) as f64 / (2 * values.len()) as f64);
        let left_out: Vec<f64> = left_out.collect();
        let centre = super::mean(&left_out);
        let count = left_out.len() as f64;
        let u = || left_out.iter().map(|v| (count - 1.0) * (centre - v));
        let third = u().map(|v| v.powi(3)).sum::<f64>() / count.powi(3);
        let second = u().map(|v| v * v).sum::<f64>() / (count * count);
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        Bootstrap { estimate, values, bias, acceleration: third / second.powf(1.5) / 6.0, sorted }
    }

    /// The bootstrap distribution of the mean of `data`.
    pub fn of_mean(data: &[f64], resamples: &[Vec<u32>]) -> Self {
        Self::new(data.len(), resamples, |items| items.iter().map(|&i| data[i as usize]).sum::<f64>() / items.len() as f64)
    }

    /// The same of the [`resamples`] of `stream`, drawn one after the other: memory and time grow with `data.len()` only,
    /// so it serves tens of thousands of images.
    pub fn of_mean_drawn(data: &[f64], stream: &Stream, count: usize) -> Self {
        let n = data.len() as f64;
        let values: Vec<f64> = (0..count as u64).map(|b| draw(stream, b, data.len()).map(|i| data[i as usize]).sum::<f64>() / n).collect();
        let sum: f64 = data.iter().sum();
        Self::from_parts(sum / n, values, data.iter().map(|v| (sum - v) / (n - 1.0)))
    }

    /// Standard deviation of the resampled estimates.
    pub fn standard_error(&self) -> f64 {
        sd(&self.values)
    }

    /// The interval at `level` (for example 0.95); NaN ends where the method is not defined.
    pub fn interval(&self, kind: Kind, level: f64, side: Side) -> Interval {
        let alpha = if side == Side::Both { (1.0 - level) / 2.0 } else { 1.0 - level };
        let (low_p, high_p) = match kind {
            Kind::Bca => self.bca_levels(alpha),
            _ => (alpha, 1.0 - alpha),
        };
        let mut ends = Interval { low: quantile(&self.sorted, low_p), high: quantile(&self.sorted, high_p) };
        if kind == Kind::Basic {
            ends = Interval { low: 2.0 * self.estimate - ends.high, high: 2.0 * self.estimate - ends.low };
        }
        match side {
            Side::Both => {}
            Side::Less => ends.low = f64::NEG_INFINITY,
            Side::Greater => ends.high = f64::INFINITY,
        }
        ends
    }

    /// The 95 % BCa interval, or the percentile interval where BCa is not defined (all differences equal).
    pub fn interval95(&self) -> Interval {
        let bca = self.interval(Kind::Bca, 0.95, Side::Both);
        if bca.is_nan() { self.interval(Kind::Percentile, 0.95, Side::Both) } else { bca }
    }

    /// The two probabilities at which BCa reads the quantiles, for the tail `alpha`.
    pub fn bca_levels(&self, alpha: f64) -> (f64, f64) {
        let level = |z: f64| {
            let shifted = self.bias + z;
            normal_cdf(self.bias + shifted / (1.0 - self.acceleration * shifted))
        };
        let z = normal_quantile(alpha);
        (level(z), level(-z))
    }
}

/// Means of a two-way table `scores[seed][image]` when both seeds and images are drawn anew: resample b takes the rows
/// `seeds[b]` and the columns `images[b]`.
pub fn two_level(scores: &[Vec<f64>], seeds: &[Vec<u32>], images: &[Vec<u32>]) -> Vec<f64> {
    seeds
        .iter()
        .zip(images)
        .map(|(rows, columns)| {
            let sum: f64 = rows.iter().map(|&s| columns.iter().map(|&i| scores[s as usize][i as usize]).sum::<f64>()).sum();
            sum / (rows.len() * columns.len()) as f64
        })
        .collect()
}
