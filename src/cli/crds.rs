//! `countersign crds`: the definitions of the kinds, as YAML.

use std::{fs, io::Write, path::PathBuf};

use anyhow::Context;

use crate::api;

/// What `countersign crds` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Write each definition into a file of its own in this directory instead
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    for crd in api::crds() {
        let name = crd.metadata.name.as_deref().unwrap_or_default();
        let yaml = api::to_yaml(&crd).with_context(|| format!("cannot write {name} as YAML"))?;
        if let Some(directory) = &args.output_dir {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
            let path = directory.join(format!("{name}.yaml"));
            fs::write(&path, yaml).with_context(|| format!("cannot write {}", path.display()))?;
        } else {
            writeln!(out, "---\n{}", yaml.trim_end())?;
        }
    }
    Ok(())
}
