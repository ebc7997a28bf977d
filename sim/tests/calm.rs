//! Runs in which nothing goes wrong.

use suanli_sim::{Settings, run};

#[test]
fn three_families_commit_five_rounds() {
    let settings = Settings { families: 3, rounds: 5, faults: false, ..Settings::default() };
    for seed in 0..5 {
        let report = run(seed, &settings);
        assert_eq!(report.violations, Vec::<String>::new(), "seed {seed}");
        assert_eq!(report.rounds, 5);
        assert_eq!(run(seed, &settings), report);
    }
}
