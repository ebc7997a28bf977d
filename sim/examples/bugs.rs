//! The first seed that finds each planted defect: `bugs SEEDS FAMILIES [NAME]`.

use suanli_sim::{Bug, Settings, sweep};

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let number = |at: usize, or: u64| words.get(at).and_then(|w| w.parse().ok()).unwrap_or(or);
    let (seeds, families) = (number(1, 100), usize::try_from(number(2, 6)).unwrap_or(6));
    std::panic::set_hook(Box::new(|_| {}));
    for bug in Bug::ALL {
        if words.get(3).is_some_and(|name| name != bug.name()) {
            continue;
        }
        let settings = Settings { families, bug: Some(*bug), ..Settings::default() };
        let mut found = None;
        sweep(0..seeds, &settings, |report| {
            if !report.violations.is_empty() {
                found = Some((report.seed, report.violations[0].clone()));
            }
            found.is_none()
        });
        println!("{:24} {found:.200?}", bug.name());
    }
}
