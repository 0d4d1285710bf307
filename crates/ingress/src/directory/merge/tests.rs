use serde_json::json;
use time::Duration;
use time::macros::datetime;

use super::recent::{ECHO_WINDOW, RECENT_BYTES_MAX, RECENT_FOR, RECENT_MAX};
use super::*;

const NOW: OffsetDateTime = datetime!(2026-05-01 12:00 UTC);

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

fn set(value: Value) -> Word {
    Word::Set(map(value))
}

fn clerk_at(seconds: i64) -> Says {
    Says::Clerk { updated_at: Some(NOW + Duration::seconds(seconds)) }
}

const PEER: Says = Says::Peer { version: None };

/// The name of whoever speaks.
fn origin_of(says: Says) -> Option<&'static str> {
    matches!(says, Says::Peer { .. }).then_some("peer")
}

const CALLER: Says = Says::Caller { revives: false };

/// Says everything in turn, as the database would go on from each verdict.
struct Story {
    held: Held,
    now: OffsetDateTime,
}

impl Story {
    fn new() -> Self {
        Self { held: Held::default(), now: NOW }
    }

    fn of(words: impl IntoIterator<Item = (Word, Says)>) -> Self {
        let mut story = Self::new();
        for (word, says) in words {
            story.hear(&word, says);
        }
        story
    }

    fn hear(&mut self, word: &Word, says: Says) -> Verdict {
        let verdict = judge(&self.held, word, says, origin_of(says), self.now);
        match verdict.clone() {
            Verdict::Store { action, state, clerk } => {
                let version = self.held.version + 1;
                self.held.recent = remember(&self.held, version, &state, origin_of(says), self.now);
                self.held = Held {
                    version,
                    deleted: action == Action::Deleted,
                    known: true,
                    state,
                    clerk: clerk.or(self.held.clerk.take()),
                    recent: std::mem::take(&mut self.held.recent),
                };
            }
            Verdict::Remember(word) => {
                self.held.known = true;
                self.held.clerk = word.or(self.held.clerk.take());
            }
            Verdict::Bury => (self.held.known, self.held.deleted) = (true, true),
            Verdict::Older | Verdict::Echo | Verdict::Deleted => {}
        }
        verdict
    }
}

/// After the story, this is said: is it a new version, and what are the fields then?
fn check(mut story: Story, word: &Word, says: Says, expected: Option<Value>) {
    let verdict = story.hear(word, says);
    match (verdict, expected) {
        (Verdict::Store { state, .. }, Some(expected)) => {
            for (name, value) in map(expected) {
                assert_eq!(
                    state.get(&name).unwrap_or(&Value::Null),
                    &value,
                    "{name} after {word:?} in {state:?}"
                );
            }
        }
        (Verdict::Store { state, .. }, None) => panic!("{word:?} by {says:?} made {state:?}"),
        (verdict, Some(expected)) => panic!("{word:?} by {says:?} is {verdict:?}, not {expected}"),
        (_, None) => {}
    }
}

#[test]
fn an_older_word_of_clerk_changes_nothing_and_an_equal_one_is_an_echo() {
    let story = || Story::of([(set(json!({"firstName": "New"})), clerk_at(10))]);
    check(story(), &set(json!({"firstName": "Old"})), clerk_at(9), None);
    check(story(), &set(json!({"firstName": "New"})), clerk_at(10), None);
    check(story(), &set(json!({"firstName": "Newer"})), clerk_at(11), Some(json!({"firstName": "Newer"})));
    assert_eq!(story().hear(&set(json!({"firstName": "Old"})), clerk_at(9)), Verdict::Older);
}

#[test]
fn a_sign_in_told_by_clerk_does_not_undo_what_others_have_changed_since() {
    let story = || {
        Story::of([
            (set(json!({"firstName": "Ada", "email": "a@example.com"})), clerk_at(1)),
            (set(json!({"firstName": "Augusta"})), PEER),
        ])
    };
    check(story(), &set(json!({"firstName": "Ada", "email": "a@example.com"})), clerk_at(2), None);
    let moved = set(json!({"firstName": "Ada", "email": "b@example.com"}));
    check(story(), &moved, clerk_at(3), Some(json!({"firstName": "Augusta", "email": "b@example.com"})));
}

#[test]
fn no_webhook_touches_the_theme() {
    let story = || Story::of([(set(json!({"email": "a@example.com", "theme": "dark"})), CALLER)]);
    for says in [clerk_at(1), PEER] {
        let word = set(json!({"email": "b@example.com", "theme": "system"}));
        check(story(), &word, says, Some(json!({"theme": "dark", "email": "b@example.com"})));
    }
    check(
        Story::new(),
        &set(json!({"email": "a@example.com"})),
        clerk_at(1),
        Some(json!({"theme": "system"})),
    );
}

