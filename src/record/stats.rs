//! Statistics of scores: the unit is the image, paired by id; seeds are the replicates of training.
//!
//! Definitions are those of scipy and numpy, so that anyone can check a table with them: quantiles interpolate linearly,
//! standard deviations divide by n - 1, bootstrap intervals follow `scipy.stats.bootstrap`, the signed-rank test follows
//! `scipy.stats.wilcoxon`. Resamples come from a named random stream, so that an interval is the same on every machine.

mod bootstrap;
mod seeds;
mod wilcoxon;

pub use bootstrap::{Bootstrap, Interval, Kind, Side, resamples, two_level};
pub use seeds::{Components, Spread, components};
pub use wilcoxon::{Alternative, Mode, Outcome, Zeros, exact_cdf, wilcoxon};

use statrs::distribution::{Continuous, ContinuousCDF, Normal, StudentsT};

/// Arithmetic mean; NaN for no values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Standard deviation with divisor n - 1; NaN for fewer than two values.
pub fn sd(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return f64::NAN;
    }
    let m = mean(values);
    (values.iter().map(|v| (v - m).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt()
}

/// The middle value; NaN for no values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

/// Quantile of ascending values with linear interpolation (numpy's default, type 7); `p` in [0, 1], NaN otherwise.
pub fn quantile(sorted: &[f64], p: f64) -> f64 {
    if sorted.is_empty() || !(0.0..=1.0).contains(&p) {
        return f64::NAN;
    }
    let at = p * (sorted.len() - 1) as f64;
    let low = at.floor() as usize;
    let high = (low + 1).min(sorted.len() - 1);
    let t = at - low as f64;
    let step = sorted[high] - sorted[low];
    if t >= 0.5 { sorted[high] - step * (1.0 - t) } else { sorted[low] + step * t }
}

/// Holm's step-down adjustment: the p-values, each raised so that rejecting those below a level keeps the chance of any
/// false rejection below that level. Order is kept.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&i, &j| p[i].total_cmp(&p[j]));
    let mut adjusted = vec![0.0; p.len()];
    let mut running: f64 = 0.0;
    for (rank, &i) in order.iter().enumerate() {
        running = running.max((p[i] * (p.len() - rank) as f64).min(1.0));
        adjusted[i] = running;
    }
    adjusted
}

/// Student's paired test of differences: the statistic, its two-sided p-value and the 95 % interval of the mean.
pub fn paired_t(differences: &[f64]) -> (f64, f64, Interval) {
    let (m, n) = (mean(differences), differences.len());
    let se = sd(differences) / (n as f64).sqrt();
    let t = m / se;
    let Ok(law) = StudentsT::new(0.0, 1.0, n as f64 - 1.0) else { return (f64::NAN, f64::NAN, Interval { low: f64::NAN, high: f64::NAN }) };
    let p = if t.is_nan() { f64::NAN } else { 2.0 * law.cdf(-t.abs()) };
    let half = t_quantile(0.975, n as f64 - 1.0) * se;
    (t, p, Interval { low: m - half, high: m + half })
}

/// Welch's 95 % interval of the difference of the means of two groups, mean of `a` minus mean of `b`; not a number for fewer than two values.
pub fn welch(a: &[f64], b: &[f64]) -> Interval {
    let share = |v: &[f64]| (sd(v).powi(2) / v.len() as f64, v.len() as f64 - 1.0);
    let ((va, da), (vb, db)) = (share(a), share(b));
    let freedom = (va + vb).powi(2) / (va * va / da + vb * vb / db);
    let (difference, half) = (mean(a) - mean(b), t_quantile(0.975, freedom) * (va + vb).sqrt());
    Interval { low: difference - half, high: difference + half }
}

/// Normal distribution function.
pub fn normal_cdf(x: f64) -> f64 {
    // statrs' own is right to 2e-11 only.
    0.5 * libm::erfc(-x / std::f64::consts::SQRT_2)
}

/// Normal quantile; infinite at 0 and 1, NaN outside [0, 1].
pub fn normal_quantile(p: f64) -> f64 {
    if p == 0.0 || p == 1.0 {
        return if p == 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    if !(0.0..1.0).contains(&p) {
        return f64::NAN;
    }
    let x = Normal::standard().inverse_cdf(p);
    // One Newton step against the exact distribution function.
    x - (normal_cdf(x) - p) / Normal::standard().pdf(x)
}

/// Quantile of Student's t with `df` degrees of freedom; NaN where it does not exist.
pub fn t_quantile(p: f64, df: f64) -> f64 {
    match StudentsT::new(0.0, 1.0, df) {
        Ok(law) if (0.0..=1.0).contains(&p) => law.inverse_cdf(p),
        _ => f64::NAN,
    }
}

/// Quantile of chi-squared with `df` degrees of freedom; NaN where it does not exist.
pub fn chi_squared_quantile(p: f64, df: f64) -> f64 {
    match statrs::distribution::ChiSquared::new(df) {
        Ok(law) if (0.0..=1.0).contains(&p) => law.inverse_cdf(p),
        _ => f64::NAN,
    }
}
