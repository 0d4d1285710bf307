//! What statuses, results and broken transports mean, as data: the one place that says it. What a target means
//! otherwise stands over it, see [`crate::overrides`].
//!
//! The rule behind `Unknown`: the request may still take effect after the next one was sent. A 500 is an answer of the
//! target about a request it is done with; a 504 is a gateway's word about a request that may still be running.

use crate::FailureClass;

/// Which adapter asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AdapterKind {
    BackendSync,
    CrmBatch,
    Webhook,
    WorkflowTrigger,
}

/// What an answer's status says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Success whatever the body holds: the status is the contract (seed 002: "Return HTTP 200 on success").
    Delivered,
    /// The body holds a result per user (seed 003).
    ReadResults,
    /// No success.
    Failed(FailureClass),
}

/// One row: statuses `from` to `to` of the adapters named. The first row that fits counts.
struct Rule {
    adapters: &'static [AdapterKind],
    from: u16,
    to: u16,
    plain: Verdict,
    /// With a `Retry-After` in the answer.
    retry_after: Verdict,
}

/// Adapters whose answer's status is the contract.
const BY_STATUS: &[AdapterKind] =
    &[AdapterKind::BackendSync, AdapterKind::Webhook, AdapterKind::WorkflowTrigger];
const BY_RESULTS: &[AdapterKind] = &[AdapterKind::CrmBatch];
const ALL: &[AdapterKind] =
    &[AdapterKind::BackendSync, AdapterKind::CrmBatch, AdapterKind::Webhook, AdapterKind::WorkflowTrigger];

const TRANSIENT: Verdict = Verdict::Failed(FailureClass::Transient);
const UNKNOWN: Verdict = Verdict::Failed(FailureClass::Unknown);
const PERMANENT: Verdict = Verdict::Failed(FailureClass::Permanent);
const WHOLE_TARGET: Verdict = Verdict::Failed(FailureClass::WholeTarget);

const fn rule(adapters: &'static [AdapterKind], from: u16, to: u16, verdict: Verdict) -> Rule {
    Rule { adapters, from, to, plain: verdict, retry_after: verdict }
}

/// All adapters post to one fixed URL that does not name the user, so 404, 405 and 410 speak of the endpoint.
static STATUSES: &[Rule] = &[
    rule(BY_STATUS, 200, 299, Verdict::Delivered),
    rule(BY_RESULTS, 200, 299, Verdict::ReadResults),
    // Redirects are not followed: the configured URL is wrong for everyone.
    rule(ALL, 300, 399, WHOLE_TARGET),
    // Credentials (also of a proxy on the way), payment.
    rule(ALL, 401, 403, WHOLE_TARGET),
    // The endpoint: missing, wrong method, gone, or our fixed content type refused.
    rule(ALL, 404, 407, WHOLE_TARGET),
    // The server gave up waiting for the request: it was not processed.
    rule(ALL, 408, 408, TRANSIENT),
    // In progress under the same key (idempotency draft), or a conflict that time may solve. "Stale" is found before.
    rule(ALL, 409, 409, TRANSIENT),
    rule(ALL, 410, 411, WHOLE_TARGET),
    rule(ALL, 414, 415, WHOLE_TARGET),
    rule(ALL, 421, 421, WHOLE_TARGET),
    // Locked, failed dependency, too early.
    rule(ALL, 423, 425, TRANSIENT),
    rule(ALL, 426, 426, WHOLE_TARGET),
    // Rate limits count requests, not users, with or without a hint how long they last.
    rule(ALL, 429, 429, WHOLE_TARGET),
    // Everything else among 400s is about the content: 400, 412, 413, 416, 417, 418, 422, 428, 431, 451, ...
    rule(ALL, 400, 499, PERMANENT),
    // Method or HTTP version not implemented, network authentication required.
    rule(ALL, 501, 501, WHOLE_TARGET),
    rule(ALL, 505, 505, WHOLE_TARGET),
    rule(ALL, 511, 511, WHOLE_TARGET),
    // Gateways that lost the target after handing it the request; 520 and 524 are Cloudflare's.
    rule(ALL, 502, 502, UNKNOWN),
    rule(ALL, 504, 504, UNKNOWN),
    rule(ALL, 520, 520, UNKNOWN),
    rule(ALL, 524, 524, UNKNOWN),
    Rule { adapters: ALL, from: 503, to: 503, plain: TRANSIENT, retry_after: WHOLE_TARGET },
    rule(ALL, 500, 599, TRANSIENT),
    // No final status at all: whatever answers there does not speak HTTP as we do.
    rule(ALL, 0, u16::MAX, WHOLE_TARGET),
];

