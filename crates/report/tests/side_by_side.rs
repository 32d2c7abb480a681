//! Reports of several runs on one page.

use std::fs;

#[path = "fixture/mod.rs"]
mod fixture;
#[path = "html/mod.rs"]
mod html;

use fixture::small;
use html::{outline, page};

#[test]
fn several_runs_are_put_side_by_side() {
    let dir = tempfile::tempdir().expect("folder");
    let (one, two) = (dir.path().join("one/run"), dir.path().join("two/run"));
    fixture::run(&one, &fixture::base());
    fixture::run(&two, &fixture::scratch());
    let out = dir.path().join("pages/both.html");
    let page = page(&etude_report::write_many(&[&one, &two], &out).expect("writes"));
    assert!(
        page.contains("one/run") && page.contains("two/run"),
        "runs of one name are told apart"
    );
    assert!(page.contains("2.055") && page.contains("2.664"));
    assert!(
        outline(&page)
            .iter()
            .any(|entry| entry == "h3 Validation loss nats per token")
    );
}

#[test]
fn runs_of_different_data_are_said_not_to_compare() {
    let dir = tempfile::tempdir().expect("folder");
    let runs = ["one", "two"].map(|name| dir.path().join(name));
    let page_of = |second: &str| {
        for (run, source) in runs.iter().zip(["letters", second]) {
            small(run);
            let data = serde_json::json!({"sources": [{"name": source}]});
            fs::write(run.join("data.json"), data.to_string()).expect("data");
        }
        let out = dir.path().join("both.html");
        page(&etude_report::write_many(&[&runs[0], &runs[1]], &out).expect("writes"))
    };
    let word = "learnt from different data (one: letters; two: songs)";
    assert!(page_of("songs").contains(word));
    assert!(!page_of("letters").contains("different data"));
}
