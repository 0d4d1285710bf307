use super::*;
use FailureClass::{Permanent, Transient, Unknown, WholeTarget};
use proptest::prelude::*;

fn schedules() -> impl Strategy<Value = RetrySchedule> {
    let pauses = || prop::collection::vec((0_u64..7200).prop_map(Duration::from_secs), 0..5);
    (0_u32..5, pauses(), 0.0_f64..=1.0, pauses(), 0.0_f64..=1.0, 0_u64..100_000, 1_u32..20, 1_u32..20)
        .prop_map(|(attempts, delays, jitter, schedule, schedule_jitter, horizon, bounded, permanent)| {
            RetrySchedule {
                attempts,
                delays,
                jitter,
                schedule,
                schedule_jitter,
                horizon: Duration::from_secs(horizon),
                bounded_attempts: bounded,
                permanent_attempts: permanent,
            }
        })
}

fn failures() -> impl Strategy<Value = Failure> {
    let class = prop_oneof![Just(Transient), Just(Unknown), Just(Permanent), Just(WholeTarget)];
    (class, prop::option::of(0_u64..90_000), any::<bool>()).prop_map(|(class, retry_after, bounded)| {
        Failure {
            class,
            reason: "http_500",
            status: Some(500),
            retry_after: retry_after.map(Duration::from_secs),
            detail: String::new(),
            shared: false,
            bisect: false,
            bounded,
        }
    })
}

fn histories() -> impl Strategy<Value = History> {
    (1_u32..1000, 0_u64..200_000, any::<bool>()).prop_flat_map(|(attempts, failing_for, parked)| {
        let failing_for = Duration::from_secs(failing_for);
        (1..=attempts).prop_map(move |repeats| History { attempts, repeats, failing_for, parked })
    })
}

/// The longest pause the settings name for a place in its list, jitter aside.
fn longest(pauses: &[Duration], otherwise: u64) -> Duration {
    pauses.iter().max().copied().unwrap_or(Duration::from_secs(otherwise))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pause_is_the_targets_own_or_within_the_schedule_and_its_jitter(
        plan in schedules(), failure in failures(), history in histories(), random in 0.0_f64..=1.0,
    ) {
        match (plan.decide(&failure, history, random), failure.retry_after) {
            (Verdict::GiveUp, _) => {}
            (Verdict::TryAgain(pause), asked) => {
                prop_assert_eq!(asked, None, "a pause that is asked for is kept, and not by holding the lane");
                prop_assert!(failure.class == Transient && !history.parked && history.attempts < plan.attempts);
                prop_assert!(pause <= longest(&plan.delays, 1));
                let place = history.attempts.saturating_sub(1) as usize;
                let full = plan.delays.get(place).or(plan.delays.last()).copied().unwrap_or(Duration::from_secs(1));
                prop_assert!(pause <= full && pause >= full.mul_f64((1.0 - plan.jitter) * 0.999));
            }
            (Verdict::Park(pause) | Verdict::GiveUpPastHorizon(pause), Some(asked)) => prop_assert_eq!(pause, asked),
            (Verdict::Park(pause) | Verdict::GiveUpPastHorizon(pause), None) => {
                prop_assert!(pause <= longest(&plan.schedule, 60));
            }
        }
    }

    #[test]
    fn nothing_is_given_up_for_one_failure_before_the_horizon_unless_the_settings_say_so(
        plan in schedules(), failure in failures(), history in histories(), random in 0.0_f64..=1.0,
    ) {
        let bound = match failure.class {
            Permanent => Some(plan.permanent_attempts),
            _ if failure.bounded => Some(plan.bounded_attempts),
            _ => None,
        };
        match plan.decide(&failure, history, random) {
            Verdict::GiveUp => prop_assert!(bound.is_some_and(|bound| history.repeats >= bound)),
            Verdict::GiveUpPastHorizon(_) => prop_assert!(history.failing_for >= plan.horizon),
            Verdict::TryAgain(_) | Verdict::Park(_) => prop_assert!(bound.is_none_or(|bound| history.repeats < bound)),
        }
    }

    #[test]
    fn what_is_given_up_stays_given_up_however_often_it_fails_again(
        plan in schedules(), failure in failures(), history in histories(), more in 0_u32..50,
    ) {
        let later = History { attempts: history.attempts + more, repeats: history.repeats + more, ..history };
        if plan.decide(&failure, history, 0.5) == Verdict::GiveUp {
            prop_assert_eq!(plan.decide(&failure, later, 0.5), Verdict::GiveUp);
        }
    }

    #[test]
    fn more_jitter_never_makes_a_pause_longer(
        plan in schedules(), failure in failures(), history in histories(), one in 0.0_f64..=1.0, other in 0.0_f64..=1.0,
    ) {
        let pause = |random| match plan.decide(&failure, history, random) {
            Verdict::TryAgain(pause) | Verdict::Park(pause) | Verdict::GiveUpPastHorizon(pause) => Some(pause),
            Verdict::GiveUp => None,
        };
        let (most, least) = (pause(one.min(other)), pause(one.max(other)));
        prop_assert!(most >= least, "{most:?} {least:?}");
    }
}
