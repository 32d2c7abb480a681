//! What a run's page shows of what its model could do at each checkpoint.

use std::fs;
use std::path::Path;

mod html;

use html::{outline, page};

fn report(dir: &Path) -> String {
    page(&etude_report::write(dir).expect("writes"))
}

#[test]
fn what_a_model_could_do_at_its_checkpoints_is_shown() {
    let dir = tempfile::tempdir().expect("folder");
    let line = "{\"kind\":\"train\",\"step\":1,\"loss\":4.0}\n";
    fs::write(dir.path().join("metrics.jsonl"), line).expect("writes");
    let heading = "What it could do, step by step";
    let has_heading = |page: &str| outline(page).iter().any(|line| line.contains(heading));
    assert!(!has_heading(&report(dir.path())));
    let at = |step: u64, value: f64| {
        serde_json::json!({
            "step": step, "value": value, "low": value - 0.05, "high": value + 0.05,
            "parts": {"agreement": {"value": value - 0.1, "low": 0.4, "high": 0.6}},
        })
    };
    let next = |step: u64, text: &str| serde_json::json!({"step": step, "tokens": [{"text": text, "probability": 0.612}]});
    let probes = serde_json::json!({
        "scores": {"grammar": {"metric": "acc", "chance": 0.5, "steps": [at(10, 0.55), at(20, 0.7)]}},
        "next": {"The <b>United": (1..=30).map(|n| next(n, " States")).collect::<Vec<_>>()},
    });
    fs::write(dir.path().join("probes.json"), probes.to_string()).expect("writes");
    let page = report(dir.path());
    assert!(has_heading(&page));
    for words in [
        "from 0.550 to 0.700",
        "guessing: 0.500",
        "agreement",
        "The &lt;b&gt;United",
        "61.2%",
    ] {
        assert!(page.contains(words), "{words}");
    }
    // Of thirty steps some are shown, the first and the last among them.
    assert_eq!(page.matches("61.2%").count(), 8);
    assert!(page.contains("<th scope=\"row\">30</th>"));

    // Nonsense in it is left out.
    fs::write(
        dir.path().join("probes.json"),
        r#"{"scores": {"grammar": 3}, "next": {"a": [], "b": 7}}"#,
    )
    .expect("writes");
    report(dir.path());
}
