//! CPU and memory of processes, from /proc.

use std::collections::BTreeMap;

/// The kernel's unit of CPU times in /proc, whatever its own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds used since each process's start, by role.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage(BTreeMap<String, f64>);

/// Whose usage is looked at.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    /// What the report calls it.
    pub(crate) name: String,
    /// Its process.
    pub(crate) pid: i32,
    /// Whether the process's children count too: PostgreSQL.
    pub(crate) with_children: bool,
}

impl Usage {
    /// What the roles have used so far. Roles of one name are added up.
    pub(crate) fn of(roles: &[Role]) -> Self {
        let mut usage = BTreeMap::new();
        for role in roles {
            let seconds = if role.with_children { tree_seconds(role.pid) } else { own_seconds(role.pid) };
            *usage.entry(role.name.clone()).or_default() += seconds.unwrap_or(0.0);
        }
        Self(usage)
    }

    /// What was used since `before`.
    pub(crate) fn since(&self, before: &Self) -> BTreeMap<String, f64> {
        let used = |name: &String, now: f64| (now - before.0.get(name).copied().unwrap_or(0.0)).max(0.0);
        self.0.iter().map(|(name, now)| (name.clone(), used(name, *now))).collect()
    }
}

/// Most memory the process has had at once, in bytes.
pub(crate) fn memory_peak_bytes(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

fn own_seconds(pid: i32) -> Option<f64> {
    let stat = Stat::read(pid)?;
    Some(stat.own_ticks as f64 / TICKS_PER_SECOND)
}

/// The process, its children, and those of its children that have ended.
fn tree_seconds(pid: i32) -> Option<f64> {
    let stat = Stat::read(pid)?;
    let children: u64 = std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| Stat::read(entry.file_name().to_str()?.parse().ok()?))
        .filter(|child| child.parent == pid)
        .map(|child| child.own_ticks)
        .sum();
    Some((stat.own_ticks + stat.ended_children_ticks + children) as f64 / TICKS_PER_SECOND)
}

struct Stat {
    parent: i32,
    own_ticks: u64,
    ended_children_ticks: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The name in brackets may hold anything; what follows it starts with the third field.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            own_ticks: number(14)? + number(15)?,
            ended_children_ticks: number(16)? + number(17)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let stat = Stat::parse("42 (a b) c) S 7 1 1 0 -1 0 0 0 0 0 11 13 17 19 20 0 1 0 99").unwrap();
        assert_eq!((stat.parent, stat.own_ticks, stat.ended_children_ticks), (7, 24, 36));
    }

    #[test]
    fn this_process_uses_memory_and_time() {
        let pid = std::process::id().cast_signed();
        assert!(memory_peak_bytes(pid).unwrap() > 0);
        assert!(own_seconds(pid).is_some() && tree_seconds(pid) >= own_seconds(pid));
    }
}
