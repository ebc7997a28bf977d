//! `suanli doctor` by hand, as a user or a program calls it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::{Command, Output};

fn doctor(home: &Path, kernel: &str, flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_suanli"));
    command.arg("doctor").args(flags).env_clear().env("HOME", home);
    if !kernel.is_empty() {
        command.env("SUANLI_KERNEL", kernel);
    }
    command.output().unwrap()
}

#[test]
fn it_names_the_instructions_and_finds_the_same_bits_with_all_of_them() {
    let home = tempfile::tempdir().unwrap();
    let output = doctor(home.path(), "portable", &["--json"]);
    assert!(output.status.success(), "{output:?}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["kernel"], "portable");
    assert_eq!(found["same_bits"], true);
    assert!(found["kernels"].as_array().unwrap().contains(&"portable".into()));
    assert!(found["tokens_per_s"].as_f64().unwrap() > 0.0);
    assert!(
        found["folders"][0]["path"].as_str().unwrap().starts_with(home.path().to_str().unwrap())
    );
    let output = doctor(home.path(), "", &["--lang", "zh"]);
    assert!(String::from_utf8(output.stdout).unwrap().contains("逐位核对"));
}

#[test]
fn instructions_that_are_not_known_are_refused_with_what_may_be_said() {
    let home = tempfile::tempdir().unwrap();
    let output = doctor(home.path(), "sse9", &[]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("sse9") && error.contains("avx512"), "{error}");
}
