//! The command line.

mod backup;
mod connect;
mod crds;
mod run;
mod uninstall;

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
    /// Print what only the cluster knows: histories, revocations, inventories
    Backup(backup::BackupArgs),
    /// Print the definitions of Countersign's kinds, for kubectl apply --server-side -f -
    Crds(crds::Args),
    /// Put back what countersign backup printed, while no operator leads
    Restore(backup::RestoreArgs),
    /// Run the operator
    Run(Box<run::Args>),
    /// Remove the operator from a cluster so that nothing gets stuck; what it knows is kept
    Uninstall(uninstall::Args),
}

/// Does what the command line asks for.
///
/// # Errors
/// When it could not be done; the message is for people.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match cli.command {
        Command::Backup(args) => backup::backup(&args, &mut out)?,
        Command::Crds(args) => crds::run(&args, &mut out)?,
        Command::Restore(args) => backup::restore(&args, &mut out)?,
        Command::Run(args) => run::run(*args)?,
        Command::Uninstall(args) => uninstall::run(&args, &mut out)?,
    }
    out.flush()?;
    Ok(())
}
