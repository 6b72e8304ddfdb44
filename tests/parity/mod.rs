//! Parity with the reference implementations, driven by the manifests in tests/fixtures (or in `MTV_PARITY_DIR`).

mod baselines;
mod containers;
mod encoders;
mod generators;
mod harness;
mod metrics;
mod recipe;
