//! Seed 003, the answer: a result per user, each settled by its own.
//!
//! Both shapes of the seed are read: `tenant` as an object or a string, `syncedAt` within `metadata` or beside it.
//! Nothing of those is needed, so neither is looked at.

use crate::disposition::{Fault, PERMANENT_CODES, STALE_CODES};
use crate::problem::version;
use crate::redaction::Redactor;
use crate::{Delivery, Failure, Outcome, external_id};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;

#[derive(Deserialize)]
struct CrmAnswer<'a> {
    success: Option<bool>,
    #[serde(borrow)]
    results: Option<Vec<&'a RawValue>>,
}

/// One entry of `results`. `code`, `retryable` and `heldVersion` go beyond the seed; receivers may leave them out.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CrmResult<'a> {
    #[serde(borrow)]
    user_id: &'a RawValue,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow)]
    crm_user_id: Option<&'a RawValue>,
    code: Option<Value>,
    retryable: Option<bool>,
    held_version: Option<Value>,
    message: Option<Value>,
    error: Option<Value>,
}

/// Reads the body of a 2xx: one outcome per delivery, in their order.
pub(crate) fn settle<'a>(
    body: &[u8],
    deliveries: &[&Delivery],
    secrets: impl Fn() -> Vec<&'a str>,
) -> Vec<Outcome> {
    let Ok(answer) = serde_json::from_slice::<CrmAnswer<'_>>(body) else {
        return bad_response("the answer is not the contract's JSON").for_all(deliveries.len());
    };
    let refused = answer.success == Some(false);
    let Some(results) = answer.results else {
        return match refused {
            true => success_false().for_all(deliveries.len()),
            false => bad_response("the answer has no results").for_all(deliveries.len()),
        };
    };
    // Most answers hold nothing to redact: the users' data is then not parsed again.
    let redactor = OnceCell::new();
    let redact =
        |text: &str| redactor.get_or_init(|| Redactor::new(deliveries, secrets().into_iter())).excerpt(text);
    let mut outcomes = gather(&results, deliveries, redact);
    if refused {
        for outcome in
            outcomes.iter_mut().flatten().filter(|outcome| matches!(outcome, Outcome::Delivered { .. }))
        {
            *outcome = Outcome::Failed(Failure { shared: deliveries.len() > 1, ..success_false() });
        }
    }
    let missing = || match refused {
        true => Outcome::Failed(Failure { shared: deliveries.len() > 1, ..success_false() }),
        false => Outcome::Failed(Failure::of(
            Fault::ResultMissing,
            "the answer has no readable result for this user",
        )),
    };
    outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing)).collect()
}

/// The outcome each delivery's result tells, `None` where there is none.
fn gather(
    results: &[&RawValue],
    deliveries: &[&Delivery],
    redact: impl Fn(&str) -> String,
) -> Vec<Option<Outcome>> {
    let places: HashMap<&str, usize> =
        deliveries.iter().enumerate().map(|(place, delivery)| (delivery.key.user.as_str(), place)).collect();
    let mut outcomes: Vec<Option<Outcome>> = vec![None; deliveries.len()];
    let mut strangers = 0_usize;
    for raw in results {
        let result = serde_json::from_str::<CrmResult<'_>>(raw.get()).ok();
        let place = result.as_ref().and_then(|result| places.get(&*id_text(result.user_id)?).copied());
        let (Some(result), Some(place)) = (result, place) else {
            strangers += 1;
            continue;
        };
        let outcome = outcome(&result, &redact);
        let slot = &mut outcomes[place];
        *slot = match slot.take() {
            Some(earlier) if earlier != outcome => Some(Outcome::Failed(Failure::of(
                Fault::ResultDoubled,
                "the answer has two different results for this user",
            ))),
            _ => Some(outcome),
        };
    }
    if strangers > 0 {
        tracing::debug!(results.ignored = strangers, "target.crm.unknown_results");
    }
    outcomes
}

fn outcome(result: &CrmResult<'_>, redact: &impl Fn(&str) -> String) -> Outcome {
    match &*result.status {
        "created" | "updated" => Outcome::Delivered {
            external_id: result
                .crm_user_id
                .and_then(id_text)
                .filter(|id| external_id::is_usable(id))
                .map(Cow::into_owned),
            links: Vec::new(),
        },
        "failed" => failed(result, redact),
        _ => Outcome::Failed(Failure::of(
            Fault::ResultUnknown,
            "the result's status is none of created, updated and failed",
        )),
    }
}

fn failed(result: &CrmResult<'_>, redact: &impl Fn(&str) -> String) -> Outcome {
    let text = |value: &Option<Value>| value.as_ref().and_then(Value::as_str).map(str::to_owned);
    let code = text(&result.code);
    let is_one_of = |codes: &[&str]| code.as_deref().is_some_and(|code| codes.contains(&code));
    if is_one_of(STALE_CODES) {
        return Outcome::Stale { held_version: result.held_version.as_ref().and_then(version) };
    }
    let permanent = match result.retryable {
        Some(retryable) => !retryable,
        None => is_one_of(PERMANENT_CODES),
    };
    let fault = if permanent { Fault::ResultRefused } else { Fault::ResultFailed };
    let bounded = code.is_none() && result.retryable.is_none();
    let words: Vec<String> =
        [code, text(&result.error).or_else(|| text(&result.message))].into_iter().flatten().collect();
    Outcome::Failed(Failure { bounded, ..Failure::of(fault, redact(&words.join(": "))) })
}

fn bad_response(detail: &str) -> Failure {
    Failure::of(Fault::BadResponse, detail)
}

fn success_false() -> Failure {
    Failure::of(Fault::SuccessFalse, "the answer says that the request did not succeed")
}

/// An id that is a string, or a number as it is written.
fn id_text(raw: &RawValue) -> Option<Cow<'_, str>> {
    let text = raw.get();
    match text.as_bytes().first()? {
        b'"' => match serde_json::from_str::<&str>(text) {
            Ok(plain) => Some(Cow::Borrowed(plain)),
            Err(_) => serde_json::from_str(text).ok().map(Cow::Owned),
        }
        .filter(|id| !id.is_empty()),
        b'-' | b'0'..=b'9' => Some(Cow::Borrowed(text)),
        _ => None,
    }
}
