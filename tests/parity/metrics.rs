//! The metric fixtures: pixel metrics, resizes, FID (network, distance, KID).

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use mtv_bench::images::{Filter, Resample, Rgb8, decode, resize};
use mtv_bench::metrics::{self, Range};
use serde_json::Value;

use super::harness::{Check, Error, Fixture, Outcome};
use super::other_packages;

pub const CHECKS: &[Check] = &[images, resizes];

/// Every tensor of a file of the fixture's folder, in its own dtype.
fn load(f: &Fixture, file: &str) -> Result<BTreeMap<String, Tensor>, Error> {
    Ok(candle_core::safetensors::load(f.folder.join(file), &Device::Cpu)?.into_iter().collect())
}

/// A number of a fixture; None where the metric is not defined.
fn number(v: &Value) -> Option<f64> {
    match v.as_str() {
        Some("inf") => Some(f64::INFINITY),
        Some("nan") => Some(f64::NAN),
        _ => v.as_f64(),
    }
}

/// The image of an `[H, W, 3]` or `[H, W]` u8 tensor.
fn rgb(t: &Tensor) -> Result<Rgb8, Error> {
    let data = t.flatten_all()?.to_vec1::<u8>()?;
    let (h, w) = (t.dim(0)?, t.dim(1)?);
    Ok(if t.rank() == 3 { Rgb8::new(w, h, data)? } else { Rgb8::from_grey(w, h, &data)? })
}

fn images(f: &Fixture) -> Option<Outcome> {
    let file = f.file.strip_prefix("images/").filter(|_| f.area == "metrics")?;
    match file {
        // The manifest does not list pairs.json, which holds the expected scores of these images.
        "pairs_small_u8.safetensors" => Some(Outcome::of(|o| pairs(o, f))),
        "ssim_maps_f64.safetensors" => Some(Outcome::of(|o| maps(o, f))),
        _ if file.ends_with(".png") => Some(Outcome::companion("images/pairs_small_u8.safetensors")),
        _ => None,
    }
}

fn pairs(o: &mut Outcome, f: &Fixture) -> Result<(), Error> {
    let small = load(f, "images/pairs_small_u8.safetensors")?;
    let listed: Value = serde_json::from_slice(&std::fs::read(f.folder.join("images/pairs.json"))?)?;
    for pair in listed["pairs"].as_array().ok_or("no pairs")? {
        let name = pair["name"].as_str().ok_or("a pair without a name")?;
        let read = |side: &str| -> Result<Rgb8, Error> {
            let image = decode(&std::fs::read(f.folder.join(format!("images/{name}_{side}.png")))?)?;
            if let Some(stored) = small.get(&format!("{name}/{side}")) {
                assert_eq!(image, rgb(stored)?, "{name}: decoded pixels");
            }
            Ok(image)
        };
        let (a, b) = (read("a")?, read("b")?);
        let channels = pair["c"].as_f64().ok_or("no channels")?;
        let want = |key: &str| number(&pair["expected"][key]);
        let mut check = |key: &'static str, got: f64, tolerance: f64| match want(key) {
            Some(value) => o.number(key, name, got, value, tolerance),
            None => Ok(()),
        };
        check("sse_int", metrics::squared_error(&a, &b) as f64 * channels / 3.0, 0.0)?;
        check("mse255", metrics::mse(&a, &b), 1e-12 * metrics::mse(&a, &b))?;
        check("psnr255", metrics::psnr(&a, &b), 1e-10)?;
        check("cos_pm1", metrics::cosine(&a, &b), 1e-12)?;
        check("paper_psnr", metrics::psnr(&a, &b), 1e-10)?;
        check("paper_mse", metrics::mse(&a, &b), 1e-6 * metrics::mse(&a, &b))?;
        check("paper_cos_f32", metrics::cosine(&a, &b), 2e-5)?;
        check("ssim_pt_01_f64", metrics::ssim_training(&a, &b, Range::Unit), 1e-10)?;
        check("ssim_pt_pm1_f64", metrics::ssim_training(&a, &b, Range::Signed), 1e-10)?;
        check("ssim_pt_01_f32", metrics::ssim_training(&a, &b, Range::Unit), 3e-4)?;
        check("ssim_pt_pm1_f32", metrics::ssim_training(&a, &b, Range::Signed), 3e-4)?;
        // Where the window is larger than the image the reference gives no value, and score refuses.
        for (key, metric, tolerance) in [
            ("ssim_sk_uniform7", "ssim-uniform7@native", 1e-10),
            ("ssim_sk_uniform7_f32in", "ssim-uniform7@native", 5e-6),
            ("paper_ssim", "ssim-uniform7@native", 5e-6),
            ("ssim_sk_gauss_wang", "ssim-gauss-wang@native", 1e-10),
            ("ssim_sk_gauss_samplecov", "ssim-gauss-sample@native", 1e-10),
        ] {
            match (metrics::by_name(metric)?.score(&a, &b), want(key)) {
                (Ok(got), Some(value)) => o.number(key, name, got, value, tolerance)?,
                (Err(_), None) => {}
                (got, want) => o.fail(format!("{name}: {metric} gives {got:?}, the reference {want:?}")),
            }
        }
        other_packages::columns(o, name, (&a, &b), channels == 1.0, &pair["expected"])?;
    }
    Ok(())
}

