//! When the API server answered what, from the end of its audit log: read as it grows, only what is looked for.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;
use serde::Deserialize;

use super::until;

/// The audit log of a control plane.
pub struct AuditLog {
    path: PathBuf,
}

/// A place in the log.
pub struct Mark(u64);

/// When the first and the last of many objects were written for the first time.
pub struct Written {
    pub first: Timestamp,
    pub last: Timestamp,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    verb: String,
    object_ref: Option<Object>,
    response_status: Option<Answer>,
    stage_timestamp: Timestamp,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Object {
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    code: u16,
}

impl AuditLog {
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its end.
    pub fn now(&self) -> Mark {
        Mark(std::fs::metadata(&self.path).map_or(0, |file| file.len()))
    }

    /// Waits until so many different objects were patched.
    pub async fn until_all(
        &self,
        what: &str,
        since: &Mark,
        count: usize,
        matches: impl Fn(&Object) -> bool,
    ) -> anyhow::Result<Written> {
        let mut at: BTreeMap<(String, String), Timestamp> = BTreeMap::new();
        let mut mark = Mark(since.0);
        until(what, Duration::from_millis(200), async || {
            for line in self.writes(&mut mark, "\"verb\":\"patch\"")? {
                let Some(object) = line.object_ref.filter(|object| line.verb == "patch" && matches(object))
                else {
                    continue;
                };
                at.entry((object.namespace, object.name)).or_insert(line.stage_timestamp);
            }
            Ok(at.len() >= count)
        })
        .await?;
        let times = || at.values().copied();
        Ok(Written { first: times().min().unwrap_or_default(), last: times().max().unwrap_or_default() })
    }

    /// Waits until nobody has written anything for a while, but for signs of life.
    pub async fn until_quiet(&self) -> anyhow::Result<()> {
        const QUIET: Duration = Duration::from_secs(2);
        let mut mark = self.now();
        let mut last = std::time::Instant::now();
        until("nobody writes any more", Duration::from_millis(200), async || {
            let writes = self.writes(&mut mark, "\"verb\":\"")?;
            let counts = |line: &Line| {
                let write = matches!(line.verb.as_str(), "create" | "update" | "patch" | "delete");
                write && line.object_ref.as_ref().is_some_and(|object| object.resource != "leases")
            };
            if writes.iter().any(counts) {
                last = std::time::Instant::now();
            }
            Ok(last.elapsed() >= QUIET)
        })
        .await
    }

    /// What was answered with success since a mark, which moves on; only lines that contain a text are looked at.
    fn writes(&self, mark: &mut Mark, text: &str) -> anyhow::Result<Vec<Line>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(mark.0))?;
        let mut log = String::new();
        file.read_to_string(&mut log)?;
        // A line without its end is still being written.
        let whole = log.rfind('\n').map_or(0, |end| end + 1);
        mark.0 += u64::try_from(whole)?;
        let lines = log[..whole].lines().filter(|line| line.contains(text));
        let lines: Vec<Line> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
        let done = |line: &Line| {
            line.response_status.as_ref().is_some_and(|answer| (200..300).contains(&answer.code))
        };
        Ok(lines.into_iter().filter(done).collect())
    }
}
