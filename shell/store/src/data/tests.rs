use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use suanli_engine::Cancel;
use suanli_engine::tokenizer::Tokenizer;

use super::*;
use crate::LockError;
use crate::job_file::{JobFile, TokenizerKind, TokenizerSection};

struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn prepare(&self, recipe: &Recipe) -> Result<Prepared, DataError> {
        self.prepare_from(&[self.path("texts")], recipe)
    }

    fn prepare_from(&self, paths: &[PathBuf], recipe: &Recipe) -> Result<Prepared, DataError> {
        prepare(paths, recipe, &self.path("out"), &mut |_| (), &Cancel::new())
    }
}

fn recipe(context: usize) -> Recipe {
    Recipe { context, ..Recipe::of_job(&JobFile::with_paths(Vec::new())) }
}

fn bpe(context: usize, vocab: usize) -> Recipe {
    Recipe { tokenizer: TokenizerSection { kind: TokenizerKind::Bpe, vocab }, ..recipe(context) }
}

/// All training samples, in stored order.
fn training(prepared: &Prepared) -> Vec<Vec<u32>> {
    let layout = prepared.manifest().layout();
    let shards = 0..prepared.manifest().shards.len();
    let bytes = shards.flat_map(|index| fs::read(prepared.shard_path(index)).unwrap());
    samples(layout, &bytes.collect::<Vec<u8>>())
}

fn held_out(prepared: &Prepared) -> Vec<Vec<u32>> {
    samples(prepared.manifest().layout(), &fs::read(prepared.held_out_path()).unwrap())
}

fn samples(layout: SampleLayout, bytes: &[u8]) -> Vec<Vec<u32>> {
    let tokens = layout.tokens(bytes).unwrap();
    tokens.chunks(layout.sample_tokens as usize).map(<[u32]>::to_vec).collect()
}

/// The text that windows of stride `context` cover, whatever order they come in: sorted, each
/// starts where one before it ended.
fn unshuffled(mut windows: Vec<Vec<u32>>, text: &[u32]) -> Vec<u32> {
    let context = windows[0].len() - 1;
    let mut expected: Vec<Vec<u32>> =
        (0..windows.len()).map(|i| text[i * context..=(i + 1) * context].to_vec()).collect();
    windows.sort();
    expected.sort();
    assert_eq!(windows, expected);
    text[..=expected.len() * context].to_vec()
}

fn numbered(lines: std::ops::Range<u32>) -> String {
    lines.map(|line| format!("line number {line}\n")).collect()
}

fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

#[test]
fn every_training_token_is_in_a_sample_and_none_of_the_held_out_part() {
    let place = Place::new();
    let text = numbered(0..500);
    place.write("texts/one.txt", &text);
    let prepared = place.prepare(&recipe(16)).unwrap();
    let counts = prepared.manifest().counts;
    let cut = usize::try_from(counts.text_bytes - counts.held_out_bytes).unwrap();
    assert_eq!(text.as_bytes()[cut - 1], b'\n', "cut at a line");
    assert!((counts.held_out_bytes as f64 / text.len() as f64 - 0.1).abs() < 0.01);
    unshuffled(training(&prepared), &ids(&text[..cut]));
    unshuffled(held_out(&prepared), &ids(&text[cut..]));
    let covered = training(&prepared).len() * 16 + 1;
    assert!(cut - covered < 16, "only an unfinished last sample is left out");
    assert_ne!(training(&prepared)[0], ids(&text[..17]), "stored in shuffled order");
}

#[test]
fn whole_documents_are_held_out_when_there_are_enough() {
    let place = Place::new();
    for index in 0..20 {
        place.write(&format!("texts/{index:02}.txt"), numbered(index * 10..index * 10 + 10));
    }
    let prepared = place.prepare(&recipe(8)).unwrap();
    let counts = prepared.manifest().counts;
    assert_eq!((counts.files, counts.documents), (20, 20));
    assert_eq!(counts.held_out_bytes as usize, numbered(180..200).len());
}

