use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value that is never printed: `Debug`, `Display` and `Serialize` give `***`.
///
/// Cheap to clone. [`Secret::expose`] is the one way to its text, so that a search for it finds every use.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<Arc<str>>) -> Self {
        Self(value.into())
    }

    /// The value itself, to be sent or compared, never to be logged.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For a secret that is a URL: the URL with `***` for its password and without its query, fit for logs.
    /// Anything that does not look like a URL gives `***`.
    pub fn redacted_url(&self) -> String {
        let Some((scheme, rest)) = self.0.split_once("://") else { return MASK.to_owned() };
        // The last `@` ends the credentials even where the password holds characters it should not.
        let (user, host) = match rest.rsplit_once('@') {
            Some((credentials, host)) => {
                (credentials.split_once(':').map_or(credentials, |(user, _)| user), host)
            }
            None => ("", rest),
        };
        let host = host.split(['?', '#']).next().unwrap_or_default();
        match (user, rest.contains('@')) {
            (_, false) => format!("{scheme}://{host}"),
            (user, true) => format!("{scheme}://{user}:{MASK}@{host}"),
        }
    }
}

const MASK: &str = "***";

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self::new(value)
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self::new(value)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}
