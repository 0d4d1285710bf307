use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::adapter::AdapterKind;
use crate::errors::nearest;

/// `[targets.<name>.dispositions]`: what this target means by an answer, where that differs from the built-in
/// table (crate `target`, `disposition.rs`). An entry here wins over the table; of two ranges that hold a
/// status, the narrower wins.
///
/// A refused version (409 or 412 with a body that says so) is never overridden.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Dispositions(BTreeMap<Answer, Disposition>);

impl Dispositions {
    /// The entries; of those about statuses no two overlap unless one is within the other.
    pub fn iter(&self) -> impl Iterator<Item = (Answer, Disposition)> {
        self.0.iter().map(|(answer, disposition)| (*answer, *disposition))
    }

    /// Whether the built-in table alone decides.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entries that make no sense for this adapter, each with the reason.
    pub(crate) fn nonsense(&self, adapter: AdapterKind) -> impl Iterator<Item = (Answer, String)> {
        self.iter().filter_map(move |(answer, disposition)| {
            Some((answer, answer.problem(disposition, adapter).or_else(|| self.overlap(answer))?))
        })
    }

    /// Reported once, for the later one of the two.
    fn overlap(&self, answer: Answer) -> Option<String> {
        let Answer::Statuses { from, to } = answer else { return None };
        let crosses = |other: &&Answer| {
            matches!(other, Answer::Statuses { from: start, to: end }
            if *start < from && from <= *end && *end < to)
        };
        let other = self.0.keys().find(crosses)?;
        Some(format!("overlaps \"{other}\", and neither is within the other"))
    }
}

/// What came back: a key of [`Dispositions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// `"404"`, `"500-599"`: an HTTP status, both ends included.
    Statuses {
        /// The first.
        from: u16,
        /// The last.
        to: u16,
    },
    /// `"timeout"`, `"result_failed"`: a word for a failure that no status tells, as it stands in the ledger
    /// and in metrics.
    Reason(&'static str),
}

impl Answer {
    /// The words of failures on the way to the target or back.
    pub const REASONS: [&str; 7] =
        ["dns", "connection_refused", "connect_timeout", "tls", "connect_failed", "timeout", "no_answer"];

    /// The words of failures that only an answer with a result per user can have (`crm-batch`).
    pub const RESULT_REASONS: [&str; 9] = [
        "answer_cut",
        "response_too_large",
        "bad_response",
        "success_false",
        "result_missing",
        "result_doubled",
        "result_unknown",
        "result_failed",
        "result_refused",
    ];

    fn problem(self, disposition: Disposition, adapter: AdapterKind) -> Option<String> {
        let delivered = disposition == Disposition::Delivered;
        match self {
            Self::Reason("success_false") if adapter == AdapterKind::WorkflowTrigger => {
                delivered.then(|| "only a status can be \"delivered\"".to_owned())
            }
            Self::Reason(word)
                if adapter != AdapterKind::CrmBatch && Self::RESULT_REASONS.contains(&word) =>
            {
                Some("is for crm-batch targets: only their answers hold results that are read".to_owned())
            }
            Self::Reason(_) if delivered => Some("only a status can be \"delivered\"".to_owned()),
            Self::Statuses { .. } if delivered && adapter == AdapterKind::CrmBatch => {
                Some("a status cannot be \"delivered\" at a crm-batch target: its results decide".to_owned())
            }
            _ => None,
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if !text.starts_with(|c: char| c.is_ascii_digit()) {
            return Self::parse_word(text);
        }
        // A variable's name cannot hold a hyphen.
        let (from, to) = text.split_once(['-', '_']).unwrap_or((text, text));
        let status = |text: &str| text.trim().parse().ok().filter(|status| (200..=599).contains(status));
        match (status(from), status(to)) {
            (Some(from), Some(to)) if from < to || !text.contains(['-', '_']) => {
                Ok(Self::Statuses { from, to })
            }
            (Some(_), Some(_)) => Err("the range must end above its beginning".to_owned()),
            _ => Err("is no HTTP status from 200 to 599, nor a range of them such as \"500-599\"".to_owned()),
        }
    }

    fn parse_word(text: &str) -> Result<Self, String> {
        let words = || Self::REASONS.into_iter().chain(Self::RESULT_REASONS);
        if let Some(word) = words().find(|word| *word == text) {
            return Ok(Self::Reason(word));
        }
        let expected =
            "is neither an HTTP status, a range such as \"500-599\", nor a reason that can be overridden";
        Err(match (text.strip_prefix("http_"), nearest(text, words())) {
            (Some(status), _) => format!("{expected}; write the status alone: \"{status}\""),
            (None, Some(near)) => format!("{expected}; did you mean \"{near}\"?"),
            (None, None) => format!("{expected}; reasons are {}", words().collect::<Vec<_>>().join(", ")),
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Statuses { from, to } if from == to => write!(f, "{from}"),
            Self::Statuses { from, to } => write!(f, "{from}-{to}"),
            Self::Reason(word) => f.write_str(word),
        }
    }
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// What an answer means: a value of [`Dispositions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disposition {
    /// The target holds the state.
    Delivered,
    /// This user's delivery failed now and may succeed later.
    Transient,
    /// The target will not take this content.
    Permanent,
    /// No user is at fault: the target is paused.
    WholeTarget,
    /// The request may have taken effect, or may still do so.
    Unknown,
}
