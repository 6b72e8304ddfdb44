//! Parity checks of this area; harness.rs says how to write them.

use super::harness::Check;

pub const CHECKS: &[Check] = &[];
