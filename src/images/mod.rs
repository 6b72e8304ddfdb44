//! Pictures: a typed 8-bit image, decoding by rule, writing, resizing, sets of pictures in folders, archives and databases,
//! alignment.
//!
//! [`Rgb8`] is the one image type of the crate. It says what its numbers mean (RGB, 0..255), so that a metric can't be
//! handed values of another range; the way from a network's `[-1, 1]` to it is one quantiser.

pub mod align;
mod decode;
mod fit;
mod lmdb;
mod pairs;
#[cfg(feature = "parquet")]
mod parquet;
mod resize_f32;
mod resize_u8;
mod rgb8;
mod source;

pub use decode::{MAX_PIXELS, decode};
pub use fit::{Shape, fit};
pub use pairs::{Files, Pairs};
pub use resize_f32::{Resample, Windows};
pub use resize_u8::{Filter, resize};
pub use rgb8::Rgb8;
pub use source::{Listed, Picture, Pictures};
