//! The fuzz targets without libFuzzer: the corpus as it is, and inputs made from it by a seeded generator. A target that
//! has no corpus fails; so nothing is skipped.

use postbound_fuzz_targets::{answer, envelope, signature};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use std::{fs, panic, path::Path};

const MADE: usize = 20_000;
/// What parsers take for something.
const WORDS: &[&[u8]] = &[
    b"\n",
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b".",
    b" ",
    b"v1,",
    b"=",
    b"0",
    b"-1",
    b"1e400",
    b"null",
    b"true",
    b"9223372036854775808",
    b"\\u0000",
    b"\xff",
    b"\0",
    b"\"data\":",
    b"\"type\":",
    b"\"results\":[",
    b"\"heldVersion\":",
    b"stale_version",
    b"canary.7f3a@example.com",
    b"canary-api-key-9c1d4e",
    b"409",
    b"200",
    b"503",
];

fn check(name: &str, target: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(name);
    let mut inputs: Vec<_> = fs::read_dir(&corpus)
        .unwrap_or_else(|error| panic!("{}: {error}", corpus.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", corpus.display());
    for (path, input) in &inputs {
        run(target, input, path);
    }
    let mut random = StdRng::seed_from_u64(17);
    for number in 0..MADE {
        let input = make(&mut random, &inputs);
        run(target, &input, &format!("input {number} made from {}", corpus.display()));
    }
}

fn run(target: fn(&[u8]), input: &[u8], what: &str) {
    if panic::catch_unwind(|| target(input)).is_err() {
        panic!("{what}: {}", input.escape_ascii());
    }
}

/// One of the corpus with a few changes: a byte, a word, a stretch of another one or of itself.
fn make(random: &mut StdRng, inputs: &[(String, Vec<u8>)]) -> Vec<u8> {
    let pick =
        |random: &mut StdRng| inputs.choose(random).map(|(_, input)| input.clone()).unwrap_or_default();
    let mut input = pick(random);
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=input.len());
        let end = random.random_range(at..=input.len().min(at + 40));
        match random.random_range(0..5) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 => drop(input.drain(at..end)),
            2 => drop(input.splice(at..end, WORDS.choose(random).unwrap_or(&&b""[..]).iter().copied())),
            3 => {
                let stretch = input[at..end].to_vec();
                drop(input.splice(at..at, stretch));
            }
            _ => {
                let other = pick(random);
                let from = random.random_range(0..=other.len());
                drop(input.splice(at..end, other[from..].iter().copied()));
            }
        }
    }
    input
}

#[test]
fn whatever_is_signed_or_not_the_verifier_tells_it() {
    check("signature", signature::target);
}

#[test]
fn whatever_comes_as_a_message_is_read_whole_or_refused() {
    check("envelope", envelope::target);
}

#[test]
fn whatever_a_target_answers_has_an_outcome_and_tells_no_secret() {
    check("answer", answer::target);
}
