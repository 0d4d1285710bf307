//! A migration that is added makes the crate, which carries them all, be built anew.
fn main() {
    println!("cargo::rerun-if-changed=../../migrations");
}
