//! What `etude replay` refuses, and the remedy that it names.

use std::fs;

use super::pretrained;
use crate::support::{good, model, scratch, text, wrong};

#[test]
fn what_cannot_be_replayed_is_refused_with_the_remedy() {
    let folder = pretrained("refused");
    let run_folder = text(&folder);
    let replay = |more: &[&str], expected: &[&str]| {
        wrong(
            &[&["replay", run_folder, "--quiet"], more].concat(),
            expected,
        );
    };
    replay(&["--step", "7"], &["no step 7", "give --step 1 to 6"]);
    replay(&["--step", "0"], &["--step"]);
    replay(
        &["--step", "2", "--without", "5"],
        &["--without 5", "4 examples", "1 to 4"],
    );
    replay(
        &["--step", "2", "--example", "5"],
        &["--example 5", "1 to 4"],
    );
    replay(
        &["--step", "2", "--set", "train.steps=9"],
        &["train.steps", "train.micro_rows"],
    );
    replay(
        &["--step", "2", "--set", "train.stepps=9"],
        &["did you mean `steps`"],
    );
    replay(
        &["--step", "2", "--set", "train.log_every=1000"],
        &["train.log_every=1000", "train.micro_rows"],
    );
    let recipe = folder.join("recipe.toml");
    let saved = fs::read_to_string(&recipe).unwrap();
    for [was, is] in [
        ["n_embd = 16", "n_embd = 32"],
        ["n_layer = 2", "n_layer = 1"],
        ["n_layer = 2", "n_layer = 3"],
    ] {
        assert!(saved.contains(was), "{saved}");
        fs::write(&recipe, saved.replace(was, is)).unwrap();
        replay(
            &["--step", "6"],
            &["step-00000004", "another model than [model]", "recipe"],
        );
    }
    fs::write(&recipe, saved).unwrap();
    replay(&[], &["--step"]);
    wrong(
        &["replay", "no-such-run", "--step", "1"],
        &["no-such-run", "no such run folder"],
    );
    wrong(
        &["replay", text(&scratch("replay")), "--step", "1"],
        &["no recipe.toml", "give one of the runs in it", run_folder],
    );
    wrong(
        &["replay", model(), "--step", "1"],
        &["is no run folder", "etude pretrain"],
    );

    // A damaged checkpoint is passed over, and said.
    let weights = folder.join("checkpoints/step-00000004/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let half = bytes.len() / 2;
    bytes[half] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let page = good(&["replay", run_folder, "--step", "6", "--quiet"]);
    for words in [
        "passed over",
        "step-00000004/model.safetensors",
        "from the beginning",
        "Reproduced",
    ] {
        assert!(page.contains(words), "no `{words}` in: {page}");
    }
    let log = folder.join("metrics.jsonl");
    let honest = fs::read(&log).unwrap();
    fs::write(&log, [b"{\"kind\": \"tr\n", &honest[..]].concat()).unwrap();
    let page = good(&["replay", run_folder, "--step", "6", "--quiet"]);
    assert!(
        page.contains("metrics.jsonl: has a line that cannot be read"),
        "{page}"
    );

    // Data of another text, and data that is gone.
    let corpus = scratch("replay/refused.txt");
    let text = fs::read_to_string(&corpus).unwrap();
    fs::write(&corpus, text.replacen("fox", "fix", 1)).unwrap();
    replay(
        &["--step", "2"],
        &[
            "the data has changed",
            "refused",
            "sha256",
            "bring the old data back",
        ],
    );
    fs::remove_file(&corpus).unwrap();
    replay(&["--step", "2"], &["refused.txt"]);
    fs::remove_file(&log).unwrap();
    fs::write(&corpus, text).unwrap();
    replay(&["--step", "2"], &["metrics.jsonl"]);
    fs::write(folder.join("recipe.toml"), "[train\n").unwrap();
    replay(&["--step", "2"], &["recipe.toml:1"]);
}
