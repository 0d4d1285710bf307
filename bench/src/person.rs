//! The made-up users of every scenario: a number, and all that follows from it.

use std::fmt::Write as _;

/// Tenants the users are spread over.
const TENANTS: u32 = 10;

/// A user by number; the same number is the same user for Postbound, the bare loop and the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Person(pub(crate) u32);

impl Person {
    /// The user's id: `u` and eight digits.
    pub(crate) fn id(self) -> String {
        format!("u{:08}", self.0)
    }

    /// The user's tenant.
    pub(crate) fn tenant(self) -> String {
        format!("t{}", self.0 % TENANTS)
    }

    /// The user whose id this is.
    pub(crate) fn from_id(id: &[u8]) -> Option<Self> {
        let digits = std::str::from_utf8(id.strip_prefix(b"u")?).ok()?;
        digits.parse().ok().map(Self)
    }

    /// The state as the producer gives it, about 400 bytes of JSON.
    pub(crate) fn state(self, version: u32) -> String {
        let (id, tenant) = (self.id(), self.tenant());
        let mut json = String::with_capacity(440);
        let _ = write!(
            json,
            r#"{{"email":"{id}@{tenant}.example","username":"{id}","displayName":"User {id}","firstName":"User","lastName":"{id}","avatar":"https://img.example/{tenant}/{id}/{version}.png","role":"user","isActive":true,"isAdmin":false,"department":"research","title":"research lead","roles":["user","editor"],"permissions":["read","write"],"subscriptionTier":"team","locale":"en"}}"#
        );
        json
    }

    /// The body of the backend's contract (S2), as the bare loop sends it: about what Postbound's adapter makes of
    /// [`Self::state`].
    pub(crate) fn backend_body(self, version: u32) -> String {
        let (id, tenant) = (self.id(), self.tenant());
        let action = if version > 1 { "updated" } else { "created" };
        let mut json = String::with_capacity(240);
        let _ = write!(
            json,
            r#"{{"id":"{id}","email":"{id}@{tenant}.example","username":"{id}","displayName":"User {id}","avatar":"https://img.example/{tenant}/{id}/{version}.png","role":"user","isActive":true,"action":"{action}"}}"#
        );
        json
    }
}

/// What the change that leads to a version is called.
pub(crate) fn action(version: u32) -> &'static str {
    if version > 1 { "updated" } else { "created" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_found_again_by_id() {
        let check = |id: &[u8], person| assert_eq!(Person::from_id(id), person);
        check(Person(7).id().as_bytes(), Some(Person(7)));
        check(Person(12_345_678).id().as_bytes(), Some(Person(12_345_678)));
        check(b"x00000007", None);
        check(b"u", None);
    }

    #[test]
    fn states_and_bodies_are_json_about_that_user() {
        for json in [Person(3).state(2), Person(3).backend_body(2)] {
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(value["email"], "u00000003@t3.example");
            assert_eq!(value["avatar"], "https://img.example/t3/u00000003/2.png");
        }
    }
}
