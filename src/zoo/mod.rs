//! The procedural image sources and the training of the mini networks.

pub mod checkpoint;
pub mod discriminator;
pub mod faces;
pub mod gan;
pub mod pool;
pub mod sheet;
