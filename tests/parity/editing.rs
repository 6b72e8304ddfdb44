//! Parity of editing: linear SVMs with scikit-learn, conditional projection, and the ways of moving a code of InterFaceGAN, In-Domain,
//! MTV-TSA and ALAE.

use candle_core::{DType, Device, Tensor};
use mtv_bench::editing::boundary::{self, Chosen};
use mtv_bench::editing::svm::{Loss, Svm, fit};
use mtv_bench::editing::{Rows, axes, condition, shift};
use mtv_bench::generators::Tensors;

use super::harness::{Check, Error, Fixture, Outcome};

pub const CHECKS: &[Check] = &[interfacegan];

fn interfacegan(f: &Fixture) -> Option<Outcome> {
    if f.area != "baselines" || !f.file.starts_with("interfacegan_editing") {
        return None;
    }
    Some(Outcome::of(|o| {
        let t: Tensors = candle_core::safetensors::load(f.path(), &Device::Cpu)?.into_iter().collect();
        let attributes = (0..).take_while(|i| t.contains_key(&format!("attr{i}.scores"))).count();
        for i in 0..attributes {
            boundaries(f, o, &t, &format!("attr{i}"))?;
        }
        let normal = |i: usize| vector(&t[&format!("attr{i}.linear_svc.unit_normal")]);
        let (n0, n1, n2) = (normal(0)?, normal(1)?, normal(2)?);
        let tolerance = f.entry["tolerance"]["unit_normal_atol"].as_f64().ok_or("no tolerance.unit_normal_atol")?;
        for (name, conditions) in [("cond.one", vec![n1.as_slice()]), ("cond.two", vec![n1.as_slice(), n2.as_slice()])] {
            let got = condition::project(&n0, &conditions);
            o.close("direction", name, &row(&got)?, &t[name], tolerance, 0.0)?;
        }
        edits(f, o, &t, &row(&n0)?)
    }))
}

