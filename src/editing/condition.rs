//! Conditional projection: the part of a direction that leaves other attributes alone.
//!
//! Source: InterFaceGAN (Shen et al., section III.C; `project_boundary` in genforce/interfacegan), which stops at two conditions; more are
//! handled here by orthonormalising them.

use super::{dot, unit};

/// What the reference adds to the denominator for two conditions.
const SLACK: f64 = 1e-8;

/// The unit vector along the part of `primal` that is orthogonal to every condition (each of length 1).
pub fn project(primal: &[f64], conditions: &[&[f64]]) -> Vec<f64> {
    let without = |parts: &[(f64, &[f64])]| {
        let mut rest = primal.to_vec();
        for (amount, direction) in parts {
            rest.iter_mut().zip(*direction).for_each(|(r, d)| *r -= amount * d);
        }
        unit(&rest)
    };
    match conditions {
        [] => unit(primal),
        [one] => without(&[(dot(primal, one), one)]),
        [one, two] => {
            let (p1, p2, between) = (dot(primal, one), dot(primal, two), dot(one, two));
            let denominator = 1.0 - between * between + SLACK;
            without(&[((p1 - p2 * between) / denominator, one), ((p2 - p1 * between) / denominator, two)])
        }
        many => {
            let mut basis: Vec<Vec<f64>> = Vec::new();
            for condition in many {
                let mut rest = condition.to_vec();
                // Twice: once loses digits where conditions are nearly alike.
                for _ in 0..2 {
                    for b in &basis {
                        let along = dot(&rest, b);
                        rest.iter_mut().zip(b).for_each(|(r, b)| *r -= along * b);
                    }
                }
                if dot(&rest, &rest).sqrt() > 1e-9 {
                    basis.push(unit(&rest));
                }
            }
            let parts: Vec<(f64, &[f64])> = basis.iter().map(|b| (dot(primal, b), b.as_slice())).collect();
            without(&parts)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_conditions_than_the_reference_knows_are_all_orthogonal() {
        let p = [1.0, 2.0, 3.0, 4.0, 5.0];
        let conditions = [unit(&[1.0, 0.2, 0.0, 0.0, 0.1]), unit(&[0.3, 1.0, 0.0, 0.0, 0.0]), unit(&[0.0, 0.4, 1.0, 0.0, 0.0])];
        let refs: Vec<&[f64]> = conditions.iter().map(Vec::as_slice).collect();
        let d = project(&p, &refs);
        assert!((dot(&d, &d) - 1.0).abs() < 1e-12);
        assert!(refs.iter().all(|c| dot(&d, c).abs() < 1e-12));
        // Two by the formula and two by orthonormalising agree up to the formula's slack.
        let two = project(&p, &refs[..2]);
        let same_two = project(&p, &[refs[0], refs[1], refs[1]]);
        assert!(two.iter().zip(&same_two).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}
