use super::{Check, Contract, endpoint::Endpoint, explain, mend};
use postbound_target::{Delivery, Failure, FailureClass, Outcome};
use serde::Serialize;
use std::time::Duration;

/// How an answer compares with a right receiver's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// As a right receiver answers.
    Right,
    /// Postbound gets along with it, but something is lost by it.
    Weak,
    /// Users end up wrong, or in dead letters, or anybody may change them.
    Wrong,
    /// Not tried.
    Skipped,
}

impl Verdict {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Right => "ok",
            Self::Weak => "weak",
            Self::Wrong => "wrong",
            Self::Skipped => "skipped",
        }
    }
}

/// What is to be said of one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Judgement {
    /// What the endpoint answered.
    pub(super) answer: String,
    /// What Postbound makes of it.
    pub(super) postbound: String,
    pub(super) verdict: Verdict,
    pub(super) why: Option<String>,
    pub(super) mend: Option<String>,
}

/// What the endpoint has taken before, as far as it matters.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Newest version of the first user it took.
    pub(super) held: i64,
    /// The ids it told of that user, as people read them.
    pub(super) ids: Option<String>,
}

/// A verdict with its reason and remedy, before answer and explanation are added.
struct Opinion(Verdict, Option<String>, Option<String>);

impl Opinion {
    const RIGHT: Self = Self(Verdict::Right, None, None);

    fn remark(why: &str) -> Self {
        Self(Verdict::Right, Some(why.to_owned()), None)
    }

    fn weak(why: impl Into<String>, mend: impl Into<String>) -> Self {
        Self(Verdict::Weak, Some(why.into()), Some(mend.into()))
    }

    fn wrong(why: impl Into<String>, mend: impl Into<String>) -> Self {
        Self(Verdict::Wrong, Some(why.into()), Some(mend.into()))
    }
}

/// Holds the answer to a request against what a right receiver says. The first state is the one in question; any other
/// is sound and new.
pub(super) fn judge(
    check: Check,
    states: &[Delivery],
    outcomes: &[Outcome],
    memory: &Memory,
    endpoint: &Endpoint,
) -> Judgement {
    let clean_up_failed =
        || outcomes.iter().position(|outcome| !matches!(outcome, Outcome::Delivered { .. }));
    let place = if check == Check::CleanUp { clean_up_failed().unwrap_or(0) } else { 0 };
    let (state, outcome) = (&states[place], &outcomes[place]);
    let opinion = match (check, outcome) {
        (_, Outcome::Failed(failure)) if failure.status == Some(429) => Opinion::weak(
            "not checked: its rate limit was met, which holds back everybody for as long as it says",
            "run the check again when the limit lets it; tell Postbound of the limit by `rate_limit`",
        ),
        (Check::StaleVersion | Check::LateUpdate, _) => older(check, state, outcome, memory, endpoint),
        (Check::BadKey | Check::BadSignature | Check::OldSignature, _) => untrusted(check, outcome),
        (Check::PartialFailure, _) => partial(outcome, outcomes.get(1), endpoint),
        _ => sound(check, state, outcome, memory, endpoint),
    };
    let opinion = match opinion {
        Opinion(Verdict::Right | Verdict::Weak, ..) if !is_of_credentials(check) => {
            others(outcomes, endpoint).unwrap_or(opinion)
        }
        other => other,
    };
    Judgement {
        answer: explain::answer(outcome, endpoint.contract),
        postbound: explain::consequence(outcome, state.version, memory.held, &endpoint.retry),
        verdict: opinion.0,
        why: opinion.1,
        mend: opinion.2,
    }
}

impl Judgement {
    /// Says so if the answer was nearly too late.
    pub(super) fn timed(mut self, took: Duration, endpoint: &Endpoint) -> Self {
        let timeout = endpoint.settings.timeout;
        if self.verdict == Verdict::Right && took > timeout / 2 {
            self.verdict = Verdict::Weak;
            self.why = Some(format!(
                "it took {:.1} s of {} s, after which nobody knows what became of a request",
                took.as_secs_f64(),
                timeout.as_secs()
            ));
            self.mend =
                Some("answer when the state is stored, and do what takes longer afterwards".to_owned());
        }
        self
    }
}