#[test]
fn a_second_preparation_reuses_the_first_and_a_damaged_one_is_made_anew() {
    let place = Place::new();
    place.write("texts/a.txt", numbered(0..300));
    let first = place.prepare(&recipe(16)).unwrap();
    let written = fs::metadata(first.shard_path(0)).unwrap().modified().unwrap();
    let second = place.prepare(&recipe(16)).unwrap();
    assert_eq!(fs::metadata(second.shard_path(0)).unwrap().modified().unwrap(), written);
    assert_eq!(first.manifest(), second.manifest());

    let mut bytes = fs::read(first.shard_path(0)).unwrap();
    bytes[100] ^= 1;
    fs::write(first.shard_path(0), &bytes).unwrap();
    let error = Prepared::open(first.folder()).unwrap_err();
    assert!(matches!(error, DataError::Damaged { .. }), "{error}");
    let third = place.prepare(&recipe(16)).unwrap();
    assert_eq!(third.manifest(), first.manifest());
    Prepared::open(third.folder()).unwrap();
}

#[test]
fn any_number_of_threads_gives_the_same_shards() {
    let place = Place::new();
    place.write("texts/long.txt", numbered(0..70_000));
    let lines = (0..9000).map(|i| format!("{{\"text\": \"document {i}, 算 {}\"}}\n", i * i));
    place.write("texts/short.jsonl", lines.collect::<String>());
    place.write("texts/zzz.txt", numbered(5..40_000));
    for recipe in [recipe(32), bpe(32, 400)] {
        let made = [1, 2, 3, 8].map(|threads| {
            let (threads, out) = (threads.try_into().unwrap(), place.path(&format!("on{threads}")));
            let (paths, cancel) = ([place.path("texts")], Cancel::new());
            let (mut last, mut stage) = (0, None);
            let mut progress = |at: Progress| {
                assert!(at.done <= at.total);
                assert!(stage != Some(at.stage) || at.done >= last, "never back");
                (last, stage) = (at.done, Some(at.stage));
            };
            let made =
                prepare_with(on(threads), &paths, &recipe, &out, &mut progress, &cancel).unwrap();
            let shards = (0..made.manifest().shards.len()).map(|index| made.shard_path(index));
            let files = shards.chain([made.held_out_path()]).map(|path| fs::read(path).unwrap());
            (made.manifest().clone(), files.collect::<Vec<_>>())
        });
        assert!(made.iter().all(|other| *other == made[0]));
        assert!(made[0].0.counts.text_bytes > 2 << 20, "more than is under way at once");
    }
}

fn on(threads: NonZeroUsize) -> Given<'static> {
    Given { tokenizer: None, threads: Some(threads) }
}

#[test]
fn a_cancel_while_tokens_are_made_ends_all_threads() {
    let place = Place::new();
    let paths = [place.write("a.txt", numbered(0..200_000))];
    let cancel = Cancel::new();
    let mut progress = |at: Progress| {
        if at.stage == Stage::Tokenizing {
            cancel.raise();
        }
    };
    let (out, threads) = (place.path("out"), 3.try_into().unwrap());
    let stopped = prepare_with(on(threads), &paths, &bpe(16, 300), &out, &mut progress, &cancel);
    assert!(matches!(stopped, Err(DataError::Cancelled)));
    let left = fs::read_dir(out).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["lock"]);
}

#[test]
fn every_kind_of_damage_is_seen() {
    let place = Place::new();
    place.write("texts/a.txt", numbered(0..300));
    let prepared = place.prepare(&recipe(16)).unwrap();
    let names = ["manifest.json", "tokenizer.json", "held-out.bin", "shard-00000.bin"];
    for name in names {
        let path = prepared.folder().join(name);
        let good = fs::read(&path).unwrap();
        for bad in [&good[..good.len() / 2], &[good.as_slice(), b"x"].concat(), b""] {
            fs::write(&path, bad).unwrap();
            let error = Prepared::open(prepared.folder()).unwrap_err();
            assert!(matches!(error, DataError::Damaged { .. }), "{name}: {error}");
        }
        fs::remove_file(&path).unwrap();
        assert!(Prepared::open(prepared.folder()).is_err());
        fs::write(&path, good).unwrap();
    }
    Prepared::open(prepared.folder()).unwrap();
}

#[test]
fn equal_input_gives_equal_bytes_and_another_recipe_another_folder() {
    let place = Place::new();
    let other = Place::new();
    for place in [&place, &other] {
        place.write("texts/a.txt", numbered(0..300));
    }
    for recipe in [recipe(16), bpe(16, 300)] {
        let (a, b) = (place.prepare(&recipe).unwrap(), other.prepare(&recipe).unwrap());
        assert_eq!(a.manifest(), b.manifest());
    }
    let seeded = Recipe { seed: 2, ..recipe(16) };
    assert_ne!(
        place.prepare(&seeded).unwrap().folder(),
        place.prepare(&recipe(16)).unwrap().folder()
    );
}

