//! What the kernel says of a process.

use anyhow::Context as _;

/// Clock ticks in a second, on every Linux that matters.
const TICKS: f64 = 100.0;

/// CPU time that a process has used, in user and kernel mode.
pub fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks =
        |index: usize| -> anyhow::Result<f64> { Ok(fields.get(index).context("stat is short")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// Memory that a process holds now.
pub fn rss_mebibytes(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes / 1024.0)
}

/// CPU time of the children of this process that have ended and were waited for.
#[allow(dead_code, reason = "shared by benches: one has no children")]
pub fn children_cpu_seconds() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let fields: Vec<f64> =
        fields.split_whitespace().skip(13).take(2).filter_map(|field| field.parse().ok()).collect();
    Ok(fields.iter().sum::<f64>() / TICKS)
}
