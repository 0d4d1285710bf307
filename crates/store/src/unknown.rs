/// Versions that may be on their way to a target in requests nobody knows the outcome of. Zeros: there are none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unknown {
    /// The oldest of them: what is newer may be put right once it cannot be executed any more.
    pub oldest: i64,
    /// The newest of them: below it, nothing is known to be the last.
    pub newest: i64,
}

impl Unknown {
    /// One version.
    pub fn of(version: i64) -> Self {
        Self { oldest: version, newest: version }
    }

    /// These and others.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let oldest = match (self.oldest, other.oldest) {
            (0, oldest) | (oldest, 0) => oldest,
            (one, other) => one.min(other),
        };
        Self { oldest, newest: self.newest.max(other.newest) }
    }

    /// What is left once the doubt about all up to `version` is written down.
    #[must_use]
    pub fn after(self, version: i64) -> Self {
        match self.newest <= version {
            true => Self::default(),
            false => Self { oldest: self.oldest.max(version + 1), ..self },
        }
    }

    /// Whether there are none.
    pub fn is_none(self) -> bool {
        self.newest == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_and_the_newest_are_kept_until_what_is_newer_is_written_down() {
        let several = Unknown::default().and(Unknown::of(3)).and(Unknown::of(1)).and(Unknown::of(2));
        assert_eq!(several, Unknown { oldest: 1, newest: 3 });
        assert_eq!(several.and(Unknown::default()), several);
        assert_eq!(several.after(1), Unknown { oldest: 2, newest: 3 });
        assert!(several.after(3).is_none());
    }
}
