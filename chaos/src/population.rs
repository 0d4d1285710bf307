//! The users of a run.

use rand::Rng;

/// Tenants; a user's id alone does not tell which.
pub(crate) const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
/// Users that several transactions change at the same time.
const HOT: u32 = 8;
/// Users that change now and then.
const COLD: u32 = 400;

/// A user of the application.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub(crate) struct User {
    pub(crate) tenant: String,
    pub(crate) id: String,
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.tenant, self.id)
    }
}

/// Draws users.
pub(crate) struct Population;

impl Population {
    /// Some user: one in four is hot.
    pub(crate) fn draw(rng: &mut impl Rng) -> User {
        let is_hot = rng.random_bool(0.25);
        let id = Self::draw_id(rng, is_hot);
        User { tenant: TENANTS[rng.random_range(0..TENANTS.len())].to_owned(), id }
    }

    /// The id of some hot or cold user.
    pub(crate) fn draw_id(rng: &mut impl Rng, is_hot: bool) -> String {
        if is_hot {
            format!("hot-{}", rng.random_range(0..HOT))
        } else {
            format!("cold-{}", rng.random_range(0..COLD))
        }
    }
}
