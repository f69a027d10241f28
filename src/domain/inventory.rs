//! What a source applied: the list from which it prunes.
//!
//! Kept compressed, and split so that each part fits an object in etcd (1.5 MiB) with room to spare, however many
//! objects a source has. One line an object, sorted: neighbours are alike, so it compresses about ten times.

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};

/// One object that a source applied.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// `group/version`, as applied.
    pub api_version: String,
    /// The kind.
    pub kind: String,
    /// The namespace; empty for cluster-wide kinds.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectId {
    /// The group of the API version; empty for the core group.
    pub fn group(&self) -> &str {
        self.api_version.rsplit_once('/').map_or("", |(group, _)| group)
    }

    /// The same object in whatever version: group, kind, namespace, name.
    pub fn identity(&self) -> (&str, &str, &str, &str) {
        (self.group(), &self.kind, &self.namespace, &self.name)
    }

    /// Whether its name and namespace can stand in a path of the API: anything else could name another path.
    pub fn is_addressable(&self) -> bool {
        is_name(&self.name) && (self.namespace.is_empty() || is_namespace(&self.namespace))
    }
}

/// Whether a text can be the name of an object. Looser than most kinds (those of RBAC have colons), but nothing in it ends a
/// segment of a path or begins a query.
pub fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b':' | b'_' | b'-');
    !matches!(text, "" | "." | "..") && text.len() <= 253 && text.bytes().all(plain)
}

/// Whether a text can be the name of a namespace: a DNS label.
pub fn is_namespace(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let hyphen_at_an_end = text.starts_with('-') || text.ends_with('-');
    !text.is_empty() && text.len() <= 63 && text.bytes().all(inner) && !hyphen_at_an_end
}

impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// All objects that a source applied.
pub type Inventory = BTreeSet<ObjectId>;

/// The size of one part, compressed.
const PART: usize = 700_000;
/// What an inventory may grow to when it is read back.
const MAX: u64 = 256 << 20;

/// Why an inventory cannot be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum InventoryError {
    #[error("the stored inventory cannot be decompressed")]
    Decompress(#[source] io::Error),
    #[error("line {line} of the stored inventory has not the four fields apiVersion, kind, namespace, name")]
    Line { line: usize },
    #[error("{found} of its parts are there, and not all")]
    Incomplete { found: usize },
}

/// The parts to store, as a generation.
pub fn parts(inventory: &Inventory, generation: u64) -> io::Result<Vec<Part>> {
    let chunks = encode(inventory)?;
    let count = chunks.len();
    let part = |(number, bytes)| Part { generation, number, count, bytes };
    Ok(chunks.into_iter().enumerate().map(part).collect())
}

fn encode(inventory: &Inventory) -> io::Result<Vec<Vec<u8>>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    for id in inventory {
        writeln!(encoder, "{}\t{}\t{}\t{}", id.api_version, id.kind, id.namespace, id.name)?;
    }
    let bytes = encoder.finish()?;
    Ok(bytes.chunks(PART).map(<[u8]>::to_vec).collect())
}

/// A part as it is stored. One write stores one part: what a crash leaves between two writes must not be read as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// Which time of storing it belongs to, counted up.
    pub generation: u64,
    /// Its place, from 0.
    pub number: usize,
    /// How many parts this generation has.
    pub count: usize,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// The inventory of the newest generation that is complete and can be read; and what is wrong
/// with newer ones. Where there is none, why.
pub fn newest(mut parts: Vec<Part>) -> Result<(Inventory, Vec<InventoryError>), Vec<InventoryError>> {
    parts.sort();
    let mut wrong = Vec::new();
    for parts in parts.chunk_by(|a, b| a.generation == b.generation).rev() {
        match whole(parts) {
            Ok(inventory) => return Ok((inventory, wrong)),
            Err(error) => wrong.push(error),
        }
    }
    Err(wrong)
}

fn whole(parts: &[Part]) -> Result<Inventory, InventoryError> {
    let in_place = |(place, part): (usize, &Part)| part.number == place && part.count == parts.len();
    if !parts.iter().enumerate().all(in_place) {
        return Err(InventoryError::Incomplete { found: parts.len() });
    }
    decode(&parts.iter().map(|part| part.bytes.clone()).collect::<Vec<_>>())
}

