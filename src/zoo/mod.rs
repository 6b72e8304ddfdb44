//! The procedural image sources and the training of the mini networks.

pub mod adversarial;
pub mod biggan_discriminator;
mod card_pictures;
pub mod checkpoint;
pub mod classifier;
pub mod discriminator;
pub mod drawing;
pub mod encoders;
pub mod faces;
pub mod form;
pub mod gan;
pub mod heat_maps;
pub mod identity;
pub mod judge;
pub mod linear_algebra;
pub mod measure;
pub mod model_card;
mod moving_average;
pub mod networks;
pub mod objects;
mod players;
pub mod pool;
pub mod schedule;
pub mod shards;
pub mod sheet;
pub mod source;
pub mod supervised;
