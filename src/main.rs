//! The `countersign` binary.

use clap::Parser;

fn main() -> anyhow::Result<()> {
    countersign::cli::run(countersign::cli::Cli::parse())
}
