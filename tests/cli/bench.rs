//! `etude bench` over a model that is there: what it measures, and what it refuses.

use crate::support::{check_wrong, json, keys, model, run, run_in, scratch, wrong};

/// Four tokens read, three written.
fn reading() -> [&'static str; 7] {
    [
        "bench",
        "generate",
        model(),
        "--prompt-tokens",
        "4",
        "--tokens",
        "3",
    ]
}

#[test]
fn a_model_s_training_steps_are_timed_with_and_without_an_adapter() {
    let shape = ["--rows", "2", "--cols", "8", "--steps", "2", "--json"];
    let whole = json(&[&["bench", "train", "--model", model()], &shape[..]].concat());
    let lora = ["bench", "train", "--model", model(), "--lora-rank", "2"];
    let lora = json(&[&lora[..], &["--supervised", "3"], &shape[..]].concat());
    for told in [whole, lora] {
        assert_eq!(told["model"], model());
        let (rate, seconds) = (&told["tokens_per_second"], &told["seconds"]);
        let tokens = rate.as_f64().unwrap() * seconds.as_f64().unwrap();
        assert!((tokens - 16.0).abs() < 1e-6, "{tokens} tokens a step");
    }
}

#[test]
fn turns_are_taken_line_by_line() {
    let arguments = [&reading()[..], &["--stdin"]].concat();
    let done = run_in(&scratch("."), &arguments, b"go 2\ngo 1\n");
    assert_eq!(done.status, 0, "{}", done.err);
    let lines: Vec<serde_json::Value> = (done.out.lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let counts = |value: &serde_json::Value| value.as_array().unwrap().len();
    assert_eq!(counts(&lines[0]["prefill"]), 2);
    assert_eq!(counts(&lines[1]["per_token"]), 1);
    assert!(lines[2]["peak_rss_mb"].as_f64().unwrap() > 0.0);

    let done = run_in(&scratch("."), &arguments, b"come\n");
    check_wrong(&done, &arguments, &["`come` is not understood", "go K"]);
}

#[test]
fn what_is_read_and_written_is_counted() {
    let told = json(&[&reading()[..], &["--json"]].concat());
    for key in [
        "share_of_read_bandwidth",
        "prefill_tokens_per_second",
        "bytes_read_per_token",
    ] {
        assert!(
            told[key].as_f64().unwrap() > 0.0,
            "{key} of {:?}",
            keys(&told)
        );
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let train = ["bench", "train", "--model", model()];
    wrong(
        &[&train[..], &["--cols", "100000"]].concat(),
        &["100000 tokens", "give at least one row"],
    );
    wrong(
        &[&train[..], &["--cols", "8", "--supervised", "9"]].concat(),
        &["9 supervised"],
    );
    wrong(&[&train[..], &["--lora-rank", "0"]].concat(), &["rank"]);
    wrong(
        &["bench", "generate", model(), "--tokens", "100000"],
        &["a prompt of 512 tokens"],
    );
    // Rows are a model's: a preset has its own.
    assert_eq!(run(&["bench", "train", "--rows", "3"]).status, 2);
}
