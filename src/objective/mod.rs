//! The objective: every term of Eqs. 3-8.

mod recipe;

pub use recipe::*;
