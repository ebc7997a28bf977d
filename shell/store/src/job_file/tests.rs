use super::*;
use suanli_params::Codec;

const PATHS: &str = "[data]\npaths = [\"a.txt\"]\n";

fn error_of(text: &str) -> String {
    JobFile::parse(text).unwrap_err().to_string()
}

#[test]
fn paths_alone_are_a_job_with_the_measured_defaults() {
    let job = JobFile::parse(PATHS).unwrap();
    assert_eq!(job, JobFile::with_paths(vec!["a.txt".to_owned()]));
    assert_eq!(job.model_config(256), ModelConfig::demo());
    assert_eq!((job.training.inner_steps, job.training.codec), (30, Codec::Int4));
    assert_eq!(job.training.outer_momentum, [0.0, 0.6, 0.8, 0.87, 0.9, 0.5]);
    assert_eq!(job.training.outer_lr, 1.0);
    assert_eq!((job.training.lr, job.rounds_total()), (4e-3, 40));
    assert_eq!(job.tokens_total(), 40 * 30 * 4 * 512);
}

#[test]
fn long_runs_get_the_large_outer_momentum_however_their_length_is_said() {
    let job = JobFile::parse(&format!("{PATHS}[training]\nrounds = 400\n")).unwrap();
    assert_eq!((job.training.outer_lr, &job.training.outer_momentum[..]), (0.7, &[0.9][..]));
    let job = JobFile::parse(&format!("{PATHS}[training]\ntokens = 100_000_000\n")).unwrap();
    assert_eq!((job.rounds_total(), &job.training.outer_momentum[..]), (1628, &[0.9][..]));
}

#[test]
fn outer_momentum_is_one_number_or_a_list() {
    let parse =
        |text: &str| JobFile::parse(&format!("{PATHS}[training]\nouter_momentum = {text}\n"));
    assert_eq!(parse("0.5").unwrap().training.outer_momentum, [0.5]);
    assert_eq!(parse("[0, 0.5, 0.25]").unwrap().training.outer_momentum, [0.0, 0.5, 0.25]);
    for wrong in ["[]", "[0.1, 0.2, 1.0]", "\"0.5\"", "[0.1, 0.2, true]", "-1"] {
        let error = parse(wrong).unwrap_err().to_string();
        assert!(
            error.contains("a number or a list of at most 16, each from 0.0 to 0.99"),
            "{error}"
        );
    }
}

#[test]
fn what_is_written_reads_back_equal() {
    let plain =
        JobFile::with_paths(vec!["a \"quoted\" \\ path\n".to_owned(), "算粒  # */*".to_owned()]);
    let other = JobFile {
        data: DataSection { max_bytes: Some(7), held_out: 0.25, ..plain.data.clone() },
        tokenizer: TokenizerSection { kind: TokenizerKind::Bpe, vocab: 777 },
        training: TrainingSection {
            length: Length::Tokens(12_345),
            schedule: Schedule::Cosine,
            codec: Codec::F32,
            lr: 1.0 / 3.0,
            ..plain.training.clone()
        },
        ..plain.clone()
    };
    for job in [plain, other] {
        assert_eq!(JobFile::parse(&job.to_toml()).unwrap(), job, "{}", job.to_toml());
    }
}

#[test]
fn the_example_shows_every_key() {
    let text = JobFile::with_paths(vec!["texts".to_owned()]).to_toml();
    for (section, keys) in KEYS {
        assert!(text.contains(&format!("[{section}]")));
        for key in *keys {
            assert!(text.contains(&format!("{key} = ")) || *key == "tokens", "{section}.{key}");
        }
    }
}

#[test]
fn a_size_that_follows_another_follows_it() {
    let job = JobFile::parse(&format!("{PATHS}[model]\nhidden = 384\n")).unwrap();
    assert_eq!((job.model.heads, job.model.kv_heads, job.model.ffn), (12, 12, 1024));
    assert!((job.training.lr - 4e-3 / 3.0).abs() < 1e-12);
}

#[test]
fn an_unknown_key_names_its_line_and_the_nearest() {
    for (text, expected) in [
        ("[model]\nhiden = 1\n", "line 2: unknown key `model.hiden`: did you mean `hidden`?"),
        ("\n[modell]\n", "line 2: unknown section `modell`: did you mean `model`?"),
        ("[model]\nlr = 0.1\n", "line 2: unknown key `model.lr`: it belongs under [training]"),
        ("lr = 0.1\n", "line 1: unknown key `lr`: it belongs under [training]"),
        (
            "[tokenizer]\nkind = \"bytes\"\nbananas = 1\n",
            "line 3: unknown key `tokenizer.bananas`: known here are kind, vocab",
        ),
        ("model = 3\n", "line 1: `model`: expected a section, [model], found the whole number 3"),
    ] {
        assert_eq!(error_of(text), expected);
    }
}

