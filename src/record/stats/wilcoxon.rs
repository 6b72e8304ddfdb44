//! Wilcoxon's signed-rank test of paired differences, with the conventions of `scipy.stats.wilcoxon` (1.17).
//!
//! A second opinion beside the bootstrap: it weighs ranks, not sizes, so that a few extreme images can't decide. It is
//! reported, never gated on.

use super::normal_cdf;

/// What becomes of differences that are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeros {
    /// Dropped before ranking (Wilcoxon).
    Drop,
    /// Ranked, then dropped (Pratt).
    Pratt,
    /// Ranked, and their ranks shared between both signs.
    Split,
}

/// What is tested against "no difference".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alternative {
    TwoSided,
    Greater,
    Less,
}

/// Where the p-value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Exact up to 50 differences without ties or zeros; with them every sign pattern up to 13 differences; else asymptotic.
    Auto,
    /// The distribution without ties.
    Exact,
    /// The normal approximation with correction for ties; `corrected` adds the continuity correction.
    Asymptotic { corrected: bool },
}

/// The statistic (smaller rank sum if two-sided, else the positive rank sum) and the p-value (NaN if all differences are zero).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    pub statistic: f64,
    pub p: f64,
}

/// Tests the paired `differences`.
pub fn wilcoxon(differences: &[f64], zeros: Zeros, alternative: Alternative, mode: Mode) -> Outcome {
    let ranks = Ranks::of(differences, zeros);
    let (plus, minus) = ranks.sums(differences.iter().map(|&d| d > 0.0));
    let statistic = if alternative == Alternative::TwoSided { plus.min(minus) } else { plus };
    let n = differences.len();
    let has_zeros = differences.contains(&0.0);
    let p = match mode {
        Mode::Asymptotic { corrected } => ranks.asymptotic(plus, alternative, corrected),
        Mode::Exact => exact(ranks.count, plus, alternative),
        Mode::Auto if n > 50 => ranks.asymptotic(plus, alternative, false),
        Mode::Auto if !ranks.tied && !has_zeros => exact(ranks.count, plus, alternative),
        Mode::Auto if n <= 13 => ranks.every_sign_pattern(plus, alternative),
        Mode::Auto => ranks.asymptotic(plus, alternative, false),
    };
    Outcome { statistic, p }
}

struct Ranks {
    /// Rank of each difference; 0 where it does not count.
    rank: Vec<f64>,
    zero: Vec<bool>,
    /// What zeros add to either rank sum.
    shared: f64,
    count: usize,
    tied: bool,
    mean: f64,
    variance: f64,
}

impl Ranks {
    fn of(differences: &[f64], zeros: Zeros) -> Self {
        let zero: Vec<bool> = differences.iter().map(|&d| d == 0.0).collect();
        let mut order: Vec<usize> = (0..differences.len()).filter(|&i| zeros != Zeros::Drop || !zero[i]).collect();
        order.sort_by(|&i, &j| differences[i].abs().total_cmp(&differences[j].abs()));
        let count = order.len();
        let mut rank = vec![0.0; differences.len()];
        let (mut tied, mut ties) = (false, 0.0);
        for group in order.chunk_by(|&i, &j| differences[i].abs() == differences[j].abs()) {
            let first = order.partition_point(|&i| differences[i].abs() < differences[group[0]].abs());
            for &i in group {
                rank[i] = first as f64 + (group.len() + 1) as f64 / 2.0;
            }
            tied |= group.len() > 1;
            if zeros != Zeros::Pratt || !zero[group[0]] {
                ties += (group.len() as f64).powi(3) - group.len() as f64;
            }
        }
        let zero_sum: f64 = rank.iter().zip(&zero).filter(|(_, z)| **z).map(|(r, _)| r).sum();
        let triangle = |m: f64| m * (m + 1.0);
        let (n, dropped) = (count as f64, if zeros == Zeros::Pratt { zero.iter().filter(|z| **z).count() as f64 } else { 0.0 });
        let squares = triangle(n) * (2.0 * n + 1.0) - triangle(dropped) * (2.0 * dropped + 1.0) - ties / 2.0;
        Ranks {
            rank,
            zero,
            shared: if zeros == Zeros::Split { zero_sum / 2.0 } else { 0.0 },
            count,
            tied,
            mean: (triangle(n) - triangle(dropped)) / 4.0,
            variance: squares / 24.0,
        }
    }

