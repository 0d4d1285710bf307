//! The user directory (contract S4): `directory.users`, kept by webhooks, by its own API and by the front end's fallback.
//!
//! Every change goes through [`apply`]: the user is locked, what is said of them is merged into the newest state, the
//! directory's row and the change in the outbox are written, all in the caller's transaction. Who may say what is
//! decided before (`access`), how a change is judged is pure (`merge`), and Clerk's words are read in `clerk`.

mod access;
mod api;
mod apply;
pub(crate) mod clerk;
mod clerk_api;
mod clerk_keys;
mod describe;
mod ensure;
mod fields;
mod merge;
mod rows;
mod session_token;
mod sessions;

pub(crate) use access::DirectoryAccess;
pub(crate) use api::router;
pub(crate) use apply::{Applied, DirectoryError, UserChange, apply};
pub(crate) use merge::{Says, Word};
