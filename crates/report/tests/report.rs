//! Whole reports of made-up runs: well formed, complete, safe, the same every time, and there even
//! when half of the files are not.

use std::fs;
use std::path::Path;

#[path = "fixture/mod.rs"]
mod fixture;
#[path = "html/mod.rs"]
mod html;

use fixture::small;
use html::{outline, page};

fn report(dir: &Path) -> String {
    page(&etude_report::write(dir).expect("writes"))
}

#[test]
fn a_run_is_told_whole() {
    let dir = tempfile::tempdir().expect("folder");
    fixture::run(&dir.path().join("first"), &fixture::base());
    let page = report(&dir.path().join("first"));
    assert_eq!(
        outline(&page),
        [
            "h1 first",
            "h2 Notes on the files",
            "h2 How it learnt",
            "h3 Loss nats per token",
            "h3 Bits per byte on validation text",
            "h2 What it wrote",
            "h2 Final figures",
            "caption At the end of the run",
            "h2 What it learnt from",
            "caption Where the text comes from",
            "caption What became of it",
            "caption What was left out, and why",
            "h2 How the training ran",
            "h3 Learning rate",
            "h3 Gradient norm logarithmic",
            "h3 Throughput tokens per second",
            "h3 Share of peak of matrix-product speed",
            "h2 Recipe",
            "caption general",
            "caption model",
            "caption optimizer",
            "caption schedule",
            "caption tokenizer",
            "caption train",
            "h2 Environment",
            "caption machine",
            "caption cpu",
        ]
    );
    for expected in [
        "3.74\u{a0}million",           // parameters, rounded
        "3,742,720",                   // and in full
        "2.055",                       // bits per byte
        "12.2\u{a0}MB",                // a source
        "18.7\u{a0}MB",                // all sources
        "1.6 times over",              // passes over the text
        "duplicate",                   // why something was dropped
        "guessing among 2,048 tokens", // the chance level
        "7.625",                       // which is ln 2048
        "Before training",
        "After step 2,400",
        "An ordinary processor",
        "nanochat",
        "4\u{a0}min\u{a0}10\u{a0}s",
    ] {
        assert!(page.contains(expected), "{expected} is missing");
    }
}

#[test]
fn the_forecast_stands_beside_the_fact() {
    let dir = tempfile::tempdir().expect("folder");
    let run = dir.path().join("run");
    fixture::run(&run, &fixture::base());
    assert!(
        !report(&run).contains("Forecast and fact"),
        "no forecast, no table"
    );
    let place = run.join("summary.json");
    let text = fs::read_to_string(&place).expect("summary");
    let mut summary: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    summary["forecast"] = serde_json::json!({
        "made_by": "plan",
        "seconds": {"forecast": 200.0, "fact": 250.0},
        "peak_memory": {"forecast": 512e6, "fact": 480e6},
        "disk": {"forecast": 40e6, "fact": 40.2e6},
        "validation_loss": {"value": 2.5, "low": 2.4, "high": 2.6, "runs": 2, "method": "x", "fact": 2.53},
    });
    fs::write(&place, summary.to_string()).expect("summary");
    let page = report(&run);
    assert!(
        outline(&page)
            .iter()
            .any(|entry| entry.contains("Forecast and fact"))
    );
    for expected in [
        "made by etude plan, before the run",
        "<td>3\u{a0}min\u{a0}20\u{a0}s</td><td>4\u{a0}min\u{a0}10\u{a0}s</td><td>+25.0%</td>",
        "<td>512\u{a0}MB</td><td>480\u{a0}MB</td><td>−6.2%</td>",
        "<td>40.0\u{a0}MB</td><td>40.2\u{a0}MB</td><td>+0.5%</td>",
        "<td>2.500 (2.400 to 2.600)</td><td>2.530</td><td>inside the interval</td>",
    ] {
        assert!(page.contains(expected), "{expected} is missing");
    }
    summary["forecast"]["validation_loss"] = serde_json::Value::Null;
    summary["forecast"]["made_by"] = "first-steps".into();
    fs::write(&place, summary.to_string()).expect("summary");
    let page = report(&run);
    assert!(page.contains("from its first steps") && !page.contains("the interval</td>"));
}

