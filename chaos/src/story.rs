//! Everything that is known of one user at one target, in the order in which it happened: for people who ask why.

use std::fmt::Write as _;

use crate::clock::{MomentUs, seconds};
use crate::history::{History, TargetHistory};
use crate::nemesis::Injected;
use crate::order::short;
use crate::population::User;

/// Before and after the moment in question, what is told.
const AROUND_US: MomentUs = 20_000_000;

/// Tells the story; times are seconds since `begun_us`. With a moment in question, only what was around it.
pub(crate) fn tell(
    history: &History,
    injected: &[Injected],
    begun_us: MomentUs,
    (name, user): (&str, &User),
    at_us: Option<MomentUs>,
) -> String {
    let mut story = String::new();
    let _ = writeln!(story, "  {user} at {name}");
    let changes = history.source.get(user).map_or(&[][..], Vec::as_slice);
    let told: Vec<String> = changes
        .iter()
        .map(|change| {
            format!("v{} {}{}", change.version, change.action, if change.bare { " (bare)" } else { "" })
        })
        .collect();
    let _ = writeln!(story, "    source: {}", told.join(", "));
    let Some(target) = history.targets.iter().find(|target| target.target.name == name) else { return story };
    let mut lines = events(target, user);
    if let (Some(first), Some(last)) =
        (lines.iter().map(|line| line.0).min(), lines.iter().map(|line| line.0).max())
    {
        let near = injected
            .iter()
            .filter(|fault| fault.to_us >= first - 5_000_000 && fault.from_us <= last + 1_000_000);
        lines.extend(near.flat_map(|fault| {
            [
                (fault.from_us, format!("  begins: {}", fault.fault)),
                (fault.to_us, format!("  ended: {}", fault.fault)),
            ]
        }));
    }
    lines.sort();
    lines.retain(|line| at_us.is_none_or(|at_us| (line.0 - at_us).abs() <= AROUND_US));
    for (at_us, line) in lines {
        let _ = writeln!(story, "    {:>9.3} s  {line}", seconds(begun_us, at_us));
    }
    let _ = writeln!(
        story,
        "    in the end: the target holds {:?}; ledger {:?}; parked {:?}; letters {:?}",
        target.holds.get(user),
        target.ledger.get(user),
        target.parked.get(user),
        target.letters.get(user),
    );
    story
}

fn events(target: &TargetHistory, user: &User) -> Vec<(MomentUs, String)> {
    let mut lines = Vec::new();
    for seen in target.seen.get(user).into_iter().flatten() {
        let key = short(seen.key.as_deref().unwrap_or("none"));
        let version = seen.version.map_or("?".to_owned(), |version| version.to_string());
        lines.push((
            seen.at_us,
            format!("receiver: v{version} {} {} (key {key}, row {})", seen.outcome, seen.status, seen.id),
        ));
    }
    for step in target.steps.get(user).into_iter().flatten() {
        let entry = step.entry;
        lines.push((
            step.at_us,
            format!("ledger: delivered {}, dead {}", entry.delivered_version, entry.dead_version),
        ));
    }
    let of_user = target.requests.iter().filter(|request| request.tenant == user.tenant);
    for request in of_user {
        let Some((_, version)) = request.users.iter().find(|(id, _)| *id == user.id) else { continue };
        let version = version.map_or("?".to_owned(), |version| version.to_string());
        let key = short(&request.key);
        let worker = &request.worker;
        lines.push((
            request.began_us,
            format!("{worker}: sends v{version} (key {key}, {} users)", request.users.len()),
        ));
        if let Some(at_us) = request.answered_us {
            lines.push((
                at_us,
                format!("{worker}: is answered {:?} to v{version} (key {key})", request.status),
            ));
        }
        if let Some(at_us) = request.abandoned_us {
            lines.push((at_us, format!("{worker}: connection of v{version} (key {key}) ended")));
        }
    }
    lines
}
