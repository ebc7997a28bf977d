//! A command behind an emulated link. Needs root (or user namespaces) and `/dev/net/tun`, so it runs
//! only when asked: `cargo test -p suanli --test emulate_link -- --ignored`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod suanli;

use suanli::Suanli;

/// Sends a byte to the far side's echo and waits for it, in the shell that has sockets.
const ASK: &str = r#"for i in 1 2 3 4 5 6 7 8 9 10; do
    exec 3<>/dev/tcp/$SUANLI_LINK_FAR/7000 && break; sleep 0.2
done 2>/dev/null
exit 5"#;

#[test]
#[ignore = "makes network namespaces"]
fn the_exit_code_is_the_commands_and_the_counts_are_the_links() {
    let home = Suanli::new();
    let link = ["emulate-link", "--rate", "10mbit", "--json", "--", "bash", "-c", ASK];
    // What the shell says of its refusals goes nowhere, so this failure has no words.
    let ended = home.run(&link);
    assert_eq!(ended.code, Some(5), "{ended:?}");
    let counts: serde_json::Value = serde_json::from_str(&ended.output).unwrap();
    assert_eq!(counts["exit"], 5);
    // Nobody listens there: each question is a packet up, each refusal one down.
    assert_eq!(counts["up"]["delivered_packets"], 10);
    assert_eq!(counts["down"]["delivered_packets"], 10);
    assert_eq!(counts["up"]["missed_packets"], 0);
}

#[test]
#[ignore = "makes network namespaces"]
fn a_command_ended_by_a_signal_has_the_shells_code_and_the_far_side_ends_with_it() {
    let home = Suanli::new();
    let mark = home.path("far");
    // The far side writes once more when it is told to end; it must have begun by then.
    let far = format!(
        "trap 'echo ended >> {mark}; exit' TERM; echo began > {mark}; while :; do sleep 0.1; done"
    );
    let wait = format!("until [ -s {mark} ]; do sleep 0.1; done; kill -9 $$");
    let link = ["emulate-link", "--rate", "10mbit", "--far", &far, "--", "sh", "-c", &wait];
    let ended = home.run(&link);
    assert_eq!(ended.code, Some(137), "{ended:?}");
    assert_eq!(std::fs::read_to_string(&mark).unwrap(), "began\nended\n");
}
