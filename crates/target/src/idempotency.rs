use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use uuid::Uuid;

/// The idempotency key of a request, in hex: sha256 over the sorted event ids, the target's name, the body's digest, and
/// the events' resend numbers if any is above 0.
///
/// The same states give the same key, another body gives another one: a receiver may refuse a key that comes with
/// another payload (draft-ietf-httpapi-idempotency-key-header-07, section 2.7).
pub(crate) fn key(events: impl IntoIterator<Item = (Uuid, u32)>, target: &str, body: &[u8]) -> String {
    let mut events: Vec<(Uuid, u32)> = events.into_iter().collect();
    events.sort_unstable();
    let mut digest = Sha256::new();
    for (id, _) in &events {
        digest.update(id.as_bytes());
    }
    // Ids and digest are of fixed length; the separators only make the name's ends visible.
    digest.update([0x1f]);
    digest.update(target);
    digest.update([0x1f]);
    digest.update(Sha256::digest(body));
    if events.iter().any(|(_, resend)| *resend > 0) {
        digest.update([0x1f]);
        for (_, resend) in &events {
            digest.update(resend.to_be_bytes());
        }
    }
    digest.finalize().iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid::from_u128(1);
    const B: Uuid = Uuid::from_u128(2);

    #[test]
    fn the_key_changes_with_events_target_and_body_and_with_nothing_else() {
        let base = key([(A, 0), (B, 0)], "crm", b"{}");
        assert_eq!(base.len(), 64);
        assert_eq!(key([(B, 0), (A, 0)], "crm", b"{}"), base);
        for other in [
            key([(A, 0)], "crm", b"{}"),
            key([(A, 0), (B, 0)], "crn", b"{}"),
            key([(A, 0), (B, 0)], "crm", b"{ }"),
        ] {
            assert_ne!(other, base);
        }
    }

    #[test]
    fn each_resend_has_a_key_of_its_own_that_its_retries_repeat() {
        let keys = [[0, 0], [1, 0], [0, 1], [1, 1], [2, 0]]
            .map(|[a, b]| [key([(A, a), (B, b)], "crm", b"{}"), key([(B, b), (A, a)], "crm", b"{}")]);
        for [one, again] in &keys {
            assert_eq!(one, again);
            assert_eq!(keys.iter().filter(|[other, _]| other == one).count(), 1);
        }
    }

    #[test]
    fn the_recipe_is_pinned_since_receivers_remember_keys_over_upgrades() {
        let check = |resend: u32, pinned: &str| assert_eq!(key([(A, resend)], "crm", b"{}"), pinned);
        // Computed outside of this code: sha256(16 bytes of the id, 0x1f, "crm", 0x1f, sha256("{}")).
        check(0, "8f4c8b603f2a1466c87394a126ef6721ed9dc62acf6aaa7c885f7e593517661f");
        // The same, and then 0x1f and the number in 4 bytes.
        check(1, "80f9198b308140a13cdb36313b1e77c2e8c6dec93f065b4e232338fff8937c6e");
    }
}
