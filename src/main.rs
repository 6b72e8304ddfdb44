//! The `mtv-bench` binary: parse, run, and turn an error into one message and an exit code.

use std::process::ExitCode;

/// Fresh 4 MB buffers cost more in page faults than the arithmetic on them; mimalloc keeps them mapped.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    mtv_bench::cli::main()
}
