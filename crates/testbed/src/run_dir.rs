//! The folder of one run: created, locked by its owner, removed with every process that belongs to it.
//!
//! `<workspace>/.testbed/<run>/owner.lock` stays locked while the owner lives, so a run whose lock can be taken is the
//! leftover of an owner that was killed, whatever its process id means today. `elsewhere` in it is a link to the data
//! where the servers' account could not reach the checkout.

#![expect(
    clippy::print_stderr,
    reason = "leftovers that are removed, or cannot be, concern whoever runs this"
)]

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use uuid::Uuid;

use crate::launch::Account;
use crate::processes;

const ELSEWHERE: &str = "elsewhere";
const OWNER_LOCK: &str = "owner.lock";
/// A Unix socket's path holds 107 bytes; this leaves room for the folder and the name of PostgreSQL's.
const PATH_BYTES_MAX: usize = 70;

/// The folder of this run. Dropping it ends the run's processes and removes their data.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    data: PathBuf,
    name: String,
    _owner_lock: File,
}

impl RunDir {
    /// Removes what killed owners left behind, then creates a new folder that `account` can reach.
    pub(crate) fn create(account: Option<Account>) -> Result<Self> {
        let (root, _lock) = locked_root()?;
        sweep(&root)?;
        let name = format!("run-{}", &Uuid::new_v4().simple().to_string()[..8]);
        let path = root.join(&name);
        make_folder(&path, 0o711)?;
        let mut owner_lock = File::create(path.join(OWNER_LOCK))?;
        owner_lock.lock()?;
        writeln!(owner_lock, "{}", std::process::id())?;
        let data = if reachable(&path, account) && path.as_os_str().len() <= PATH_BYTES_MAX {
            path.clone()
        } else {
            let data = Path::new("/var/tmp").join(format!("postbound-testbed-{name}"));
            make_folder(&data, 0o711)?;
            symlink(&data, path.join(ELSEWHERE))?;
            data
        };
        Ok(Self { path, data, name, _owner_lock: owner_lock })
    }

    /// Where the endpoints' file goes.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The run's unique name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Creates the private folder of one server, owned by its account.
    pub(crate) fn server_folder(&self, name: &str, account: Option<Account>) -> Result<PathBuf> {
        let folder = self.data.join(name);
        make_folder(&folder, 0o700)?;
        if let Some(account) = account {
            std::os::unix::fs::chown(&folder, Some(account.uid), Some(account.gid))?;
        }
        Ok(folder)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // Tests with servers of their own may have been stopped together with us, but without a chance to clean up.
        let cleaned = remove(&self.path).and_then(|()| {
            let (root, _lock) = locked_root()?;
            sweep(&root)
        });
        if let Err(error) = cleaned {
            eprintln!("testbed: cannot clean up: {error:#}");
        }
    }
}

/// `.testbed` in the workspace this crate was built in (it is a tool for its developers, never installed), and a lock on
/// it: between its creation and its own lock, a run's folder looks like a leftover.
fn locked_root() -> Result<(PathBuf, File)> {
    let workspace =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("the crate has no workspace")?;
    let root = workspace.join(".testbed");
    std::fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
    let lock = File::create(root.join("lock"))?;
    lock.lock()?;
    Ok((root.canonicalize()?, lock))
}

fn make_folder(path: &Path, mode: u32) -> Result<()> {
    DirBuilder::new().mode(mode).create(path).with_context(|| format!("cannot create {}", path.display()))
}

fn sweep(root: &Path) -> Result<()> {
    for entry in std::fs::read_dir(root)?.flatten() {
        let path = entry.path();
        if !entry.file_type()?.is_dir() || owner_lives(&path)? {
            continue;
        }
        eprintln!("testbed: removing {}, whose owner is gone", path.display());
        if let Err(error) = remove(&path) {
            eprintln!("testbed: cannot remove it: {error:#}");
        }
    }
    Ok(())
}

fn owner_lives(path: &Path) -> Result<bool> {
    let Ok(lock) = OpenOptions::new().write(true).open(path.join(OWNER_LOCK)) else { return Ok(false) };
    match lock.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Ends the run's processes and removes its folders; the one with the lock last, so that a failure is tried again.
fn remove(path: &Path) -> Result<()> {
    if let Ok(data) = std::fs::read_link(path.join(ELSEWHERE)) {
        processes::end_all(&data)?;
        remove_folder(&data)?;
    }
    processes::end_all(path)?;
    remove_folder(path)
}

fn remove_folder(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Whether the account may pass through every folder on the way.
fn reachable(path: &Path, account: Option<Account>) -> bool {
    let Some(account) = account else { return true };
    path.ancestors().all(|folder| {
        folder.metadata().is_ok_and(|folder| {
            let needed = if folder.uid() == account.uid {
                0o100
            } else if folder.gid() == account.gid {
                0o010
            } else {
                0o001
            };
            folder.mode() & needed != 0
        })
    })
}
