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