/// The inventory of stored parts, in their order.
fn decode(parts: &[Vec<u8>]) -> Result<Inventory, InventoryError> {
    let bytes: Vec<u8> = parts.concat();
    if bytes.is_empty() {
        return Ok(Inventory::new());
    }
    let mut text = String::new();
    GzDecoder::new(bytes.as_slice())
        .take(MAX)
        .read_to_string(&mut text)
        .map_err(InventoryError::Decompress)?;
    text.lines()
        .enumerate()
        .map(|(index, line)| {
            let mut fields = line.split('\t').map(str::to_owned);
            let mut next = || fields.next().ok_or(InventoryError::Line { line: index + 1 });
            Ok(ObjectId { api_version: next()?, kind: next()?, namespace: next()?, name: next()? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(count: usize, name: impl Fn(usize) -> String) -> Inventory {
        (0..count)
            .map(|n| ObjectId {
                api_version: "apps/v1".into(),
                kind: "Deployment".into(),
                namespace: format!("team-{}", n % 50),
                name: name(n),
            })
            .collect()
    }

    /// etcd refuses requests above 1.5 MiB: an inventory that does not fit would stop every sync of a large source.
    #[test]
    fn twenty_thousand_entries_come_back_and_every_part_fits_etcd() {
        // The worst names there are: long, and without anything in common.
        let noise = |n: usize| {
            let hash =
                |salt: usize| hex::encode(<sha2::Sha256 as sha2::Digest>::digest(format!("{n}-{salt}")));
            format!("{}{}{}", hash(1), hash(2), hash(3))
        };
        for (name, most) in [(&(|n: usize| format!("app-{n}")) as &dyn Fn(usize) -> String, 1), (&noise, 4)] {
            let inventory = many(20_000, name);
            let parts = encode(&inventory).unwrap();
            assert!(parts.len() <= most, "{} parts", parts.len());
            assert!(parts.iter().all(|part| part.len() * 4 / 3 < 1_000_000), "base64 of a part");
            assert_eq!(decode(&parts).unwrap(), inventory);
        }
        assert_eq!(decode(&encode(&Inventory::new()).unwrap()).unwrap(), Inventory::new());
    }

    fn stored(generation: u64, number: usize, count: usize, bytes: &[u8]) -> Part {
        Part { generation, number, count, bytes: bytes.to_vec() }
    }

    /// If this fails, a crash while a large inventory is stored leaves one that cannot be read, and no start.
    #[test]
    fn a_crash_at_any_write_leaves_the_old_inventory_or_the_new_one() {
        let split = |inventory: &Inventory, generation| {
            let [only] = &parts(inventory, generation).unwrap()[..] else { panic!("one part") };
            let chunks: Vec<&[u8]> = only.bytes.chunks(40).collect();
            let one = |(number, bytes): (usize, &&[u8])| stored(generation, number, chunks.len(), bytes);
            chunks.iter().enumerate().map(one).collect::<Vec<_>>()
        };
        let (old, new) = (many(3, |n| format!("old-{n}")), many(300, |n| format!("new-{n}")));
        let (before, after) = (split(&old, 6), split(&new, 7));
        assert!(before.len() > 1 && after.len() > before.len());
        // The new parts are written one by one, then the old ones are deleted one by one.
        for written in 0..=after.len() {
            let there = [&before[..], &after[..written]].concat();
            let (found, wrong) = newest(there).unwrap();
            let (done, begun) = (written == after.len(), written > 0);
            assert!(found == if done { new.clone() } else { old.clone() }, "{written}");
            assert_eq!(wrong.len(), usize::from(begun && !done), "{written}");
        }
        for deleted in 0..=before.len() {
            let there = [&before[deleted..], &after[..]].concat();
            assert_eq!(newest(there).unwrap().0, new);
        }
        assert_eq!(newest(after[1..].to_vec()).unwrap_err().len(), 1, "what is lost is no empty inventory");
        let twice = [after.clone(), vec![after[0].clone()]].concat();
        assert!(newest(twice).is_err());
    }

    #[test]
    fn a_broken_inventory_is_an_error_and_not_an_empty_one() {
        let mut parts = encode(&many(1000, |n| format!("x{n}"))).unwrap();
        parts[0].truncate(200);
        assert!(decode(&parts).is_err());
        assert!(decode(&[b"junk".to_vec()]).is_err());
    }
}