/// What `status` means to the adapter.
pub(crate) fn verdict(adapter: AdapterKind, status: u16, has_retry_after: bool) -> Verdict {
    let fits = |rule: &&Rule| rule.adapters.contains(&adapter) && (rule.from..=rule.to).contains(&status);
    let rule = STATUSES.iter().find(fits).expect("the last row fits every status");
    if has_retry_after { rule.retry_after } else { rule.plain }
}

/// How a delivery can fail beside a status that says so, in the order of its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The state's data is no JSON object.
    DataInvalid,
    /// A secret cannot be read, or is none.
    SecretUnavailable,
    /// A header or the request cannot be built from these states.
    RequestInvalid,
    /// The host's address is not one that this target's requests may go to.
    AddressRefused,
    /// The host's name has no address.
    Dns,
    /// Nobody listens.
    ConnectionRefused,
    /// No connection, TLS included, within the connect timeout.
    ConnectTimeout,
    /// The TLS handshake failed.
    Tls,
    /// Any other way not to connect.
    ConnectFailed,
    /// No whole answer within the timeout.
    Timeout,
    /// The connection ended, or spoke no HTTP, after the request was given to it.
    NoAnswer,
    /// The body of an answer that is needed ended early.
    AnswerCut,
    /// An answer that is needed is longer than the cap.
    ResponseTooLarge,
    /// A success whose body is not the contract's.
    BadResponse,
    /// A success whose body says that it is none.
    SuccessFalse,
    /// The answer holds no readable result for this user.
    ResultMissing,
    /// The answer holds two different results for this user.
    ResultDoubled,
    /// A result whose status the contract does not know.
    ResultUnknown,
    /// A result that says that this user failed.
    ResultFailed,
    /// The same, and that another try is of no use.
    ResultRefused,
}

/// One row: what a fault means, and its word for ledger and metrics.
struct FaultRule(Fault, FailureClass, &'static str);

static FAULTS: &[FaultRule] = &[
    // Nothing was sent.
    FaultRule(Fault::DataInvalid, FailureClass::Permanent, "data_invalid"),
    FaultRule(Fault::SecretUnavailable, FailureClass::WholeTarget, "secret_unavailable"),
    FaultRule(Fault::RequestInvalid, FailureClass::Permanent, "request_invalid"),
    FaultRule(Fault::AddressRefused, FailureClass::WholeTarget, "address_refused"),
    FaultRule(Fault::Dns, FailureClass::WholeTarget, "dns"),
    FaultRule(Fault::ConnectionRefused, FailureClass::WholeTarget, "connection_refused"),
    FaultRule(Fault::ConnectTimeout, FailureClass::WholeTarget, "connect_timeout"),
    FaultRule(Fault::Tls, FailureClass::WholeTarget, "tls"),
    FaultRule(Fault::ConnectFailed, FailureClass::WholeTarget, "connect_failed"),
    // Something may have been.
    FaultRule(Fault::Timeout, FailureClass::Unknown, "timeout"),
    FaultRule(Fault::NoAnswer, FailureClass::Unknown, "no_answer"),
    FaultRule(Fault::AnswerCut, FailureClass::Unknown, "answer_cut"),
    // There is an answer: the target is done with the request.
    FaultRule(Fault::ResponseTooLarge, FailureClass::Transient, "response_too_large"),
    // A 200 with a page of HTML comes from something before the target that knows nothing of the contract.
    FaultRule(Fault::BadResponse, FailureClass::Transient, "bad_response"),
    FaultRule(Fault::SuccessFalse, FailureClass::Transient, "success_false"),
    FaultRule(Fault::ResultMissing, FailureClass::Transient, "result_missing"),
    FaultRule(Fault::ResultDoubled, FailureClass::Transient, "result_doubled"),
    FaultRule(Fault::ResultUnknown, FailureClass::Transient, "result_unknown"),
    FaultRule(Fault::ResultFailed, FailureClass::Transient, "result_failed"),
    FaultRule(Fault::ResultRefused, FailureClass::Permanent, "result_refused"),
];

impl Fault {
    /// Its class, overrides aside, and its word for ledger and metrics.
    pub(crate) fn disposition(self) -> (FailureClass, &'static str) {
        let FaultRule(_, class, word) =
            FAULTS.iter().find(|rule| rule.0 == self).expect("every fault has a row");
        (*class, word)
    }
}

/// The words that an override may name: those of failures on the way to the target or in its answer. The others are of
/// our own making, and no target means anything by them.
pub(crate) fn overridable_reasons() -> impl Iterator<Item = &'static str> {
    let ours = [Fault::DataInvalid, Fault::SecretUnavailable, Fault::RequestInvalid, Fault::AddressRefused];
    FAULTS.iter().filter(move |rule| !ours.contains(&rule.0)).map(|rule| rule.2)
}

