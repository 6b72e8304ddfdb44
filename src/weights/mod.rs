//! Checkpoints: fetched, verified, read safely.
//!
//! [`open`] reads every format in which the weights of this field are published, without running anything that a file
//! contains: PyTorch's zip and legacy containers, numpy arrays, bare pickles of arrays, safetensors.

pub mod access;
mod archive;
mod cache;
mod checkpoint;
mod globals;
mod graph;
pub mod hub;
pub mod licence;
mod npy;
mod nvidia;
mod pickle;
mod safetensors_file;
mod source;
mod torch;
mod transfer;
mod tree;
pub mod verify;
mod view;

pub use access::{Access, Located, Missing};
pub use checkpoint::{Checkpoint, Options, open, open_with, read_bytes};
pub use graph::Unknown;
pub use safetensors_file::save;
pub use source::{Format, not_weights, visible};
pub use tree::{BARE, Value};
