//! The bench at a two-hundredth of its size, so that it works when somebody needs a figure.

use std::path::PathBuf;
use std::process::Command;

use postbound_testbed::{ENDPOINTS_VARIABLE, Endpoints};
use serde_json::Value;

#[test]
fn a_tiny_run_measures_both_sides_of_a_pair() {
    Endpoints::from_env().unwrap();
    let postbound = std::env::var_os("POSTBOUND_BIN").map(PathBuf::from).expect("run `cargo xtask test`");
    let json = tempfile::NamedTempFile::new().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_postbound-bench"))
        .args(["run", "--smoke", "--only", "backlog-1", "--json"])
        .arg(json.path())
        .arg("--postbound")
        .arg(postbound)
        .env(ENDPOINTS_VARIABLE, std::env::var_os(ENDPOINTS_VARIABLE).unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&std::fs::read(json.path()).unwrap()).unwrap();
    let row = &report["rows"][0];
    assert_eq!(row["scenario"], "backlog-1");
    for side in ["postbound", "other"] {
        assert!(row[side][0].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["notes"][format!("{side} duplicates")], 0.0, "{row}");
    }
}
