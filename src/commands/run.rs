//! The command `run`.

use crate::{Error, Result};

#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: Args, _quiet: bool) -> Result<()> {
    Err(Error::internal("this command is not written yet"))
}