/// The scores are the means of the stored maps inside the border.
fn maps(o: &mut Outcome, f: &Fixture) -> Result<(), Error> {
    let maps = load(f, &f.file)?;
    let small = load(f, "images/pairs_small_u8.safetensors")?;
    for (key, map) in &maps {
        let (pair, kind) = key.split_once('/').ok_or("a map without a pair")?;
        let (a, b) = (rgb(&small[&format!("{pair}/a")])?, rgb(&small[&format!("{pair}/b")])?);
        let inner = |border: usize| -> Result<f64, Error> {
            let cut = map.narrow(0, border, map.dim(0)? - 2 * border)?.narrow(1, border, map.dim(1)? - 2 * border)?;
            Ok(cut.mean_all()?.to_scalar::<f64>()?)
        };
        match kind {
            "sk_uniform7_map" => o.number("uniform map", key, metrics::ssim_uniform7(&a, &b), inner(3)?, 1e-10)?,
            "sk_gauss_wang_map" => o.number("Wang map", key, metrics::ssim_gauss_wang(&a, &b), inner(5)?, 1e-10)?,
            "pt_pm1_map" => {
                o.number("training map", key, metrics::ssim_training(&a, &b, Range::Signed), map.mean_all()?.to_scalar::<f64>()?, 1e-10)?
            }
            // pt_window is in the training map, to 1e-10. Avanaki's gradient is scikit-image's approximation, without the cut border and
            // without the mean over the channels; nobody here asks for it.
            _ => {}
        }
    }
    Ok(())
}

fn resizes(f: &Fixture) -> Option<Outcome> {
    let file = f.file.strip_prefix("resize/").filter(|_| f.area == "metrics")?;
    Some(match file {
        "resize_u8.safetensors" => Outcome::of(|o| resize_u8(o, f)),
        _ => Outcome::of(|o| resize_f32(o, f)),
    })
}

/// (family, source name, the tensor) of every stored resize.
fn cases(tensors: &BTreeMap<String, Tensor>) -> impl Iterator<Item = (&str, &str, &str, &Tensor)> {
    tensors.iter().filter_map(|(key, t)| {
        let mut parts = key.splitn(3, '/');
        Some((key.as_str(), parts.next()?, parts.next()?, parts.next().map(|_| t)?))
    })
}

