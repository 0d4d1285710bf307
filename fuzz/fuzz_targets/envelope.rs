#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| postbound_fuzz_targets::envelope::target(data));