/// Both machines, and InterFaceGAN's choice of samples where the shuffle is given.
fn boundaries(f: &Fixture, o: &mut Outcome, t: &Tensors, name: &str) -> Result<(), Error> {
    let latents = rows(&t["in.latents"])?;
    let scores = vector(&t[&format!("{name}.scores")])?;
    let labels = |key: &str| -> Result<Vec<bool>, Error> { Ok(integers(&t[&format!("{name}.{key}")])?.iter().map(|l| *l != 0).collect()) };
    let places =
        |key: &str| -> Result<Vec<usize>, Error> { Ok(integers(&t[&format!("{name}.{key}")])?.iter().map(|i| *i as usize).collect()) };
    let scalar = |key: &str| -> Result<f64, Error> { Ok(vector(&t[&format!("{name}.{key}")])?[0]) };
    let args = &f.entry["args"];
    let (samples, dim) = (args["samples"].as_u64(), args["dim"].as_u64());
    o.equal("shape", "in.latents", Some((latents.len() as u64, latents[0].len() as u64)), samples.zip(dim))?;

    // LinearSVC on every sample.
    let all: Vec<&[f64]> = latents.iter().map(Vec::as_slice).collect();
    let (linear, svc) = (&args["linear_svc"], &args["svc"]);
    let number = |table: &serde_json::Value, key: &str| table[key].as_f64().ok_or(format!("the manifest gives no {key}"));
    let known = linear["loss"] == "squared_hinge" && linear["penalty"] == "l2" && linear["fit_intercept"] == true;
    o.equal("arguments", "linear_svc", (known, linear["intercept_scaling"].as_f64()), (true, Some(1.0)))?;
    o.equal("arguments", "svc.kernel", svc["kernel"].as_str(), Some("linear"))?;
    let own = labels("labels")?;
    o.equal("labels", &format!("{name}.labels"), scores.iter().map(|s| *s > 0.0).collect::<Vec<_>>(), own.clone())?;
    let rule = fit(&all, &own, &Svm { loss: Loss::SquaredHinge, c: number(linear, "C")?, tolerance: number(linear, "tol")? })?;
    compare(f, o, t, &format!("{name}.linear_svc"), &rule.weights, rule.bias, rule.objective)?;
    let right = all.iter().zip(&own).filter(|(x, l)| (rule.decide(x) > 0.0) == **l).count() as f64 / all.len() as f64;
    o.number("accuracy", &format!("{name}.linear_svc.accuracy"), right, scalar("linear_svc.accuracy")?, 1e-6)?;

    // SVC on the extremes.
    let order = boundary::ranked(&scores);
    o.equal("order", &format!("{name}.svc.sorted_idx"), order.clone(), places("svc.sorted_idx")?)?;
    let (ratio, split) = (number(svc, "chosen_ratio")?, number(svc, "split_ratio")?);
    let ours = boundary::choose(&scores, ratio, split, 1)?;
    let given = Chosen {
        train: places("svc.train_idx")?,
        train_labels: labels("svc.train_label")?,
        validation: places("svc.val_idx")?,
        validation_labels: labels("svc.val_label")?,
        rest: ours.rest.clone(),
    };
    // Another shuffle of the same samples, in the same order of classes.
    o.equal("choice", &format!("{name}.svc.train_label"), ours.train_labels.clone(), given.train_labels.clone())?;
    o.equal("choice", &format!("{name}.svc.val_label"), ours.validation_labels.clone(), given.validation_labels.clone())?;
    let sorted = |c: &Chosen| {
        let mut all = [c.train.clone(), c.validation.clone()].concat();
        all.sort_unstable();
        all
    };
    o.equal("choice", &format!("{name}.svc.train_idx"), sorted(&ours), sorted(&given))?;
    let with = Svm { loss: Loss::Hinge, c: number(svc, "C")?, tolerance: number(svc, "tol")? };
    let learned = boundary::learn(&latents, &scores, &given, &with)?;
    compare(f, o, t, &format!("{name}.svc"), &learned.rule.weights, learned.rule.bias, learned.rule.objective)?;
    o.close("direction", &format!("{name}.svc.unit_normal"), &row(&learned.direction)?, &t[&format!("{name}.svc.unit_normal")], 1e-4, 0.0)?;
    o.number("accuracy", &format!("{name}.svc.val_accuracy"), learned.validation_accuracy, scalar("svc.val_accuracy")?, 1e-6)
}

fn compare(f: &Fixture, o: &mut Outcome, t: &Tensors, name: &str, weights: &[f64], bias: f64, objective: f64) -> Result<(), Error> {
    let tolerance = |key: &str| f.entry["tolerance"][key].as_f64().ok_or(format!("the manifest gives no tolerance.{key}"));
    let want = vector(&t[&format!("{name}.coef_f64")])?;
    let got = Tensor::new(weights, &Device::Cpu)?;
    o.relative("weights", &format!("{name}.coef_f64"), &got, &Tensor::new(want, &Device::Cpu)?, 1e-4)?;
    let unit = row(&mtv_bench::editing::unit(weights))?;
    o.close("direction", &format!("{name}.unit_normal"), &unit, &t[&format!("{name}.unit_normal")], tolerance("unit_normal_atol")?, 0.0)?;
    let scalar = |key: &str| -> Result<f64, Error> { Ok(vector(&t[&format!("{name}.{key}")])?[0]) };
    o.number("intercept", &format!("{name}.intercept_f64"), bias, scalar("intercept_f64")?, tolerance("intercept_atol")?)?;
    let want = scalar("objective_f64")?;
    o.number("objective", &format!("{name}.objective_f64"), objective / want, 1.0, 1e-5)
}

