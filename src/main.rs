//! The `countersign` binary.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let Err(error) = countersign::cli::run(countersign::cli::Cli::parse()) else { return ExitCode::SUCCESS };
    // Whoever reads our output, such as head, has had enough.
    let cause = error.root_cause().downcast_ref::<io::Error>();
    if cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    // Nothing is left to do when even this cannot be written.
    let _ = writeln!(io::stderr(), "error: {error:#}");
    ExitCode::FAILURE
}
