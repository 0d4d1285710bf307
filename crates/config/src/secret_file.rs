use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use std::{fs, io};

use crate::Secret;

/// How often a secret's file is looked at, at most.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// One secret that may be rotated: a fixed value, or a file read again when it changes.
///
/// Rotate a file by writing a new one and renaming it over the old (what Kubernetes and Vault agents do). While
/// a file that was read before is missing, unreadable or empty, the last value is kept.
#[derive(Debug)]
pub struct SecretSource(Source<Secret>);

impl SecretSource {
    /// A value that never changes.
    pub fn inline(value: Secret) -> Self {
        Self(Source::Inline(value))
    }

    /// The content of a file, without its trailing newline.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(Watched::new(path.into(), one, CHECK_INTERVAL)))
    }

    pub(crate) fn from_settings(value: Option<&Secret>, file: Option<&PathBuf>) -> Option<Self> {
        file.map(Self::file).or_else(|| value.cloned().map(Self::inline))
    }

    /// The value to use now. Looks at the file at most once a second.
    ///
    /// # Errors
    /// Only while a file has never been read: it is missing, unreadable, empty or not UTF-8.
    pub fn current(&self) -> Result<Secret, SecretError> {
        self.0.current()
    }
}

/// Several secrets of one purpose, so that old and new overlap during a rotation.
#[derive(Debug)]
pub struct SecretList(Source<Arc<[Secret]>>);

impl SecretList {
    /// Values that never change.
    pub fn inline(values: impl Into<Arc<[Secret]>>) -> Self {
        Self(Source::Inline(values.into()))
    }

    /// The lines of a file; empty ones are skipped.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(Watched::new(path.into(), lines, CHECK_INTERVAL)))
    }

    pub(crate) fn from_settings(values: &[Secret], file: Option<&PathBuf>) -> Option<Self> {
        file.map(Self::file).or_else(|| (!values.is_empty()).then(|| Self::inline(values)))
    }

    /// The values to use now, at least one, in the order of the file.
    ///
    /// # Errors
    /// As [`SecretSource::current`].
    pub fn current(&self) -> Result<Arc<[Secret]>, SecretError> {
        self.0.current()
    }
}

/// A secret's file cannot be used. Never holds what is in it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SecretError {
    /// It cannot be opened or read.
    #[error("cannot read the secret file {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: Arc<io::Error>,
    },
    /// There is nothing in it.
    #[error("the secret file {} is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

#[derive(Debug)]
enum Source<T> {
    Inline(T),
    File(Watched<T>),
}

impl<T: Clone> Source<T> {
    fn current(&self) -> Result<T, SecretError> {
        match self {
            Self::Inline(value) => Ok(value.clone()),
            Self::File(watched) => watched.current(),
        }
    }
}

/// A parsed file, parsed anew when it changes.
#[derive(Debug)]
struct Watched<T> {
    path: PathBuf,
    /// `None` for a text with nothing in it.
    parse: fn(&str) -> Option<T>,
    interval: Duration,
    cached: Mutex<Option<Cached<T>>>,
}

#[derive(Debug)]
struct Cached<T> {
    value: T,
    stamp: Stamp,
    checked: Instant,
}

impl<T: Clone> Watched<T> {
    fn new(path: PathBuf, parse: fn(&str) -> Option<T>, interval: Duration) -> Self {
        Self { path, parse, interval, cached: Mutex::new(None) }
    }

    fn current(&self) -> Result<T, SecretError> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = cached.as_mut() else {
            let (value, stamp) = self.read()?;
            *cached = Some(Cached { value: value.clone(), stamp, checked: Instant::now() });
            return Ok(value);
        };
        if known.checked.elapsed() >= self.interval {
            known.checked = Instant::now();
            let changed = fs::metadata(&self.path).is_ok_and(|now| Stamp::of(&now) != known.stamp);
            if changed && let Ok((value, stamp)) = self.read() {
                known.value = value;
                known.stamp = stamp;
            }
        }
        Ok(known.value.clone())
    }

    fn read(&self) -> Result<(T, Stamp), SecretError> {
        let unreadable = |error| SecretError::Unreadable { path: self.path.clone(), error: Arc::new(error) };
        // The stamp is taken first: a write in between is seen as a change at the next look.
        let stamp = Stamp::of(&fs::metadata(&self.path).map_err(unreadable)?);
        let text = fs::read_to_string(&self.path).map_err(unreadable)?;
        let value = (self.parse)(&text).ok_or_else(|| SecretError::Empty { path: self.path.clone() })?;
        Ok((value, stamp))
    }
}

/// What tells one version of a file from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Self { modified: metadata.modified().ok(), len: metadata.len(), inode }
    }
}

fn one(text: &str) -> Option<Secret> {
    let value = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    (!value.is_empty()).then(|| Secret::from(value))
}

fn lines(text: &str) -> Option<Arc<[Secret]>> {
    let secrets: Arc<[Secret]> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Secret::from).collect();
    (!secrets.is_empty()).then_some(secrets)
}

/// Reads a secret's file once, for checks before anything is started.
pub(crate) fn check_file(path: &Path) -> Result<(), SecretError> {
    Watched::new(path.to_owned(), one, CHECK_INTERVAL).read().map(drop)
}
