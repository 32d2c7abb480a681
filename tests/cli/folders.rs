//! `--run` on a folder that is a user's own: it is refused, and everything in it stays as it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::stages::pretraining;
use crate::support::{check_wrong, corpus, good, json, run_in, scratch, text, write, wrong};
use crate::transfer::experiment;

/// Every file below a folder, with what it holds.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => files.extend(contents(&path)),
            path => drop(files.insert(path.clone(), fs::read(path).unwrap())),
        }
    }
    files
}

/// Asserts that a command refuses `folder`, after `--run`, and leaves it and `place`, in which it runs, alone.
#[track_caller]
fn refuses(place: &Path, command: &[&str], folder: &str) {
    let before = contents(place);
    let all = [command, &["--run", folder, "--quiet"]].concat();
    let done = run_in(place, &all, b"");
    check_wrong(&done, &all, &["is there already", "choose another --run"]);
    assert_eq!(contents(place), before, "{all:?}");
}

#[test]
fn folders_of_a_user_are_refused_and_left_alone() {
    let (finetune, transfer) = experiment("folders/project", "[1.0]");
    let place = scratch("folders/project");
    for file in ["data.json", "samples.jsonl", "model/config.json"] {
        write(&format!("folders/project/mine/{file}"), "{\"mine\": 1}\n");
    }
    let pretrain = text(&place.join("pretrain.toml")).to_owned();
    for folder in [".", "mine", "mine/model"] {
        refuses(&place, &["pretrain", &pretrain], folder);
        refuses(&place, &["finetune", &finetune], folder);
        refuses(&place, &["transfer", &transfer], folder);
        refuses(&place, &["plan", &pretrain], folder);
        refuses(&place, &["quickstart"], folder);
    }
    // Where the recipe would have it, the base model is not made into a user's folder either.
    let base = format!("base.path={}", text(&place.join("mine")));
    fs::remove_file(place.join("mine/model/config.json")).unwrap();
    let new = text(&place.join("new")).to_owned();
    let set = ["finetune", &finetune, "--set", &base, "--run", &new];
    wrong(&set, &["mine: is there already"]);
    assert_eq!(contents(&place.join("mine")).len(), 2);
}

#[test]
fn folders_of_another_command_are_refused() {
    let corpus = write("folders/corpus.txt", corpus());
    let recipe = write("folders/base.toml", pretraining(&corpus));
    let place = scratch("folders");
    let run = text(&scratch("folders/run")).to_owned();
    good(&["pretrain", &recipe, "--run", &run, "--quiet"]);
    let (_, transfer) = experiment("folders/other", "[1.0]");
    refuses(&place, &["transfer", &transfer], "run");
    refuses(&place, &["quickstart"], "run");
    refuses(&place, &["pretrain", &recipe], "run/model");
    refuses(&place, &["pretrain", &recipe], "run/checkpoints");
}

#[test]
fn only_a_quickstart_gives_way_to_a_quickstart() {
    // One that is finished, and in the way of setting it aside something of the user's.
    let folder = text(&scratch("quick/mine")).to_owned();
    for (file, contents) in [
        ("mine/.quickstart", ""),
        ("mine/summary.json", "{}"),
        ("mine.previous/thesis.txt", "years of work"),
    ] {
        write(&format!("quick/{file}"), contents);
    }
    let before = contents(&scratch("quick"));
    let remedy = "move one of them elsewhere";
    wrong(
        &["quickstart", "--run", &folder],
        &["mine.previous: is no", remedy],
    );
    assert_eq!(contents(&scratch("quick")), before);
    let here = ["quickstart", "--run", "."];
    let done = run_in(&scratch("quick/mine"), &here, b"");
    check_wrong(&done, &here, &["give --run the folder's name"]);
    assert_eq!(contents(&scratch("quick")), before);
}

#[test]
fn a_run_goes_on_from_whatever_it_left() {
    let corpus = write("left/corpus.txt", corpus());
    let recipe = write("left/base.toml", pretraining(&corpus));
    let start = |name: &str, files: &[&str]| {
        let folder = scratch(&format!("left/{name}"));
        fs::create_dir_all(&folder).unwrap();
        for file in files {
            write(&format!("left/{name}/{file}"), "");
        }
        let run = text(&folder).to_owned();
        let told = json(&["pretrain", &recipe, "--run", &run, "--json", "--quiet"]);
        assert_eq!(told["steps"], 4, "{name}");
        folder
    };
    start("empty", &[]);
    // A log that the shell has made, and whatever it said before.
    write("left/logged/train.log", "waiting\n");
    start("logged", &["more.txt"]);
    // What a crash right at the start leaves.
    start("locked", &[".lock"]);
    let whole = start("beginning", &[".lock", ".tmp-a1b2c3"]);

    // A copy without hidden files, and a run that was only planned before planned folders were marked.
    fs::remove_file(whole.join(".lock")).unwrap();
    start("beginning", &[]);
    let planned = scratch("left/planned");
    fs::create_dir_all(&planned).unwrap();
    fs::copy(whole.join("forecast.json"), planned.join("forecast.json")).unwrap();
    start("planned", &[]);

    // Without its recipe nobody knows whether it is this one that it is a run of.
    let kept = fs::read(whole.join("recipe.toml")).unwrap();
    fs::remove_file(whole.join("recipe.toml")).unwrap();
    let run = text(&whole).to_owned();
    let again = ["pretrain", &recipe, "--run", &run, "--quiet"];
    let more = [&again[..], &["--set", "optimizer.lr=0.5"]].concat();
    for words in [&again[..], &more] {
        wrong(words, &["recipe.toml: is missing", "bring it back"]);
        assert!(!whole.join("recipe.toml").exists());
    }
    fs::write(whole.join("recipe.toml"), kept).unwrap();
    good(&again);
}
