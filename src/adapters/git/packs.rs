//! Every fetch that brings something adds a pack, and every read looks through all of them: so small ones are merged.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use git2::{Oid, Repository};

use super::{Error, session::Session};

/// So many packs are merged. Reads hardly notice fewer.
const TOO_MANY: usize = 50;

/// Merges all packs but the largest, if there are too many: that one holds the first clone, and packing it again would
/// take as long as cloning. The others hold what was pushed since.
///
/// *Guarantees*: no object is lost, reachable or not: the old packs go after the new one is complete. `exclusively`
/// decides when that may be; packs that stay are merged again the next time.
pub(super) fn merge(
    repository: &Repository,
    session: &Session,
    exclusively: impl FnOnce(&mut dyn FnMut() -> Result<(), Error>) -> Result<(), Error>,
) -> Result<(), Error> {
    let directory = repository.path().join("objects/pack");
    let storage = |source| Error::storage("merge packs in", &directory, source);
    let broken = |error| Error::mirror("its packs", repository.path(), error);
    let mut packs = packs(&directory).map_err(storage)?;
    if packs.len() < TOO_MANY {
        return Ok(());
    }
    packs.pop();

    let mut merged = repository.packbuilder().map_err(broken)?;
    merged.set_threads(1);
    merged.set_progress_callback(|_, _, _| session.check_time().is_ok()).map_err(broken)?;
    for (_, pack) in &packs {
        for oid in objects(&fs::read(pack.with_extension("idx")).map_err(storage)?).map_err(storage)? {
            merged.insert_object(oid, None).map_err(broken)?;
        }
    }
    merged.write(&directory, 0).map_err(broken)?;
    let name = merged.name().map_err(broken)?.map(|name| format!("pack-{name}")).unwrap_or_default();
    exclusively(&mut || {
        for (_, pack) in &packs {
            // The same objects make the same pack.
            if pack.file_stem().is_some_and(|stem| stem != name.as_str()) {
                // Without its index a pack is not there: after a crash in between nothing is half.
                fs::remove_file(pack.with_extension("idx")).map_err(storage)?;
                fs::remove_file(pack).map_err(storage)?;
            }
        }
        Ok(())
    })
}

/// The packs with an index, by size.
fn packs(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut packs = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "pack")
            && path.with_extension("idx").exists()
        {
            packs.push((fs::metadata(&path)?.len(), path));
        }
    }
    packs.sort();
    Ok(packs)
}

/// The names in an index of version 2, the only one that libgit2 writes: a head of 8 bytes, 256 counts, the names.
fn objects(index: &[u8]) -> io::Result<Vec<Oid>> {
    const NAMES: usize = 8 + 256 * 4;
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "an index of a pack is damaged");
    let last = index.get(NAMES - 4..NAMES).and_then(|bytes| bytes.try_into().ok()).ok_or_else(odd)?;
    let count = u32::from_be_bytes(last) as usize;
    let names = index.get(NAMES..NAMES + count * 20).filter(|_| index.starts_with(b"\xfftOc\0\0\0\x02"));
    let names = names.ok_or_else(odd)?.chunks_exact(20);
    names.map(|name| Oid::from_bytes(name).map_err(io::Error::other)).collect()
}
