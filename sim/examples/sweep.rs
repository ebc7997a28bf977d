//! Runs seeds from the command line: `sweep FIRST COUNT FAMILIES [BUG]`.

use suanli_sim::{Settings, sweep};

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let number = |at: usize, or: u64| words.get(at).and_then(|w| w.parse().ok()).unwrap_or(or);
    let (first, count, families) = (number(1, 0), number(2, 10), number(3, 5));
    let bug = words.get(4).and_then(|word| word.parse().ok());
    let faults = words.get(5).is_none_or(|word| word != "calm");
    let families = usize::try_from(families).unwrap_or(5);
    let settings = Settings { families, bug, faults, ..Settings::default() };
    let begun = std::time::Instant::now();
    let mut failed = 0;
    sweep(first..first + count, &settings, |report| {
        if !report.violations.is_empty() {
            failed += 1;
            println!("{report:#?}");
        } else if count <= 10 {
            println!("{report:?}");
        }
        failed < 5
    });
    println!("{failed} failed, {:?}", begun.elapsed());
}
