//! How much a score moves when only the seed of the training changes.

use super::{chi_squared_quantile, mean, sd, t_quantile};

/// The spread of the means of several trainings that differ in the seed alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Standard deviation of one training's mean.
    pub sd: f64,
    /// Degrees of freedom of `sd`: seeds - 1 for one arm, summed over arms when their variances are pooled.
    pub df: f64,
    /// Number of trainings whose mean a new training is compared with.
    pub seeds: usize,
}

impl Spread {
    /// From the means of one arm, one per seed.
    pub fn of(means: &[f64]) -> Self {
        Spread { sd: sd(means), df: means.len() as f64 - 1.0, seeds: means.len() }
    }

    /// From several arms with the same number of seeds each: their variances, averaged. Three seeds of one arm know their
    /// own variance badly; five arms of three seeds know the common one well.
    pub fn pooled(arms: &[Vec<f64>]) -> Self {
        let df: f64 = arms.iter().map(|m| m.len() as f64 - 1.0).sum();
        let sum: f64 = arms.iter().map(|m| sd(m).powi(2) * (m.len() as f64 - 1.0)).sum();
        Spread { sd: (sum / df).sqrt(), df, seeds: arms.iter().map(Vec::len).min().unwrap_or(0) }
    }

    /// Half width of the 95 % prediction interval for the mean of `new` further trainings.
    pub fn prediction95(&self, new: usize) -> f64 {
        t_quantile(0.975, self.df) * self.sd * (1.0 / new as f64 + 1.0 / self.seeds as f64).sqrt()
    }

    /// One-sided 99 % prediction margin for the mean of `new` further trainings: a larger loss has another cause than the seed.
    pub fn margin99(&self, new: usize) -> f64 {
        t_quantile(0.99, self.df) * self.sd * (1.0 / new as f64 + 1.0 / self.seeds as f64).sqrt()
    }

    /// Upper 95 % confidence bound of the standard deviation.
    pub fn sd_upper95(&self) -> f64 {
        self.sd * (self.df / chi_squared_quantile(0.05, self.df)).sqrt()
    }
}

/// Two-way variance components of a table seeds x images without repetition (random effects, method of moments).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Components {
    pub ms_seed: f64,
    pub ms_image: f64,
    pub ms_residual: f64,
    /// Variance between trainings; 0 where the estimate is negative.
    pub seed: f64,
    /// Variance between images; 0 where the estimate is negative.
    pub image: f64,
    /// What is left: images that one training does better than another, and noise.
    pub residual: f64,
}

/// Components of `scores[seed][image]`; `None` for fewer than two seeds or images or a ragged table.
pub fn components(scores: &[Vec<f64>]) -> Option<Components> {
    let (s, n) = (scores.len(), scores.first()?.len());
    if s < 2 || n < 2 || scores.iter().any(|row| row.len() != n) {
        return None;
    }
    let rows: Vec<f64> = scores.iter().map(|row| mean(row)).collect();
    let columns: Vec<f64> = (0..n).map(|i| scores.iter().map(|row| row[i]).sum::<f64>() / s as f64).collect();
    let all = mean(&rows);
    let ms_seed = n as f64 * rows.iter().map(|m| (m - all).powi(2)).sum::<f64>() / (s - 1) as f64;
    let ms_image = s as f64 * columns.iter().map(|m| (m - all).powi(2)).sum::<f64>() / (n - 1) as f64;
    let left: f64 =
        scores.iter().zip(&rows).flat_map(|(row, r)| row.iter().zip(&columns).map(move |(v, c)| (v - r - c + all).powi(2))).sum();
    let ms_residual = left / ((s - 1) * (n - 1)) as f64;
    Some(Components {
        ms_seed,
        ms_image,
        ms_residual,
        seed: ((ms_seed - ms_residual) / n as f64).max(0.0),
        image: ((ms_image - ms_residual) / s as f64).max(0.0),
        residual: ms_residual,
    })
}