#[test]
fn a_deleted_user_comes_back_by_a_callers_wish_alone() {
    let story = || {
        Story::of([
            (set(json!({"email": "a@example.com"})), clerk_at(1)),
            (Word::Delete { reason: Some("asked for".to_owned()) }, Says::Clerk { updated_at: None }),
        ])
    };
    assert_eq!(story().held.state["reason"], "asked for");
    assert_eq!(story().held.state["isActive"], false);
    let word = set(json!({"email": "b@example.com"}));
    for says in [clerk_at(100), PEER, Says::Fallback, CALLER] {
        check(story(), &word, says, None);
    }
    let back = Some(json!({"email": "b@example.com", "isActive": null, "reason": null, "deletedAt": null}));
    check(story(), &word, Says::Caller { revives: true }, back);
}

#[test]
fn a_delete_that_comes_first_is_remembered_though_nobody_is_told() {
    let mut story = Story::new();
    assert_eq!(story.hear(&Word::Delete { reason: None }, Says::Clerk { updated_at: None }), Verdict::Bury);
    check(story, &set(json!({"email": "a@example.com"})), clerk_at(1), None);
}

#[test]
fn an_echo_makes_no_version_however_late_it_comes() {
    let story = || {
        Story::of([
            (set(json!({"email": "a@example.com", "displayName": "One"})), CALLER),
            (set(json!({"displayName": "Two"})), CALLER),
        ])
    };
    // Of the newest state, in part or whole, with nothing said where nothing is.
    check(story(), &set(json!({"displayName": "Two"})), PEER, None);
    check(story(), &set(json!({"email": "a@example.com", "displayName": "Two", "phone": null})), PEER, None);
    // Of the one before.
    check(story(), &set(json!({"email": "a@example.com", "displayName": "One"})), PEER, None);
    check(story(), &set(json!({"displayName": "One"})), Says::Peer { version: Some(1) }, None);
    // A change, and one that says that it was made to the newest state.
    check(story(), &set(json!({"displayName": "Three"})), PEER, Some(json!({"displayName": "Three"})));
    let back = Some(json!({"displayName": "One"}));
    check(story(), &set(json!({"displayName": "One"})), Says::Peer { version: Some(2) }, back.clone());
    let mut later = story();
    later.now += ECHO_WINDOW;
    check(later, &set(json!({"displayName": "One"})), PEER, back);
}

#[test]
fn what_targets_are_sent_for_want_of_a_field_is_no_change_when_it_comes_back() {
    let story = || {
        Story::of([(
            set(json!({"email": "a@example.com", "firstName": "Ada", "lastName": "L", "imageUrl": "u"})),
            CALLER,
        )])
    };
    let echo = json!({
        "email": "a@example.com", "username": "", "displayName": "Ada L", "avatar": "u", "role": "user", "isActive": true,
        "roles": [], "isAdmin": false, "department": null
    });
    check(story(), &set(echo), PEER, None);
    check(story(), &set(json!({"name": "Ada"})), PEER, Some(json!({"name": "Ada"})));
    check(story(), &set(json!({"isActive": false})), PEER, Some(json!({"isActive": false})));
    let promoted = set(json!({"displayName": "Ada L", "role": "admin"}));
    check(story(), &promoted, PEER, Some(json!({"role": "admin", "displayName": null})));
}

#[test]
fn of_a_whole_state_that_names_its_version_only_what_was_changed_counts() {
    let story = Story::of([
        (set(json!({"email": "a@example.com", "displayName": "One"})), CALLER),
        (set(json!({"displayName": "Two"})), CALLER),
    ]);
    let word = set(json!({"email": "b@example.com", "displayName": "One"}));
    let merged = Some(json!({"email": "b@example.com", "displayName": "Two"}));
    check(story, &word, Says::Peer { version: Some(1) }, merged);
}

#[test]
fn a_system_may_take_its_own_change_back_though_it_was_never_sent_it() {
    let story = || {
        let sent = Says::Peer { version: Some(1) };
        Story::of([
            (set(json!({"email": "a@example.com", "displayName": "One"})), CALLER),
            (set(json!({"displayName": "Two"})), sent),
        ])
    };
    let sent = Says::Peer { version: Some(1) };
    let back = set(json!({"displayName": "One"}));
    check(story(), &back, sent, Some(json!({"displayName": "One"})));
    // What others changed since stays: the system was not sent it either.
    let mut changed = story();
    changed.hear(&set(json!({"email": "b@example.com"})), CALLER);
    let whole = set(json!({"email": "a@example.com", "displayName": "One"}));
    check(changed, &whole, sent, Some(json!({"email": "b@example.com", "displayName": "One"})));
    // Its own change once more is an echo.
    check(story(), &set(json!({"displayName": "Two"})), sent, None);
}

