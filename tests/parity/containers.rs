//! Parity of the checkpoint reader: every container loads to exactly the expected tensors, every hostile or damaged file is
//! refused at once, with a message that says what is wrong, and nothing in it is executed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use mtv_bench::error::Kind;
use mtv_bench::weights::{self, BARE, Checkpoint};

use crate::weights::fuzz::processor_time;

use super::harness::{Check, Error, Fixture, Outcome};

pub const CHECKS: &[Check] = &[container, hostile, baseline];

type Tensors = BTreeMap<String, Tensor>;

/// The expected tensors, in the types of the file, read without the project's own reader. Bool tensors are u8 on both sides.
fn expected(f: &Fixture, file: &str) -> Result<Tensors, Error> {
    let bytes = std::fs::read(f.folder.join(file))?;
    let all = safetensors::SafeTensors::deserialize(&bytes)?;
    let tensor = |name: String, view: safetensors::tensor::TensorView| {
        let dtype = if view.dtype() == safetensors::Dtype::BOOL { DType::U8 } else { DType::try_from(view.dtype())? };
        Ok((name, Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?))
    };
    all.tensors().into_iter().map(|(name, view)| tensor(name, view)).collect()
}

/// The same names, types, shapes and bits.
fn same(o: &mut Outcome, got: &Tensors, want: &Tensors) -> Result<(), Error> {
    let names = |t: &Tensors| t.keys().cloned().collect::<Vec<_>>();
    o.equal("names", "names", names(got), names(want))?;
    for (name, tensor) in got {
        let Some(want) = want.get(name) else { continue };
        o.equal("type", name, tensor.dtype(), want.dtype())?;
        o.equal("shape", name, tensor.dims(), want.dims())?;
        let flat = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        o.equal("values", name, flat(tensor)?, flat(want)?)?;
    }
    Ok(())
}

/// The part of `all` whose names begin with `prefix`, without it.
fn part(all: &Tensors, prefix: &str) -> Tensors {
    all.iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_string(), t.clone()))).collect()
}

/// What a container of generators must hold, and where.
fn compare(o: &mut Outcome, f: &Fixture, checkpoint: &Checkpoint) -> Result<(), Error> {
    let want = expected(f, f.text("expected"))?;
    if f.file.ends_with("podgorskiy_full_karras2019stylegan.pth") {
        same(o, &checkpoint.under("models.generator_s")?, &part(&want, "Gs."))?;
        same(o, &checkpoint.under("models.mapping_fl_s")?, &part(&want, "Gm."))?;
        let center = Tensors::from([(BARE.to_string(), want["center_tensor"].clone())]);
        return same(o, &Tensors::from([(BARE.to_string(), checkpoint.tensors["models.dlatent_avg.buff"].clone())]), &center);
    }
    match f.text("expected_prefix") {
        "center_tensor" => same(o, &checkpoint.tensors, &Tensors::from([(BARE.to_string(), want["center_tensor"].clone())])),
        "" => {
            let key = f.text("key").split(' ').next().unwrap_or("");
            same(o, &checkpoint.under(key)?, &want)
        }
        prefix => same(o, &checkpoint.tensors, &part(&want, prefix)),
    }
}

fn container(f: &Fixture) -> Option<Outcome> {
    if f.area != "generators" || !f.file.starts_with("containers/") {
        return None;
    }
    match f.text("expect") {
        "config" => Some(Outcome::companion("the pytorch_model.bin beside it")),
        "load" => Some(Outcome::of(|o| {
            let checkpoint = weights::open(&f.path())?;
            let name = f.file.rsplit('/').next().unwrap_or("");
            match name {
                "nan_weights.pth" => {
                    let warning = checkpoint.warnings.first().cloned().unwrap_or_default();
                    o.equal("warning", name, warning.contains("NaN"), true)?;
                    o.equal("warning", name, checkpoint.require_finite().is_err(), true)
                }
                "control_handmade_ok.pth" => {
                    o.equal("values", name, checkpoint.tensors["weight"].to_vec2::<f32>()?, vec![vec![1.0, 2.0], vec![3.0, 4.0]])
                }
                // The expected values are those of another seed; names and shapes must be those of the network.
                "genforce_stylegan2_16px_no_smooth.pth" => {
                    let shapes = |t: &Tensors| t.iter().map(|(n, t)| (n.clone(), t.dims().to_vec())).collect::<BTreeMap<_, _>>();
                    let got = checkpoint.under_first(&["generator_smooth", "generator"])?;
                    let want = expected(f, "containers/genforce_stylegan2_16px.expected.safetensors")?;
                    o.equal("shapes", name, shapes(&got), shapes(&want))
                }
                _ => compare(o, f, &checkpoint),
            }?;
            if name == "akanimax_depth4.bin" {
                o.equal("tree", "generator.conf.depth", checkpoint.tree.get("generator.conf.depth").and_then(|v| v.as_i64()), Some(4))?;
            }
            Ok(())
        })),
        _ => None,
    }
}