#[test]
fn a_quickstart_reads_from_pre_training_to_answers() {
    let dir = tempfile::tempdir().expect("folder");
    fixture::quickstart(&dir.path().join("quickstart"));
    let page = report(&dir.path().join("quickstart"));
    let parts: Vec<String> = outline(&page)
        .into_iter()
        .filter(|entry| entry.starts_with("h2"))
        .collect();
    assert_eq!(
        parts,
        [
            "h2 Notes on the files",
            "h2 The idea",
            "h2 Pre-training: learning the language",
            "h2 Fine-tuning: learning the task",
            "h2 The control: the same task from scratch",
            "h2 Results on held-out examples",
            "h2 Answers side by side",
            "h2 Details",
        ]
    );
    for expected in [
        "0.231",
        "0.212 to 0.250",
        "+0.079",
        "+0.062 to +0.096",
        "clearly better",
        "could be chance",
        "602",
        "10\u{a0}min\u{a0}11\u{a0}s",
    ] {
        assert!(page.contains(expected), "{expected} is missing");
    }
    let example = page
        .split("<article class=\"example\">")
        .nth(1)
        .expect("an example");
    let order = [
        "Swedish sprinter",
        "Swedish athlete",
        "American politician",
        "and the first of the same",
    ];
    let places: Vec<usize> = order
        .iter()
        .map(|answer| example.find(answer).expect("answer"))
        .collect();
    assert!(
        places.is_sorted(),
        "reference, fine-tuned, from scratch, base: {places:?}"
    );
}

#[test]
fn text_of_models_and_data_stays_text() {
    let dir = tempfile::tempdir().expect("folder");
    fixture::quickstart(&dir.path().join("a<b>&\"c"));
    let page = report(&dir.path().join("a<b>&\"c"));
    assert!(!page.contains("<script>alert") && !page.contains("<h1>broken"));
    assert!(page.contains("&lt;script&gt;alert(&#x27;gotcha&#x27;)"));
    assert!(
        !page.contains("javascript:"),
        "only web addresses become links"
    );
    assert_eq!(page.matches("<script").count(), 1, "the page's own script");
}

#[test]
fn the_page_loads_nothing() {
    let dir = tempfile::tempdir().expect("folder");
    fixture::quickstart(dir.path());
    let runs = ["base", "task", "scratch"].map(|arm| dir.path().join(arm));
    let several: Vec<&Path> = runs.iter().map(|run| run.as_path()).collect();
    let several =
        page(&etude_report::write_many(&several, &dir.path().join("all.html")).expect("writes"));
    for page in [report(dir.path()), several] {
        assert!(page.contains("default-src 'none'"));
        for loading in [
            " src=", "<link", "@import", "url(", "<img", "<iframe", "srcset", "fetch(", "xlink",
            "<use",
        ] {
            assert!(!page.contains(loading), "{loading} loads something");
        }
        // An address may stand in a link that one follows, and nowhere else.
        for at in ["http://", "https://"] {
            for (before, _) in page
                .match_indices(at)
                .map(|(place, _)| page.split_at(place))
            {
                assert!(
                    before.ends_with("<a href=\""),
                    "{}",
                    &before[before.len().saturating_sub(60)..]
                );
            }
        }
    }
}

#[test]
fn the_same_runs_give_the_same_bytes() {
    let dir = tempfile::tempdir().expect("folder");
    fixture::quickstart(dir.path());
    let first = report(dir.path());
    assert_eq!(
        first,
        report(dir.path()),
        "also when a report lies there already"
    );
    let left: Vec<_> = fs::read_dir(dir.path())
        .expect("list")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(left.len(), 6, "nothing partial is left: {left:?}");
}

