//! The encoders that ship with the mini networks: trained by the zoo, usable at once.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use mtv_bench::images::Rgb8;
use mtv_bench::inverters::baseline::Baseline;
use mtv_bench::record::ImageInfo;
use mtv_bench::stages::reconstruct::{Inverting, Reconstructor};
use mtv_bench::stages::{BaselineMethod, ImageSet, Method, Networks, open, sample};
use mtv_bench::zoo::curve;
use mtv_bench::zoo::encoders::{self, Recipe};

use crate::sandbox::Sandbox;

const CPU: Device = Device::Cpu;
const SIDE: usize = 64;

fn networks() -> Networks {
    encoders::networks("mini/stylegan1")
}

/// The peak signal-to-noise ratio in dB of 8-bit pictures.
fn psnr(a: &Rgb8, b: &Rgb8) -> f64 {
    let squares: f64 = a.data().iter().zip(b.data()).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    10.0 * (255f64.powi(2) * a.data().len() as f64 / squares).log10()
}

/// The mean PSNR of a method's reconstructions of 16 images of a set, as a study makes them.
fn mean_psnr(method: &Method, source: Option<&str>) -> mtv_bench::Result<f64> {
    let (networks, generator) = (networks(), open::generator("mini/stylegan1", &CPU)?);
    let reconstructor = Reconstructor::open(Inverting { networks: &networks, method, seed: 5 }, None, generator.as_ref(), &CPU)?;
    let name = if source.is_none() { "synthesized" } else { "real" };
    let set = ImageSet { set: name.into(), images: 16, source: source.map(str::to_string) };
    let drawn = sample::draw(&set, 5, generator.as_ref(), &CPU)?;
    let (infos, targets): (Vec<&ImageInfo>, Vec<Rgb8>) = drawn.iter().map(|d| (&d.info, d.image.clone())).unzip();
    let found = reconstructor.run(&infos, &targets, false)?.images;
    Ok(targets.iter().zip(&found).map(|(t, r)| psnr(t, r)).sum::<f64>() / 16.0)
}

fn shipped(baseline: Baseline, cards: &[(&str, &str)]) -> Method {
    let published = cards.iter().map(|(key, card)| (key.to_string(), card.to_string())).collect::<BTreeMap<_, _>>();
    Method::Baseline(Box::new(BaselineMethod { baseline, published, seed: 0, refine: None }))
}

/// A study that names a shipped encoder by its card gets it on its own generator; it is far above the mean image, on the generator's images
/// and on pictures that no network saw.
#[test]
fn shipped_encoders_invert() -> mtv_bench::Result<()> {
    let psp = shipped(Baseline::Psp, &[("weights", "mini/psp")]);
    let indomain = shipped(Baseline::Indomain, &[("weights", "mini/indomain"), ("decoder", "mini/stylegan1")]);
    for (source, margin) in [(None, 5.0), (Some("mini/faces"), 3.0)] {
        let mean = mean_psnr(&Method::MeanImage, source)?;
        for (name, method) in [("pSp", &psp), ("In-Domain", &indomain)] {
            let own = mean_psnr(method, source)?;
            assert!(own > mean + margin, "{name}, {source:?}: {own:.2} dB, the mean image {mean:.2} dB");
        }
    }
    // Not with a generator that it was not trained for.
    let wrong = shipped(Baseline::Indomain, &[("weights", "mini/indomain"), ("decoder", "mini/stylegan1_tiny")]);
    let refused = mean_psnr(&wrong, None).expect_err("refused");
    assert!(refused.message.contains("its decoder is mini/stylegan1, not mini/stylegan1_tiny"), "{refused}");
    Ok(())
}

/// Shipped methods with generators of their own, in a study of another generator.
#[test]
fn native_methods_invert() -> mtv_bench::Result<()> {
    let methods = [
        shipped(Baseline::Alae, &[("weights", "mini/alae_native")]),
        shipped(Baseline::Psp, &[("weights", "mini/psp_native")]),
        shipped(Baseline::Indomain, &[("weights", "mini/indomain_native"), ("decoder", "mini/indomain_generator")]),
    ];
    for (source, margin) in [(None, 1.0), (Some("mini/faces"), 2.0)] {
        let mean = mean_psnr(&Method::MeanImage, source)?;
        for method in &methods {
            let own = mean_psnr(method, source)?;
            assert!(own > mean + margin, "{method:?}, {source:?}: {own:.2} dB, the mean image {mean:.2} dB");
        }
    }
    Ok(())
}