/// A request every receiver has to take.
fn sound(check: Check, state: &Delivery, outcome: &Outcome, memory: &Memory, endpoint: &Endpoint) -> Opinion {
    match outcome {
        Outcome::Delivered { .. } => told_ids(check, outcome, memory, endpoint),
        Outcome::Stale { held_version: Some(held) } if *held == state.version => Opinion::remark(
            "it counts as superseded, which comes to the same; a 2xx would say so in fewer words",
        ),
        Outcome::Stale { .. } => Opinion::wrong(
            format!(
                "{}; it says that it holds a newer version, of which nobody has told it",
                expected(check)
            ),
            "compare versions per tenant and user, and forget none; what was sent before is no newer version",
        ),
        Outcome::Failed(failure) => Opinion::wrong(expected(check), mend::failure(failure, check, endpoint)),
    }
}

/// What a right receiver does, and why.
fn expected(check: Check) -> &'static str {
    match check {
        Check::Create => "a new user is to be taken",
        Check::Duplicate => {
            "the same request comes again when its answer was lost: what it asks for is done, so it is a success"
        }
        Check::Resend => {
            "a state is sent once more, under a new key, after a request of unknown outcome: it is held, so it is a \
             success"
        }
        Check::Delete => "a delete is to be taken, as a soft delete that keeps the version",
        Check::RepeatedDelete => "the user is gone, as the delete asks for, so it is a success",
        Check::Return => {
            "a deleted user who is back with a newer version is to be taken: the version decides, not the action"
        }
        Check::UnknownDelete => {
            "a delete may be all that is ever heard of a user: nobody is there, as it asks for, so it is a success"
        }
        Check::CleanUp => "the users of this check are still there",
        Check::Update
        | Check::StaleVersion
        | Check::PartialFailure
        | Check::LateUpdate
        | Check::BadKey
        | Check::BadSignature
        | Check::OldSignature => "a newer state is to be taken",
    }
}

/// The ids a success told, against those before.
fn told_ids(check: Check, outcome: &Outcome, memory: &Memory, endpoint: &Endpoint) -> Opinion {
    if let (Check::Create, Some(untold)) = (check, untold(outcome, endpoint)) {
        return Opinion::weak(
            format!("it tells no {untold} of the user, so none is linked, and nobody finds the user by it"),
            match endpoint.contract {
                Contract::CrmBatch => "tell `crmUserId` in each result",
                Contract::BackendSync | Contract::Webhook => "tell the id where --external-id points",
                Contract::WorkflowTrigger => {
                    "answer {\"success\": true, \"frontendUserId\": \"...\", \"crmContactId\": \"...\"}, or say in `links` \
                     where the ids stand"
                }
            },
        );
    }
    // Whoever comes back may be a new record.
    let is_the_same_user = matches!(check, Check::Duplicate | Check::Resend | Check::Update | Check::Delete);
    match (explain::ids(outcome), memory.ids.as_deref()) {
        (Some(now), Some(before)) if is_the_same_user && now != before => Opinion::wrong(
            format!(
                "the user had {before} and has {now} now: there are two records, and one of them is left behind"
            ),
            mend::two_records(endpoint),
        ),
        _ => Opinion::RIGHT,
    }
}

/// Ids that a success should have told and did not.
fn untold(outcome: &Outcome, endpoint: &Endpoint) -> Option<String> {
    let Outcome::Delivered { external_id, links } = outcome else { return None };
    let is_told = |system: &str| match system {
        "" => external_id.is_some(),
        named => links.iter().any(|link| &*link.system == named),
    };
    let untold: Vec<&str> =
        endpoint.ids.iter().map(String::as_str).filter(|system| !is_told(system)).collect();
    let named = untold.iter().map(|system| if system.is_empty() { "id" } else { *system });
    (!untold.is_empty()).then(|| named.collect::<Vec<_>>().join(" and no "))
}

/// A state older than the one held.
fn older(check: Check, state: &Delivery, outcome: &Outcome, memory: &Memory, endpoint: &Endpoint) -> Opinion {
    let (version, held) = (state.version, memory.held);
    match outcome {
        Outcome::Stale { held_version: Some(said) } if *said == held => Opinion::RIGHT,
        Outcome::Stale { held_version: None } => {
            Opinion::remark("it says not which version it holds: `heldVersion` would tell operators")
        }
        Outcome::Stale { held_version: Some(said) } => Opinion::wrong(
            format!("it says that it holds version {said}, but the newest it took is {held}"),
            "tell the version of the state that is held in `heldVersion`",
        ),
        Outcome::Delivered { .. } => {
            let harm = if check == Check::LateUpdate {
                "a deleted user is back"
            } else {
                "an older state is in force"
            };
            let why = format!(
                "version {version} was a success over version {held}. If it was applied, {harm} until the newest state \
                 is sent once more: a request that was lost on its way can arrive late"
            );
            if endpoint.guards_versions {
                let why =
                    format!("{why}. The configuration says guards_versions = true, so that is not done");
                return Opinion::wrong(why, mend::stale(endpoint));
            }
            Opinion::weak(why, mend::stale(endpoint))
        }
        Outcome::Failed(failure) if failure.status.is_none() => {
            Opinion::wrong("there was no answer to it", mend::unanswered(failure))
        }
        Outcome::Failed(failure) if failure.class == FailureClass::WholeTarget => {
            Opinion::wrong("an older state closes the target for everybody", mend::stale(endpoint))
        }
        Outcome::Failed(_) => Opinion::wrong(
            "an older state is refused, but not as one: Postbound takes it for a failure, though all is well",
            mend::stale(endpoint),
        ),
    }
}

