//! The command line.

mod crds;
mod run;

use std::io::{self, Write};

use clap::{Parser, Subcommand};

/// Decides which container image digests may run in a cluster, and makes it so.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the definitions of Countersign's kinds, for kubectl apply --server-side -f -
    Crds(crds::Args),
    /// Run the operator
    Run(Box<run::Args>),
}

/// Does what the command line asks for.
///
/// # Errors
/// When it could not be done; the message is for people.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match cli.command {
        Command::Crds(args) => crds::run(&args, &mut out)?,
        Command::Run(args) => run::run(*args)?,
    }
    out.flush()?;
    Ok(())
}