#[test]
fn a_bpe_is_trained_on_the_training_part_alone() {
    let place = Place::new();
    let secret = "xylophone ".repeat(400);
    place.write("texts/a.txt", numbered(0..2000));
    place.write("texts/b.txt", &secret);
    let prepared = place.prepare(&bpe(16, 400)).unwrap();
    assert_eq!(prepared.manifest().counts.held_out_bytes as usize, secret.len() + 1);
    assert!(prepared.manifest().vocab > 256);
    assert!(!prepared.tokenizer_json().contains("xy"));
    let text = prepared.tokenizer().decode(&held_out(&prepared)[0]).unwrap();
    assert!(secret.contains(&text) || text.contains("xylo"), "{text}");
}

#[test]
fn folders_patterns_and_hidden_and_binary_files() {
    let place = Place::new();
    place.write("texts/b.txt", "b\n".repeat(50));
    place.write("texts/deep/a.md", "a\n".repeat(50));
    place.write("texts/.hidden", "h\n".repeat(50));
    place.write("texts/.git/config", "h\n".repeat(50));
    place.write("texts/picture.png", b"\x89PNG\0\0");
    let found = find(&[place.path("texts")]).unwrap();
    let names: Vec<&Path> =
        found.files.iter().map(|f| f.path.strip_prefix(place.root.path()).unwrap()).collect();
    assert_eq!(names, [Path::new("texts/b.txt"), Path::new("texts/deep/a.md")]);
    assert_eq!(found.skipped, Skipped { hidden: 2, binary: 1, other: 0 });
    let twice = [place.path("texts/*.txt"), place.path("texts/b.txt"), place.path("texts/**/*.md")];
    assert_eq!(find(&twice).unwrap().files, found.files);
}

#[test]
fn jsonl_gives_a_document_a_line() {
    let place = Place::new();
    let lines: String =
        (0..100).map(|i| format!("{{\"id\": {i}, \"body\": \"text \\u7b97 {i}\"}}\n\n")).collect();
    place.write("texts/a.jsonl", lines);
    let named = Recipe { field: "body".to_owned(), ..recipe(8) };
    let prepared = place.prepare(&named).unwrap();
    assert_eq!(prepared.manifest().counts.documents, 100);
    let text: String = (0..100).map(|i| format!("text 算 {i}\n")).collect();
    let held = prepared.manifest().counts.held_out_bytes as usize;
    unshuffled(training(&prepared), &ids(&text[..text.len() - held]));

    let error = place.prepare(&recipe(8)).unwrap_err().to_string();
    assert!(error.contains("a.jsonl:1: expected a text in the field \"text\""), "{error}");
    assert!(error.contains("body, id"), "{error}");
    place.write("texts/a.jsonl", "{\"text\": \"a\"}\n{\"text\": 3}\n");
    let error = place.prepare(&recipe(8)).unwrap_err().to_string();
    assert!(error.contains("a.jsonl:2"), "{error}");
    place.write("texts/a.jsonl", "{\"text\": \"a\"}\n\nnonsense\n");
    let error = place.prepare(&recipe(8)).unwrap_err().to_string();
    assert!(error.contains("a.jsonl:3: expected a JSON object"), "{error}");
}

/// A file of 300 rows that pyarrow wrote; every fifth row is null.
fn table(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parquet");
    fs::read(folder.join(name)).unwrap()
}

#[test]
fn parquet_gives_a_document_a_row_and_the_same_shards_as_its_text_in_jsonl() {
    let place = Place::new();
    place.write("texts/part-0.PARQUET", table("zstd.parquet"));
    let rows = (0..300).filter(|n| n % 5 != 4);
    let lines: String = rows
        .map(|n| {
            format!("{{\"text\": \"row {n} 算粒{}\"}}\n{{\"text\": \"\"}}\n", ".".repeat(n % 7))
        })
        .collect();
    let lines = place.write("same/part-0.jsonl", lines);
    let capped = Recipe { max_bytes: Some(200), ..recipe(2) };
    for (recipe, documents) in [(recipe(8), 240), (bpe(8, 300), 240), (capped, 14)] {
        let ours = place.prepare(&recipe).unwrap();
        assert_eq!(ours.manifest().counts.documents, documents, "nulls are empty texts");
        let same = place.prepare_from(std::slice::from_ref(&lines), &recipe).unwrap();
        assert_eq!(same.manifest(), ours.manifest());
    }
}

