//! `etude verify-resume` on tiny recipes of both stages, and what it refuses.

use std::fs;

use crate::support::{corpus, good, json, model, run, scratch, signalled, text, write, wrong};

fn pretraining(name: &str, steps: u64) -> String {
    let corpus = write(&format!("verify-resume/{name}.txt"), corpus());
    write(
        &format!("verify-resume/{name}.toml"),
        format!(
            "[data]\nsources = [\"{corpus}\"]\n[tokenizer]\nvocab_size = 300\n\
             [model]\nn_layer = 1\nn_head = 2\nn_embd = 16\ncontext = 32\n\
             [train]\nsteps = {steps}\nbatch_rows = 2\nthreads = 1\ndevice = \"cpu\"\neval_every = 4\n\
             [eval]\nsample_tokens = 4\nprompts = [\"A rose\"]\n"
        ),
    )
}

#[test]
fn killed_runs_of_both_stages_are_equal_to_those_left_alone() {
    let folder = scratch("verify-resume/pretrain");
    let recipe = pretraining("base", 10);
    let arguments = ["--run", text(&folder), "--kills", "4", "--quiet", "--json"];
    let proof = json(&[&["verify-resume", &recipe], &arguments[..]].concat());
    assert_eq!(proof["equal"], true, "{proof}");
    assert_eq!(proof["kills"]["total"], 4, "{proof}");
    assert_eq!(
        proof["compared"]["losses"], 10,
        "every step is logged: {proof}"
    );
    assert_eq!(proof["compared"]["checkpoints"], 2, "{proof}");
    let kept = fs::read(folder.join("proof.json")).unwrap();
    let kept: serde_json::Value = serde_json::from_slice(&kept).unwrap();
    assert_eq!(kept, proof);
    assert!(folder.join("uninterrupted/model").is_dir() && !folder.join("killed").exists());

    let lines: String = (0..60)
        .map(|n| format!("{{\"prompt\": \"Say {n}.\", \"completion\": \"A rose {n}.\"}}\n"))
        .collect();
    let examples = write("verify-resume/examples.jsonl", lines);
    let task = write(
        "verify-resume/task.toml",
        format!(
            "[base]\npath = \"{}\"\nmethod = \"lora\"\n[lora]\nrank = 2\n[task]\nsource = \"{examples}\"\n\
             [train]\nsteps = 4\nbatch_rows = 2\nthreads = 1\ndevice = \"cpu\"\n[eval]\nexamples = 2\nsamples = 1\n",
            model()
        ),
    );
    let folder = scratch("verify-resume/finetune");
    let told = good(&[
        "verify-resume",
        &task,
        "--run",
        text(&folder),
        "--kills",
        "2",
        "--quiet",
    ]);
    for expected in [
        "2 times with SIGKILL",
        "optimizer states",
        "bit for bit",
        "Equal. After every kill",
    ] {
        assert!(told.contains(expected), "no `{expected}` in: {told}");
    }
}

#[test]
fn what_cannot_be_tried_is_refused_with_the_reason() {
    let folder = scratch("verify-resume/refused");
    let recipe = pretraining("gone", 4);
    fs::remove_file(scratch("verify-resume/gone.txt")).unwrap();
    let arguments = ["verify-resume", &recipe, "--run", text(&folder), "--quiet"];
    wrong(&arguments, &["gone.txt"]);
    wrong(
        &["verify-resume", &recipe, "--kills", "0"],
        &["--kills", "0"],
    );
    wrong(&["verify-resume", "transfer-lesson"], &["makes many runs"]);
    let mine = scratch("verify-resume/mine");
    fs::create_dir_all(&mine).unwrap();
    fs::write(mine.join("thesis.txt"), "years of work").unwrap();
    let recipe = pretraining("mine", 4);
    wrong(
        &["verify-resume", &recipe, "--run", text(&mine), "--quiet"],
        &["is there already", "choose another --run"],
    );
    assert!(mine.join("thesis.txt").is_file());
}

#[test]
fn ctrl_c_ends_it_and_leaves_no_process_behind() {
    let recipe = pretraining("stopped", 1_000_000);
    let folder = scratch("verify-resume/stopped");
    let begun = folder.join("uninterrupted/metrics.jsonl");
    let arguments = ["verify-resume", &recipe, "--run", text(&folder), "--quiet"];
    let status = signalled(&arguments, || begun.exists(), "-INT");
    assert_eq!(status, Some(130));
    // The lock of a run is held as long as a process works in it.
    let again = run(&[
        "pretrain",
        text(&folder.join("recipe.toml")),
        "--set",
        "train.steps=1000001",
        "--run",
        text(&folder.join("uninterrupted")),
        "--quiet",
    ]);
    assert!(
        again.err.contains("another recipe"),
        "nobody works there: {}",
        again.err
    );
}
