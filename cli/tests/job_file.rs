//! `suanli train` before it starts anything: the example, the plan, and what is wrong with a job.

mod suanli;

use suanli::Suanli;

#[test]
fn the_example_is_a_job_file_that_can_be_planned() {
    let home = Suanli::new();
    let example = home.run(&["train", "--example"]).works().output.clone();
    home.write("job.toml", &example);
    let plan = home.run(&["train", "job.toml", "--plan", "--tokens-per-s", "2000", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&plan.works().output).unwrap();
    assert_eq!(plan["measured"], false);
    assert_eq!(plan["tokens_per_s"], 2000.0);
    assert!(
        plan["up_bytes_a_round"].as_u64().unwrap() * 100
            < plan["data_parallel_bytes"].as_u64().unwrap()
    );
    home.run(&["--lang", "zh", "train", "job.toml", "--plan", "--tokens-per-s", "2000"])
        .works()
        .prints("个参数");
    assert!(!home.exists("data") && !home.exists("cache"), "a plan made something");
}

#[test]
fn a_plan_without_a_stated_speed_measures_it() {
    let home = Suanli::new();
    home.write(
        "job.toml",
        "[data]\npaths = ['a.txt']\n[model]\nhidden = 16\nlayers = 1\nheads = 2\nffn = 32\ncontext = 16\n",
    );
    home.run(&["train", "job.toml", "--plan"]).works().prints("measured here");
}

#[test]
fn a_job_file_that_cannot_be_is_code_3_and_names_what_to_write() {
    let home = Suanli::new();
    home.run(&["train", "missing.toml", "--plan"]).fails(3).says("missing.toml");
    for (text, says) in [
        ("[data]\npaths = ['a']\n[training]\ninner_step = 3\n", "inner_steps"),
        ("[data]\npaths = ['a']\n[model]\nhidden = 100\nheads = 3\n", "multiple"),
        ("[data]\npaths = ", "TOML"),
        ("", "data.paths"),
    ] {
        home.write("job.toml", text);
        let plan = ["train", "job.toml", "--plan", "--tokens-per-s", "1"];
        home.run(&plan).fails(3).says(says).says("--example");
    }
    home.write("huge.toml", &"#".repeat(2 << 20));
    home.run(&["train", "huge.toml", "--plan", "--tokens-per-s", "1"]).fails(3).says("1048576");
}

#[test]
fn a_job_that_goes_on_from_a_checkpoint_is_planned_with_its_sizes() {
    let home = Suanli::new();
    home.write(
        "jobs/base/config.json",
        r#"{"model_type": "qwen3", "vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 24,
            "intermediate_size": 64, "max_position_embeddings": 40960, "tie_word_embeddings": true}"#,
    );
    let plan = ["train", "jobs/job.toml", "--plan", "--tokens-per-s", "100", "--json"];
    home.write("jobs/job.toml", "[model]\nfrom = 'base'\ncontext = 64\n[data]\npaths = ['a']\n");
    let ended: serde_json::Value = serde_json::from_str(&home.run(&plan).works().output).unwrap();
    // Embedding; queries and outputs, keys and values, feed-forward, norms; the last norm.
    let layer = 2 * 48 * 32 + 2 * 24 * 32 + 3 * 64 * 32 + 2 * 32 + 2 * 24;
    assert_eq!(ended["parameters"], 512 * 32 + 2 * layer + 32);
    assert_eq!(ended["tokens_a_round"], 30 * 4 * 4 * 64);
    for (model, says) in [
        ("from = 'base'\nhidden = 64", "exclude each other"),
        ("from = 'base'\ncontext = 50000", "from 1 to 40960"),
        ("from = 'base'\n[tokenizer]\nkind = 'bpe'", "`tokenizer.kind` and `model.from`"),
        ("from = 'elsewhere'", "config.json is missing"),
    ] {
        home.write("jobs/job.toml", &format!("[data]\npaths = ['a']\n[model]\n{model}\n"));
        home.run(&plan).fails(3).says(says);
    }
}

#[test]
fn a_job_goes_only_to_a_city_that_is_there_with_a_ticket_that_counts() {
    let home = Suanli::new();
    home.write("job.toml", "[data]\npaths = ['a.txt']\n");
    home.run(&["train", "job.toml", "--yes"]).fails(6).says("nothing runs on");
    home.run(&["train", "job.toml", "--yes", "--city", "nowhere"]).fails(2).says("nowhere");
    home.run(&["train", "job.toml", "--yes", "--city", "suanli1abc"]).fails(4);
    home.run(&["train"]).fails(2);
}
