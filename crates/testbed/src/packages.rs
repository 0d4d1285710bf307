//! The distribution's packages: found where installed, installed where missing.

#![expect(
    clippy::print_stderr,
    reason = "an installation takes a while, and whoever waits for it reads stderr"
)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Uid;

/// Where the servers' programs are on this machine.
#[derive(Clone, Debug)]
pub struct Packages {
    /// The folder of `postgres`, `initdb` and `psql`: the newest installed version's.
    pub postgres_bin: PathBuf,
    /// The folder of `rabbitmq-server` and `rabbitmqctl` themselves, not of the wrappers that switch users.
    pub rabbitmq_bin: PathBuf,
    /// Erlang's port mapper daemon.
    pub epmd: PathBuf,
}

impl Packages {
    /// Finds the servers, installing what is missing.
    ///
    /// # Errors
    /// If something is missing and cannot be installed; the message then bears the command that would.
    pub fn ensure() -> Result<Self> {
        let mut missing = Vec::new();
        if postgres_bin().is_none() {
            missing.push("postgresql");
        }
        if rabbitmq_bin().is_none() || epmd().is_none() {
            missing.push("rabbitmq-server");
        }
        if !missing.is_empty() {
            install(&missing)?;
        }
        Ok(Self {
            postgres_bin: postgres_bin().context("no PostgreSQL server under /usr/lib/postgresql")?,
            rabbitmq_bin: rabbitmq_bin().context("no rabbitmq-server under /usr/lib/rabbitmq")?,
            epmd: epmd().context("no epmd in PATH")?,
        })
    }
}

/// Installs those of the named Debian packages that are not installed yet, for example `golang-go`.
///
/// # Errors
/// If one is missing and cannot be installed; the message then bears the command that would.
pub fn ensure(names: &[&str]) -> Result<()> {
    let missing: Vec<&str> = names.iter().copied().filter(|name| !installed(name)).collect();
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

/// The path of a program in `PATH` or in the folders of system programs, which an ordinary user's `PATH` may lack.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

fn postgres_bin() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    versions
        .flatten()
        .filter_map(|version| {
            Some((version.file_name().to_str()?.parse::<u32>().ok()?, version.path().join("bin")))
        })
        .filter(|(_, bin)| bin.join("postgres").is_file() && bin.join("initdb").is_file())
        .max()
        .map(|(_, bin)| bin)
}

fn rabbitmq_bin() -> Option<PathBuf> {
    let bin = PathBuf::from("/usr/lib/rabbitmq/bin");
    bin.join("rabbitmq-server").is_file().then_some(bin)
}

fn epmd() -> Option<PathBuf> {
    program("epmd")
}

fn installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success() && output.stdout == b"installed")
}

fn install(names: &[&str]) -> Result<()> {
    // Two checkouts may find the same package missing; apt's own lock does not cover `update`.
    let lock = File::create(Path::new("/tmp").join(format!("postbound-testbed-{}.lock", Uid::current())))?;
    lock.lock()?;
    let names: Vec<&str> = names.iter().copied().filter(|name| !installed(name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get update && apt-get install -y --no-install-recommends {}", names.join(" "));
    ensure!(
        program("apt-get").is_some(),
        "missing {}, and there is no apt-get to install it",
        names.join(", ")
    );
    let mut command = if Uid::effective().is_root() {
        Command::new("/bin/sh")
    } else if sudo_asks_nothing() {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "/bin/sh"]);
        sudo
    } else {
        bail!("missing {}; install as root, then try again: {by_hand}", names.join(", "));
    };
    eprintln!("testbed: installing {}", names.join(", "));
    let status = command
        .args(["-c", include_str!("install.sh"), "install.sh"])
        .args(&names)
        .stdin(Stdio::null())
        .status()
        .context("cannot start the installation")?;
    ensure!(status.success(), "could not install {} ({status}); by hand: {by_hand}", names.join(", "));
    Ok(())
}

fn sudo_asks_nothing() -> bool {
    Command::new("sudo")
        .args(["-n", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
