//! One file per command: its arguments and the function that does it.

pub mod arch;
pub mod check;
pub mod claims;
pub mod gpu_check;
pub mod images;
pub mod invert;
pub mod lint_table;
pub mod list;
pub mod plan;
pub mod run;
pub mod score;
pub mod weights;
pub mod zoo;
