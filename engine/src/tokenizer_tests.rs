use proptest::prelude::*;

use super::*;

const TEXT: &str =
    "the quick brown fox\n\n  jumps over the lazy dog\n算粒 trains at home 🙂\r\n\tthe end\n";

fn trained() -> Tokenizer {
    let text = TEXT.repeat(40);
    Tokenizer::train([text.as_str()], 300).unwrap()
}

#[test]
fn a_byte_is_its_own_token() {
    let ids = Tokenizer::Bytes.encode(&[0, 10, 97, 255]).unwrap();
    assert_eq!(ids, [0, 10, 97, 255]);
    assert_eq!(Tokenizer::Bytes.decode_bytes(&ids).unwrap(), [0, 10, 97, 255]);
    assert_eq!(Tokenizer::Bytes.vocab_size(), 256);
}

#[test]
fn training_twice_gives_the_same_file() {
    assert_eq!(trained().to_json().unwrap(), trained().to_json().unwrap());
}

#[test]
fn a_trained_tokenizer_is_shorter_than_bytes_and_exact() {
    let tokenizer = trained();
    assert_eq!(tokenizer.vocab_size(), 300);
    let ids = tokenizer.encode(TEXT.as_bytes()).unwrap();
    assert!(ids.len() * 3 < TEXT.len() * 2, "{} ids for {} bytes", ids.len(), TEXT.len());
    assert_eq!(tokenizer.decode(&ids).unwrap(), TEXT);
}

#[test]
fn little_text_gives_a_smaller_vocabulary_without_gaps() {
    let tokenizer = Tokenizer::train(["ab"], 4096).unwrap();
    assert_eq!(tokenizer.vocab_size(), 256);
    assert_eq!(tokenizer.decode(&tokenizer.encode(b"\x00zz").unwrap()).unwrap(), "\0zz");
    assert!(matches!(Tokenizer::from_json(&tokenizer.to_json().unwrap()), Ok(Tokenizer::Bpe(_))));
}

#[test]
fn both_kinds_read_back_from_their_json() {
    let bytes = Tokenizer::from_json(&Tokenizer::Bytes.to_json().unwrap()).unwrap();
    assert!(matches!(bytes, Tokenizer::Bytes));
    let before = trained();
    let after = Tokenizer::from_json(&before.to_json().unwrap()).unwrap();
    assert_eq!(after.to_json().unwrap(), before.to_json().unwrap());
    assert_eq!(after.encode(TEXT.as_bytes()).unwrap(), before.encode(TEXT.as_bytes()).unwrap());
}

#[test]
fn the_byte_json_alone_gives_byte_values() {
    // What `transformers` would do with the file: run it through the library, without our table.
    let text = Tokenizer::Bytes.to_json().unwrap();
    let library = tokenizers::Tokenizer::from_bytes(text.as_bytes()).unwrap();
    let ids = library.encode(TEXT, false).unwrap();
    let expected: Vec<u32> = TEXT.bytes().map(u32::from).collect();
    assert_eq!(ids.get_ids(), expected);
    assert_eq!(library.decode(&expected, false).unwrap(), TEXT);
}

#[test]
fn text_that_is_not_utf8_names_the_offset() {
    let error = trained().encode(b"abc\xFFdef").unwrap_err();
    assert!(matches!(error, TokenizerError::NotUtf8 { offset: 3 }), "{error}");
}

#[test]
fn an_unknown_id_is_an_error_and_no_panic() {
    assert!(matches!(
        trained().decode(&[5, 300]),
        Err(TokenizerError::UnknownId { found: 300, vocab: 300 })
    ));
    assert!(Tokenizer::Bytes.decode(&[256]).is_err());
}

#[test]
fn sizes_and_empty_text_are_refused() {
    assert!(matches!(
        Tokenizer::train(["abc"], 255),
        Err(TokenizerError::VocabSize { found: 255 })
    ));
    assert!(Tokenizer::train(["abc"], VOCAB_MAX + 1).is_err());
    assert!(matches!(Tokenizer::train([""], 300), Err(TokenizerError::NoText)));
}

#[test]
fn a_strange_or_damaged_tokenizer_json_is_refused() {
    let good = trained().to_json().unwrap();
    let changed = |from: &str, to: &str| {
        assert!(good.contains(from), "the test changes something: {from}");
        Tokenizer::from_json(&good.replacen(from, to, 1))
    };
    for (from, to) in [
        ("\"normalizer\": null", "\"normalizer\": {\"type\": \"Lowercase\"}"),
        ("\"add_prefix_space\": false", "\"add_prefix_space\": true"),
        ("\"truncation\": null", "\"truncation\": null, \"extra\": 1"),
        ("\"dropout\": null", "\"dropout\": 0.5"),
        ("\"!\": 0", "\"!\": 100000"),
        ("\"!\": 0", "\"\u{4e00}\": 0"),
    ] {
        assert!(changed(from, to).is_err(), "{from} -> {to}");
    }
    assert!(Tokenizer::from_json(&good[..good.len() / 2]).is_err());
    assert!(Tokenizer::from_json("[]").is_err());
    assert!(Tokenizer::from_json("").is_err());
}

