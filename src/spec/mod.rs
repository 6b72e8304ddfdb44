//! What a user writes, as typed TOML: studies ([`experiment`]), cards of pretrained networks and data sets ([`card`]) and
//! profiles ([`profile`]). [`files`] finds them, [`document`] turns a mistake into file, line, column and the nearest name.

pub mod card;
pub mod document;
pub mod edit;
pub mod experiment;
pub mod files;
pub mod method;
pub mod pins;
pub mod profile;
pub mod recipe;

pub use card::Card;
pub use experiment::{Experiment, Study};
pub use profile::Profile;
