//! The answers of both contracts, as a receiver that took everything gives them.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::json;

use crate::person::Person;

/// What a door's requests look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contract {
    /// One user a request, any 2xx is success (S2).
    Backend,
    /// Users of one tenant, a result for each (S3).
    Crm,
}

#[derive(Deserialize)]
struct CrmRequest<'a> {
    #[serde(borrow)]
    users: Vec<CrmUser<'a>>,
}

#[derive(Deserialize)]
struct CrmUser<'a> {
    id: &'a str,
    version: Option<u32>,
}

/// The whole answer, head and body; tells `took` of every user with the version the body names.
pub(super) fn answer(
    contract: Contract,
    body: &[u8],
    mut took: impl FnMut(Person, Option<u32>),
) -> Result<Vec<u8>> {
    match contract {
        Contract::Backend => {
            took(backend_person(body).context("a body names no user of ours")?, None);
            Ok(OK.to_vec())
        }
        Contract::Crm => {
            let request: CrmRequest<'_> = serde_json::from_slice(body)?;
            for user in &request.users {
                let person = Person::from_id(user.id.as_bytes()).context("a user is not ours")?;
                took(person, user.version);
            }
            Ok(whole(&crm_body(&request)))
        }
    }
}

const OK: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"success\":true}";

/// The id is the first field of both senders' bodies: no need to read the rest.
fn backend_person(body: &[u8]) -> Option<Person> {
    let id = body.strip_prefix(b"{\"id\":\"")?;
    let end = id.iter().position(|&byte| byte == b'"')?;
    Person::from_id(&id[..end])
}

fn crm_body(request: &CrmRequest<'_>) -> Vec<u8> {
    let results: Vec<_> = request
        .users
        .iter()
        .map(|user| json!({"userId": user.id, "status": "updated", "crmUserId": format!("crm-{}", user.id)}))
        .collect();
    let count = results.len();
    let body = json!({
        "success": true,
        "message": "synced",
        "results": results,
        "metadata": {"operation": "user_sync", "totalUsers": count, "successful": count, "failed": 0},
    });
    body.to_string().into_bytes()
}

fn whole(body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n")
            .into_bytes();
    answer.extend_from_slice(body);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_of_a_request_is_told_and_answered() {
        let check = |contract, body: &str, told: &[(u32, Option<u32>)], part: &str| {
            let mut took = Vec::new();
            let answer =
                answer(contract, body.as_bytes(), |person, version| took.push((person.0, version))).unwrap();
            assert_eq!(took, told);
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.contains(part), "{answer}");
        };
        check(Contract::Backend, &Person(4).backend_body(1), &[(4, None)], "{\"success\":true}");
        let crm = r#"{"operation":"user_sync","users":[{"id":"u00000001","version":3,"name":"A"},{"id":"u00000002"}]}"#;
        check(Contract::Crm, crm, &[(1, Some(3)), (2, None)], r#""crmUserId":"crm-u00000002""#);
    }
}