#[test]
fn an_id_far_out_or_a_merge_into_nothing_takes_no_memory_and_no_panic() {
    // The crate listed every id below the largest, and cut a merge out of too short a buffer.
    let good: serde_json::Value = serde_json::from_str(&trained().to_json().unwrap()).unwrap();
    let refused = |pointer: &str, value: serde_json::Value| {
        let mut json = good.clone();
        *json.pointer_mut(pointer).unwrap() = value;
        Tokenizer::from_json(&json.to_string()).unwrap_err().to_string()
    };
    let gap = refused("/model/vocab/!", u32::MAX.into());
    assert!(gap.contains("300 tokens, and an id 4294967295"), "{gap}");
    let longest = good["model"]["vocab"].as_object().unwrap().keys().max_by_key(|t| t.len());
    let pair = serde_json::json!([longest, longest]);
    let nothing = refused("/model/merges/0", pair);
    assert!(nothing.contains("makes no token"), "{nothing}");
}

#[test]
fn long_text_without_a_line_end_is_cut_between_characters() {
    let text = "算".repeat(2 * PIECE_BYTES * 16);
    let pieces: Vec<&str> = pieces_of(&text).collect();
    assert!(pieces.len() > 1);
    assert_eq!(pieces.concat(), text);
}

#[test]
fn training_on_one_endless_word_takes_no_square_of_its_length() {
    // Four megabytes without a space once kept a training busy for ever.
    let runs: Vec<&str> = bounded_runs("ab  cd").collect();
    assert_eq!(runs, ["ab  cd"]);
    let text = "无".repeat(400_000);
    assert_eq!(bounded_runs(&text).collect::<String>(), text);
    assert!(bounded_runs(&text).all(|run| run.len() <= TRAIN_RUN_BYTES + 3));
    let tokenizer = Tokenizer::train([text.as_str(), &" ".repeat(400_000)], 280).unwrap();
    assert_eq!(tokenizer.decode(&tokenizer.encode(text.as_bytes()).unwrap()).unwrap(), text);
}

#[test]
fn stretches_cover_the_text_and_only_one_kind_is_ascii() {
    let line = "let answer = 42; // said\n";
    let text = format!("{}算\n{line}{line}²\n{}", line.repeat(40), line.repeat(40));
    let (mut rest, mut kinds) = (text.as_str(), Vec::new());
    while let Some(stretch) = next_stretch(rest) {
        assert_eq!(stretch.ascii, rest[..stretch.end].is_ascii());
        kinds.push(stretch.ascii);
        rest = &rest[stretch.end..];
    }
    assert_eq!((rest, kinds), ("", vec![true, false, true]));
    let tokenizer = shared();
    let Tokenizer::Bpe(bpe) = tokenizer else { panic!("trained") };
    let whole = bpe.inner.encode_fast(text.as_str(), false).unwrap();
    assert_eq!(tokenizer.encode(text.as_bytes()).unwrap(), whole.get_ids());
}

proptest! {
    #[test]
    fn encoding_in_pieces_gives_the_ids_of_the_whole(
        text in "([a-c ]{0,6}[\n\r\t ]{0,3}[x-z]{0,3}(é|算|\u{a0}|\u{3000})?){0,60}", limit in 0_usize..400,
    ) {
        let Tokenizer::Bpe(bpe) = shared() else { panic!("trained") };
        let whole = bpe.inner.encode_fast(text.as_str(), false).unwrap().get_ids().to_vec();
        if let Some(cut) = split_point(text.as_bytes(), limit) {
            prop_assert!(cut <= limit && cut > 0 && cut < text.len());
            let mut halves = bpe.inner.encode_fast(&text[..cut], false).unwrap().get_ids().to_vec();
            halves.extend(bpe.inner.encode_fast(&text[cut..], false).unwrap().get_ids());
            prop_assert_eq!(halves, whole);
        }
    }

    #[test]
    fn the_quick_way_gives_the_ids_of_the_crate(
        text in "(([a-e]{1,4}|'(s|t|re|ve|m|ll|d|r|S)|[0-9]{1,3}|[ \n\t\r\u{b}\u{c}\u{1c}]{1,3}|[!-~\u{0}]{1,2}|the |算|é|²|\u{a0}){0,40}\n?){0,8}",
    ) {
        let Tokenizer::Bpe(bpe) = shared() else { panic!("trained") };
        let whole = bpe.inner.encode_fast(text.as_str(), false).unwrap().get_ids().to_vec();
        prop_assert_eq!(shared().encode(text.as_bytes()).unwrap(), whole);
    }

    #[test]
    fn any_text_comes_back(text in ".{0,200}") {
        let ids = shared().encode(text.as_bytes()).unwrap();
        prop_assert_eq!(shared().decode(&ids).unwrap(), text);
    }
}

fn shared() -> &'static Tokenizer {
    static SHARED: std::sync::LazyLock<Tokenizer> = std::sync::LazyLock::new(trained);
    &SHARED
}
