//! Checkpoints: fetched, verified, read safely.