#[test]
fn a_run_in_progress_and_damaged_lines_are_noted() {
    let dir = tempfile::tempdir().expect("folder");
    let run = dir.path();
    let mut lines = String::new();
    for step in 1..=40 {
        let loss = if step == 9 {
            "null".into()
        } else {
            (5.0 - f64::from(step) * 0.05).to_string()
        };
        lines += &format!("{{\"kind\":\"train\",\"step\":{step},\"loss\":{loss},\"lr\":0.001}}\n");
    }
    lines += "{\"kind\":\"train\",\"step\":41,\"loss\":NaN}\n\u{0}\u{0}garbage\n[1]\n{\"kind\":\"other\",\"step\":3}\n{\"kind\":\"eval\"}\n";
    lines += "{\"kind\":\"train\",\"step\":42,\"lo";
    fs::write(run.join("metrics.jsonl"), lines).expect("metrics");
    fs::write(run.join("samples.jsonl"), "").expect("samples");
    fs::write(run.join("data.json"), "{\"sources\": [\n{\"name\": ").expect("data");
    fs::write(run.join("recipe.toml"), "[model]\nn_layer = = 3\n").expect("recipe");
    let page = report(run);
    for expected in [
        "Not finished",
        "<code>metrics.jsonl, line 41</code> is not valid JSON",
        "<code>metrics.jsonl, line 42</code>",
        "<code>metrics.jsonl, line 43</code> is not a JSON object",
        "has the unknown kind",
        "has no number &quot;step&quot;",
        "1 more damaged lines left out",
        "1 of 40 training records has no finite loss (the first at step 9)",
        "<code>data.json, line 2</code>",
        "<code>recipe.toml, line 2</code>",
        "n_layer = = 3",
        "No samples",
        "has no <code>environment.json</code>",
    ] {
        assert!(page.contains(expected), "{expected} is missing");
    }
}

#[test]
fn a_torn_last_line_is_named() {
    let dir = tempfile::tempdir().expect("folder");
    small(dir.path());
    let path = dir.path().join("metrics.jsonl");
    let lines = fs::read_to_string(&path).expect("read") + "{\"kind\":\"train\",\"st";
    fs::write(&path, lines).expect("write");
    assert!(report(dir.path()).contains("<code>metrics.jsonl, line 3</code> is cut off"));
}

#[test]
fn a_resumed_run_counts_its_later_records() {
    let dir = tempfile::tempdir().expect("folder");
    let line =
        |step: u32, loss: f64| format!("{{\"kind\":\"train\",\"step\":{step},\"loss\":{loss}}}\n");
    let lines = [
        line(1, 5.0),
        line(2, 4.0),
        line(3, 77.0),
        line(4, 78.0),
        line(3, 3.0),
        line(4, 2.5),
    ]
    .concat();
    fs::write(dir.path().join("metrics.jsonl"), lines).expect("write");
    let page = report(dir.path());
    assert!(
        page.contains("from step 4 to step 3") && page.contains("from 5.000 to 2.750"),
        "the last two averaged"
    );
    assert!(!page.contains("77.0") && !page.contains("78.0"));
}

#[test]
fn the_least_that_is_a_run_gives_a_page() {
    let dir = tempfile::tempdir().expect("folder");
    let file = |name: &str, text: &str| {
        let run = dir.path().join(name);
        fs::create_dir_all(&run).expect("folder");
        fs::write(run.join(name), text).expect("file");
        report(&run)
    };
    assert!(file("metrics.jsonl", "").contains("No measurements yet"));
    assert!(file("summary.json", "{}").contains("A language model"));
    assert!(file("recipe.toml", "seed = 1").contains("seed"));
    assert!(
        file(
            "samples.jsonl",
            "{\"step\":5,\"prompt\":\"a\",\"text\":\"ab\"}"
        )
        .contains("After step 5")
    );
}

