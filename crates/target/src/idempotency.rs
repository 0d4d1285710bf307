use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use uuid::Uuid;

/// The idempotency key of a request, in hex: sha256 over the sorted event ids, the target's name and the body's digest.
///
/// The same states give the same key, another body gives another one: a receiver may refuse a key that comes with
/// another payload (draft-ietf-httpapi-idempotency-key-header-07, section 2.7).
pub(crate) fn key(event_ids: impl IntoIterator<Item = Uuid>, target: &str, body: &[u8]) -> String {
    let mut ids: Vec<Uuid> = event_ids.into_iter().collect();
    ids.sort_unstable();
    let mut digest = Sha256::new();
    for id in ids {
        digest.update(id.as_bytes());
    }
    // Ids and digest are of fixed length; the separators only make the name's ends visible.
    let digest = digest
        .chain_update([0x1f])
        .chain_update(target)
        .chain_update([0x1f])
        .chain_update(Sha256::digest(body))
        .finalize();
    digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_changes_with_events_target_and_body_and_with_nothing_else() {
        let [a, b] = [Uuid::from_u128(1), Uuid::from_u128(2)];
        let base = key([a, b], "crm", b"{}");
        assert_eq!(base.len(), 64);
        assert_eq!(key([b, a], "crm", b"{}"), base);
        for other in [key([a], "crm", b"{}"), key([a, b], "crn", b"{}"), key([a, b], "crm", b"{ }")] {
            assert_ne!(other, base);
        }
    }

    #[test]
    fn the_recipe_is_pinned_since_receivers_remember_keys_over_upgrades() {
        // Computed outside of this code: sha256(16 bytes of the id, 0x1f, "crm", 0x1f, sha256("{}")).
        let pinned = key([Uuid::from_u128(1)], "crm", b"{}");
        assert_eq!(pinned, "8f4c8b603f2a1466c87394a126ef6721ed9dc62acf6aaa7c885f7e593517661f");
    }
}