#[test]
fn an_echo_of_a_state_that_others_wrote_and_replaced_makes_no_version() {
    // Another producer wrote all three; the directory has none of them.
    let of = |version: i64, name: &str, seconds: i64| Recent {
        version,
        since: NOW - Duration::seconds(seconds),
        origin: None,
        state: map(json!({"email": "a@example.com", "displayName": name})),
    };
    let story = |learns: bool| {
        let mut story = Story::new();
        (story.held.version, story.held.state) = (3, of(3, "Three", 0).state);
        assert!(story.held.lacks_states(None, NOW) && story.held.lacks_states(Some(1), NOW));
        assert!(!story.held.lacks_states(Some(3), NOW), "that one is known");
        if learns {
            story.held.learn(vec![of(1, "One", 3), of(2, "Two", 2), of(3, "Three", 1)]);
            assert!(!story.held.lacks_states(None, NOW) && !story.held.lacks_states(Some(1), NOW));
        }
        story
    };
    let echo = set(json!({"email": "a@example.com", "displayName": "One"}));
    for says in [PEER, Says::Peer { version: Some(1) }] {
        check(story(true), &echo, says, None);
        // Without them it cannot be told: hence they are looked for.
        check(story(false), &echo, says, Some(json!({"displayName": "One"})));
    }
    // Those that were replaced long ago need not be known.
    let mut old = Story::new();
    (old.held.version, old.held.state) = (5, of(5, "Five", 0).state);
    old.held.learn(vec![of(4, "Four", 300), of(5, "Five", 200)]);
    assert!(!old.held.lacks_states(None, NOW));
}

#[test]
fn the_fallback_adds_only_what_nobody_knows() {
    let word = set(json!({"email": "token@example.com", "firstName": "Token"}));
    check(
        Story::new(),
        &word,
        Says::Fallback,
        Some(json!({"email": "token@example.com", "theme": "system"})),
    );
    let known = Story::of([(set(json!({"email": "a@example.com"})), clerk_at(1))]);
    check(known, &word, Says::Fallback, None);
    // Another producer wrote the user.
    let mut foreign = Story::new();
    (foreign.held.version, foreign.held.state) = (3, map(json!({"email": "a@example.com"})));
    check(foreign, &word, Says::Fallback, Some(json!({"email": "a@example.com", "firstName": "Token"})));
}

#[test]
fn of_a_user_others_wrote_the_default_theme_is_no_news_and_a_chosen_one_is() {
    let foreign = || {
        let mut story = Story::new();
        (story.held.version, story.held.state) = (3, map(json!({"email": "a@example.com"})));
        story
    };
    check(foreign(), &set(json!({"email": "a@example.com"})), CALLER, None);
    check(foreign(), &set(json!({"theme": "dark"})), CALLER, Some(json!({"theme": "dark"})));
}

#[test]
fn to_clear_what_others_wrote_as_null_is_no_change() {
    let mut story = Story::new();
    (story.held.version, story.held.state) = (3, map(json!({"email": "a@example.com", "phone": null})));
    check(story, &set(json!({"email": "a@example.com", "phone": null, "username": null})), clerk_at(1), None);
}

#[test]
fn what_is_kept_to_tell_echoes_is_bounded() {
    let mut story = Story::new();
    for number in 0..50 {
        story.hear(&set(json!({"displayName": number.to_string()})), CALLER);
    }
    assert_eq!(story.held.recent.len(), RECENT_MAX);
    assert_eq!(story.held.recent.last().unwrap().version, 50);
    story.now += RECENT_FOR * 2;
    story.hear(&set(json!({"displayName": "x".repeat(RECENT_BYTES_MAX)})), CALLER);
    assert!(story.held.recent.is_empty() || story.held.recent.len() == 1, "{:?}", story.held.recent);
}

proptest::proptest! {
    /// Whatever order Clerk's words come in, and however often, the newest one stands in the end.
    #[test]
    fn any_order_of_clerks_words_ends_in_the_newest(order in proptest::collection::vec(0_i64..6, 1..40)) {
        let word = |at: i64| set(json!({"firstName": format!("at {at}"), "email": (at % 2 == 0).then_some("a@example.com")}));
        let story = Story::of(order.iter().map(|at| (word(*at), clerk_at(*at))));
        let newest = *order.iter().max().unwrap();
        proptest::prop_assert_eq!(&story.held.state["firstName"], &json!(format!("at {newest}")));
        let email = story.held.state.get("email");
        proptest::prop_assert_eq!(email.is_some(), newest % 2 == 0);
    }
}
