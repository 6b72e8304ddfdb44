//! Model cards: written from what was measured, with the pictures beside them, and measured again.

use std::io::ErrorKind;
use std::path::Path;

use candle_core::{DType, Device, Result as Outcome, Tensor};

use super::adversarial::Objective;
use super::card_notes;
use super::card_numbers::{Measured, measure};
use super::checkpoint;
use super::curve;
use super::judge::Judge;
use super::networks::{self, Network, Training};
use crate::record::store::{create_folder, sha256_hex, write_atomic};
use crate::spec::card::{Card, Curve, EmbeddedFile, Kind, Licence, Source as Place, Training as Trained, Verified};
use crate::{Error, Result};

/// Writes weights, pictures and card of `network` below `out` ("baselines" in the project's folder), from the weights file that
/// training left. `repetition`: the folder of the same training done again, whose curve the card shows; without it the curve is that beside the
/// weights, or of the card that these weights have already.
///
/// Errors: unreadable weights, or those of another network; a repetition by another recipe, or without a curve.
pub fn write(
    network: &Network,
    weights: &Path,
    repetition: Option<&Path>,
    judge: impl FnOnce() -> Result<Judge>,
    out: &Path,
    device: &Device,
) -> Result<Measured> {
    let bytes = std::fs::read(weights).map_err(|e| match e.kind() {
        ErrorKind::NotFound => {
            let (place, name) = (weights.display(), network.name);
            Error::missing(format!("{place}: no such file; `mtv-bench zoo train {name}` leaves one, or name one with --weights"))
        }
        _ => Error::io(weights, "reading", e),
    })?;
    let (_, about) = checkpoint::read(&bytes, &weights.display().to_string(), device)?;
    if let Some(other) = about["name"].as_str().filter(|name| *name != network.name) {
        return Err(Error::usage(format!("{}: weights of {other}, not of {}", weights.display(), network.name)));
    }
    let curve = match repetition {
        Some(folder) => Some(curve_of_repetition(&bytes, folder, device)?),
        None => match curve::read(weights.parent().unwrap_or(out))? {
            Some(curve) => Some(curve),
            None => Card::load(network.name)
                .ok()
                .filter(|card| card.sha256.as_deref() == Some(&sha256_hex(&bytes)))
                .and_then(|c| c.training?.curve),
        },
    };
    let generator = matches!(network.training, Training::Generator { .. });
    let pictures = out.join(network.name);
    let names: &[&str] = match &network.training {
        Training::Generator { .. } => {
            &["samples.png", "samples_truncated.png", "interpolation.png", "nearest.png", "synthesized.png", "real.png"]
        }
        Training::ObjectClassifier(_) => &["cam.png"],
        Training::Encoder(_) => &["synthesized.png", "real.png"],
        _ => &[],
    };
    let measured = measure(network, &bytes, judge, (!names.is_empty()).then_some(pictures.as_path()), device)?;
    let file = format!("{}.safetensors", network.name);
    let target = out.join(&file);
    create_folder(target.parent().unwrap_or(out))?;
    write_atomic(&target, &bytes)?;
    if let Some(curve) = &curve {
        create_folder(&pictures)?;
        curve::draw(curve, &pictures.join("curve.png"))?;
    }
    // A picture of an earlier curve is none of this card.
    let of_curve = curve.iter().map(|_| &"curve.png");
    let drawn = names.iter().chain(of_curve).filter(|p| pictures.join(p).is_file());
    let number = |key: &str| about[key].as_f64().unwrap_or(0.0);
    let card = Card {
        name: network.name.into(),
        kind: match &network.training {
            Training::Generator { recipe, .. } if recipe.objective == Objective::Alae => Kind::Encoder,
            Training::Generator { .. } => Kind::Generator,
            Training::Classifier(_) | Training::ObjectClassifier(_) => Kind::Classifier,
            Training::Judge(_) | Training::ObjectJudge(_) => Kind::MetricNetwork,
            Training::Identity(_) => Kind::IdentityNetwork,
            Training::Encoder(_) => Kind::Encoder,
        },
        title: network.title.into(),
        source: Place::Embedded(EmbeddedFile { file }),
        sha256: Some(sha256_hex(&bytes)),
        bytes: Some(bytes.len() as u64),
        bytes_about: None,
        format: "safetensors".into(),
        pinned: true,
        resolution: Some(network.resolution()),
        pixel_range: Some([-1.0, 1.0]),
        network: Some(network.shape()),
        data: generator.then(|| network.source().name().into()),
        licence: Licence { name: "MIT OR Apache-2.0".into(), url: None, note: String::new(), non_commercial: false, reupload_tag: None },
        training: Some(Trained {
            command: format!("mtv-bench zoo train {}", network.name),
            seed: about["recipe"]["seed"].as_u64().unwrap_or(0),
            images: number("images") as u64,
            seconds: number("seconds"),
            machine: about["machine"].as_str().unwrap_or("").into(),
            measured: measured.numbers.clone(),
            noise_strengths: measured.noise_strengths.iter().map(|v| (v * 1e4).round() / 1e4).collect(),
            pictures: drawn.map(|p| format!("{}/{p}", network.name)).collect(),
            curve,
        }),
        verified: vec![Verified {
            what: "sha256, size and all measured numbers".into(),
            where_: format!("mtv-bench zoo card {}, {}", network.name, crate::machine::date()),
        }],
        notes: card_notes::of(network),
    };
    let text = toml::to_string(&card).map_err(|e| Error::internal(e.to_string()))?;
    let first = match measured.missed.as_slice() {
        missed @ [_, ..] => format!("# MISSED: {}.", missed.join("; ")),
        [] if generator => "# Meets every bar of the mini zoo that is measured at its resolution.".to_string(),
        [] => format!("# Measured by `mtv-bench zoo card {}`.", network.name),
    };
    write_atomic(&out.join(format!("{}.toml", network.name)), format!("{first}\n{text}").as_bytes())?;
    Ok(measured)
}

