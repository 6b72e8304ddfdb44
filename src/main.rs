//! The `mtv-bench` binary: parse, run, and turn an error into one message and an exit code.

use std::process::ExitCode;

/// Fresh 4 MB buffers cost more in page faults than the arithmetic on them; mimalloc keeps them mapped.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // candle keeps a thread pool of its own, whose spinning takes the cores from the one that our operations use.
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") }
    }
    mtv_bench::cli::main()
}
