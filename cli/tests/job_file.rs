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
fn a_job_goes_only_to_a_city_that_is_there_with_a_ticket_that_counts() {
    let home = Suanli::new();
    home.write("job.toml", "[data]\npaths = ['a.txt']\n");
    home.run(&["train", "job.toml", "--yes"]).fails(6).says("nothing runs on");
    home.run(&["train", "job.toml", "--yes", "--city", "nowhere"]).fails(2).says("nowhere");
    home.run(&["train", "job.toml", "--yes", "--city", "suanli1abc"]).fails(4);
    home.run(&["train"]).fails(2);
}
