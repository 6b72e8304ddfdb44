//! Show the layers of a network (owner: generators).

use crate::{Error, Result};

#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    Err(Error::internal("this command is not written yet"))
}