#[test]
fn wrong_values_name_key_line_expected_and_found() {
    for (text, expected) in [
        (
            "[model]\nhidden = \"big\"\n",
            "line 2: `model.hidden`: expected a whole number from 2 to 65536, found the text \"big\"",
        ),
        (
            "[model]\nlayers = 99999\n",
            "line 2: `model.layers`: expected a whole number from 1 to 1024, found 99999",
        ),
        ("[model]\nlayers = -0x1\n", "line 2, column 10: this is not TOML"),
        (
            "[model]\nlayers = 99999999999999999999999999999999999999999999\n",
            "expected a whole number from 1 to 1024, found 9999999",
        ),
        ("[model]\ntied = 1\n", "line 2: `model.tied`: expected true or false"),
        (
            "[data]\npaths = []\n",
            "line 2: `data.paths`: expected a list of 1 to 4096 files, folders or patterns, as in \
             [\"texts/*.txt\"], found 0 of them",
        ),
        ("[data]\npaths = [\"a\",\n 3]\n", "line 3: `data.paths`: expected a list"),
        ("[data]\npaths = \"a\"\n", "found the text \"a\""),
        ("", "`data.paths` is missing: expected a list"),
        ("[data\n", "line 1, column 6: this is not TOML"),
    ] {
        let found = error_of(text);
        assert!(found.contains(expected), "{text}: {found}");
    }
    for (line, expected) in [
        ("[training]\nlr = nan", "`training.lr`: expected a number from 1e-9 to 1.0, found NaN"),
        ("[training]\nlr = 0", "found 0.0"),
        (
            "[training]\ncodec = \"int2\"",
            "\"int8\" or \"topk\" or \"bf16\" or \"f16\" or \"f32\", found \"int2\"",
        ),
        ("[training]\nrounds = 3\ntokens = 4", "line 5: `training.tokens` and `training.rounds`"),
        ("[tokenizer]\nvocab = 512", "`tokenizer.vocab`: expected 256, found 512"),
        ("[tokenizer]\nkind = \"bpe\"\nvocab = 12", "expected a whole number from 256 to"),
        ("[replicas]\nmin = 5\nmax = 4", "`replicas.max`: expected a whole number from 5 to"),
        ("[data2]\nx = 1", "did you mean `data`?"),
        ("[model]\nhidden = 100\nheads = 3", "model.hidden is 100; it must be a multiple"),
    ] {
        let found = error_of(&format!("{PATHS}{line}\n"));
        assert!(found.contains(expected), "{line}: {found}");
    }
}

