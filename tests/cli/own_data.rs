//! `etude eval` and data of the user's own: which examples are asked, what is left out, how a text is read, and
//! what is never written over.

use std::collections::BTreeSet;
use std::fs;

use crate::support::{corpus, good, json, model, run, scratch, text, write, wrong};

fn lines(count: usize) -> String {
    (0..count)
        .map(|n| format!("{{\"prompt\": \"Say {n}.\", \"completion\": \"A rose {n}.\"}}\n"))
        .collect()
}

/// A run that made one step on `examples`, read and split as `local` says.
fn learnt(name: &str, examples: &str, local: &str) -> String {
    let recipe = write(
        &format!("own-data/{name}.toml"),
        format!(
            "[base]\npath = \"{}\"\n[task]\nsource = \"{examples}\"\nlocal = {{ {local} }}\n\
             [train]\nsteps = 1\nbatch_rows = 2\nthreads = 1\ndevice = \"cpu\"\n[eval]\nexamples = 2\nsamples = 1\n",
            model()
        ),
    );
    let folder = scratch(&format!("own-data/{name}"));
    good(&["finetune", &recipe, "--run", text(&folder), "--quiet"]);
    text(&folder).to_owned()
}

/// The prompts that a run is asked of a file, and what is said meanwhile.
fn asked(folder: &str, file: &str) -> (BTreeSet<String>, String) {
    let predictions = scratch("own-data/asked.jsonl");
    let done = run(&[
        "eval",
        folder,
        "--task",
        file,
        "--metric",
        "bits_per_byte",
        "--predictions",
        text(&predictions),
    ]);
    assert_eq!(done.status, 0, "{}", done.err);
    let items = fs::read_to_string(predictions).unwrap();
    let prompt = |line: &str| {
        let item: serde_json::Value = serde_json::from_str(line).unwrap();
        item["prompt"].as_str().unwrap().to_owned()
    };
    (items.lines().map(prompt).collect(), done.err)
}

#[test]
fn a_copy_of_the_training_file_is_split_as_the_run_did() {
    let examples = write("own-data/examples.jsonl", lines(100));
    let folder = learnt("third", &examples, "validation = 10, test = 30");
    let (held_out, told) = asked(&folder, &examples);
    assert!(held_out.len() > 20 && !told.contains("note:"), "{told}");
    for copy in ["own-data/elsewhere/examples.jsonl", "own-data/copy.jsonl"] {
        let (prompts, told) = asked(&folder, &write(copy, lines(100)));
        assert_eq!(prompts, held_out, "{copy}");
        assert!(!told.contains("note:"), "{told}");
    }
    let (_, told) = asked(&folder, &write("own-data/longer.jsonl", lines(101)));
    assert!(told.contains("is read and split by the defaults"), "{told}");

    // Two runs of one file that were split otherwise.
    let other = learnt("few", &examples, "validation = 10, test = 5");
    let both = [
        "eval",
        &folder,
        "--task",
        &examples,
        "--metric",
        "bits_per_byte",
        "--against",
        &other,
    ];
    let table = good(&both);
    let reason = "that both were asked: the two runs have different test examples";
    assert!(
        table.contains(reason) && !table.contains("fit both"),
        "{table}"
    );
    let told = json(&[&both[..], &["--json"]].concat());
    assert!(told["against"]["n"].as_u64() < told["n"].as_u64(), "{told}");
}

#[test]
fn records_without_text_are_counted() {
    let empty =
        "{\"prompt\": \"\", \"completion\": \"c\"}\n{\"prompt\": \"p\", \"completion\": \" \"}\n";
    let file = write("own-data/empty.jsonl", lines(3) + empty);
    let predictions = scratch("own-data/empty-answers.jsonl");
    let base = ["eval", model(), "--task", &file, "--data", &file];
    let more = [
        "--metric",
        "bits_per_byte",
        "--predictions",
        text(&predictions),
    ];
    let told = json(&[&base[..], &more[..], &["--json"]].concat());
    let reasons = serde_json::json!({"empty completion": 1, "empty prompt": 1});
    assert_eq!((&told["n"], &told["left_out"]), (&3.into(), &reasons));
    let table = good(&[&base[..], &more[..]].concat());
    assert!(table.contains("left out: 1 (empty prompt)"), "{table}");
    // What nobody was asked does not keep the two models apart.
    let table = good(&[&base[..], &more[..], &["--against", model()]].concat());
    assert!(!table.contains("fit both"), "{table}");

    let none = write("own-data/none.jsonl", empty);
    wrong(
        &["eval", model(), "--task", &none, "--data", &none],
        &["none.jsonl", "nothing is left of it"],
    );
}

#[test]
fn a_text_is_read_as_training_reads_it() {
    let plain = corpus()[..2000].to_owned();
    let bits = |name: &str, contents: String| {
        let file = write(name, contents);
        json(&["eval", model(), "--text", &file, "--json"])
    };
    let expected = bits("own-data/plain.txt", plain.clone());
    let windows = format!("\u{feff}{}", plain.replace('\n', "\r\n"));
    assert_eq!(bits("own-data/windows.txt", windows), expected);
}

#[test]
fn what_a_command_reads_is_never_written_over() {
    let contents = lines(20);
    let file = write("own-data/kept.jsonl", &contents);
    // The same file by another way.
    let folder = scratch("own-data");
    let roundabout = format!("{}/../own-data/kept.jsonl", text(&folder));
    let manifest = write(
        "own-data/kept.toml",
        "name = \"kept\"\ntitle = \"Kept\"\ndescription = \"A test.\"\nkind = \"task\"\nlicence = \"MIT\"\n\
         [source]\npath = \"kept.jsonl\"\n[read]\nformat = \"jsonl\"\n[map]\nprompt = \"{prompt}\"\n\
         completion = \"{completion}\"\n[split]\nsalt = \"s\"\nvalidation = 10\ntest = 30\n",
    );
    for task in [&file, &manifest] {
        wrong(
            &[
                "eval",
                model(),
                "--task",
                task,
                "--predictions",
                &roundabout,
            ],
            &["kept.jsonl: is what this command reads", "--predictions"],
        );
    }
    let data = ["eval", model(), "--task", "wiki-leads", "--data", &file];
    wrong(
        &[&data[..], &["--predictions", &file]].concat(),
        &["is what this command reads"],
    );
    let recipe = write(
        "own-data/pages.toml",
        format!(
            "[base]\npath = \"{}\"\n[task]\nsource = \"{file}\"\n[train]\nsteps = 1\n",
            model()
        ),
    );
    wrong(
        &["data", "inspect", &recipe, "--html", &file],
        &["kept.jsonl: is there and no HTML page", "--html"],
    );
    write(
        "own-data/reported/metrics.jsonl",
        "{\"kind\":\"train\",\"step\":1,\"loss\":3.5,\"lr\":0.001,\"tokens\":10,\"seconds\":2.0}\n",
    );
    let reported = scratch("own-data/reported");
    wrong(
        &["report", text(&reported), "--out", &file],
        &["kept.jsonl: is there and no HTML page", "--out"],
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), contents);
    // A page is replaced, and so is a file with nothing in it.
    let page = write("own-data/page.html", "");
    for _ in 0..2 {
        good(&["report", text(&reported), "--out", &page]);
    }
}