fn resize_u8(o: &mut Outcome, f: &Fixture) -> Result<(), Error> {
    let tensors = load(f, &f.file)?;
    for (key, family, source, want) in cases(&tensors) {
        let image = rgb(&tensors[&format!("src/{source}")])?;
        let filter = match family {
            "pil_nearest" => Filter::Nearest,
            "pil_box" => Filter::Box,
            "pil_bilinear" => Filter::Bilinear,
            "pil_hamming" => Filter::Hamming,
            "pil_bicubic" => Filter::Bicubic,
            "pil_lanczos" => Filter::Lanczos,
            "cv2_linear_u8" | "tv_tensor_u8_bilinear_aa" => {
                // No 8-bit version of these here: the float resize, rounded, is within one level.
                let chw = family.starts_with("tv");
                let kind = if chw { Resample::TorchBilinearAntialias } else { Resample::Cv2Linear };
                let want = if chw { want.permute((1, 2, 0))? } else { want.clone() };
                let (h, w) = (want.dim(0)?, want.dim(1)?);
                let got = float(kind, &image, (w, h))?.permute((1, 2, 0))?.round()?;
                let got = if want.dims().len() == 2 || want.dim(2)? == 1 { got.narrow(2, 0, 1)?.reshape(want.shape())? } else { got };
                o.close("8-bit of OpenCV and torchvision, in levels", key, &got, &want, 1.0, 0.0)?;
                continue;
            }
            other => return Err(format!("unknown family {other}").into()),
        };
        let want = rgb(want)?;
        let got = resize(&image, want.width(), want.height(), filter);
        let different = got.data().iter().zip(want.data()).filter(|(a, b)| a != b).count();
        o.number("Pillow, bytes different", key, different as f64, 0.0, 0.0)?;
    }
    Ok(())
}

/// `[3, h, w]` f32 resize of an image on 0..255.
fn float(kind: Resample, image: &Rgb8, size: (usize, usize)) -> Result<Tensor, Error> {
    let hwc = Tensor::from_slice(image.data(), (image.height(), image.width(), 3), &Device::Cpu)?;
    resize_tensor(kind, &hwc.permute((2, 0, 1))?.to_dtype(DType::F32)?, size)
}

/// The resize of a `[C, H, W]` tensor.
fn resize_tensor(kind: Resample, x: &Tensor, size: (usize, usize)) -> Result<Tensor, Error> {
    let (c, h, w) = x.dims3()?;
    let data = kind.planes(&x.flatten_all()?.to_vec1::<f32>()?, (w, h), size);
    Ok(Tensor::from_vec(data, (c, size.1, size.0), &Device::Cpu)?)
}

/// Gradients of the differentiable resize: the two matrices of each kind, and a given gradient of the result.
fn gradients(o: &mut Outcome, t: &BTreeMap<String, Tensor>) -> Result<(), Error> {
    let (Some(source), Some(upstream)) = (t.get("grad/src"), t.get("grad/upstream_9x20")) else { return Ok(()) };
    let ((_, _, h, w), (_, _, oh, ow)) = (source.dims4()?, upstream.dims4()?);
    for (key, kind, tolerance) in [
        ("grad/area", Resample::TorchArea, 2e-6),
        ("grad/bilinear_ac0", Resample::TorchBilinear { align_corners: false }, 2e-6),
        ("grad/bilinear_ac0_aa", Resample::TorchBilinearAntialias, 1e-5),
        ("grad/bicubic_ac0", Resample::TorchBicubic { align_corners: false }, 1e-5),
    ] {
        let Some(want) = t.get(key) else { continue };
        let x = candle_core::Var::from_tensor(source)?;
        let matrix = |from: usize, to: usize| Tensor::from_vec(kind.matrix(from, to), (to, from), &Device::Cpu);
        let out = mtv_bench::ops::matmul_resize(x.as_tensor(), &matrix(h, oh)?, &matrix(w, ow)?)?;
        let grads = (out * upstream)?.sum_all()?.backward()?;
        o.relative("resize gradient", key, grads.get(x.as_tensor()).ok_or("no gradient")?, want, tolerance)?;
    }
    Ok(())
}

