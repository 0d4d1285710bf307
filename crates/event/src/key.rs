use sha2::{Digest, Sha256};

/// A user within a tenant: the unit of order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserKey {
    /// Tenant of the user.
    pub tenant: String,
    /// The user's id within the tenant.
    pub user: String,
}

impl UserKey {
    /// A key from anything that makes strings.
    pub fn new(tenant: impl Into<String>, user: impl Into<String>) -> Self {
        Self { tenant: tenant.into(), user: user.into() }
    }

    /// The user's partition among `partitions`: the first 4 bytes, big-endian, of sha256(tenant ‖ 0x1f ‖ user),
    /// modulo `partitions`. Every part of an installation must agree on it, so it never changes.
    pub fn partition(&self, partitions: u16) -> u16 {
        u16::try_from(self.key_hash() % u32::from(partitions)).expect("the remainder is below a u16")
    }

    /// What [`UserKey::partition`] goes by, for rows that must find their partition whatever P is.
    pub fn key_hash(&self) -> u32 {
        let digest =
            Sha256::new().chain_update(&self.tenant).chain_update([0x1f]).chain_update(&self.user).finalize();
        u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_is_the_head_of_the_digest_modulo_the_count() {
        // printf 'acme\x1fu1' | sha256sum
        let key = UserKey::new("acme", "u1");
        assert_eq!(key.partition(1), 0);
        let digest = Sha256::digest(b"acme\x1fu1");
        let head = u32::from_be_bytes(digest[..4].try_into().unwrap());
        assert_eq!(u32::from(key.partition(16)), head % 16);
    }

    #[test]
    fn the_separator_keeps_tenant_and_user_apart() {
        let spread = |a: &str, b: &str| UserKey::new(a, b).partition(u16::MAX);
        assert_ne!(spread("ab", "c"), spread("a", "bc"));
    }
}
