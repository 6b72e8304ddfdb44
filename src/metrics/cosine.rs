//! Cosine similarity of the flattened images on `[-1, 1]`: the released code's `cosineSimilarty` (MTV-TSA
//! `metric/comparing-baseline.py`). It depends on the range: grey 127 against grey 128 gives -1.

use crate::images::Rgb8;

/// x.y / (|x| |y|) with x = a / 127.5 - 1, without any epsilon; exact sums, so identical images give 1.
///
/// The common factor 1 / 255 cancels, so the sums run over the odd integers 2a - 255, none of which is 0.
pub fn cosine(a: &Rgb8, b: &Rgb8) -> f64 {
    let (mut xy, mut xx, mut yy) = (0i64, 0i64, 0i64);
    let chunk = 1 << 14;
    for (a, b) in a.data().chunks(chunk).zip(b.data().chunks(chunk)) {
        let (mut p, mut q, mut r) = (0i32, 0i32, 0i32);
        for (&a, &b) in a.iter().zip(b) {
            let (x, y) = (2 * a as i32 - 255, 2 * b as i32 - 255);
            p += x * y;
            q += x * x;
            r += y * y;
        }
        xy += p as i64;
        xx += q as i64;
        yy += r as i64;
    }
    xy as f64 / (xx as f64 * yy as f64).sqrt()
}
