//! `mtv-bench plan`: what `run` would do, what is cached and why, and what the rest would cost.

use super::run::Choice;
use crate::Result;
use crate::stages::fetch;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub choice: Choice,
}

pub fn run(args: Args) -> Result<()> {
    let (_, plan, store, _) = args.choice.open()?;
    print!("{}", plan.describe(&store));
    print!("{}", fetch::describe(&plan.cards, &args.choice.access.open(true)?)?);
    Ok(())
}