#[test]
fn a_quickstart_may_be_half_done() {
    let dir = tempfile::tempdir().expect("folder");
    small(&dir.path().join("base"));
    let page = report(dir.path());
    for expected in [
        "Not finished",
        "<code>task/</code> holds no run yet",
        "There is no fine-tuning run",
        "No scores yet",
        "No answers yet",
    ] {
        assert!(page.contains(expected), "{expected} is missing");
    }
    small(&dir.path().join("task"));
    small(&dir.path().join("scratch"));
    assert!(report(dir.path()).contains("Training loss, smoothed"));
}

#[test]
fn a_long_run_stays_a_small_page() {
    let dir = tempfile::tempdir().expect("folder");
    let mut lines = String::new();
    for step in 1..=60_000u32 {
        let loss = if step == 31_337 {
            6.5
        } else {
            3.0 + f64::from(step % 97) / 100.0
        };
        lines += &format!(
            "{{\"kind\":\"train\",\"step\":{step},\"loss\":{loss},\"lr\":0.001,\"grad_norm\":{loss}}}\n"
        );
    }
    fs::write(dir.path().join("metrics.jsonl"), lines).expect("write");
    let page = report(dir.path());
    assert!(page.len() < 200_000, "{} bytes", page.len());
    assert!(page.contains("at step 31,337"), "the spike is named");
}

#[test]
fn mistakes_are_explained() {
    let dir = tempfile::tempdir().expect("folder");
    let error = |result: anyhow::Result<std::path::PathBuf>| result.expect_err("fails").to_string();
    let missing = error(etude_report::write(&dir.path().join("nowhere")));
    assert!(missing.contains("nowhere does not exist"), "{missing}");
    let empty = error(etude_report::write(dir.path()));
    assert!(
        empty.contains("not a run folder") && empty.contains("metrics.jsonl"),
        "{empty}"
    );
    let none = error(etude_report::write_many(&[], &dir.path().join("out.html")));
    assert!(none.contains("at least one"), "{none}");
}

#[test]
fn scores_before_and_after_stand_side_by_side() {
    let dir = tempfile::tempdir().expect("folder");
    small(dir.path());
    let alone =
        serde_json::json!({"after": {"rouge_l": {"value": 0.43, "low": 0.39, "high": 0.48}}});
    fs::write(dir.path().join("scores.json"), alone.to_string()).expect("writes");
    let page = report(dir.path());
    assert!(page.contains("0.430") && page.contains("0.390 to 0.480"));
    assert!(!page.contains("What fine-tuning gained"));
    // What the recipe names first leads.
    let two = serde_json::json!({"after": {"bleu": 0.0, "exact_match": 0.9}});
    fs::write(dir.path().join("scores.json"), two.to_string()).expect("writes");
    let recipe = "[eval]\nmetrics = [\"bits_per_byte\", \"exact_match\", \"bleu\"]\n";
    fs::write(dir.path().join("recipe.toml"), recipe).expect("writes");
    let page = report(dir.path());
    let at = |label: &str| page.find(label).expect(label);
    assert!(at("Exact match") < at("BLEU"));
    let both = serde_json::json!({
        "after": {"rouge_l": {"value": 0.43, "low": 0.39, "high": 0.48}},
        "before": {"rouge_l": {"value": 0.13, "low": 0.11, "high": 0.15}},
        "gains": {"rouge_l": {"value": 0.3, "low": 0.26, "high": 0.34, "p": 0.001}},
    });
    fs::write(dir.path().join("scores.json"), both.to_string()).expect("writes");
    let page = report(dir.path());
    for words in [
        "After fine-tuning",
        "Before",
        "What fine-tuning gained",
        "+0.300",
        "clearly better",
    ] {
        assert!(page.contains(words), "{words}");
    }
}
