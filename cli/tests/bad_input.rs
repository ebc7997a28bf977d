//! What goes wrong before anything runs: each mistake has its exit code, says what to do next, and
//! leaves what was there as it was.

mod suanli;

use suanli::Suanli;

#[test]
fn unknown_options_and_commands_are_usage_errors() {
    let home = Suanli::new();
    for arguments in
        [&["--nope"][..], &["fly"], &["join", "--share", "0"], &["join", "--share", "x"]]
    {
        home.run(arguments).fails(2);
    }
    home.run(&["city", "ticket", "--expires", "soon"]).fails(2).says("90s, 30m, 24h");
}

#[test]
fn a_link_that_cannot_be_is_a_usage_error_before_anything_is_made() {
    let home = Suanli::new();
    for (words, said) in [
        (&[][..], "--rate 100mbit"),
        (&["--rate", "fast"], "expected a rate such as"),
        (&["--rate", "1bit"], "1000 to 100000000000 bits/s, found 1"),
        (&["--rate", "1mbit", "--loss", "101%"], "0.5% or 200ppm"),
        (&["--preset", "pigeon"], "fibre-100, fibre-1000"),
    ] {
        home.run(&[&["emulate-link"][..], words, &["--", "true"]].concat()).fails(2).says(said);
    }
    home.run(&["emulate-link", "--rate", "1mbit"]).fails(2).says("<CMD>");
}

#[test]
fn help_and_version_are_no_errors() {
    let home = Suanli::new();
    home.run(&["--help"]).works().prints("demo").prints("算粒");
    home.run(&["--version"]).works().prints(env!("CARGO_PKG_VERSION"));
}

#[test]
fn completions_name_every_command() {
    let home = Suanli::new();
    for shell in ["bash", "zsh", "fish"] {
        home.run(&["completions", shell]).works().prints("generate").prints("verify");
    }
}

#[test]
fn an_unknown_configuration_key_names_the_nearest_one() {
    let home = Suanli::new();
    home.write("config/suanli/config.toml", "[join]\nshrae = 40\n");
    home.run(&["status"]).fails(2).says("\"shrae\" in [join]").says("did you mean \"share\"?");
    home.write("other.toml", "lang = 'zh'\n");
    let other = home.path("other.toml");
    // The named file is read instead; then nothing runs, which is another kind of failure.
    home.run(&["status", "--config", &other]).fails(6);
    home.run(&["status", "--config", &home.path("missing.toml")]).fails(2).says("missing.toml");
}

#[test]
fn a_node_that_does_not_run_is_called_that() {
    let home = Suanli::new();
    let dir = home.path("nowhere");
    home.run(&["status", "--dir", &dir]).fails(6).says("nothing runs on").says("--dir");
    home.run(&["pause"]).fails(6).says("nothing runs on");
    home.run(&["city", "ticket"]).fails(6).says("suanli city serve");
    home.run(&["status"]).fails(6).says("suanli join");
    assert!(!home.exists("nowhere"), "looking made a folder");
}

#[test]
fn a_ticket_that_is_none_has_a_typo_or_is_a_strange_file_is_refused_before_anything_is_made() {
    let home = Suanli::new();
    home.run(&["join", "hello"]).fails(4).says("suanli1");
    home.run(&["join", "suanli1abcdefgh"]).fails(4).says("typing error");
    home.write("big", &"a".repeat(20_000));
    home.run(&["join", &home.path("big")]).fails(4).says("20000 bytes");
    home.run(&["join"]).fails(4).says("no ticket was given");
    assert!(!home.exists("data"), "a refused join made a folder");
}

#[test]
fn errors_are_one_json_object_for_programs() {
    let home = Suanli::new();
    let ended = home.run(&["--json", "join", "hello"]);
    ended.fails(4);
    let error: serde_json::Value = serde_json::from_str(&ended.errors).unwrap();
    assert_eq!(error["code"], 4);
    assert!(error["error"].as_str().unwrap().contains("not a ticket"));
    assert!(error["advice"].is_string());
}

#[test]
fn an_export_overwrites_nothing() {
    let home = Suanli::new();
    home.write("full/precious", "kept");
    home.run(&["export", "--out", &home.path("full")]).fails(3).says("not empty");
    home.run(&["export", "--out", &home.path("full/precious")]).fails(3).says("is a file");
    assert_eq!(home.read("full/precious"), "kept");
}

#[test]
fn a_record_that_is_none_is_told_apart_from_a_damaged_one() {
    let home = Suanli::new();
    home.run(&["log", "verify", &home.path("nowhere")]).fails(3).says("not a folder");
    home.write("folder/file", "");
    home.run(&["log", "verify", &home.path("folder")]).fails(3).says("--city ID");
    home.run(&["log", "verify", &home.path("folder"), "--city", "abc"]).fails(2);
    home.run(&["log", "verify", &home.path("folder"), "--city", &"ab".repeat(32)]).fails(3);
}

#[test]
fn a_demo_touches_no_folder_that_it_did_not_make_and_needs_a_text() {
    let home = Suanli::new();
    home.write("mine/precious", "kept");
    for flags in [&["--fresh"][..], &["--resume"], &[]] {
        let arguments = [&["demo", "--dir", "mine"], flags].concat();
        home.run(&arguments).fails(3).says("holds no demo");
    }
    assert_eq!(home.read("mine/precious"), "kept");
    home.run(&["demo", "--resume", "--dir", "new"]).fails(3).says("no demo");
    home.run(&["demo", "--minutes", "0"]).fails(2);
    let mut command = home.command(&["demo", "--dir", "new", "--rounds", "2"]);
    command.env("CARGO_HOME", home.path("nothing"));
    suanli::Ended::of(command.output().unwrap()).fails(3).says("--data");
    home.run(&["demo", "--dir", "other", "--data", "missing.txt"]).fails(3).says("missing.txt");
}
