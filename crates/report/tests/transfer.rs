//! The page of a made-up transfer experiment.

use std::fs;
use std::path::Path;

#[path = "html/mod.rs"]
mod html;

use html::{outline, page};

fn report(dir: &Path) -> String {
    page(&etude_report::write(dir).expect("writes"))
}

/// `transfer.json` with three points.
fn transfer(dir: &Path) {
    let arm = |value: f64| {
        serde_json::json!({
            "scores": {
                "rouge_l": {"value": value, "low": value - 0.02, "high": value + 0.02},
                "bits_per_byte": {"value": 3.0 - value, "low": 2.9 - value, "high": 3.1 - value},
            },
            "seeds": [value - 0.01, value + 0.01], "rate": 0.5, "best_steps": [50, 100], "seconds": 40.0,
            "parameters": 4_000_000,
        })
    };
    let point = |share: f64, ours: f64, theirs: f64| {
        let lead = ours - theirs;
        serde_json::json!({
            "share": share, "examples": (8000.0 * share) as u64, "pretrained": arm(ours), "scratch": arm(theirs),
            "differences": {
                "rouge_l": {"value": lead, "low": lead - 0.03, "high": lead + 0.03, "p": 0.01},
                "bits_per_byte": {"value": -lead, "low": -lead - 0.03, "high": 0.03 - lead, "p": 0.01},
            },
        })
    };
    let cost =
        serde_json::json!({"runs": 3, "tokens": 1_000_000, "seconds": 100.0, "flops": 2.5e13});
    let variant = |name: &str, general: f64| {
        serde_json::json!({
            "name": name, "scores": {"rouge_l": {"value": 0.2, "low": 0.18, "high": 0.22}}, "general": general,
            "rate": 1.0, "seconds": 40.0,
        })
    };
    let summary = serde_json::json!({
        "task": "wiki-description", "metric": "rouge_l", "higher_is_better": true, "n": 200,
        "steps": [250, 750], "batch_rows": [16, 16],
        "base": {"rouge_l": {"value": 0.06, "low": 0.05, "high": 0.07}},
        "points": [point(0.01, 0.1, 0.09), point(0.1, 0.18, 0.1), point(1.0, 0.22, 0.17)],
        "data_ratio": {"value": 13.4, "low": 8.0, "high": 21.0, "at_least": false},
        "data_ratios": {
            "rouge_l": {"value": 13.4, "low": 8.0, "high": 21.0, "at_least": false},
            "bits_per_byte": {"value": 100.0, "low": 0.0, "high": 100.0, "at_least": true, "high_at_least": true},
            "chrf": {"value": 0.0, "low": 0.0, "high": 1.0, "at_least": false},
        },
        "compute": {"pretraining": cost, "finetuning": cost, "finetunings": cost, "scratch": cost},
        "variants": [variant("As the recipe says", 2.2), variant("<b>By LoRA</b>", 2.05)],
        "general_before": 2.0, "general": "wiki-leads", "seconds": 900.0,
    });
    fs::create_dir_all(dir).expect("folder");
    fs::write(dir.join("transfer.json"), summary.to_string()).expect("writes");
    let example = |better: &str, id: &str| {
        serde_json::json!({
            "better": better, "share": 0.1, "id": id, "prompt": "Ada wrote a program.",
            "reference": "English mathematician", "pretrained": "mathematician", "scratch": "English river",
        })
    };
    let lines = format!(
        "{}\n{}\n",
        example("pretrained", "Ada"),
        example("scratch", "Loire")
    );
    fs::write(dir.join("examples.jsonl"), lines).expect("writes");
}

#[test]
fn a_transfer_experiment_is_one_page() {
    let dir = tempfile::tempdir().expect("folder");
    transfer(dir.path());
    let page = report(dir.path());
    let head: Vec<String> = outline(&page);
    for part in [
        "h1 What pre-training is worth",
        "h3 ROUGE-L by amount of data",
        "h3 Bits per byte by amount of data",
        "caption ROUGE-L at each amount of data, over all seeds",
        "caption Work of training",
        "caption Learnt and forgotten",
        "h3 The pre-trained model did better",
        "h3 The model from scratch did better",
    ] {
        assert!(head.iter().any(|line| line == part), "{part}: {head:#?}");
    }
    for words in [
        "gets there with 13 times fewer (95% interval: 8.0 to 21)",
        "By the other metrics: Bits per byte at least 100 times fewer (below 1 to 100 or more), chrF not reached.",
        "At 2 of the 3 amounts",
        "the pre-trained model in 250 steps of 16, the other in 750 steps of 16.",
        "share of the training examples",
        "could be chance",
        "<td class=\"num\">0.010</td>", // p
        "2.5 · 10^13",
        "+0.050", // bits that LoRA forgot
        "&lt;b&gt;By LoRA",
    ] {
        assert!(page.contains(words), "{words}");
    }
    let path = dir.path().join("transfer.json");
    let told = fs::read_to_string(&path).expect("reads");
    fs::write(&path, told.replace("\"data_ratio\":", "\"no_ratio\":")).expect("writes");
    let page = report(dir.path());
    assert!(page.contains("In ROUGE-L there is no amount of data to compare"));
    fs::write(dir.path().join("transfer.json"), "{}").expect("writes");
    let error = etude_report::write(dir.path()).expect_err("nothing to show");
    assert!(error.to_string().contains("no points"), "{error}");
}