#[test]
fn long_rows_go_in_pieces() {
    // Written by hand, plain and uncompressed: one row of three pieces and another.
    let place = Place::new();
    let text = numbered(0..200_000);
    place.write("texts/a.parquet", parquet::tests::of_rows(&[&text, "the last\n"]));
    let prepared = place.prepare(&recipe(512)).unwrap();
    assert_eq!(prepared.manifest().counts.documents, 2);
    let all = text + "the last\n";
    let held = prepared.manifest().counts.held_out_bytes as usize;
    unshuffled(training(&prepared), &ids(&all[..all.len() - held]));
}

#[test]
fn bad_parquet_is_named() {
    let place = Place::new();
    let check = |name: &str, bytes: &[u8], field: &str, expected: &str| {
        let path = place.write(&format!("bad/{name}"), bytes);
        let recipe = Recipe { field: field.to_owned(), ..recipe(8) };
        let error = place.prepare_from(&[path], &recipe).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(expected), "{error}");
    };
    let good = table("none.parquet");
    check(
        "a.parquet",
        &good,
        "body",
        "column \"body\": found no such column, only: id, tags, text",
    );
    check("a.parquet", &good, "id", "column \"id\": expected a column of text, found one of whole");
    check("a.parquet", &good[..900], "text", "cut short or damaged");
    check("a.parquet", b"", "text", "expected a Parquet file");
    check("a.parquet", b"just text that is long enough", "text", "expected a Parquet file");
    let mut latin = good.clone();
    let at = latin.windows(5).position(|window| window == b"row 7").unwrap();
    latin[at] = 0xE9;
    check("latin.parquet", &latin, "text", "found a byte that is none in row 7 at offset 0");
    check("latin.jsonl", b"{\"text\": \"caf\xe9\"}\n", "text", "latin.jsonl:1: expected a JSON");
    assert_eq!(fs::read_dir(place.path("out")).unwrap().count(), 1, "the lock");
}

#[test]
fn the_cap_is_kept_and_cuts_between_characters() {
    let place = Place::new();
    place.write("texts/a.txt", "算粒".repeat(1000));
    place.write("texts/b.txt", "never read".repeat(1000));
    let capped = Recipe { max_bytes: Some(1000), ..bpe(2, 300) };
    let prepared = place.prepare(&capped).unwrap();
    assert_eq!(prepared.manifest().counts.text_bytes, 1000, "999 and a line feed");
}

