//! Which processes belong to a testbed's folder, and how they end.
//!
//! Nothing is ever ended by a bare number or a name: a process belongs to a folder if the mark in its environment says
//! so ([`MARK`]), or if it is a `postgres` (those overwrite their environment) that works inside it. Folder names are
//! unique per run, so neither a reused process id nor another checkout can be hit.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// The environment variable that names a server's folder in each of its processes. Other processes of a run may bear it
/// too: what its owner leaves behind when killed is ended by it, at the next start in the same checkout.
pub const MARK: &str = "POSTBOUND_TESTBED_SERVER";

/// A live process of a server.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) pid: Pid,
    /// The program's short name, as in `/proc/<pid>/comm`.
    pub(crate) name: String,
}

/// The live processes that belong to `folder` or to a folder inside it.
pub(crate) fn of(folder: &Path) -> Vec<Member> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
        .filter_map(|pid| {
            let name = live_name(pid)?;
            belongs(pid, &name, folder).then_some(Member { pid, name })
        })
        .collect()
}

/// Whether the process runs: a zombie does not. Takes its exit status if it is a child of ours.
pub(crate) fn is_alive(pid: Pid) -> bool {
    let alive = live_name(pid).is_some();
    // Afterwards, or one that ends in between is left a zombie. Not a child of ours is as good an answer as any.
    let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
    alive
}

/// Stops every process that belongs to the folder where it stands, or lets it go on.
pub(crate) fn freeze(folder: &Path, frozen: bool) {
    let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
    for member in of(folder) {
        // It may have ended since it was listed.
        let _ = kill(member.pid, signal);
    }
}

/// Kills every process that belongs to the folder, as a crash of the machine would, and waits until none is left.
pub(crate) fn kill_all(folder: &Path) -> Result<()> {
    wait_for_none(folder, Duration::from_secs(10), |members| {
        for member in members {
            let _ = kill(member.pid, Signal::SIGKILL);
        }
    })
}

/// Ends every process that belongs to the folder whose data nobody needs any more, and waits until none is left.
///
/// PostgreSQL is asked to stop at once, as only it can remove its shared memory; all else is killed.
pub(crate) fn end_all(folder: &Path) -> Result<()> {
    let patience = Instant::now() + Duration::from_secs(5);
    let mut asked = Vec::new();
    wait_for_none(folder, Duration::from_secs(15), |members| {
        for member in members {
            let spare = member.name == "postgres" && Instant::now() < patience;
            if !spare {
                let _ = kill(member.pid, Signal::SIGKILL);
            } else if !asked.contains(&member.pid) {
                // A stopped process acts on no other signal than SIGKILL and SIGCONT.
                let _ = kill(member.pid, Signal::SIGQUIT).and_then(|()| kill(member.pid, Signal::SIGCONT));
                asked.push(member.pid);
            }
        }
    })
}

/// Lets `end` act on the folder's processes until all that were ever seen are gone.
fn wait_for_none(folder: &Path, deadline: Duration, mut end: impl FnMut(&[Member])) -> Result<()> {
    let deadline = Instant::now() + deadline;
    let mut seen: BTreeMap<Pid, String> = BTreeMap::new();
    loop {
        let members = of(folder);
        end(&members);
        seen.extend(members.into_iter().map(|member| (member.pid, member.name)));
        // A dying process loses what marks it before it lets go of its ports and its shared memory.
        seen.retain(|pid, _| is_alive(*pid));
        if seen.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("processes of {} do not end: {seen:?}", folder.display());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn live_name(pid: Pid) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // pid (name) state ...; the name may itself hold brackets and blanks.
    let (head, tail) = stat.rsplit_once(") ")?;
    let (_, name) = head.split_once(" (")?;
    (!tail.starts_with(['Z', 'X'])).then(|| name.to_owned())
}

fn belongs(pid: Pid, name: &str, folder: &Path) -> bool {
    let marked = std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
        environment
            .split(|byte| *byte == 0)
            .filter_map(|variable| variable.strip_prefix(MARK.as_bytes())?.strip_prefix(b"="))
            .any(|value| Path::new(OsStr::from_bytes(value)).starts_with(folder))
    });
    marked || (name == "postgres" && working_folder(pid).is_some_and(|working| working.starts_with(folder)))
}

fn working_folder(pid: Pid) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/cwd")).ok()
}
