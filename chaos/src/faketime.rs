//! Wall clocks of single processes, stepped by libfaketime (Debian package `libfaketime`): the machine's own clock is
//! everybody's.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use postbound_testbed::packages;

/// The library in multi-threaded form, where Debian puts it.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// Steps clocks; or does not, where there is no libfaketime.
#[derive(Clone, Debug)]
pub(crate) struct Faketime {
    library: Option<PathBuf>,
    folder: PathBuf,
}

impl Faketime {
    /// Finds the library, or installs it; files that say the time go to `folder`.
    pub(crate) async fn ensure(folder: &Path) -> Result<Self> {
        let find = || {
            library().or_else(|| {
                // Without it a run has one fault less.
                packages::ensure(&["libfaketime"]).ok()?;
                library()
            })
        };
        Ok(Self { library: tokio::task::spawn_blocking(find).await?, folder: folder.to_owned() })
    }

    /// Whether clocks can be stepped.
    pub(crate) fn is_there(&self) -> bool {
        self.library.is_some()
    }

    /// What a process needs in its environment to have a clock of its own, which begins with the right time.
    pub(crate) fn environment(&self, process: &str) -> Result<Vec<(&'static str, String)>> {
        let Some(library) = &self.library else { return Ok(Vec::new()) };
        self.step(process, 0)?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Ok(vec![
            ("LD_PRELOAD", text(library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.file(process))),
            // A step of the wall clock leaves the others alone.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            // Seconds until a step is noticed.
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ])
    }

    /// Sets a process's clock so many seconds ahead of the right time, or behind it.
    pub(crate) fn step(&self, process: &str, seconds: i64) -> Result<()> {
        let (file, draft) = (self.file(process), self.folder.join(format!("{process}.clock-draft")));
        // Renamed, as it may be read at any time.
        let written =
            std::fs::write(&draft, format!("{seconds:+}\n")).and_then(|()| std::fs::rename(&draft, &file));
        written.with_context(|| format!("cannot write {}", file.display()))
    }

    fn file(&self, process: &str) -> PathBuf {
        self.folder.join(format!("{process}.clock"))
    }
}

fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    folders.map(|folder| folder.join(LIBRARY)).find(|library| library.is_file())
}
