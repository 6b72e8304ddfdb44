//! The stage "factors": what the evaluation images show, in the factors of the procedural sources: glasses, yaw, class, scale. Of the sources'
//! own pictures they are known; of a generator's images they are what the source's judge reads off them.

use super::directions::{as_batch, readable};
use super::evaluate::picture;
use super::{FactorsSpec, StageContext, open, sample};
use crate::images::Rgb8;
use crate::record::ImageInfo;
use crate::record::factors::{Factors, Origin};
use crate::spec::Card;
use crate::spec::card::Source as Place;
use crate::zoo::drawing::Split;
use crate::zoo::source::Source;
use crate::{Error, Result};
use candle_core::Device;

/// Images per forward pass of the judge; the result does not depend on it.
const BATCH: usize = 64;

/// The source behind a data set's card, if it is one of the zoo's.
pub fn source(data: &str) -> Result<Option<Source>> {
    Ok(match Card::load(data)?.source {
        Place::Seeded(seeded) => Source::named(data, seeded.seed),
        _ => None,
    })
}

pub fn run(spec: &FactorsSpec, context: &mut StageContext) -> Result<()> {
    let input = context.input("sample")?;
    let images: Vec<ImageInfo> = input.json("images.json")?;
    let pixels = input.tensors("images.safetensors", &Device::Cpu)?;
    let mut found = Vec::new();
    for wanted in &spec.sets {
        let none = || Error::internal(format!("the factors of {} are not known", wanted.data));
        let source = source(&wanted.data)?.ok_or_else(none)?;
        let mine: Vec<&ImageInfo> = images.iter().filter(|i| i.set == wanted.set).collect();
        // What the judge can't read says nothing.
        let kept: Vec<bool> = match wanted.origin {
            Origin::Known => vec![true; source.factors().len()],
            Origin::Read => readable(&Card::load(source.judge())?, source.factors()),
        };
        let rows: Vec<(u32, Vec<f64>)> = match wanted.origin {
            Origin::Known => {
                let ids = mine.iter().map(|i| sample::number(&i.id)).collect::<Result<Vec<_>>>()?;
                let drawn = source.draw_all(Split::HeldOut, &ids);
                drawn.into_iter().map(|p| (p.label.class, p.label.factors.into_iter().map(f64::from).collect())).collect()
            }
            Origin::Read => {
                let judge = open::judge(source.judge(), context.device)?;
                let mut rows = Vec::new();
                for batch in mine.chunks(BATCH) {
                    let pictures = batch.iter().map(|info| picture(&pixels, info)).collect::<Result<Vec<Rgb8>>>()?;
                    let features = judge.features(&as_batch(&pictures, context.device)?)?;
                    let factors = judge.factors(&features)?.to_dtype(candle_core::DType::F64)?.to_vec2()?;
                    rows.extend(judge.classes(&features)?.into_iter().zip(factors));
                }
                rows
            }
        };
        let objects = matches!(source, Source::Objects(_));
        let names = source.factors().iter().zip(&kept).filter(|(_, kept)| **kept).map(|(name, _)| name.to_string());
        found.push(Factors {
            set: wanted.set.clone(),
            data: wanted.data.clone(),
            origin: wanted.origin,
            names: names.collect(),
            values: rows
                .iter()
                .map(|(_, row)| row.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(v, _)| (v * 100.0).round() / 100.0).collect())
                .collect(),
            classes: if objects { rows.iter().map(|(class, _)| *class).collect() } else { vec![] },
        });
    }
    context.work.put_json("factors.json", &found)
}
