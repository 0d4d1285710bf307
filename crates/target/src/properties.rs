//! The disposition table and what stands over it, for every status and every override there can be.

use crate::disposition::{AdapterKind, Verdict, status_reason, verdict};
use crate::overrides::{Override, overridden_verdict, reclassify};
use crate::{Failure, FailureClass};
use proptest::prelude::*;

const ADAPTERS: [AdapterKind; 4] =
    [AdapterKind::BackendSync, AdapterKind::CrmBatch, AdapterKind::Webhook, AdapterKind::WorkflowTrigger];

#[test]
fn every_status_there_can_be_has_a_verdict_and_only_a_2xx_is_a_success() {
    for adapter in ADAPTERS {
        for status in 0..=u16::MAX {
            for has_retry_after in [false, true] {
                let is_success = !matches!(verdict(adapter, status, has_retry_after), Verdict::Failed(_));
                assert_eq!(is_success, (200..300).contains(&status), "{adapter:?} {status}");
            }
        }
    }
}

#[test]
fn all_adapters_mean_the_same_by_a_failure_and_a_hint_when_to_come_back_blames_no_user() {
    for status in (0..=u16::MAX).filter(|status| !(200..300).contains(status)) {
        let [one, others @ ..] = ADAPTERS.map(|adapter| verdict(adapter, status, false));
        assert!(others.iter().all(|other| *other == one), "{status}");
        let hinted = verdict(AdapterKind::BackendSync, status, true);
        assert!(hinted == one || hinted == Verdict::Failed(FailureClass::WholeTarget), "{status}");
    }
}

fn classes() -> impl Strategy<Value = FailureClass> {
    use FailureClass::{Permanent, Transient, Unknown, WholeTarget};
    prop_oneof![Just(Transient), Just(Unknown), Just(Permanent), Just(WholeTarget)]
}

fn statuses() -> impl Strategy<Value = Override> {
    (100_u16..600, 0_u16..120, prop::option::of(classes()))
        .prop_map(|(from, width, class)| Override::Status { from, to: from + width, class })
}

fn meaning(class: Option<FailureClass>) -> Verdict {
    class.map_or(Verdict::Delivered, Verdict::Failed)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_override_wins_over_the_table_and_the_narrowest_over_wider_ones(
        overrides in prop::collection::vec(statuses(), 0..6), status in 100_u16..800, has_retry_after in any::<bool>(),
    ) {
        let held = |entry: &&Override| matches!(entry, Override::Status { from, to, .. } if (*from..=*to).contains(&status));
        let width = |entry: &Override| match entry {
            Override::Status { from, to, .. } => to - from,
            Override::Reason { .. } => u16::MAX,
        };
        for adapter in ADAPTERS {
            let meant = overridden_verdict(&overrides, adapter, status, has_retry_after);
            let narrowest = overrides.iter().filter(held).map(width).min();
            let candidates: Vec<Verdict> = overrides.iter().filter(held).filter(|entry| Some(width(entry)) == narrowest)
                .filter_map(|entry| match entry {
                    Override::Status { class, .. } => Some(meaning(*class)),
                    Override::Reason { .. } => None,
                })
                .collect();
            match candidates.is_empty() {
                true => prop_assert_eq!(meant, verdict(adapter, status, has_retry_after)),
                false => prop_assert!(candidates.contains(&meant), "{meant:?} of {candidates:?}"),
            }
        }
    }

    #[test]
    fn a_reason_is_given_another_class_by_its_own_word_alone(
        words in prop::collection::vec((0_usize..40, classes()), 0..6), status in 300_u16..600, given in classes(),
        bounded in any::<bool>(),
    ) {
        let known: Vec<&str> = Override::reasons().collect();
        let overrides: Vec<Override> = words.iter()
            .map(|(place, class)| Override::Reason { word: known[place % known.len()].to_owned(), class: *class })
            .collect();
        for reason in known.iter().copied().chain([status_reason(status)]) {
            let mut failure = Failure { bounded, ..Failure::new(given, reason, "") };
            reclassify(&overrides, &mut failure);
            let meant = overrides.iter().find_map(|entry| match entry {
                Override::Reason { word, class } if word == reason => Some(*class),
                _ => None,
            });
            prop_assert_eq!(failure.class, meant.unwrap_or(given));
            prop_assert_eq!(failure.bounded, bounded && meant.is_none());
        }
    }
}
