//! Metrics: the registry, its names, and what must hold for any pair of pictures.

use mtv_bench::images::Rgb8;
use mtv_bench::metrics::{self, Compute, METRICS, Moments, frechet_distance, singular_values};
use mtv_bench::random::Stream;

fn noise(w: usize, h: usize, seed: u64) -> Rgb8 {
    let values = Stream::new(seed, "noise").normal(3 * w * h, &candle_core::Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
    Rgb8::new(w, h, values.iter().enumerate().map(|(i, v)| (128.0 + 40.0 * v + (i % 50) as f32).clamp(0.0, 255.0) as u8).collect()).unwrap()
}

#[test]
fn a_picture_against_itself_gives_the_row_of_identical_images() {
    for (w, h) in [(64, 64), (37, 91), (11, 11)] {
        let image = noise(w, h, 1);
        for info in METRICS.iter().filter(|m| matches!(m.compute, Compute::Pixels { .. })) {
            for size in ["native", "64"] {
                let metric = metrics::by_name(&format!("{}@{size}", info.name)).unwrap();
                let score = metric.score(&image, &image).unwrap();
                // Exactly, except where zero padding makes the window's sum matter.
                let tolerance = if info.name == "ssim-training" { 1e-12 } else { 0.0 };
                assert!(score == info.identical || (score - info.identical).abs() <= tolerance, "{}: {score}", metric.name());
            }
        }
    }
}

#[test]
fn names_are_unique_and_wrong_ones_are_explained() {
    let names: std::collections::BTreeSet<&str> = METRICS.iter().map(|m| m.name).collect();
    assert_eq!(names.len(), METRICS.len());
    for info in METRICS {
        let metric = metrics::by_name(&format!("{}@64", info.name)).unwrap();
        assert_eq!(metric.name(), format!("{}@64", info.name));
    }
    let message = |name: &str| metrics::by_name(name).unwrap_err().message;
    assert!(message("psnr").contains("psnr@512"));
    assert!(message("ssim-uniform@64").contains("did you mean ssim-uniform7"));
    assert!(message("psnr@064").contains("size") && message("ssim-gauss-wang@10").contains("11") && message("psnr@99999").contains("8192"));
    let lpips = metrics::by_name("lpips-mini@64").unwrap();
    assert!(lpips.needs_network() && lpips.score(&noise(64, 64, 1), &noise(64, 64, 2)).is_err());
}

#[test]
fn sizes_that_can_not_be_compared_are_refused() {
    let metric = metrics::by_name("ssim-uniform7@native").unwrap();
    assert!(metric.score(&noise(16, 16, 1), &noise(16, 17, 1)).is_err());
    assert!(metric.score(&noise(6, 16, 1), &noise(6, 16, 2)).is_err());
    assert!(metrics::by_name("ssim-uniform7@64").unwrap().score(&noise(16, 16, 1), &noise(16, 17, 1)).is_ok());
}

/// The SSIM of the definition, window by window, without any shortcut.
fn direct_ssim(a: &Rgb8, b: &Rgb8, window: &[f64], sample: bool) -> f64 {
    let (n, w, h) = (window.len(), a.width(), a.height());
    let (c1, c2) = ((0.01f64 * 255.0).powi(2), (0.03f64 * 255.0).powi(2));
    let k = if sample { (n * n) as f64 / ((n * n) as f64 - 1.0) } else { 1.0 };
    let (mut sum, mut count) = (0.0, 0.0);
    for c in 0..3 {
        for y in 0..=h - n {
            for x in 0..=w - n {
                let mut m = [0f64; 5];
                for (dy, wy) in window.iter().enumerate() {
                    for (dx, wx) in window.iter().enumerate() {
                        let at = 3 * ((y + dy) * w + x + dx) + c;
                        let (p, q, v) = (a.data()[at] as f64, b.data()[at] as f64, wy * wx);
                        [p, q, p * p, q * q, p * q].iter().zip(&mut m).for_each(|(t, m)| *m += v * t);
                    }
                }
                let [ux, uy, xx, yy, xy] = m;
                let (vx, vy, vxy) = (k * (xx - ux * ux), k * (yy - uy * uy), k * (xy - ux * uy));
                sum += (2.0 * ux * uy + c1) * (2.0 * vxy + c2) / ((ux * ux + uy * uy + c1) * (vx + vy + c2));
                count += 1.0;
            }
        }
    }
    sum / count
}

#[test]
fn running_sums_equal_the_definition() {
    let gauss: Vec<f64> = (0..11).map(|i| (-(i as f64 - 5.0).powi(2) / 4.5).exp()).collect();
    let total: f64 = gauss.iter().sum();
    let gauss: Vec<f64> = gauss.iter().map(|g| g / total).collect();
    for (w, h) in [(11, 11), (31, 18), (12, 40)] {
        let (a, b) = (noise(w, h, 1), noise(w, h, 2));
        let uniform = metrics::ssim_uniform7(&a, &b);
        assert!((uniform - direct_ssim(&a, &b, &[1.0 / 7.0; 7], true)).abs() < 1e-11);
        assert!((metrics::ssim_gauss_wang(&a, &b) - direct_ssim(&a, &b, &gauss, false)).abs() < 1e-11);
    }
}

#[test]
fn metrics_are_symmetric() {
    let (a, b) = (noise(40, 30, 3), noise(40, 30, 4));
    for info in METRICS {
        if let Compute::Pixels { score, .. } = info.compute {
            assert_eq!(score(&a, &b), score(&b, &a), "{}", info.name);
        }
    }
}

#[test]
fn singular_values_of_known_matrices() {
    // An outer product plus a multiple of the identity, and a wide matrix with orthogonal rows.
    let values = singular_values(vec![3.0, 0.0, 0.0, -4.0], 2, 2).unwrap();
    assert!((values[0] - 4.0).abs() < 1e-14 && (values[1] - 3.0).abs() < 1e-14);
    let values = singular_values(vec![1.0, 2.0, 2.0, 2.0, 1.0, -2.0], 2, 3).unwrap();
    assert!(values.iter().all(|v| (v - 3.0).abs() < 1e-14), "{values:?}");
    assert!(singular_values(vec![0.0; 12], 3, 4).unwrap().iter().all(|&v| v == 0.0));
    // The squares of the values sum to the squares of the entries, and their product is the determinant.
    let n = 60;
    let m: Vec<f64> = Stream::new(5, "matrix")
        .normal(n * n, &candle_core::Device::Cpu)
        .unwrap()
        .to_vec1::<f32>()
        .unwrap()
        .iter()
        .map(|&v| v as f64)
        .collect();
    let values = singular_values(m.clone(), n, n).unwrap();
    let (squares, entries): (f64, f64) = (values.iter().map(|v| v * v).sum(), m.iter().map(|v| v * v).sum());
    assert!((squares / entries - 1.0).abs() < 1e-12 && values.windows(2).all(|p| p[0] >= p[1]));
}

#[test]
fn the_frechet_distance_does_not_depend_on_order_or_on_how_many_rows_come_at_a_time() {
    let rows = |seed, n: usize| Stream::new(seed, "rows").normal(n * 12, &candle_core::Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
    let (x, y) = (rows(1, 150), rows(2, 90));
    let of = |v: &[f32]| Moments::of(v, 12).unwrap().gaussian().unwrap();
    let forward = frechet_distance(&of(&x), &of(&y)).unwrap();
    let reversed: Vec<f32> = x.chunks(12).rev().flatten().copied().collect();
    assert!((forward - frechet_distance(&of(&y), &of(&reversed)).unwrap()).abs() < 1e-11);
    assert!(frechet_distance(&of(&x), &of(&x)).unwrap().abs() < 1e-11);
    // A shift of every row by (3, 0, ...) adds 9.
    let moved: Vec<f32> = x.iter().enumerate().map(|(i, v)| if i % 12 == 0 { v + 3.0 } else { *v }).collect();
    assert!((frechet_distance(&of(&x), &of(&moved)).unwrap() - 9.0).abs() < 1e-4);
    assert!(Moments::of(&x[..12], 12).unwrap().gaussian().is_err(), "one row has no covariance");
}