    /// Rank sums of the positive and the negative differences.
    fn sums(&self, positive: impl Iterator<Item = bool>) -> (f64, f64) {
        let (mut plus, mut minus) = (self.shared, self.shared);
        for ((rank, zero), positive) in self.rank.iter().zip(&self.zero).zip(positive) {
            match (zero, positive) {
                (true, _) => {}
                (false, true) => plus += rank,
                (false, false) => minus += rank,
            }
        }
        (plus, minus)
    }

    fn asymptotic(&self, plus: f64, alternative: Alternative, corrected: bool) -> f64 {
        let se = self.variance.sqrt();
        let mut z = (plus - self.mean) / se;
        if corrected {
            let sign = match alternative {
                Alternative::Greater => 1.0,
                Alternative::Less => -1.0,
                Alternative::TwoSided if z == 0.0 => 0.0,
                Alternative::TwoSided => z.signum(),
            };
            z -= sign * 0.5 / se;
        }
        match alternative {
            Alternative::TwoSided => 2.0 * normal_cdf(-z.abs()),
            Alternative::Greater => normal_cdf(-z),
            Alternative::Less => normal_cdf(z),
        }
    }

    /// The share of all sign patterns whose positive rank sum is at least as extreme; at most 2^13 patterns.
    fn every_sign_pattern(&self, plus: f64, alternative: Alternative) -> f64 {
        let patterns = 1u32 << self.rank.len();
        let slack = plus.abs() * f64::EPSILON * 100.0;
        let (mut less, mut greater) = (0u32, 0u32);
        for pattern in 0..patterns {
            let (sum, _) = self.sums((0..self.rank.len()).map(|i| pattern >> i & 1 == 1));
            less += u32::from(sum <= plus + slack);
            greater += u32::from(sum >= plus - slack);
        }
        let (less, greater) = (f64::from(less) / f64::from(patterns), f64::from(greater) / f64::from(patterns));
        match alternative {
            Alternative::TwoSided => (2.0 * less.min(greater)).min(1.0),
            Alternative::Greater => greater,
            Alternative::Less => less,
        }
    }
}

fn exact(n: usize, plus: f64, alternative: Alternative) -> f64 {
    let cdf = exact_cdf(n);
    let at_most = |k: f64| if k < 0.0 { 0.0 } else { cdf[(k as usize).min(cdf.len() - 1)] };
    let less = at_most(plus.floor());
    // By symmetry the chance of at least k is that of at most the largest sum minus k.
    let greater = at_most((cdf.len() - 1) as f64 - plus.ceil());
    match alternative {
        Alternative::TwoSided => (2.0 * less.min(greater)).min(1.0),
        Alternative::Greater => greater,
        Alternative::Less => less,
    }
}

/// Chance that the positive rank sum of `n` untied differences is at most k, for k = 0 ..= n(n+1)/2.
pub fn exact_cdf(n: usize) -> Vec<f64> {
    let top = n * (n + 1) / 2;
    let mut chance = vec![0.0; top + 1];
    chance[0] = 1.0;
    for rank in 1..=n {
        for k in (0..=rank * (rank + 1) / 2).rev() {
            let with = if k >= rank { chance[k - rank] } else { 0.0 };
            chance[k] = 0.5 * (chance[k] + with);
        }
    }
    chance
        .iter()
        .scan(0.0, |sum, c| {
            *sum += c;
            Some(*sum)
        })
        .collect()
}
