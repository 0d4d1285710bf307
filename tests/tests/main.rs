//! The one test binary: a module per stage of a change's way. Run it with `cargo xtask test`.

mod crashes;
mod delivery;
mod examples;
mod failures;
mod flows;
mod ingress;
mod jobs;
mod links;
mod operators;
mod producer;
mod targets;
mod travel;
