//! mtv-bench: a benchmark harness that makes the study of one paper reproducible, "Adaptable GAN Encoders for Image
//! Reconstruction via Multi-type Latent Vectors with Two-scale Attentions" (MTV-TSA).
//!
//! The modules, in the order in which data flows:
//!
//! | module | what it holds |
//! |---|---|
//! | [`cli`], [`commands`] | the command line, and one function per command |
//! | [`spec`] | what a user writes: studies, cards, profiles |
//! | [`plan`], [`runner`], [`stages`] | which stages a study needs, and running them: fetch, sample, train, evaluate, render |
//! | [`weights`], [`images`] | checkpoints and pictures, read safely |
//! | [`generators`], [`inverters`], [`attention`], [`objective`], [`perceptual`], [`metrics`] | the models and the measures |
//! | [`editing`] | directions in w and what is done with them |
//! | [`params`], [`optim`], [`random`], [`ops`] | parameters, optimizers, random numbers, tensor operations |
//! | [`zoo`] | the procedural image sources and the training of the mini networks |
//! | [`machine`] | facts about processor, memory, disk and device |
//! | [`record`], [`report`] | results, statistics, comparison with golden scores; tables and figures |
//!
//! Dependencies point down only: models know neither a study nor a path.

pub mod attention;
pub mod cli;
pub mod commands;
pub mod editing;
pub mod error;
pub mod generators;
pub mod images;
pub mod inverters;
pub mod machine;
pub mod metrics;
pub mod objective;
pub mod ops;
pub mod optim;
pub mod params;
pub mod perceptual;
pub mod plan;
pub mod random;
pub mod record;
pub mod report;
pub mod runner;
pub mod spec;
pub mod stages;
pub mod weights;
pub mod zoo;

pub use error::{Error, Result};