#[test]
fn noise_is_an_error_and_no_panic() {
    assert!(JobFile::parse(&"x".repeat(JOB_FILE_BYTES_MAX + 1)).is_err());
    assert!(JobFile::parse(&"[".repeat(100_000)).is_err());
    assert!(JobFile::parse(&format!("a = {}", "[".repeat(100_000))).is_err());
    let mut random = suanli_base::Random::new(3);
    let good = JobFile::with_paths(vec!["a".to_owned()]).to_toml();
    for _ in 0..300 {
        let mut bytes = good.clone().into_bytes();
        let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
        bytes[at] = b" \"[]=\n.x9#"[usize::try_from(random.below(10)).unwrap()];
        let _ = JobFile::parse(&String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn paths_are_seen_from_the_job_file() {
    let job = JobFile::with_paths(vec!["a.txt".to_owned(), "/b".to_owned()]);
    assert_eq!(job.data_paths(Path::new("/jobs")), [Path::new("/jobs/a.txt"), Path::new("/b")]);
}

/// A folder with the config of a checkpoint.
fn checkpoint() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "model_type": "qwen2", "vocab_size": 310, "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96,
        "max_position_embeddings": 4096, "rope_theta": 1e6,
    });
    std::fs::create_dir(folder.path().join("qwen")).unwrap();
    std::fs::write(folder.path().join("qwen/config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn a_job_goes_on_from_a_checkpoint_with_its_sizes() {
    let folder = checkpoint();
    let parse = |more: &str| {
        JobFile::parse_in(&format!("{PATHS}[model]\nfrom = \"qwen\"\n{more}"), folder.path())
    };
    let job = parse("").unwrap();
    assert_eq!((job.model.hidden, job.model.kv_heads, job.tokenizer.vocab), (64, 2, 310));
    let config = job.model_config(1);
    assert!(config.qkv_bias && config.vocab == 310 && config.context == 4096);
    // Samples are shorter than what the model can read, and it learns more slowly.
    assert_eq!(job.model.context, 1024);
    assert!((job.training.lr - 4e-4).abs() < 1e-12, "{}", job.training.lr);
    assert_eq!(job.from_folder(folder.path()), Some(folder.path().join("qwen")));
    let short = parse("context = 256\n").unwrap();
    assert_eq!((short.model.context, short.model_config(1).context), (256, 4096));
    assert_eq!(JobFile::parse_in(&short.to_toml(), folder.path()).unwrap(), short);
    for (more, expected) in [
        ("hidden = 64\n", "line 5: `model.hidden` and `model.from` exclude each other"),
        ("tied = true\n", "`model.tied` and `model.from`"),
        ("context = 5000\n", "line 5: `model.context`: expected a whole number from 1 to 4096"),
        (
            "[tokenizer]\nkind = \"bytes\"\n",
            "line 6: `tokenizer.kind` and `model.from` exclude each other",
        ),
    ] {
        let error = parse(more).unwrap_err().to_string();
        assert!(error.contains(expected), "{more}: {error}");
    }
}

#[test]
fn a_checkpoint_that_cannot_be_used_is_named_with_its_line() {
    let folder = checkpoint();
    let error = |from: &str| {
        let text = format!("{PATHS}[model]\nfrom = {from}\n");
        JobFile::parse_in(&text, folder.path()).unwrap_err().to_string()
    };
    let missing = error("\"nowhere\"");
    assert!(missing.starts_with("line 4: `model.from`: "), "{missing}");
    assert!(missing.contains("nowhere/config.json is missing"), "{missing}");
    assert!(error("\"\"").contains("a text in quotes that is not empty"));
    assert!(error("3").contains("expected a text"));
    std::fs::write(folder.path().join("qwen/config.json"), "{\"model_type\": \"gpt2\"}").unwrap();
    assert!(error("\"qwen\"").contains("`model_type`"));
}

#[test]
fn members_may_hold_matrices_in_less_memory() {
    let parse = |text: &str| JobFile::parse(&format!("{PATHS}[training]\nstorage = {text}\n"));
    let (full, half) = (parse("\"f32\"").unwrap(), parse("\"bf16\"").unwrap());
    assert_eq!(full, JobFile::parse(PATHS).unwrap());
    let bytes = |job: &JobFile| job.training_memory_bytes(&job.model_config(256));
    assert!(bytes(&half) < bytes(&full));
    assert_eq!(JobFile::parse(&half.to_toml()).unwrap(), half);
    let error = parse("\"f16\"").unwrap_err().to_string();
    assert!(error.contains("expected \"f32\" or \"bf16\", found \"f16\""), "{error}");
}

#[test]
fn members_may_compute_with_programs_of_their_own() {
    let parse = |text: &str| JobFile::parse(&format!("{PATHS}[training]\n{text}\n"));
    let (ours, any) = (parse("").unwrap(), parse("engine = \"any\"").unwrap());
    assert_eq!(ours.training.numeric_class(), "f32-chain-1");
    assert_eq!(any.training.numeric_class(), "any");
    assert_eq!(JobFile::parse(&any.to_toml()).unwrap(), any);
    let error = parse("engine = \"any\"\nstorage = \"bf16\"").unwrap_err().to_string();
    assert!(error.contains("training.engine") && error.contains("training.storage"), "{error}");
    let error = parse("engine = \"torch\"").unwrap_err().to_string();
    assert!(error.contains("expected \"suanli\" or \"any\", found \"torch\""), "{error}");
}

#[test]
fn a_section_of_adapters_freezes_the_checkpoint() {
    let folder = checkpoint();
    let parse = |more: &str| {
        let text = format!("{PATHS}[model]\nfrom = \"qwen\"\n[lora]\n{more}");
        JobFile::parse_in(&text, folder.path())
    };
    let job = parse("").unwrap();
    let lora = job.lora.clone().unwrap();
    assert_eq!((lora.rank, lora.alpha, &lora.targets[..]), (16, 32.0, &Target::ALL[..]));
    assert_eq!((job.training.lr, job.training.weight_decay), (4e-3, 0.0));
    let model = job.model_config(1);
    assert_eq!(job.trained_parameters(&model), lora.parameters(&model));
    assert_eq!(JobFile::parse_in(&job.to_toml(), folder.path()).unwrap(), job);

    let some = parse("rank = 3\nalpha = 1.5\ntargets = [\"v_proj\", \"q_proj\"]\n").unwrap();
    let lora = some.lora.clone().unwrap();
    assert_eq!((lora.rank, lora.alpha), (3, 1.5));
    assert_eq!(lora.targets, [Target::QProj, Target::VProj]);
    let whole = JobFile { lora: None, ..some.clone() }.training_memory_bytes(&model);
    assert!(some.training_memory_bytes(&model) < whole);
    assert_eq!(JobFile::parse_in(&some.to_toml(), folder.path()).unwrap(), some);
    for (more, expected) in [
        ("rank = 0\n", "line 6: `lora.rank`: expected a whole number from 1 to 1024"),
        ("targets = []\n", "`lora.targets`: expected a list of some of q_proj, k_proj"),
        ("targets = [\"lm_head\"]\n", "found \"lm_head\""),
        ("targets = [\"q_proj\", \"q_proj\"]\n", "found \"q_proj\" twice"),
        ("targets = \"q_proj\"\n", "`lora.targets`: expected a list"),
        ("dropout = 0.1\n", "unknown key `lora.dropout`"),
    ] {
        let error = parse(more).unwrap_err().to_string();
        assert!(error.contains(expected), "{more}: {error}");
    }
    let alone = error_of(&format!("{PATHS}[lora]\n"));
    assert!(alone.contains("model.from") && alone.contains("[lora]"), "{alone}");
}
