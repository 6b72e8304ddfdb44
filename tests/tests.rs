//! The one test binary: `cargo test --release --test tests parity` runs the parity part alone.

mod arch;
mod baselines;
mod cli;
mod compare;
mod editing;
mod encoders;
mod external;
mod families;
mod faults;
mod gate;
mod generators;
mod images;
#[cfg(feature = "emulate-cuda")]
mod kernels;
mod memory;
mod metrics;
mod mini;
mod new_gan;
mod ops;
mod parity;
mod sandbox;
mod score;
mod specs;
mod statistics;
mod tables;
mod weights;
mod zoo;
mod zoo_alae;
mod zoo_training;
