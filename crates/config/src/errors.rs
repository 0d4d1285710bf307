use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Everything that is wrong with a configuration, in the order of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// The errors, at least one.
    pub fn errors(&self) -> &[ConfigError] {
        &self.0
    }

    /// Says first that there was no file, where something is missing that could stand in it.
    pub(crate) fn without_file(mut self, looked_for: &Path) -> Self {
        if self.0.iter().any(|error| error.place == Place::Nowhere) {
            let folder = std::env::current_dir().unwrap_or_default();
            self.0.insert(
                0,
                ConfigError {
                    place: Place::Nowhere,
                    key: String::new(),
                    problem: format!("there is no file {}", folder.join(looked_for).display()),
                    mend: Some("make one (postbound.example.toml has every key), or name one with --config or POSTBOUND_CONFIG".to_owned()),
                },
            );
        }
        self
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(f, "{only}"),
            all => {
                write!(f, "the configuration has {} errors:", all.len())?;
                all.iter().try_for_each(|error| write!(f, "\n{error}"))
            }
        }
    }
}

/// One thing that is wrong: where, which key, what, and how to mend it. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub(crate) place: Place,
    pub(crate) key: String,
    pub(crate) problem: String,
    pub(crate) mend: Option<String>,
}

impl ConfigError {
    /// Path of the key, such as `targets.crm.timeout`; empty when the whole file is meant.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What is wrong.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// How to mend it, where that is known.
    pub fn mend(&self) -> Option<&str> {
        self.mend.as_deref()
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)?;
        match &self.mend {
            Some(mend) => write!(f, "\n  to mend it: {mend}"),
            None => Ok(()),
        }
    }
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// In a file; line 0 stands for the file as a whole.
    File { name: Arc<str>, line: usize },
    /// In an environment variable.
    Variable(String),
    /// Nowhere: there is no file and no variable for it.
    Nowhere,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line: 0 } => f.write_str(name),
            Self::File { name, line } => write!(f, "{name}:{line}"),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Nowhere => f.write_str("configuration"),
        }
    }
}

/// Gathers errors while a configuration is read.
#[derive(Debug, Default)]
pub(crate) struct Errors(Vec<ConfigError>);

impl Errors {
    pub(crate) fn push(&mut self, error: ConfigError) {
        self.0.push(error);
    }

    pub(crate) fn extend(&mut self, errors: impl IntoIterator<Item = ConfigError>) {
        self.0.extend(errors);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether this key, or one above or below it, is already in error.
    pub(crate) fn mention(&self, key: &str) -> bool {
        self.0.iter().any(|error| within(key, &error.key) || within(&error.key, key))
    }

    /// `value`, if nothing was wrong.
    pub(crate) fn finish<T>(mut self, value: T) -> Result<T, ConfigErrors> {
        if self.0.is_empty() {
            return Ok(value);
        }
        self.0.sort_by(|one, other| one.place.cmp(&other.place));
        Err(ConfigErrors(self.0))
    }
}

/// Whether `key` is `above` or below it.
fn within(key: &str, above: &str) -> bool {
    key.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The known word nearest to a mistyped one, if one is near.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, candidate)| candidate)
}