/// A request with credentials that are not Postbound's.
fn untrusted(check: Check, outcome: &Outcome) -> Opinion {
    const ANSWER_401: &str = "answer 401 before anything else is looked at";
    let Outcome::Failed(failure) = outcome else {
        let why = match check {
            Check::OldSignature => "whoever records a request can send it again whenever they like",
            _ => "whoever reaches the endpoint can change and delete users",
        };
        let how = match check {
            Check::BadKey => "compare the key, in constant time, and answer 401 if it is not the right one",
            Check::BadSignature => {
                "verify the signature over the raw body (libraries: standardwebhooks, svix), and answer 401"
            }
            _ => "refuse a webhook-timestamp more than five minutes from your clock, with 401",
        };
        return Opinion::wrong(why, how);
    };
    match (failure.class, failure.status) {
        (FailureClass::WholeTarget, Some(_)) => Opinion::RIGHT,
        (FailureClass::WholeTarget, None) => {
            Opinion::wrong("there was no answer to it", mend::unanswered(failure))
        }
        (FailureClass::Permanent, _) => Opinion::weak(
            "it is refused as if the user were at fault: while a key or secret is wrong, everybody who changes ends in \
             dead letters",
            ANSWER_401,
        ),
        (FailureClass::Transient | FailureClass::Unknown, _) => Opinion::weak(
            "it is refused as a passing failure: Postbound goes on trying, user by user, instead of pausing and saying \
             why",
            ANSWER_401,
        ),
    }
}

/// A malformed user among good ones.
fn partial(malformed: &Outcome, good: Option<&Outcome>, endpoint: &Endpoint) -> Opinion {
    let result =
        "answer 200, and for the malformed user a result {status: \"failed\", code: \"invalid_user\"}";
    match (malformed, good) {
        (Outcome::Failed(Failure { bisect: true, .. }), _) => Opinion::weak(
            "one user's fault refuses all: Postbound halves such a request until that user stands alone, at the cost of \
             up to 14 more requests out of the rate limit",
            result,
        ),
        (Outcome::Failed(failure), _) if failure.shared => Opinion::wrong(
            "one user's fault fails all, and nobody can tell whose it is",
            mend::failure(failure, Check::PartialFailure, endpoint),
        ),
        (_, Some(Outcome::Failed(_) | Outcome::Stale { .. })) => {
            Opinion::wrong("a good user fails because another one is malformed", "settle each user by itself")
        }
        (Outcome::Failed(failure), _) if failure.class == FailureClass::Permanent => Opinion::RIGHT,
        (Outcome::Failed(_), _) => Opinion::weak(
            "it says not that trying again is of no use, so it is tried again and again",
            "give the result `code: \"invalid_user\"`, or `retryable: false`",
        ),
        (Outcome::Delivered { .. } | Outcome::Stale { .. }, _) => Opinion::remark(
            "it takes a user whose email is a number; nothing is wrong with that as far as Postbound goes",
        ),
    }
}

/// Whether all others of the request were settled, unless it failed as a whole.
fn others(outcomes: &[Outcome], endpoint: &Endpoint) -> Option<Opinion> {
    if matches!(outcomes.first(), Some(Outcome::Failed(failure)) if failure.shared) {
        return None;
    }
    let unsettled = outcomes.iter().skip(1).find(|outcome| !matches!(outcome, Outcome::Delivered { .. }))?;
    let answer = explain::answer(unsettled, endpoint.contract);
    Some(Opinion::wrong(
        format!("the other user of the request, who is new or newer, was not settled: {answer}"),
        "give each user of a request a result by what became of that user alone",
    ))
}

fn is_of_credentials(check: Check) -> bool {
    matches!(check, Check::BadKey | Check::BadSignature | Check::OldSignature)
}
