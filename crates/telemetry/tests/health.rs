//! Which states are ready, and how a stall shows by itself.

use std::time::Duration;

use postbound_telemetry::{Component, Health, State};
use tokio::time::advance;

fn state(health: &Health, name: &str) -> (State, Option<String>) {
    let one = health.report().components.remove(name).expect("the component is reported");
    (one.state, one.reason)
}

fn stalled(seconds: u64) -> (State, Option<String>) {
    (State::Stalled, Some(format!("made no progress for {seconds} s")))
}

#[test]
fn a_process_is_ready_when_each_component_works_or_rightly_stands_by() {
    type Step = fn(&Component);
    let cases: [(&str, Step, State, bool); 4] = [
        ("starting", |_| {}, State::Starting, false),
        ("ready", Component::ready, State::Ready, true),
        ("standby", |one| one.standby("another relay is active"), State::Standby, true),
        ("not ready", |one| one.not_ready("the broker is gone"), State::NotReady, false),
    ];
    for (case, step, expected, ready) in cases {
        let health = Health::new();
        assert!(!health.report().ready, "without components nothing is ready");
        let other = health.component("other");
        other.ready();
        let one = health.component("one");
        step(&one);
        assert_eq!((state(&health, "one").0, health.report().ready), (expected, ready), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_component_without_progress_is_stalled_and_recovers_by_progress() {
    let health = Health::new();
    let relay = health.component("relay").deadline(Duration::from_secs(10));
    relay.ready();
    advance(Duration::from_secs(60)).await;
    assert!(health.report().ready, "nothing to do is no stall");

    relay.busy();
    advance(Duration::from_secs(10)).await;
    assert!(health.report().ready, "the deadline itself is in time");
    advance(Duration::from_secs(2)).await;
    relay.busy();
    assert_eq!(state(&health, "relay"), stalled(12));
    assert!(!health.report().ready);

    relay.progress();
    assert!(health.report().ready);
    advance(Duration::from_millis(9_500)).await;
    assert_eq!(health.report().components["relay"].progress_age_seconds, Some(9.5));
    relay.idle();
    advance(Duration::from_secs(60)).await;
    assert!(health.report().ready);
    relay.busy();
    assert!(health.report().ready, "the clock starts with the work, not with the last progress");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_another_is_no_stall() {
    let health = Health::new();
    let relay = health.component("relay").deadline(Duration::from_secs(10));
    relay.ready();
    relay.busy();
    relay.standby("another relay is active");
    advance(Duration::from_secs(60)).await;
    assert_eq!(state(&health, "relay").0, State::Standby);
    relay.ready();
    assert_eq!(state(&health, "relay").0, State::Ready, "the clock starts anew");
    advance(Duration::from_secs(11)).await;
    assert_eq!(state(&health, "relay"), stalled(11));
}

#[tokio::test]
async fn a_component_whose_task_panicked_is_stopped() {
    let health = Health::new();
    let worker = health.component("worker");
    worker.ready();
    let clone = worker.clone();
    let task = tokio::spawn(async move {
        clone.progress();
        let _held = worker;
        panic!("on purpose");
    });
    assert!(task.await.is_err());
    assert_eq!(state(&health, "worker"), (State::Stopped, Some("it ended".to_owned())));
    assert!(!health.report().ready);
}

#[test]
fn a_component_that_ended_as_it_should_is_not_missed_and_a_namesake_takes_its_place() {
    let health = Health::new();
    let old = health.component("partition 3");
    let new = health.component("partition 3");
    new.ready();
    old.remove();
    assert_eq!(state(&health, "partition 3").0, State::Ready);
    new.remove();
    assert!(health.report().components.is_empty());
}
