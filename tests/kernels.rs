//! The CUDA operations, run on the CPU by the emulator of `src/ops/cuda`: every operation against its CPU form, every kernel at least once,
//! threads in both orders. `scripts/check-kernels` runs this; it needs the feature `emulate-cuda`.

use std::collections::BTreeSet;

use candle_core::Device;
use mtv_bench::commands::gpu_check::{cases, step::Cell};
use mtv_bench::ops::cuda::{emulate, launches};

#[test]
fn kernels_give_what_the_cpu_gives() {
    let mut wrong = Vec::new();
    for case in cases::all().unwrap() {
        let expected = case.outcome(&Device::Cpu).unwrap();
        let forwards = emulate(false, || case.outcome(&Device::Cpu)).unwrap();
        let backwards = emulate(true, || case.outcome(&Device::Cpu)).unwrap();
        let difference = cases::difference(&forwards, &expected).unwrap();
        // Sums of 20000 terms in another order.
        if difference > 1e-5 {
            wrong.push(format!("{}: {difference:e}", case.name));
        }
        if !cases::identical(&forwards, &backwards).unwrap() {
            wrong.push(format!("{}: depends on the order of threads", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_kernel_has_a_case() {
    emulate(false, || cases::all().unwrap().iter().for_each(|case| drop(case.outcome(&Device::Cpu).unwrap())));
    let a = candle_core::Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
    let b = candle_core::Tensor::new(&[5f32, -2.0], &Device::Cpu).unwrap();
    emulate(false, || mtv_bench::ops::cuda::towards(&a, &b, 0.25)).unwrap();
    assert_eq!(a.to_vec1::<f32>().unwrap(), [2.0, 1.0]);
    let source = include_str!("../src/ops/cuda/kernels.cu");
    let declared: BTreeSet<&str> = source.lines().filter_map(|l| l.strip_prefix("KERNEL ")?.split('(').next()).collect();
    let ran: BTreeSet<&str> = launches().into_keys().collect();
    assert_eq!(declared, ran);
}

/// All four generators, their encoders, VGG16 and the losses: one whole training step.
#[test]
fn a_step_has_the_gradients_of_the_cpu() {
    for cell in Cell::compared() {
        let gradients = || cell.with(&Device::Cpu, |step| step.gradients()).unwrap();
        let expected = gradients();
        let emulated = emulate(false, gradients);
        let difference = cases::difference(&emulated, &expected).unwrap();
        assert!(difference < 1e-3, "{}: {difference:e}", cell.name());
    }
}
