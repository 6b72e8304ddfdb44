//! `mtv-bench list`: the studies, what of the paper they reproduce, and what they cost; then the profiles.

use crate::Result;
use crate::spec::{Profile, Study};

#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> Result<()> {
    for name in Study::names() {
        let e = Study::load(&name)?.experiment;
        println!("{name}: {} ({})", e.title, e.paper);
        let arms: Vec<&str> = e.arms.iter().map(|a| a.label.as_str()).collect();
        println!("    arms: {}", arms.join("; "));
        for (profile, cost) in &e.cost {
            println!("    {profile}: {cost}");
        }
    }
    println!();
    for name in Profile::names() {
        println!("--profile {name}: {}", Profile::load(&name)?.title);
    }
    Ok(())
}