/// Refusals of a request with several users that the content of one of them can be behind. A 500 is among them: samples
/// answer it when one user's data breaks their code.
pub(crate) static CONTENT_STATUSES: &[u16] = &[400, 413, 422, 500];

/// `code` values of a failed per-user result that say that trying again is of no use.
pub(crate) static PERMANENT_CODES: &[&str] = &[
    "invalid_user",
    "invalid",
    "invalid_email",
    "validation_error",
    "validation_failed",
    "unprocessable",
    "not_allowed",
    "duplicate_email",
];

/// `code` values, and last segments of a problem's `type`, that say that a newer version is held.
pub(crate) static STALE_CODES: &[&str] = &["stale_version", "stale-version"];

macro_rules! status_words {
    ($status:expr, $($known:literal)*) => {
        match $status {
            // No failure unless an override makes it one.
            200..=299 => "http_2xx",
            300..=399 => "redirect",
            $($known => concat!("http_", $known),)*
            400..=499 => "http_4xx",
            500..=599 => "http_5xx",
            _ => "http_other",
        }
    };
}

/// The word for ledger and metrics. Statuses nobody registered share one per hundred, so that the set stays closed.
pub(crate) fn status_reason(status: u16) -> &'static str {
    status_words!(status,
        400 401 402 403 404 405 406 407 408 409 410 411 412 413 414 415 416 417 418 421 422 423 424 425 426 428 429 431
        451 500 501 502 503 504 505 506 507 508 510 511 520 521 522 523 524 525 526 530)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every status from 200 to 599, grouped: `200-299 Delivered`.
    fn groups(adapter: AdapterKind, has_retry_after: bool) -> String {
        let mut groups: Vec<(u16, u16, String)> = Vec::new();
        for status in 200..=599 {
            let word = match verdict(adapter, status, has_retry_after) {
                Verdict::Failed(class) => format!("{class:?}"),
                other => format!("{other:?}"),
            };
            match groups.last_mut() {
                Some((_, last, same)) if *same == word => *last = status,
                _ => groups.push((status, status, word)),
            }
        }
        let line = |(from, to, word)| {
            if from == to { format!("{from} {word}") } else { format!("{from}-{to} {word}") }
        };
        groups.into_iter().map(line).collect::<Vec<_>>().join("\n")
    }

    const BACKEND_SYNC: &str = "\
200-299 Delivered
300-399 WholeTarget
400 Permanent
401-407 WholeTarget
408-409 Transient
410-411 WholeTarget
412-413 Permanent
414-415 WholeTarget
416-420 Permanent
421 WholeTarget
422 Permanent
423-425 Transient
426 WholeTarget
427-428 Permanent
429 WholeTarget
430-499 Permanent
500 Transient
501 WholeTarget
502 Unknown
503 Transient
504 Unknown
505 WholeTarget
506-510 Transient
511 WholeTarget
512-519 Transient
520 Unknown
521-523 Transient
524 Unknown
525-599 Transient";

    #[test]
    fn every_status_has_its_place() {
        assert_eq!(groups(AdapterKind::BackendSync, false), BACKEND_SYNC);
        for same in [AdapterKind::Webhook, AdapterKind::WorkflowTrigger] {
            assert_eq!(groups(same, false), BACKEND_SYNC);
        }
        let crm = BACKEND_SYNC.replace("Delivered", "ReadResults");
        assert_eq!(groups(AdapterKind::CrmBatch, false), crm);
    }

    #[test]
    fn a_retry_after_makes_503_everyones_and_changes_nothing_else() {
        let with = BACKEND_SYNC.replace("503 Transient", "503 WholeTarget");
        assert_eq!(groups(AdapterKind::BackendSync, true), with);
        assert_eq!(groups(AdapterKind::CrmBatch, true), with.replace("Delivered", "ReadResults"));
    }

    #[test]
    fn every_fault_has_a_row_and_a_word_of_its_own() {
        // The last variant: a new one goes before it, or here.
        assert_eq!(FAULTS.len(), Fault::ResultRefused as usize + 1);
        for (place, FaultRule(fault, class, word)) in FAULTS.iter().enumerate() {
            assert_eq!(*fault as usize, place, "the rows are in the order of the variants");
            assert_eq!(fault.disposition(), (*class, *word));
            assert_eq!(FAULTS.iter().filter(|other| other.2 == *word).count(), 1, "{word}");
        }
    }

    #[test]
    fn reasons_are_a_closed_set() {
        let check = |status, reason| assert_eq!(status_reason(status), reason);
        check(202, "http_2xx");
        check(302, "redirect");
        check(422, "http_422");
        check(499, "http_4xx");
        check(503, "http_503");
        check(599, "http_5xx");
        check(101, "http_other");
        check(999, "http_other");
    }
}