#[test]
fn bad_input_is_named() {
    let place = Place::new();
    let check = |paths: &[&str], recipe: &Recipe, expected: &str| {
        let paths: Vec<PathBuf> = paths.iter().map(|path| place.path(path)).collect();
        let error = place.prepare_from(&paths, recipe).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    place.write("empty.txt", "");
    place.write("short.txt", "abc");
    place.write("latin.txt", [b"good text\n".repeat(100), b"caf\xe9\n".to_vec()].concat());
    place.write("pictures/a.png", b"\0");
    fs::create_dir(place.path("nothing")).unwrap();
    check(&["missing.txt"], &recipe(8), "cannot read");
    check(&["*.nope"], &recipe(8), "no file matches");
    check(&["[.txt"], &recipe(8), "malformed");
    check(&["empty.txt"], &recipe(8), "the data are empty: 1 files");
    check(&["nothing"], &recipe(8), "holds no text");
    check(&["pictures"], &recipe(8), "1 binary files");
    check(&["short.txt"], &recipe(8), "too little data: a sample takes 9 tokens");
    check(
        &["latin.txt"],
        &bpe(8, 300),
        "latin.txt: expected UTF-8 text, found a byte that is none at offset 1003",
    );
    check(&["/dev/null"], &recipe(8), "neither a file nor a folder");
    assert!(place.prepare_from(&[place.path("latin.txt")], &recipe(8)).is_ok());
    let left: Vec<_> = fs::read_dir(place.path("out")).unwrap().collect();
    assert_eq!(left.len(), 2, "the lock and the one that worked: {left:?}");
}

#[test]
fn a_raised_cancel_stops_it_and_leaves_nothing_half_made() {
    let place = Place::new();
    let path = place.write("a.txt", numbered(0..300));
    let cancel = Cancel::new();
    let mut progress = |at: Progress| {
        if at.stage == Stage::Writing {
            cancel.raise();
        }
    };
    let stopped = prepare(&[path], &recipe(16), &place.path("out"), &mut progress, &cancel);
    assert!(matches!(stopped, Err(DataError::Cancelled)));
    let left: Vec<_> =
        fs::read_dir(place.path("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"]);
}

#[test]
fn what_a_killed_preparation_left_is_removed_and_a_second_at_once_is_refused() {
    let place = Place::new();
    let path = place.write("a.txt", numbered(0..300));
    place.write("out/.preparing-0123/shard-00000.bin", "half");
    let (out, mut refused) = (place.path("out"), false);
    let mut progress = |_: Progress| {
        let second = place.prepare_from(std::slice::from_ref(&path), &recipe(16));
        refused |= matches!(second, Err(DataError::Lock(LockError::InUse { .. })));
    };
    prepare(std::slice::from_ref(&path), &recipe(16), &out, &mut progress, &Cancel::new()).unwrap();
    assert!(refused);
    assert!(!place.path("out/.preparing-0123").exists());
}

#[test]
fn a_file_that_changes_meanwhile_is_refused() {
    let place = Place::new();
    let path = place.write("a.txt", numbered(0..300));
    let mut progress = |at: Progress| {
        if at.stage == Stage::Surveying {
            fs::write(&path, numbered(1..301)).unwrap();
        }
    };
    let paths = [path.clone()];
    let out = place.path("out");
    let changed = prepare(&paths, &recipe(16), &out, &mut progress, &Cancel::new());
    assert!(matches!(changed, Err(DataError::Changed)));
}

#[test]
fn a_long_file_is_read_in_pieces_without_a_seam() {
    let place = Place::new();
    let text = numbered(0..100_000);
    place.write("texts/a.txt", &text);
    let prepared = place.prepare(&recipe(512)).unwrap();
    let held = prepared.manifest().counts.held_out_bytes as usize;
    unshuffled(training(&prepared), &ids(&text[..text.len() - held]));
    let long = "无".repeat(1 << 20);
    place.write("texts/a.txt", &long);
    let words = Recipe { max_bytes: Some(3_000_001), ..bpe(512, 300) };
    let prepared = place.prepare(&words).unwrap();
    let counts = prepared.manifest().counts;
    assert_eq!(counts.text_bytes, 3_000_001);
    for sample in training(&prepared).iter().take(3) {
        let decoded = prepared.tokenizer().decode(sample).unwrap();
        assert!(decoded.trim_matches('\u{fffd}').chars().all(|c| c == '无'), "whole characters");
    }
}

#[test]
fn the_demo_finds_rust_sources_and_says_when_there_are_none() {
    let place = Place::new();
    let none = rust_sources(Some(place.root.path()), 1 << 20).unwrap_err().to_string();
    assert!(none.contains("--data"), "{none}");
    let code = "fn main() { println!(\"hello\"); }\n".repeat(20);
    for index in 0..30 {
        place.write(&format!("registry/src/index/crate-{index}/src/lib.rs"), &code);
    }
    let generated = format!("// This file is @generated by a tool\n{code}");
    place.write("registry/src/index/crate-1/src/tables.rs", generated);
    place.write("registry/src/index/crate-1/src/huge.rs", code.repeat(200));
    place.write("registry/src/index/windows-sys-0.1/src/lib.rs", &code);
    let all = rust_sources(Some(place.root.path()), 1 << 30).unwrap();
    assert_eq!(all.len(), 30);
    assert!(all.is_sorted());
    let some = rust_sources(Some(place.root.path()), 5 * code.len() as u64).unwrap();
    assert_eq!(some.len(), 5);
    assert_eq!(some, rust_sources(Some(place.root.path()), 5 * code.len() as u64).unwrap());
}

#[test]
fn samples_outside_a_shard_and_foreign_bytes_are_refused() {
    let layout = SampleLayout { sample_tokens: 3, token_bytes: 2, vocab: 256 };
    let shard: Vec<u8> = (0..12_u16).flat_map(u16::to_le_bytes).collect();
    assert_eq!(layout.read(&shard, &(1..3)).unwrap(), [3, 4, 5, 6, 7, 8]);
    assert!(matches!(layout.read(&shard, &(3..5)), Err(SampleError::Outside { count: 4, .. })));
    #[expect(clippy::reversed_empty_ranges, reason = "what a wrong lease may hold")]
    let backwards = 3..1;
    assert!(layout.read(&shard, &backwards).is_err());
    assert!(layout.read(&shard, &(0..u64::MAX)).is_err());
    assert!(matches!(layout.tokens(&shard[1..]), Err(SampleError::Partial { found: 23, .. })));
    let foreign = SampleLayout { vocab: 11, ..layout };
    assert!(matches!(foreign.tokens(&shard), Err(SampleError::Token { found: 11, at: 11, .. })));
    let impossible = SampleLayout { token_bytes: 3, ..layout };
    assert!(matches!(impossible.read(&shard, &(0..1)), Err(SampleError::Layout { .. })));
}

proptest! {
    #[test]
    fn located_pieces_cover_the_range_once(
        counts in proptest::collection::vec(0_u64..9, 0..6), start in 0_u64..40, len in 0_u64..40,
    ) {
        let total: u64 = counts.iter().sum();
        let all: Vec<(usize, u64)> = counts.iter().enumerate()
            .flat_map(|(shard, &count)| (0..count).map(move |sample| (shard, sample)))
            .collect();
        let found = locate(counts.iter().copied(), &(start..start + len));
        if start + len > total {
            prop_assert!(found.is_err());
        } else {
            let listed: Vec<(usize, u64)> = found.unwrap().into_iter()
                .flat_map(|piece| piece.samples.map(move |sample| (piece.shard, sample)))
                .collect();
            let (from, to) = (usize::try_from(start).unwrap(), usize::try_from(start + len).unwrap());
            prop_assert_eq!(&listed[..], &all[from..to]);
        }
    }
}

/// A tokenizer as it comes with a checkpoint: it puts a token before each text.
fn foreign(begin: &str) -> Tokenizer {
    let ours = Tokenizer::train([numbered(0..500)], 300).unwrap();
    let id = ours.vocab_size();
    let mut json: serde_json::Value = serde_json::from_str(&ours.to_json().unwrap()).unwrap();
    json["added_tokens"] = serde_json::json!([{"id": id, "content": begin, "special": true}]);
    json["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {begin: {"id": begin, "ids": [id], "tokens": [begin]}},
    });
    Tokenizer::from_any_json(&json.to_string()).unwrap()
}

