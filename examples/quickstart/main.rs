//! The quick start: a real control plane, the real operator and a git repository, and the story they are for, told live.
//!
//! `cargo run --example quickstart`; `-- --help` says what else there is.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a person on a terminal")]

#[path = "../../tests/controlplane/mod.rs"]
mod controlplane;
mod repository;
mod screen;
mod stage;
mod story;
mod table;

use std::{
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Tells what Countersign does, live, on a Kubernetes control plane of its own.
///
/// Starts etcd, the API server, the controllers and the scheduler (found on this machine, or built once with Go into the
/// user's cache directory), the operator, and a git repository; approves, revokes and approves images in it, and shows what
/// becomes of the workloads. Everything is gone when it ends.
#[derive(Debug, Parser)]
#[command(name = "quickstart")]
struct Args {
    /// Leave everything running at the end, to play with, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Use this operator binary instead of building it
    #[arg(long, value_name = "FILE")]
    operator: Option<PathBuf>,
}

/// The story was told and everything is only kept for playing: Ctrl-C is then the expected end.
static TOLD: AtomicBool = AtomicBool::new(false);

const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        // Dropping the story ends what it started, and waits for that.
        tokio::select! {
            told = story::tell(args.keep, args.operator) => Some(told),
            () = interrupted() => None,
        }
    });
    match ended {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
        None if TOLD.load(Ordering::SeqCst) => {
            println!("\nStopped; everything is gone.");
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("\nInterrupted: what was started is stopped and removed.");
            end_builds();
            // At once: a thread may still be starting the control plane, whose watchdog tidies up when this process is gone.
            std::process::exit(i32::from(INTERRUPTED));
        }
    }
}

/// Ctrl-C, or a polite request to end.
async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// A terminal sends Ctrl-C to builds (go, cargo) by itself; whoever signals only this process means them as well.
fn end_builds() {
    let id = std::process::id().to_string();
    let _ =
        Command::new("pkill").args(["-INT", "-P", &id]).stdout(Stdio::null()).stderr(Stdio::null()).status();
}