/// What the message about each hostile or damaged file must say.
const SAYS: &[(&str, &str)] = &[
    ("evil_open", "open\""),
    ("evil_system", "posix.system"),
    ("evil_inst", "refused, nothing was run"),
    ("evil_obj", "refused, nothing was run"),
    ("evil_setstate", "refused, nothing was run"),
    ("evil_in_zip", "open\""),
    ("evil_in_legacy", "open"),
    ("evil_legacy_magic", "open"),
    ("bad_oob", "reaches outside"),
    ("bad_negative_stride", "negative stride"),
    ("bad_negative_size", "negative size"),
    ("bad_huge_size", "more elements than a computer can count"),
    ("bad_huge_alloc", "repeats its elements"),
    ("bad_numel_lie", "has 16 bytes, its tensors say 4000000000"),
    ("bad_storage_short", "has 8 bytes, its tensors say 16"),
    ("bad_storage_missing", "storage \"7\" is not in the archive"),
    ("bad_storage_traversal", "is no plain name"),
    ("bad_rank_mismatch", "2 sizes and 1 strides"),
    ("bad_unknown_storage", "Storage"),
    ("bad_huge_string", "bytes are announced"),
    ("bad_memo_bomb", "not a checkpoint"),
    ("bad_deep_nesting", "nested deeper"),
    ("bad_stack_underflow", "nothing on the stack"),
    ("bad_no_stop", "has no end"),
    ("bad_zip_bomb", "compressed"),
    ("bad_zip_two", "two entries named data.pkl"),
    ("bad_not_a_checkpoint", "web page"),
    ("bad_git_lfs", "git-lfs pointer"),
    ("bad_empty", "is empty"),
    ("truncated", "truncated"),
    ("corrupt_zip_storage_bitflip", "CRC-32"),
    ("corrupt_legacy_pickle", "persistent id"),
];

fn hostile(f: &Fixture) -> Option<Outcome> {
    if f.area != "generators" || f.text("expect") != "error" {
        return None;
    }
    Some(Outcome::of(|o| {
        let start = processor_time();
        let result = weights::open(&f.path());
        let time = processor_time() - start;
        let name = f.file.rsplit('/').next().unwrap_or("");
        match result {
            Ok(_) => o.fail("it was read without an error"),
            Err(e) => {
                o.equal("kind", name, e.kind, Kind::Corrupt)?;
                let says = SAYS.iter().find(|(stem, _)| name.starts_with(stem)).ok_or("no expected message is listed for this file")?.1;
                if !e.message.contains(says) {
                    o.fail(format!("the message does not say \"{says}\": {e}"));
                }
                o.equal("one line", name, e.message.lines().count(), 1)?;
            }
        }
        if time > Duration::from_secs(1) {
            o.fail(format!("it took {time:?}"));
        }
        o.equal("nothing executed", name, Path::new(f.text("marker")).exists(), false)
    }))
}

fn baseline(f: &Fixture) -> Option<Outcome> {
    if f.area != "baselines" || !f.file.starts_with("container_") {
        return None;
    }
    if f.file.ends_with("_expected.safetensors") {
        return Some(Outcome::companion("the containers that it describes"));
    }
    Some(Outcome::of(|o| {
        let checkpoint = weights::open(&f.path())?;
        let want = expected(f, f.text("expected"))?;
        match f.file.as_str() {
            "container_boundary_1xD_f64.npy" => {
                same(o, &checkpoint.tensors, &Tensors::from([(BARE.to_string(), want["boundary_1xD_f64"].clone())]))
            }
            "container_boundary_dict.npy" => {
                same(o, &checkpoint.tensors, &Tensors::from([("boundary".to_string(), want["boundary_dict"].clone())]))?;
                let layers: Vec<Option<i64>> =
                    (0..3).map(|i| checkpoint.tree.get(&format!("meta_data.manipulate_layers.{i}")).and_then(|v| v.as_i64())).collect();
                let want: Vec<Option<i64>> = want["manipulate_layers"].to_vec1::<i64>()?.into_iter().map(Some).collect();
                o.equal("layers", "manipulate_layers", layers, want)
            }
            file if file.starts_with("container_latent_view") => {
                same(o, &checkpoint.tensors, &Tensors::from([(BARE.to_string(), want["w"].clone())]))
            }
            // The file also holds what is no weight of the networks (optimizer states); the expected file lists the networks.
            file if file.starts_with("container_alae") => {
                let models: Tensors =
                    checkpoint.tensors.iter().filter(|(n, _)| n.starts_with("models.")).map(|(n, t)| (n.clone(), t.clone())).collect();
                same(o, &models, &want)
            }
            file => {
                if file.starts_with("container_psp") {
                    let size = checkpoint.tree.get("opts.output_size").and_then(|v| v.as_i64());
                    o.equal("options", "opts.output_size", size, Some(16))?;
                }
                same(o, &checkpoint.tensors, &want)
            }
        }
    }))
}
