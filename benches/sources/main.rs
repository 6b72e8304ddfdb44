//! `cargo bench --bench sources`: pictures a second of the procedural sources, drawn as a training draws its pool: on all cores, and on one.

use std::time::Instant;

use mtv_bench::zoo::drawing::Split;
use mtv_bench::zoo::pool::Pool;
use mtv_bench::zoo::source::{SEED, Source, Subject};

/// Pictures of a round, and rounds of each source in turn.
const PICTURES: usize = 2000;
const ROUNDS: usize = 5;

fn main() -> Result<(), rayon::ThreadPoolBuildError> {
    let subjects = [Subject::Faces, Subject::Objects];
    for threads in [rayon::current_num_threads(), 1] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        let mut rates = subjects.map(|_| Vec::new());
        for _ in 0..ROUNDS {
            for (rates, subject) in rates.iter_mut().zip(subjects) {
                let source = Source::of(subject, SEED);
                let start = Instant::now();
                let drawn = pool.install(|| Pool::draw(&source, Split::Train, PICTURES));
                rates.push(drawn.len() as f64 / start.elapsed().as_secs_f64());
            }
        }
        for (mut rates, subject) in rates.into_iter().zip(subjects) {
            rates.sort_by(f64::total_cmp);
            let (least, median) = (rates[0], rates[ROUNDS / 2]);
            println!(
                "{}, threads {threads}: {median:.0} pictures/s (median of {ROUNDS}, least {least:.0})",
                Source::of(subject, SEED).name()
            );
        }
    }
    Ok(())
}