/// 2x2 means, once and twice. The 3x3 pools with and without the padding in the count are Inception's: its blocks are compared whole.
fn pools(o: &mut Outcome, t: &BTreeMap<String, Tensor>) -> Result<(), Error> {
    for (key, x) in t.iter().filter(|(key, _)| key.starts_with("src_pm1_chw/")) {
        let source = key.trim_start_matches("src_pm1_chw/");
        let once = mtv_bench::ops::avg_pool2(x)?;
        let twice = mtv_bench::ops::avg_pool2(&once)?;
        for (family, got) in [("avgpool2x2", once), ("avgpool2x2_twice", twice)] {
            if let Some(want) = t.get(&format!("{family}/{source}")) {
                o.close("2x2 mean", &format!("{family}/{source}"), &got, want, 2e-6, 0.0)?;
            }
        }
    }
    Ok(())
}

fn resize_f32(o: &mut Outcome, f: &Fixture) -> Result<(), Error> {
    let tensors = load(f, &f.file)?;
    // The sources are the 8-bit ones of the other file; a file that holds them itself in [-1, 1] is used for pooling.
    let sources = load(f, "resize/resize_u8.safetensors")?;
    gradients(o, &tensors)?;
    pools(o, &tensors)?;
    for (key, family, source, want) in cases(&tensors) {
        let (kind, scale, tolerance) = match family {
            "torch_bilinear_ac0_aa0" => (Resample::TorchBilinear { align_corners: false }, 255.0, 2e-6),
            "torch_bilinear_ac1_aa0" => (Resample::TorchBilinear { align_corners: true }, 255.0, 2e-6),
            "torch_bilinear_ac0_aa1" => (Resample::TorchBilinearAntialias, 255.0, 1e-5),
            "torch_bicubic_ac0_aa0" => (Resample::TorchBicubic { align_corners: false }, 255.0, 1e-5),
            "torch_bicubic_ac1_aa0" => (Resample::TorchBicubic { align_corners: true }, 255.0, 1e-5),
            "torch_bicubic_ac0_aa1" => (Resample::TorchBicubicAntialias, 255.0, 1e-5),
            "torch_nearest" => (Resample::TorchNearest, 255.0, 0.0),
            "torch_nearest_exact" => (Resample::TorchNearestExact, 255.0, 0.0),
            "torch_area" => (Resample::TorchArea, 255.0, 2e-6),
            "tf1_bilinear" => (Resample::Tf1Bilinear, 1.0, 1e-4),
            "cleanfid_bicubic_f32" => (Resample::CleanFidBicubic, 1.0, 2e-4),
            "cv2_linear_f32" => (Resample::Cv2Linear, 255.0, 5e-6),
            "cv2_area_f32" => (Resample::Cv2Area, 255.0, 5e-6),
            other => return Err(format!("unknown family {other}").into()),
        };
        let chw = match (want.rank(), family) {
            (4, _) => want.squeeze(0)?,
            (3, _) => want.permute((2, 0, 1))?,
            _ => want.unsqueeze(0)?,
        };
        let (channels, h, w) = chw.dims3()?;
        let image = rgb(&sources[&format!("src/{source}")])?;
        let scaled: Vec<f32> = image.data().iter().map(|&v| v as f32 / scale).collect();
        let hwc = Tensor::from_vec(scaled, (image.height(), image.width(), 3), &Device::Cpu)?;
        let x = hwc.permute((2, 0, 1))?.narrow(0, 0, channels)?;
        let mut got = resize_tensor(kind, &x, (w, h))?;
        if kind == Resample::CleanFidBicubic {
            got = got.clamp(0f32, 255f32)?;
        }
        let label = Box::leak(family.to_string().into_boxed_str());
        if tolerance == 0.0 {
            let worst = (got - chw)?.abs()?.max_all()?.to_scalar::<f32>()?;
            o.number(label, key, worst as f64, 0.0, 0.0)?;
        } else {
            o.close(label, key, &got, &chw, tolerance, 0.0)?;
        }
    }
    Ok(())
}
