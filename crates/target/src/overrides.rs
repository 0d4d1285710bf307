use crate::disposition::{AdapterKind, Verdict, overridable_reasons, verdict};
use crate::{Failure, FailureClass};

/// What one target means by an answer, where that differs from the built-in table (`disposition.rs`): an entry here wins
/// over the table.
///
/// A refused version (409 or 412 with a body that says so) is never overridden. `Retry-After` is told all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Override {
    /// An HTTP status.
    Status {
        /// The first of them. Of two entries that hold a status, the one with fewer statuses counts.
        from: u16,
        /// The last.
        to: u16,
        /// What it means; `None`: the target holds the state. Not for `crm-batch`, whose results decide.
        class: Option<FailureClass>,
    },
    /// A failure that no status tells.
    Reason {
        /// [`Failure::reason`] of it, one of [`Override::reasons`].
        word: String,
        /// What it means. A failure given as transient is no longer `bounded`.
        class: FailureClass,
    },
}

impl Override {
    /// Every word that [`Override::Reason`] can name.
    pub fn reasons() -> impl Iterator<Item = &'static str> {
        overridable_reasons()
    }

    /// Why it cannot be used, if so.
    pub(crate) fn problem(&self, adapter: AdapterKind) -> Option<String> {
        match self {
            Self::Status { from, to, .. } if from > to => Some(format!("{from}-{to} holds no status")),
            Self::Status { from, class: None, .. } if adapter == AdapterKind::CrmBatch => {
                Some(format!("{from} cannot be \"delivered\": the results decide"))
            }
            Self::Reason { word, .. } if !Self::reasons().any(|known| known == word) => {
                Some(format!("{word:?} is no reason that can be overridden"))
            }
            _ => None,
        }
    }
}

/// The verdict on a status, overrides first.
pub(crate) fn overridden_verdict(
    overrides: &[Override],
    adapter: AdapterKind,
    status: u16,
    has_retry_after: bool,
) -> Verdict {
    let narrowest = overrides
        .iter()
        .filter_map(|entry| match entry {
            Override::Status { from, to, class } if (*from..=*to).contains(&status) => {
                Some((to - from, *class))
            }
            _ => None,
        })
        .min_by_key(|(width, _)| *width);
    match narrowest {
        Some((_, Some(class))) => Verdict::Failed(class),
        Some((_, None)) => Verdict::Delivered,
        None => verdict(adapter, status, has_retry_after),
    }
}

/// Gives a failure the class that this target means by its reason.
pub(crate) fn reclassify(overrides: &[Override], failure: &mut Failure) {
    let meant = overrides.iter().find_map(|entry| match entry {
        Override::Reason { word, class } if word == failure.reason => Some(*class),
        _ => None,
    });
    if let Some(class) = meant {
        failure.class = class;
        failure.bounded = false;
    }
}
