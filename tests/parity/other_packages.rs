//! Columns of the metric fixtures that are another package's way with the same numbers and no metric here: written out from their
//! definitions, so that it stands somewhere, and is checked, how they differ from ours.

use mtv_bench::images::Rgb8;
use mtv_bench::metrics;
use serde_json::Value;

use super::harness::{Error, Outcome};

/// One channel of both images.
struct Plane {
    a: Vec<f64>,
    b: Vec<f64>,
    width: usize,
}

impl Plane {
    fn map(&self, f: impl Fn(f64) -> f64) -> Plane {
        Plane { a: self.a.iter().map(|&v| f(v)).collect(), b: self.b.iter().map(|&v| f(v)).collect(), width: self.width }
    }

    fn mse(&self) -> f64 {
        self.a.iter().zip(&self.b).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / self.a.len() as f64
    }

    /// The mean of the SSIM map inside the border, for any window; variances and covariance times `k`; with `clip` the
    /// contrast-structure factor is cut off at 0.
    fn ssim(&self, window: &[f64], k: f64, clip: bool) -> f64 {
        let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).collect::<Vec<f64>>();
        let fold = |x: &[f64]| {
            let wide: Vec<f64> = x
                .chunks_exact(self.width)
                .flat_map(|row| row.windows(window.len()).map(|w| w.iter().zip(window).map(|(v, t)| v * t).sum::<f64>()))
                .collect();
            let width = self.width - window.len() + 1;
            let rows: Vec<&[f64]> = wide.chunks_exact(width).collect();
            let column = |rows: &[&[f64]], i: usize| rows.iter().zip(window).map(|(row, t)| row[i] * t).sum::<f64>();
            rows.windows(window.len()).flat_map(|rows| (0..width).map(|i| column(rows, i)).collect::<Vec<_>>()).collect::<Vec<f64>>()
        };
        let (c1, c2) = ((0.01f64 * 255.0).powi(2), (0.03f64 * 255.0).powi(2));
        let (ux, uy) = (fold(&self.a), fold(&self.b));
        let squares = (fold(&product(&self.a, &self.a)), fold(&product(&self.b, &self.b)), fold(&product(&self.a, &self.b)));
        let at = |i: usize| {
            let (x, y) = (ux[i], uy[i]);
            let (vx, vy, vxy) = (k * (squares.0[i] - x * x), k * (squares.1[i] - y * y), k * (squares.2[i] - x * y));
            let structure = (2.0 * vxy + c2) / (vx + vy + c2);
            (2.0 * x * y + c1) / (x * x + y * y + c1) * if clip { structure.max(0.0) } else { structure }
        };
        (0..ux.len()).map(at).sum::<f64>() / ux.len() as f64
    }
}

fn planes(a: &Rgb8, b: &Rgb8, grey: bool) -> Vec<Plane> {
    let channel = |image: &Rgb8, c: usize| image.data().chunks_exact(3).map(|p| f64::from(p[c])).collect();
    (0..if grey { 1 } else { 3 }).map(|c| Plane { a: channel(a, c), b: channel(b, c), width: a.width() }).collect()
}

/// The luma of YIQ, on 0..255.
fn luma(planes: &[Plane]) -> Plane {
    let of = |side: fn(&Plane) -> &Vec<f64>| {
        let (r, g, b) = (side(&planes[0]), side(&planes[1]), side(&planes[2]));
        r.iter().zip(g).zip(b).map(|((r, g), b)| 0.299 * r + 0.587 * g + 0.114 * b).collect()
    };
    Plane { a: of(|p| &p.a), b: of(|p| &p.b), width: planes[0].width }
}

/// pyiqa adds 1e-8 to the squared error on [0, 1], so that identical images get 80 dB instead of infinity.
fn pyiqa_psnr(mse255: f64) -> f64 {
    -10.0 * (mse255 / 255f64.powi(2) + 1e-8).log10()
}

/// Every such column of one pair.
pub fn columns(o: &mut Outcome, name: &str, (a, b): (&Rgb8, &Rgb8), grey: bool, expected: &Value) -> Result<(), Error> {
    let want = |key: &str| match expected[key].as_str() {
        Some("inf") => Some(f64::INFINITY),
        Some("nan") => Some(f64::NAN),
        _ => expected[key].as_f64(),
    };
    let mut check = |key: &'static str, tolerance: f64, got: &dyn Fn() -> f64| match want(key) {
        Some(value) => o.number(key, name, got(), value, tolerance),
        None => Ok(()),
    };
    let planes = planes(a, b, grey);
    let mse = metrics::mse(a, b);
    let mean = |f: &dyn Fn(&Plane) -> f64| planes.iter().map(f).sum::<f64>() / planes.len() as f64;
    let gauss: Vec<f64> = (0..11).map(|i| (-(f64::from(i) - 5.0).powi(2) / 4.5).exp()).collect();
    let gauss: Vec<f64> = gauss.iter().map(|t| t / gauss.iter().sum::<f64>()).collect();
    let (seven, eleven) = ([1.0 / 7.0; 7], [1.0 / 11.0; 11]);
    // The error in other units: ours is on 0..255 alone, since a number without its range is how PSNR gets 3 dB wrong.
    check("mse01", 1e-12, &|| mse / 255f64.powi(2))?;
    check("mse_pm1", 1e-12, &|| mse / 127.5f64.powi(2))?;
    check("mae255", 1e-10, &|| mean(&|p| p.a.iter().zip(&p.b).map(|(a, b)| (a - b).abs()).sum::<f64>() / p.a.len() as f64))?;
    // The cosine on [0, 1]: another number than the paper's, which is on [-1, 1].
    check("cos_01", 1e-12, &|| {
        let dot = |f: &dyn Fn(&Plane) -> f64| planes.iter().map(f).sum::<f64>();
        let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        dot(&|p| product(&p.a, &p.b)) / (dot(&|p| product(&p.a, &p.a)) * dot(&|p| product(&p.b, &p.b))).sqrt()
    })?;
    // Windows and covariances that scikit-image offers and no table of the field names.
    check("ssim_sk_uniform7_popcov", 1e-10, &|| mean(&|p| p.ssim(&seven, 1.0, false)))?;
    check("ssim_sk_uniform11", 1e-10, &|| mean(&|p| p.ssim(&eleven, 121.0 / 120.0, false)))?;
    // pyiqa: computed in f32; Wang's SSIM with the contrast-structure factor cut off at 0; "y" on the luma, rounded for SSIM only.
    check("pyiqa_psnr", 2e-4, &|| pyiqa_psnr(mse))?;
    check("pyiqa_ssimc", 2e-6, &|| mean(&|p| p.ssim(&gauss, 1.0, true)))?;
    if !grey {
        check("pyiqa_psnry", 2e-4, &|| pyiqa_psnr(luma(&planes).mse()))?;
        check("pyiqa_ssim_y", 1e-4, &|| luma(&planes).map(f64::round_ties_even).ssim(&gauss, 1.0, true))?;
    }
    for (plane, want) in planes.iter().zip(expected["ssim_sk_uniform7_per_channel"].as_array().into_iter().flatten()) {
        o.number("ssim_sk_uniform7_per_channel", name, plane.ssim(&seven, 49.0 / 48.0, false), want.as_f64().ok_or("no number")?, 1e-10)?;
    }
    Ok(())
}
