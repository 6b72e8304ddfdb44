//! Fetch, verify and show pretrained weights (owner: weights).

use crate::{Error, Result};

#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    Err(Error::internal("this command is not written yet"))
}