#[test]
fn with_a_checkpoints_tokenizer_each_document_has_its_beginning() {
    let place = Place::new();
    let texts: Vec<String> = (0..40).map(|i| numbered(50 * i..50 * (i + 1))).collect();
    let paths: Vec<PathBuf> = texts
        .iter()
        .enumerate()
        .map(|(i, text)| place.write(&format!("texts/{i:02}.txt"), text))
        .collect();
    let tokenizer = foreign("<|begin|>");
    let section = TokenizerSection { kind: TokenizerKind::Checkpoint, vocab: 400 };
    let recipe = Recipe { tokenizer: section, ..recipe(8) };
    let with = |tokenizer: Option<&Tokenizer>| {
        let given = Given { tokenizer, threads: None };
        prepare_with(given, &paths, &recipe, &place.path("out"), &mut |_| (), &Cancel::new())
    };
    let prepared = with(Some(&tokenizer)).unwrap();
    let counts = prepared.manifest().counts;
    let expected: usize =
        texts.iter().map(|text| 1 + tokenizer.encode(text.as_bytes()).unwrap().len()).sum();
    assert_eq!(counts.training_tokens + counts.held_out_tokens, expected as u64);
    let begin = tokenizer.document_start()[0];
    let begins = |samples: &[Vec<u32>]| {
        samples.iter().flat_map(|s| &s[1..]).filter(|id| **id == begin).count()
    };
    let found = begins(&training(&prepared)) + begins(&held_out(&prepared));
    // The first of each part is no target, and an unfinished last sample may hold one.
    assert!((36..=39).contains(&found), "{found} of 40");
    assert!(matches!(prepared.tokenizer(), Tokenizer::Foreign(_)));

    let other = with(Some(&foreign("<|start|>"))).unwrap();
    assert_ne!(other.folder(), prepared.folder());
    assert_eq!(with(Some(&tokenizer)).unwrap().folder(), prepared.folder());
    assert!(matches!(with(None), Err(DataError::TokenizerGiven { wanted: true })));
    assert!(place.prepare(&recipe).is_err());
}
