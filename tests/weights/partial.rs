//! No partial loads: a missing, extra or misshapen tensor is an error that names it and the likely cause.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use mtv_bench::params::{Init, Params};

fn tensors(shapes: &[(&str, &[usize])]) -> BTreeMap<String, Tensor> {
    let tensor = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).expect("zeros");
    shapes.iter().map(|(name, shape)| (name.to_string(), tensor(shape))).collect()
}

/// A network of two tensors asks a file for them; the error, or "" where all is well.
fn load(shapes: &[(&str, &[usize])]) -> String {
    let p = Params::frozen(tensors(shapes), DType::F32, &Device::Cpu, "net.pth");
    let build = || {
        p.pp("conv").get("weight", (4, 3, 1, 1), Init::Const(0.0))?;
        p.pp("conv").get("bias", 4, Init::Const(0.0))?;
        p.finish()
    };
    build().err().map(|e| e.to_string().lines().next().unwrap_or("").to_string()).unwrap_or_default()
}

#[test]
fn a_whole_file_loads_and_each_kind_of_partial_one_is_named() {
    assert_eq!(load(&[("conv.weight", &[4, 3, 1, 1]), ("conv.bias", &[4])]), "");
    let says = |shapes: &[(&str, &[usize])], parts: &[&str]| {
        let message = load(shapes);
        for part in parts {
            assert!(message.contains(part), "\"{part}\" is not in: {message}");
        }
    };
    says(&[], &["net.pth", "\"conv.weight\" [4, 3, 1, 1] is missing", "no tensor at all"]);
    says(&[("conv.weight", &[4, 3, 1, 1])], &["\"conv.bias\" [4] is missing"]);
    says(&[("module.conv.weight", &[4, 3, 1, 1])], &["has it under \"module\" (saved from several GPUs)"]);
    says(&[("generator_smooth.conv.weight", &[4, 3, 1, 1])], &["has it under \"generator_smooth\"; give that key"]);
    says(&[("conv_.weight", &[4, 3, 1, 1])], &["the nearest of that shape is \"conv_.weight\""]);
    says(&[("conv.weight", &[3, 4, 1, 1])], &["has shape [3, 4, 1, 1], the network needs [4, 3, 1, 1]", "in another order"]);
    says(&[("conv.weight", &[12])], &["the same number of values in another shape"]);
    says(&[("conv.weight", &[8, 3, 1, 1])], &["another width or resolution"]);
    says(
        &[("conv.weight", &[4, 3, 1, 1]), ("conv.bias", &[4]), ("conv.extra", &[1])],
        &["1 tensors do not belong to this network: conv.extra", "its card names another"],
    );
}

#[test]
fn a_generator_is_taken_out_of_its_training_wrapper() {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/generators/containers"));
    let names = |file: &str| -> Vec<String> {
        let checkpoint = mtv_bench::weights::open(&folder.join(file)).expect("it opens");
        checkpoint.generator().into_keys().collect()
    };
    let want = names("genforce_stylegan2_16px.expected.safetensors");
    for file in ["genforce_stylegan2_16px.pth", "genforce_stylegan2_16px_no_smooth.pth", "genforce_training_checkpoint.pth"] {
        assert_eq!(names(file), want, "{file}");
    }
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("rosinality.safetensors");
    let file = tensors(&[("g_ema.conv1.bias", &[4]), ("d.conv1.bias", &[4]), ("latent_avg", &[8])]);
    mtv_bench::weights::save(&path, &file, &BTreeMap::new()).expect("it is written");
    let found = mtv_bench::weights::open(&path).expect("it opens").generator();
    assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), ["conv1.bias", "latent_avg"]);
}