/// `invert --method psp` needs no run and no file: a picture goes in, its reconstruction comes out.
#[test]
fn pictures_of_your_own_need_no_training() -> mtv_bench::Result<()> {
    let sandbox = Sandbox::new();
    let face = &open::real_pictures("mini/faces", 3, 1, SIDE)?[0].image;
    face.write_png(&sandbox.path("face.png"))?;
    let methods = [
        ("psp", "mini/stylegan1"),
        ("mini/indomain", "mini/stylegan1"),
        ("psp_native", "mini/stylegan2_faces"),
        ("alae_native", "mini/alae_native"),
    ];
    for (method, generator) in methods {
        let out = sandbox.run(&["invert", "face.png", "--method", method, "--out", "o", "--format", "json"]);
        assert_eq!(out.code, Some(0), "{}", out.stderr);
        let said: serde_json::Value = serde_json::from_str(&out.stdout).expect("JSON");
        assert_eq!(said["generator"], generator);
        let made = mtv_bench::images::decode(&std::fs::read(sandbox.path("o/face.reconstruction.png")).expect("a picture"))?;
        let told = said["pictures"][0]["psnr"].as_f64().expect("a PSNR");
        assert!((told - psnr(face, &made)).abs() < 0.01 && told > 18.0, "{method}: {told} dB");
    }
    let out = sandbox.run(&["invert", "face.png", "--method", "nobody"]);
    assert_eq!(out.code, Some(4), "{}", out.stderr);
    assert!(out.stderr.contains("--method psp"), "{}", out.stderr);
    Ok(())
}

/// The zoo trains by the stage of the studies; what it left is taken up, and not trained again.
#[test]
fn the_zoo_trains_an_encoder() -> mtv_bench::Result<()> {
    let generator = "mini/stylegan1_tiny".to_string();
    let own = Recipe { baseline: Baseline::Psp, generator, pictures: None, width: Some(8), seed: 3, images: 24, batch: 4, decay: 0.3 };
    let native = Recipe { pictures: Some("mini/faces".into()), ..own.clone() };
    let values = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("f32");
    let mut trained = Vec::new();
    for recipe in [&own, &native] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let train = |resume: bool| encoders::train(recipe, folder.path(), resume, &CPU);
        assert!(train(true).is_err_and(|e| e.message.contains("train without --resume")));
        let (weights, seconds) = train(false)?;
        assert_eq!(weights["styles.3.linear.weight"].dims()[1], 8);
        let (again, same) = train(true)?;
        assert_eq!(seconds, same);
        for (name, tensor) in &weights {
            assert_eq!(values(tensor), values(&again[name]), "{name}");
        }
        let curve = curve::read(folder.path())?.expect("a curve");
        assert_eq!((curve.images.first(), curve.images.last()), (Some(&0), Some(&24)));
        let names: Vec<&str> = curve.values.keys().map(String::as_str).collect();
        assert_eq!(names, ["lpips_real", "lpips_synthesized", "psnr_real", "psnr_synthesized"]);
        trained.push(values(&weights["styles.3.linear.weight"]));
    }
    // The same start and the same steps, on pictures instead of the generator's images.
    assert!(trained[0].iter().zip(&trained[1]).any(|(a, b)| (a - b).abs() > 1e-6));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let refused = |recipe: Recipe| encoders::train(&recipe, folder.path(), false, &CPU).expect_err("refused").message;
    assert!(refused(Recipe { baseline: Baseline::Alae, ..native.clone() }).contains("a picture has no w"));
    assert!(refused(Recipe { pictures: Some("mini/judge".into()), ..native }).contains("mini/faces, mini/objects or mini/cars only"));
    Ok(())
}
