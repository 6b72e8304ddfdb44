//! Linear support vector machines, in f64 and without a random number: the optimum, which is unique in the weights.
//!
//! - hinge: min 1/2 |w|^2 + C sum max(0, 1 - y (w.x + b)), the bias free: scikit-learn's `SVC(kernel="linear")`, which InterFaceGAN uses. By
//!   sequential minimal optimisation of the dual with second-order choice of the pair (Fan, Chen and Lin 2005, as in LIBSVM).
//! - squared hinge: min 1/2 (|w|^2 + b^2) + C sum max(0, 1 - y (w.x + b))^2, the bias regularised: scikit-learn's `LinearSVC(dual=False)`. By
//!   Newton steps with a line search.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::dot;
use crate::zoo::linear_algebra::Symmetric;
use crate::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    Hinge,
    SquaredHinge,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Svm {
    pub loss: Loss,
    /// The price C of a violated margin.
    pub c: f64,
    /// Where to stop: the largest violation of the optimality conditions (hinge), or the length of the gradient.
    pub tolerance: f64,
}

/// A linear rule: positive where weights . x + bias > 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    pub weights: Vec<f64>,
    pub bias: f64,
    /// The minimum that was reached.
    pub objective: f64,
}

impl Rule {
    pub fn decide(&self, x: &[f64]) -> f64 {
        dot(&self.weights, x) + self.bias
    }
}

/// The rule of these samples.
///
/// Errors (usage): no samples, one class alone, numbers that are not finite; (internal): no convergence.
pub fn fit(rows: &[&[f64]], labels: &[bool], with: &Svm) -> Result<Rule> {
    if labels.iter().all(|l| *l) || labels.iter().all(|l| !*l) {
        return Err(Error::usage("a boundary needs samples of both classes"));
    }
    if rows.iter().any(|r| r.iter().any(|v| !v.is_finite())) || !(with.c > 0.0 && with.c.is_finite()) {
        return Err(Error::usage("a boundary needs finite latents and a positive C"));
    }
    let signs: Vec<f64> = labels.iter().map(|l| if *l { 1.0 } else { -1.0 }).collect();
    match with.loss {
        Loss::Hinge => hinge(rows, &signs, with),
        Loss::SquaredHinge => squared_hinge(rows, &signs, with),
    }
}

/// The rows of the kernel matrix that are kept, in bytes at most.
const KEPT: usize = 256 << 20;

/// Steps before giving up; LIBSVM's own limit is of this order.
const MOST_STEPS: usize = 10_000_000;

/// Curvature that stands in for one that is not positive.
const TINY: f64 = 1e-12;

fn hinge(rows: &[&[f64]], y: &[f64], with: &Svm) -> Result<Rule> {
    let (n, c) = (rows.len(), with.c);
    let diagonal: Vec<f64> = rows.iter().map(|r| dot(r, r)).collect();
    let mut kept: Vec<Option<Vec<f64>>> = vec![None; n];
    let mut room = KEPT / (8 * n);
    let mut kernel_row = |i: usize, kept: &mut Vec<Option<Vec<f64>>>| -> Vec<f64> {
        if let Some(row) = &kept[i] {
            return row.clone();
        }
        let row: Vec<f64> = rows.par_iter().with_min_len(256).map(|r| dot(rows[i], r)).collect();
        if room > 0 {
            room -= 1;
            kept[i] = Some(row.clone());
        }
        row
    };
    let mut alpha = vec![0.0; n];
    // The gradient of 1/2 a'Qa - e'a.
    let mut gradient = vec![-1.0; n];
    for _ in 0..MOST_STEPS {
        let up = |t: usize| if y[t] > 0.0 { alpha[t] < c } else { alpha[t] > 0.0 };
        let low = |t: usize| if y[t] > 0.0 { alpha[t] > 0.0 } else { alpha[t] < c };
        let first = (0..n).filter(|&t| up(t)).max_by(|&a, &b| (-y[a] * gradient[a]).total_cmp(&(-y[b] * gradient[b])));
        let Some(i) = first else { break };
        let best = -y[i] * gradient[i];
        let row_i = kernel_row(i, &mut kept);
        let (mut j, mut gain, mut least) = (None, 0.0, f64::INFINITY);
        for t in (0..n).filter(|&t| low(t)) {
            let value = -y[t] * gradient[t];
            least = least.min(value);
            let b = best - value;
            if b > 0.0 {
                let a = (diagonal[i] + diagonal[t] - 2.0 * row_i[t]).max(TINY);
                if b * b / a > gain {
                    (j, gain) = (Some(t), b * b / a);
                }
            }
        }
        let Some(j) = j.filter(|_| best - least >= with.tolerance) else {
            return Ok(rule_of(rows, y, &alpha, &gradient, c));
        };
        let row_j = kernel_row(j, &mut kept);
        let (old_i, old_j) = (alpha[i], alpha[j]);
        let curvature = (diagonal[i] + diagonal[j] - 2.0 * row_i[j]).max(TINY);
        // Along the constraint sum y a = 0: y_i a_i grows by as much as y_j a_j falls, and both stay in [0, C].
        let room_of = |k: usize, rises: bool| if rises { c - alpha[k] } else { alpha[k] };
        let step = (best + y[j] * gradient[j]) / curvature;
        let step = step.min(room_of(i, y[i] > 0.0)).min(room_of(j, y[j] < 0.0));
        // A bound that rounding misses by a hair would be tried again for ever.
        let settled = |a: f64| {
            if a < 1e-12 * c {
                0.0
            } else if a > c - 1e-12 * c {
                c
            } else {
                a
            }
        };
        alpha[i] = settled(old_i + y[i] * step);
        alpha[j] = settled(old_j - y[j] * step);
        let (di, dj) = ((alpha[i] - old_i) * y[i], (alpha[j] - old_j) * y[j]);
        for t in 0..n {
            gradient[t] += y[t] * (di * row_i[t] + dj * row_j[t]);
        }
    }
    Err(Error::internal(format!("the SVM did not converge in {MOST_STEPS} steps")))
}

