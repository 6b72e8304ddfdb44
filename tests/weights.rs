//! Fetching from a fake hub on loopback, and fuzzing of everything that parses files of strangers.

mod command;
mod fake_hub;
mod fetch;
pub mod fuzz;
mod partial;
