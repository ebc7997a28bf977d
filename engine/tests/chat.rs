//! Chat templates against `transformers` (`fixtures/chat/make_chats.py`), and templates that misbehave.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use suanli_engine::chat::{ChatError, Message, TEMPLATE_BYTES_MAX, Template};

/// 5 March 2026, 07:08:09: the moment of the script.
const NOW: u64 = 1_772_694_489;

#[derive(serde::Deserialize)]
struct Case {
    template: String,
    chat: String,
    messages: Vec<Message>,
    text: Option<String>,
    refused: Option<String>,
}

fn template(source: &str) -> Result<Template, ChatError> {
    let special = [("bos_token", "<s>"), ("eos_token", "</s>")];
    let special = special.map(|(name, text)| (name.to_owned(), text.to_owned()));
    Template::new(source, BTreeMap::from(special))
}

#[test]
fn every_template_gives_the_text_that_transformers_gives() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/chat/");
    let text = std::fs::read_to_string(format!("{folder}expected.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
    assert_eq!(cases.len(), 20);
    for case in cases {
        let source = std::fs::read_to_string(format!("{folder}{}", case.template)).unwrap();
        let rendered = template(&source).unwrap().render(&case.messages, NOW);
        let what = format!("{} of {}", case.template, case.chat);
        match (case.text, case.refused) {
            (Some(text), None) => assert_eq!(rendered.unwrap(), text, "{what}"),
            (None, Some(reason)) => {
                assert_eq!(rendered, Err(ChatError::Refused { reason }), "{what}");
            }
            _ => panic!("{what}: neither a text nor a refusal"),
        }
    }
}

#[test]
fn a_template_that_is_wrong_or_does_not_end_is_refused_with_its_line() {
    let render = |source: &str| template(source).and_then(|t| t.render(&[], NOW));
    let found = |source| render(source).unwrap_err();
    assert!(matches!(found("a\n{% if %}"), ChatError::Syntax { line: 2, .. }));
    assert!(matches!(found("{{ a"), ChatError::Syntax { .. }));
    assert!(matches!(found("\n\n{{ messages[0].content }}"), ChatError::Failed { line: 3, .. }));
    assert!(matches!(found("{{ nothing() }}"), ChatError::Failed { .. }));
    assert!(matches!(found("{{ strftime_now('%Q') }}"), ChatError::Failed { .. }));
    assert!(matches!(found("{% include '/etc/passwd' %}"), ChatError::Syntax { .. }));
    let long = "a".repeat(TEMPLATE_BYTES_MAX + 1);
    assert!(matches!(found(&long), ChatError::TemplateLength { .. }));
    // Programs that would take for ever, or all memory.
    let nested = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
    assert_eq!(found(nested), ChatError::Endless);
    let doubling = "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}";
    assert_eq!(found(doubling), ChatError::Endless);
    let recursive = "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}";
    assert!(matches!(found(recursive), ChatError::Failed { .. } | ChatError::Endless));
    let large = "{{ 'a' * 5000000 }}";
    assert!(matches!(found(large), ChatError::ChatLength { found: 5_000_000 }));
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000));
    assert!(matches!(found(&deep), ChatError::Syntax { .. }));
}

#[test]
fn dates_are_right_over_leap_years_and_centuries() {
    let at = |now| {
        template("{{ strftime_now('%Y-%m-%d %a %H:%M:%S %I %p %%') }}").unwrap().render(&[], now)
    };
    for (now, expected) in [
        (0, "1970-01-01 Thu 00:00:00 12 AM %"),
        (951_782_400, "2000-02-29 Tue 00:00:00 12 AM %"),
        (1_709_251_199, "2024-02-29 Thu 23:59:59 11 PM %"),
        (4_107_542_400, "2100-03-01 Mon 00:00:00 12 AM %"),
        (NOW, "2026-03-05 Thu 07:08:09 07 AM %"),
    ] {
        assert_eq!(at(now).unwrap(), expected);
    }
    assert!(at(u64::MAX).is_ok());
}

proptest! {
    #[test]
    fn a_mutated_template_gives_a_text_or_an_error_and_never_a_panic(
        which in 0_usize..4,
        cuts in prop::collection::vec((any::<usize>(), 0_usize..12, any::<usize>()), 1..4),
    ) {
        let names = ["marks", "headers", "brackets", "methods"];
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/chat/");
        let path = format!("{folder}{}.jinja", names[which]);
        let mut source: Vec<char> = std::fs::read_to_string(path).unwrap().chars().collect();
        for (at, len, to) in cuts {
            // A piece moves to another place.
            let at = at % source.len();
            let piece: Vec<char> = source.drain(at..(at + len).min(source.len())).collect();
            let to = to % (source.len() + 1);
            source.splice(to..to, piece);
        }
        let messages = [Message::new("user", "a"), Message::new("assistant", "b")];
        let source: String = source.into_iter().collect();
        let _: Result<String, ChatError> =
            template(&source).and_then(|template| template.render(&messages, NOW));
    }
}