fn rule_of(rows: &[&[f64]], y: &[f64], alpha: &[f64], gradient: &[f64], c: f64) -> Rule {
    let mut weights = vec![0.0; rows[0].len()];
    for ((row, y), a) in rows.iter().zip(y).zip(alpha) {
        weights.iter_mut().zip(*row).for_each(|(w, x)| *w += a * y * x);
    }
    // The bias of the free support vectors, which lie on the margin; without any, the middle of what is allowed.
    let (mut sum, mut free, mut high, mut low) = (0.0, 0, f64::INFINITY, f64::NEG_INFINITY);
    for t in 0..y.len() {
        let value = y[t] * gradient[t];
        if alpha[t] > 0.0 && alpha[t] < c {
            sum += value;
            free += 1;
        } else if (alpha[t] <= 0.0) == (y[t] > 0.0) {
            high = high.min(value);
        } else {
            low = low.max(value);
        }
    }
    let bias = if free > 0 { -sum / f64::from(free) } else { -(high + low) / 2.0 };
    let losses = rows.iter().zip(y).map(|(x, y)| (1.0 - y * (dot(&weights, x) + bias)).max(0.0));
    let objective = dot(&weights, &weights) / 2.0 + c * losses.sum::<f64>();
    Rule { weights, bias, objective }
}

/// Newton steps before giving up: the function is piecewise quadratic and needs few.
const MOST_NEWTON: usize = 200;

fn squared_hinge(rows: &[&[f64]], y: &[f64], with: &Svm) -> Result<Rule> {
    let inputs = rows[0].len();
    let extended: Vec<Vec<f64>> = rows.iter().map(|r| [r, &[1.0][..]].concat()).collect();
    let value = |v: &[f64]| {
        let loss: f64 = extended.iter().zip(y).map(|(x, y)| (1.0 - y * dot(v, x)).max(0.0).powi(2)).sum();
        dot(v, v) / 2.0 + with.c * loss
    };
    let mut v = vec![0.0; inputs + 1];
    let mut now = value(&v);
    for _ in 0..MOST_NEWTON {
        let mut gradient = v.clone();
        let mut hessian = Symmetric::zeros(inputs + 1);
        for (x, y) in extended.iter().zip(y) {
            let slack = 1.0 - y * dot(&v, x);
            if slack > 0.0 {
                gradient.iter_mut().zip(x).for_each(|(g, x)| *g -= 2.0 * with.c * slack * y * x);
                hessian.add_outer(x, 2.0 * with.c);
            }
        }
        // The regulariser's part of the Hessian is the identity.
        let step = hessian.solve(1.0, gradient.clone());
        let slope = dot(&gradient, &step);
        let mut length = 1.0;
        let next = loop {
            let candidate: Vec<f64> = v.iter().zip(&step).map(|(v, s)| v - length * s).collect();
            let there = value(&candidate);
            if there <= now - 1e-4 * length * slope {
                break Some((candidate, there));
            }
            length /= 2.0;
            if length < 1e-12 {
                break None;
            }
        };
        let small = dot(&gradient, &gradient).sqrt() <= with.tolerance;
        match next {
            Some((candidate, there)) if !small => (v, now) = (candidate, there),
            // No way down: this is the minimum as far as rounding lets it be known.
            _ => {
                let bias = v.pop().unwrap_or_default();
                return Ok(Rule { weights: v, bias, objective: now });
            }
        }
    }
    Err(Error::internal(format!("the SVM did not converge in {MOST_NEWTON} Newton steps")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_points_have_the_boundary_in_their_middle() {
        let rows: [&[f64]; 2] = [&[1.0, 3.0], &[1.0, 1.0]];
        let rule = fit(&rows, &[true, false], &Svm { loss: Loss::Hinge, c: 1.0, tolerance: 1e-9 }).unwrap();
        // w = (0, 1), b = -2: both points at margin 1.
        assert!((rule.weights[0]).abs() < 1e-9 && (rule.weights[1] - 1.0).abs() < 1e-9 && (rule.bias + 2.0).abs() < 1e-9, "{rule:?}");
        assert!((rule.objective - 0.5).abs() < 1e-9);
    }

    #[test]
    fn one_class_alone_is_refused() {
        let rows: [&[f64]; 2] = [&[1.0], &[2.0]];
        for loss in [Loss::Hinge, Loss::SquaredHinge] {
            assert!(fit(&rows, &[true, true], &Svm { loss, c: 1.0, tolerance: 1e-6 }).is_err());
            assert!(fit(&[&[f64::NAN], &[1.0]], &[true, false], &Svm { loss, c: 1.0, tolerance: 1e-6 }).is_err());
        }
    }
}
