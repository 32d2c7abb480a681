//! What the page makes of a run whose last validation is of more text than those before it.

use std::fs;

/// The page of a run whose last `eval` line says this besides its loss.
fn page(beside: &str) -> String {
    let dir = tempfile::tempdir().expect("folder");
    let train: String = (1..=30)
        .map(|step| format!("{{\"kind\":\"train\",\"step\":{step},\"loss\":5.0}}\n"))
        .collect();
    let lines = format!(
        "{train}{{\"kind\":\"eval\",\"step\":10,\"loss\":5.9}}\n\
         {{\"kind\":\"eval\",\"step\":20,\"loss\":5.5}}\n\
         {{\"kind\":\"eval\",\"step\":30,\"loss\":6.1{beside}}}\n"
    );
    fs::write(dir.path().join("metrics.jsonl"), lines).expect("metrics");
    let path = etude_report::write(dir.path()).expect("writes");
    fs::read_to_string(path).expect("report")
}

#[test]
fn losses_of_the_same_text_tell_whether_a_run_learnt_by_heart() {
    assert!(page("").contains("learnt its training text by heart"));
    let of_the_same = page(", \"part_loss\": 5.4");
    assert!(!of_the_same.contains("by heart"));
    assert!(of_the_same.contains("stands at 5.4"));
}
