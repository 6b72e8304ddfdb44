//! The encoders that ship with the mini networks: trained by the zoo, usable at once.

use candle_core::Device;
use mtv_bench::inverters::baseline::Baseline;
use mtv_bench::zoo::encoders::{self, Recipe};

const CPU: Device = Device::Cpu;

/// The zoo trains by the stage of the studies; what it left is taken up, and not trained again.
#[test]
fn the_zoo_trains_an_encoder() -> mtv_bench::Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let generator = "mini/stylegan1_tiny".to_string();
    let recipe = Recipe { baseline: Baseline::Psp, generator, width: Some(8), seed: 3, images: 24, batch: 4, decay: 0.3 };
    let train = |resume: bool| encoders::train(&recipe, folder.path(), resume, &CPU);
    assert!(train(true).is_err_and(|e| e.message.contains("train without --resume")));
    let (weights, seconds) = train(false)?;
    assert_eq!(weights["styles.0.linear.weight"].dims()[1], 8);
    let (again, same) = train(true)?;
    assert_eq!(seconds, same);
    for (name, tensor) in &weights {
        assert_eq!(tensor.flatten_all()?.to_vec1::<f32>()?, again[name].flatten_all()?.to_vec1::<f32>()?, "{name}");
    }
    Ok(())
}
