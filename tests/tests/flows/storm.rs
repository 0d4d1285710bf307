//! Thousands of Clerk's webhooks, doubled and in no order.

use super::Town;
use super::town::{Habits, clerk_delete, clerk_user};
use futures_util::{StreamExt as _, stream};
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use serde_json::Value;
use std::time::Instant;

/// Users; each fifth one is deleted in the end.
const USERS: usize = 500;
/// Words of Clerk's on each, the delete not counted.
const WORDS: usize = 15;
/// Webhooks in all: what is missing to it is sent twice.
const WEBHOOKS: usize = 10_000;
/// Requests at once.
const AT_ONCE: usize = 32;
const BORN: i64 = 1_700_000_000_000;

fn id(user: usize) -> String {
    format!("user_{user:04}")
}

/// Every webhook with its id, some of them twice, shuffled.
fn webhooks() -> Vec<(String, Value)> {
    let mut all = Vec::with_capacity(WEBHOOKS);
    for user in 0..USERS {
        for word in 0..WORDS {
            let event = if word == 0 { "user.created" } else { "user.updated" };
            let at = BORN + i64::try_from(word).unwrap() * 1000;
            all.push((
                format!("msg_{user}_{word}"),
                clerk_user(event, &id(user), &format!("Name {word}"), at),
            ));
        }
        if user % 5 == 0 {
            all.push((format!("msg_{user}_deleted"), clerk_delete(&id(user))));
        }
    }
    let mut random = StdRng::seed_from_u64(4);
    all.shuffle(&mut random);
    let repeated = all[..WEBHOOKS - all.len()].to_vec();
    all.extend(repeated);
    all.shuffle(&mut random);
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_webhooks_in_no_order_ends_in_the_newest_states_and_nobody_is_back() {
    let town = Town::start(Habits::default()).await;
    let started = Instant::now();
    let statuses: Vec<u16> = stream::iter(webhooks())
        .map(|(message, body)| {
            let town = &town;
            async move { town.clerk(&message, &body).await.0 }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    assert_eq!((statuses.len(), statuses.iter().filter(|status| **status != 200).count()), (WEBHOOKS, 0));
    let taken = started.elapsed();
    town.until_at_rest().await;

    let (users, gone) = (i64::try_from(USERS).unwrap(), i64::try_from(USERS.div_ceil(5)).unwrap());
    let newest = format!("Name {}", WORDS - 1);
    for (what, query, expected) in [
        ("users", "select count(*) from directory.users".to_owned(), users),
        (
            "living users in their newest state",
            format!("select count(*) from directory.users where deleted_at is null and is_active and first_name = '{newest}'"),
            users - gone,
        ),
        (
            "tombstones",
            "select count(*) from directory.users where deleted_at is not null and not is_active
               and substring(id from 6)::int % 5 = 0".to_owned(),
            gone,
        ),
        (
            "the backend's living users",
            format!("select count(*) from receiver.backend_users where is_active and display_name = '{newest} Lovelace'"),
            users - gone,
        ),
        (
            "the CRM's living users",
            format!("select count(*) from receiver.crm_users where is_active and name = '{newest} Lovelace'"),
            users - gone,
        ),
        (
            "deleted users that are back",
            "select (select count(*) from receiver.backend_users where is_active and substring(user_id from 6)::int % 5 = 0)
                  + (select count(*) from receiver.crm_users where is_active and substring(user_id from 6)::int % 5 = 0)".to_owned(),
            0,
        ),
        (
            "states sent after a newer one",
            "select count(*) from receiver.request_log where outcome = 'stale'".to_owned(),
            0,
        ),
    ] {
        assert_eq!(town.number(&query).await, expected, "{what}");
    }
    report(&format!("{WEBHOOKS} webhooks taken in {taken:.1?}, at rest after {:.1?}", started.elapsed()));
}

#[expect(clippy::print_stderr, reason = "how long it took is what the test is to show")]
fn report(text: &str) {
    eprintln!("{text}");
}
