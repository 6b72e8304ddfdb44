//! Sliders: the coordinates of one w along several directions, set to other values.
//!
//! Source: the demo of ALAE (`interactive_demo.py` of podgorskiy/ALAE). The coordinates are plain inner products, so directions that are
//! not orthogonal or not of length 1 influence each other, as they do there.

use super::dot;

/// A w taken apart: its coordinates along the axes and what is left.
pub struct Sliders {
    pub values: Vec<f64>,
    pub residual: Vec<f64>,
}

/// Takes `w` apart around the mean w.
pub fn split(w: &[f64], mean: &[f64], axes: &[Vec<f64>]) -> Sliders {
    let mut residual: Vec<f64> = w.iter().zip(mean).map(|(w, m)| w - m).collect();
    let values: Vec<f64> = axes.iter().map(|a| dot(&residual, a)).collect();
    for (value, axis) in values.iter().zip(axes) {
        residual.iter_mut().zip(axis).for_each(|(r, a)| *r -= value * a);
    }
    Sliders { values, residual }
}

/// The w of these sliders.
pub fn join(sliders: &Sliders, mean: &[f64], axes: &[Vec<f64>]) -> Vec<f64> {
    let along = |i: usize| sliders.values.iter().zip(axes).map(|(v, a)| v * a[i]).sum::<f64>();
    sliders.residual.iter().zip(mean).enumerate().map(|(i, (r, m))| r + m + along(i)).collect()
}
