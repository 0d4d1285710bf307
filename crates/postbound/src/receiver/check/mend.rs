//! What the team behind an endpoint changes to make an answer right. `docs/receiving.md` has the whole of it.

use super::{Check, Contract, endpoint::Endpoint};
use postbound_target::Failure;

/// A request that was to be taken and was not.
pub(super) fn failure(failure: &Failure, check: Check, endpoint: &Endpoint) -> &'static str {
    let is_batch = endpoint.contract == Contract::CrmBatch;
    let is_delete =
        matches!(check, Check::Delete | Check::RepeatedDelete | Check::UnknownDelete | Check::CleanUp);
    match (failure.reason, check) {
        ("http_404" | "http_410", _) if is_delete => {
            "answer 200: the url names no user, so 404 says that the endpoint is gone, and closes the target for \
             everybody"
        }
        ("http_409", Check::Duplicate | Check::Resend | Check::RepeatedDelete) => {
            "answer 2xx for a state that is held already: 409 without a body that says more means to come again"
        }
        ("http_401" | "http_403", _) => {
            "give the credentials it expects: --api-key-file, --bearer-token-file or --secret-file"
        }
        ("http_404" | "http_405" | "http_410" | "http_501", _) => "serve POST at this very url",
        ("http_413", _) => "raise its limit of body bytes: 100 users are 100 KB, and more with long profiles",
        ("http_415", _) if endpoint.contract == Contract::Webhook => {
            "take Content-Type application/cloudevents+json"
        }
        ("http_415", _) => "take Content-Type application/json",
        ("http_400" | "http_422", _) if is_delete => "ask nothing but the id of a user who is deleted",
        ("http_400" | "http_422", _) if is_batch && endpoint.tells_versions => {
            "let fields pass that it does not know (Joi: .unknown()); `send_versions = false`, here --no-versions, \
             leaves `version` and `deleted` out"
        }
        ("http_400" | "http_422", _) => "let fields pass that it does not know, and null or empty ones",
        ("bad_response", _) => {
            "answer JSON {\"success\": true, \"results\": [{\"userId\", \"status\", \"crmUserId\"}]}"
        }
        ("success_false", _) if endpoint.contract == Contract::WorkflowTrigger => {
            "see its log for why the workflow failed; with `success: false` it is triggered again"
        }
        ("success_false", _) => {
            "say `success: true` when the request was worked through: results tell the rest"
        }
        ("result_missing", _) => "give each user of the request a result, with the `userId` it was sent with",
        ("result_doubled", _) => "give each user one result",
        ("result_unknown", _) => "the status of a result is created, updated or failed",
        ("result_failed" | "result_refused", _) if is_delete => {
            "a user with `deleted: true` needs nothing but the id; the result of a delete is updated"
        }
        ("result_failed" | "result_refused", _) => "the result says what it minds",
        ("http_500", Check::PartialFailure) => {
            "catch what a user's data breaks, and say so in its own result"
        }
        _ if failure.status.is_none() => unanswered(failure),
        ("redirect", _) => "redirects are never followed: give the url it points to",
        _ => {
            "see its log. What a user's content breaks is a 422, what passes by itself a 503 with Retry-After"
        }
    }
}

/// No answer at all.
pub(super) fn unanswered(failure: &Failure) -> &'static str {
    match failure.reason {
        "address_refused" => {
            "if it is yours: --allow-private-addresses, or in the configuration allow_private_addresses or \
             allow_addresses"
        }
        "tls" => {
            "see that its certificate is good for this name; --ca-file holds the authority that issued it"
        }
        "timeout" => "answer when the state is stored, and do what takes longer afterwards",
        "no_answer" | "answer_cut" => "it closed the connection without a whole answer: see its log",
        _ => "see that it listens there, and can be reached from here",
    }
}

/// An older state that was not refused as one.
pub(super) fn stale(endpoint: &Endpoint) -> &'static str {
    match endpoint.contract {
        Contract::CrmBatch if !endpoint.tells_versions => {
            "take `version` and `deleted` in users, and leave --no-versions (send_versions = false) away"
        }
        Contract::CrmBatch => {
            "compare `version` with the one held, in the statement that writes; answer a result {status: \"failed\", \
             code: \"stale_version\", heldVersion: n} for an older one"
        }
        Contract::BackendSync | Contract::Webhook | Contract::WorkflowTrigger => {
            "compare the header postbound-user-version with the version held, in the statement that writes; answer \
             409 with {\"type\": \"/problems/stale-version\", \"heldVersion\": n} to an older one"
        }
    }
}

/// One user under two ids.
pub(super) fn two_records(endpoint: &Endpoint) -> &'static str {
    match endpoint.contract {
        Contract::WorkflowTrigger => {
            "remember the answer by Idempotency-Key, in the transaction that runs the workflow, and give it again: a \
             trigger that is repeated has run"
        }
        Contract::BackendSync | Contract::CrmBatch | Contract::Webhook => {
            "find users by tenant and `id`, which never change, not by their e-mail address"
        }
    }
}