fn edits(f: &Fixture, o: &mut Outcome, t: &Tensors, d: &Tensor) -> Result<(), Error> {
    let of = |key: &str| f.entry["tolerance"]["edits"][key].as_f64().ok_or(format!("the manifest gives no tolerance.edits.{key}"));
    let (atol, rtol) = (of("atol")?, of("rtol")?);
    let d = d.to_dtype(DType::F32)?;
    // InterFaceGAN: one code to absolute distances, rows of w by relative ones.
    let steps = vector(&t["interp.steps_f64"])?;
    o.close("edit", "interp.single", &shift::place(&t["interp.code"], &d, &steps)?, &t["interp.single"], atol, rtol)?;
    let moved =
        steps.iter().map(|s| shift::shift(&t["interp.code_wp"], &d, *s, &Rows::All, None)).collect::<candle_core::Result<Vec<_>>>()?;
    o.close("edit", "interp.wp", &Tensor::cat(&moved, 0)?, &t["interp.wp"], atol, rtol)?;
    // In-Domain: chosen rows, [codes, steps, rows, dim], and a strength per row. The steps are numpy's linspace.
    let boundary = t["layers.boundary_wp"].squeeze(0)?;
    for (name, rows, strength) in
        [("layers.out_1-2,4", "1-2,4", None), ("layers.out_strength", "all", Some(vector(&t["layers.strength"])?))]
    {
        let want = &t[name];
        let (count, start) = (want.dim(1)?, if strength.is_some() { 2.0 } else { 3.0 });
        let rows = Rows::try_from(rows.to_string())?;
        let step = |i: usize| -start + 2.0 * start * i as f64 / (count - 1) as f64;
        let moved = (0..count)
            .map(|i| shift::shift(&t["layers.codes"], &boundary, step(i), &rows, strength.as_deref())?.unsqueeze(1))
            .collect::<candle_core::Result<Vec<_>>>()?;
        o.close("edit", name, &Tensor::cat(&moved, 1)?, want, atol, rtol)?;
    }
    // MTV-TSA: w[start : start + n] += bonus * d.
    let mut seen = 0;
    for (name, want) in t.iter().filter(|(name, _)| name.starts_with("paper.bonus")) {
        let parts: Vec<&str> = name.trim_start_matches("paper.bonus").split('_').collect();
        let [bonus, start, n] = parts[..] else { return Err(format!("{name} is not bonus_start_n").into()) };
        let (start, n): (usize, usize) = (start.trim_start_matches("start").parse()?, n.trim_start_matches('n').parse()?);
        let rows = Rows::Some((start..start + n).collect());
        let got = shift::shift(&t["paper.w"].unsqueeze(0)?, &d, bonus.parse()?, &rows, None)?.squeeze(0)?;
        o.close("edit", name, &got, want, atol, rtol)?;
        seen += 1;
    }
    o.equal("edit", "paper.*", seen > 0, true)?;
    // ALAE: take apart, move the first slider by 4, put together.
    let (w, mean) = (vector(&t["alae_edit.code"])?, vector(&t["alae_edit.avg"])?);
    let directions = rows(&t["alae_edit.axes"])?;
    let mut sliders = axes::split(&w, &mean, &directions);
    let single = |v: &[f64]| Tensor::new(v, &Device::Cpu);
    o.close("edit", "alae_edit.values", &single(&sliders.values)?, &t["alae_edit.values"], atol, rtol)?;
    o.close("edit", "alae_edit.residual", &single(&sliders.residual)?, &t["alae_edit.residual"], atol, rtol)?;
    sliders.values[0] += 4.0;
    o.close("edit", "alae_edit.out", &single(&axes::join(&sliders, &mean, &directions))?, &t["alae_edit.out"], atol, rtol)
}

fn vector(t: &Tensor) -> Result<Vec<f64>, Error> {
    Ok(t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

fn integers(t: &Tensor) -> Result<Vec<i64>, Error> {
    Ok(t.flatten_all()?.to_vec1()?)
}

fn rows(t: &Tensor) -> Result<Vec<Vec<f64>>, Error> {
    Ok(t.to_dtype(DType::F64)?.to_vec2()?)
}

fn row(v: &[f64]) -> Result<Tensor, Error> {
    Ok(Tensor::new(v, &Device::Cpu)?.unsqueeze(0)?)
}
