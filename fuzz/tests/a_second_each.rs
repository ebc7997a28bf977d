//! Every decoder, a second each, in the default test run. The seed is fixed: a red run is red again.

use std::sync::Mutex;
use std::time::Duration;
use suanli_fuzz::{run_for, targets};

#[test]
fn every_decoder_stands_a_second_of_mutated_bytes() {
    let open = Mutex::new(targets::all().into_iter());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(target) = { open.lock().unwrap().next() } {
                    if let Err(failure) = run_for(&target, 0, 0, Duration::from_secs(1)) {
                        failures.lock().unwrap().push(failure.to_string());
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}
