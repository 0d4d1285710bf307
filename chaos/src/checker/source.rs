//! The source's own part of I1: what its clients were told, its versions, Postbound's copy of its newest states.

use std::collections::BTreeSet;

use super::{Violation, newest};
use crate::history::{Change, History};
use crate::population::User;
use crate::producer::Outcome;

/// What is wrong with it.
pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut violations = transactions(history);
    violations.extend(versions(history));
    violations.extend(projection(history));
    violations
}

/// What clients were told of their transactions against what is in the source.
fn transactions(history: &History) -> Vec<Violation> {
    let marks: BTreeSet<(&User, &str)> = history
        .source
        .iter()
        .flat_map(|(user, changes)| changes.iter().map(move |change| (user, change.mark.as_str())))
        .collect();
    let mut violations = Vec::new();
    for transaction in &history.transactions {
        let there = transaction.changes.iter().filter(|(user, mark)| marks.contains(&(user, mark)));
        let (there, all) = (there.count(), transaction.changes.len());
        let what = match transaction.outcome {
            Outcome::Committed if there < all => "committed, and not all of it is there",
            Outcome::RolledBack if there > 0 => "rolled back, and some of it is there",
            Outcome::InDoubt if there > 0 && there < all => "half of a transaction is there",
            _ => continue,
        };
        let user = transaction.changes.first().map(|(user, _)| user.clone());
        let what = format!("{what} ({there} of {all})");
        violations.push(Violation { invariant: "I1", target: None, user, what, at_us: None });
    }
    violations
}

/// The application's own count of a user's changes has no hole.
fn versions(history: &History) -> Vec<Violation> {
    let holed = history
        .source
        .iter()
        .filter(|(_, changes)| changes.iter().zip(1..).any(|(change, version)| change.version != version));
    let violation = |(user, changes): (&User, &Vec<Change>)| Violation {
        invariant: "I1",
        target: None,
        user: Some(user.clone()),
        what: format!("versions are missing of {}", changes.last().map_or(0, |change| change.version)),
        at_us: None,
    };
    holed.map(violation).collect()
}

/// Postbound's own copy of the newest states is just that.
fn projection(history: &History) -> Vec<Violation> {
    let users: BTreeSet<&User> = history.source.keys().chain(history.projected.keys()).collect();
    let differing = users.into_iter().filter_map(|user| {
        let wanted = history.source.get(user).map_or(0, |changes| newest(changes));
        let found = history.projected.get(user).copied().unwrap_or(0);
        let what = format!("user_state is at version {found}, the newest is {wanted}");
        let violation =
            Violation { invariant: "I1", target: None, user: Some(user.clone()), what, at_us: None };
        (found != wanted).then_some(violation)
    });
    differing.collect()
}
