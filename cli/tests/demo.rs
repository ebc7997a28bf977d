//! The demo itself, whole: half a minute on two quiet cores, so it is asked for by name.

mod suanli;

use suanli::Suanli;

#[test]
#[ignore = "takes half a minute; run with: cargo test -p suanli --test demo -- --ignored"]
fn a_demo_kills_one_takes_one_in_and_reports_what_the_city_counted() {
    let home = Suanli::new();
    home.write("text.txt", &"All the world is a stage, and all the men and women.\n".repeat(4000));
    let demo = ["demo", "--rounds", "12", "--families", "2", "--data", "text.txt", "--json"];
    let ended = home.run(&demo);
    let report: serde_json::Value =
        serde_json::from_str(&ended.works().output).expect("one JSON object");
    assert_eq!(
        (&report["rounds"], &report["killed"], &report["joined"]),
        (&12.into(), &1.into(), &1.into())
    );
    let contributions = report["contributions"].as_array().expect("a list");
    assert_eq!(contributions.len(), 3, "{contributions:?}");
    let tokens: u64 = contributions.iter().filter_map(|one| one["tokens"].as_u64()).sum();
    assert_eq!(report["tokens"], tokens, "every committed token is somebody's");
    let losses = report["losses"].as_array().expect("a curve");
    assert_eq!(losses.last().map(|point| &point["round"]), Some(&12.into()));
    assert!(losses[12]["loss"].as_f64() < losses[0]["loss"].as_f64());
    assert!(report["times_fewer"].as_f64().is_some_and(|times| times > 100.0), "{report}");
    home.run(&["log", "verify", "suanli-demo/city"]).works().prints("12 committed rounds");
    // It is finished: a second one says so and changes nothing.
    home.run(&["demo"]).works().prints("report.json");
}
