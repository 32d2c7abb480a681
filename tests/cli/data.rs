//! Data sets: the list, and data of the user's own.

use crate::support::{good, json, keys, scratch, text, write, wrong};

const MANIFEST: &str = "name = \"mine\"\ntitle = \"Mine\"\ndescription = \"A test.\"\nkind = \"text\"\n\
                        licence = \"MIT\"\n[source]\npath = \"mine.txt\"\n";

#[test]
fn the_list_is_complete_and_filtered_by_kind() {
    let all = json(&["data", "list", "--json"]);
    assert_eq!(keys(&all), ["datasets"]);
    let sets = all["datasets"].as_array().unwrap();
    assert!(sets.len() >= 10);
    assert_eq!(
        keys(&sets[0]),
        [
            "cached",
            "counts",
            "description",
            "kind",
            "licence",
            "name",
            "needs_debian",
            "origin",
            "title"
        ]
    );
    let tasks = json(&["data", "list", "--kind", "task", "--json"]);
    let tasks = tasks["datasets"].as_array().unwrap();
    assert!(tasks.len() < sets.len() && tasks.iter().all(|set| set["kind"] == "task"));
    let table = good(&["data", "list"]);
    for set in sets {
        assert!(table.contains(set["name"].as_str().unwrap()), "{table}");
    }
}

#[test]
fn a_jsonl_of_the_users_own_is_shown_as_it_is_read() {
    let lines: String = (0..40)
        .map(|index| {
            format!(
                "{{\"prompt\": \"What is {index}?\", \"completion\": \"A number, {index}.\"}}\n"
            )
        })
        .collect();
    let path = write("own.jsonl", lines);
    let summary = json(&["data", "show", &path, "--samples", "2", "--json"]);
    assert_eq!(summary["kind"], "task");
    let scan = &summary["scan"];
    let count = |split: &str| scan[split]["documents"].as_u64().unwrap();
    assert_eq!(count("train") + count("validation") + count("test"), 40);
    let sample = summary["sample"][0].as_array().unwrap();
    assert!(
        sample[0].as_str().unwrap().starts_with("What is "),
        "{sample:?}"
    );
    assert!(good(&["data", "show", &path]).contains("> What is "));
}

#[test]
fn manifests_of_the_users_own_are_known_by_name() {
    let folder = scratch("manifests");
    write("manifests/mine.toml", MANIFEST);
    write("manifests/mine.txt", "One text.\n".repeat(20));
    let folder = text(&folder);
    let fetched = json(&["data", "fetch", "mine", "--datasets", folder, "--json"]);
    assert_eq!(fetched["datasets"][0]["name"], "mine");
    assert_eq!(fetched["datasets"][0]["files"], 1);
    assert!(good(&["data", "list", "--datasets", folder]).contains("mine"));
    wrong(&["data", "fetch", "mine"], &["`mine`"]);
}

#[test]
fn what_is_wrong_with_data_is_told_with_file_and_line() {
    wrong(
        &["data", "show", "wiki-lead"],
        &["`wiki-lead`", "did you mean `wiki-leads`"],
    );
    wrong(
        &[
            "data",
            "fetch",
            "shakespeare-bytes",
            "nothing-like-this-at-all",
        ],
        &["nothing-like-this-at-all"],
    );
    let path = write("broken.jsonl", "{\"text\": \"fine\"}\n{\"text\": \n");
    wrong(&["data", "show", &path], &["broken.jsonl:2"]);
    let path = write("latin1.txt", b"caf\xe9\n");
    wrong(&["data", "show", &path], &["latin1.txt", "UTF-8"]);
    write(
        "bad-manifests/x.toml",
        MANIFEST.replace("licence", "license"),
    );
    write(
        "short-manifests/x.toml",
        MANIFEST.replace("licence = \"MIT\"\n", ""),
    );
    wrong(
        &[
            "data",
            "list",
            "--datasets",
            text(&scratch("short-manifests")),
        ],
        &[
            "missing field `licence`",
            "add `licence`",
            "above the first table",
        ],
    );
    let folder = scratch("bad-manifests");
    wrong(
        &["data", "list", "--datasets", text(&folder)],
        &["x.toml:5", "did you mean `licence`"],
    );
}
