//! Editing in w: w' = w + alpha d (Section V.D, Fig. 12).
//!
//! A direction d is the normal of a linear boundary between latents with much and little of an attribute ([`boundary`], learned by a
//! [`svm`]), freed of other attributes by [`condition`], or comes from a file. [`shift`] adds it to chosen rows of w; [`axes`] sets the
//! coordinates of w along several directions at once.

pub mod axes;
pub mod boundary;
pub mod condition;
pub mod shift;
pub mod svm;

pub use shift::Rows;

/// The vector at length 1; the zero vector stays.
pub fn unit(v: &[f64]) -> Vec<f64> {
    let length = dot(v, v).sqrt();
    v.iter().map(|x| if length > 0.0 { x / length } else { *x }).collect()
}

/// The inner product.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