/// The curve in this folder, with a word about whose it is where the training did not end in the weights of `bytes`.
fn curve_of_repetition(bytes: &[u8], folder: &Path, device: &Device) -> Result<Curve> {
    let place = folder.display();
    let Some(mut curve) = curve::read(folder)? else {
        return Err(Error::usage(format!("{place}: no {} is there; a training writes it at its end", curve::FILE)));
    };
    let (shipped, of_shipped) = checkpoint::read(bytes, "the weights", device)?;
    let (repeated, of_repeated) = checkpoint::load(&folder.join(networks::WEIGHTS), device)?;
    if of_shipped["recipe"] != of_repeated["recipe"] {
        return Err(Error::usage(format!("{place}: a training by another recipe than that of the weights")));
    }
    let same = |(name, tensor): (&String, &Tensor)| -> Outcome<bool> {
        let Some(other) = repeated.get(name).filter(|other| other.dims() == tensor.dims()) else { return Ok(false) };
        let values = |t: &Tensor| t.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>();
        Ok(values(tensor)? == values(other)?)
    };
    let same = shipped.iter().map(same).collect::<Outcome<Vec<_>>>()?;
    if !same.into_iter().all(|same| same) {
        curve.of = format!(
            "the same training, done again from its seed by version {}; it ended in other weights than these",
            env!("CARGO_PKG_VERSION")
        );
    }
    Ok(curve)
}

/// Measures the shipped network again. Errors: kind `Regression` where a number on the card differs by more than 2 % (or 0.01).
pub fn verify(network: &Network, judge: impl FnOnce() -> Result<Judge>, device: &Device) -> Result<Vec<String>> {
    let card = Card::load(network.name)?;
    let bytes = shipped(network.name)?;
    if card.sha256.as_deref() != Some(&sha256_hex(&bytes)) {
        return Err(Error::corrupt(format!("baselines/{}.safetensors is not the file of its card (sha256)", network.name)));
    }
    let said = card.training.map(|t| t.measured).unwrap_or_default();
    let found = measure(network, &bytes, judge, None, device)?;
    let mut lines = Vec::new();
    let mut off = Vec::new();
    for (name, found) in &found.numbers {
        let Some(said) = said.get(name) else {
            off.push(name.clone());
            continue;
        };
        lines.push(format!("{name}: card {said}, measured {found}"));
        if (found - said).abs() > 0.01f64.max(0.02 * said.abs()) {
            off.push(name.clone());
        }
    }
    if off.is_empty() {
        return Ok(lines);
    }
    let message = format!("{}: these numbers on the card are not what is measured: {}", network.name, off.join(", "));
    Err(Error::new(crate::error::Kind::Regression, message))
}

/// The bytes of a shipped weights file. Errors: there is none.
pub fn shipped(name: &str) -> Result<std::borrow::Cow<'static, [u8]>> {
    let path = format!("baselines/{name}.safetensors");
    let found = crate::spec::files::read(&path)?;
    found.ok_or_else(|| Error::missing(format!("{path} is not there; train it with `mtv-bench zoo train {name}`")))
}
