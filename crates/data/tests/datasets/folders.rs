//! Folders of the user's own, with and without names for the splits.

use etude_data::{Clean, LocalOptions, Split};

use super::{Home, examples, texts};

fn pairs(name: &str, n: usize) -> String {
    (0..n)
        .map(|i| format!("{{\"prompt\": \"{name}{i}\", \"completion\": \"c\"}}\n"))
        .collect()
}

#[test]
fn training_files_give_what_no_file_is_named_for() {
    let home = Home::new();
    home.write("d/train.jsonl", pairs("train", 200));
    home.write("d/test.jsonl", pairs("test", 7));
    let options = LocalOptions {
        validation: Some(20),
        ..LocalOptions::default()
    };
    let dataset = home.open("d", &options).unwrap();
    let of = |split| examples(&dataset, &[split]);
    let held_out = of(Split::Validation);
    assert!((20..60).contains(&held_out.len()), "{}", held_out.len());
    assert_eq!(of(Split::Train).len() + held_out.len(), 200);
    assert!(
        held_out
            .iter()
            .all(|one| one.prompt_text().starts_with("train"))
    );
    let test = of(Split::Test);
    assert!(test.len() == 7 && test.iter().all(|one| one.prompt_text().starts_with("test")));

    // A text is a document, and is not shared out.
    home.write("t/train.txt", "a\n");
    home.write("t/test.txt", "b\n");
    let options = LocalOptions {
        test: Some(50),
        ..options
    };
    let dataset = home.open("t", &options).unwrap();
    let counts = Split::ALL.map(|split| texts(&dataset, split).len());
    assert_eq!(counts, [1, 0, 1]);
}

#[test]
fn only_whole_words_name_splits() {
    let home = Home::new();
    for name in ["train.txt", "testimony.txt", "development.txt"] {
        home.write(&format!("docs/{name}"), format!("{name} says something\n"));
    }
    let options = LocalOptions {
        validation: Some(0),
        ..LocalOptions::default()
    };
    let dataset = home.open("docs", &options).unwrap();
    assert_eq!(texts(&dataset, Split::Train).len(), 3);
}

#[test]
fn a_folder_of_files_without_endings_is_read() {
    let home = Home::new();
    let options = LocalOptions {
        validation: Some(0),
        ..LocalOptions::default()
    };
    home.write("news/1", "one\n");
    home.write("news/deeper/2", "two\n");
    let dataset = home.open("news", &options).unwrap();
    assert_eq!(texts(&dataset, Split::Train).len(), 2);
    // Beside files with one, they are no data.
    home.write("text/a.txt", "one\n");
    home.write("text/README", "about it\n");
    let dataset = home.open("text", &options).unwrap();
    assert_eq!(texts(&dataset, Split::Train), ["one\n"]);
}

#[test]
fn line_ends_are_mended_beside_other_steps() {
    let home = Home::new();
    home.write("a.txt", "\u{feff}one\r\ntwo\r\n");
    let options = LocalOptions {
        validation: Some(0),
        clean: vec![Clean::Spaces],
        ..LocalOptions::default()
    };
    let dataset = home.open("a.txt", &options).unwrap();
    assert_eq!(texts(&dataset, Split::Train).concat().trim(), "one\ntwo");
}

#[test]
fn a_copy_of_a_file_is_known_by_its_fingerprint() {
    let home = Home::new();
    home.write("a.jsonl", pairs("a", 30));
    home.write("elsewhere/a.jsonl", pairs("a", 30));
    home.write("copy.jsonl", pairs("a", 30));
    home.write("other.jsonl", pairs("b", 30));
    let tenth = LocalOptions {
        validation: Some(10),
        ..LocalOptions::default()
    };
    let open = |name: &str, options: &LocalOptions| home.open(name, options).unwrap();
    let fingerprint = open("a.jsonl", &tenth).fingerprint().unwrap();
    let is_same = |name: &str, options: &LocalOptions| {
        open(name, options)
            .is_same(&fingerprint, "a.jsonl")
            .unwrap()
    };
    assert!(is_same("elsewhere/a.jsonl", &tenth) && is_same("copy.jsonl", &tenth));
    assert!(!is_same("other.jsonl", &tenth));
    assert!(
        !is_same("a.jsonl", &LocalOptions::default()),
        "split otherwise"
    );
}

#[test]
fn what_is_left_out_of_all_splits_is_counted() {
    let home = Home::new();
    let empty =
        "{\"prompt\": \"\", \"completion\": \"c\"}\n{\"prompt\": \"p\", \"completion\": \" \"}\n";
    home.write("own.jsonl", pairs("a", 3) + empty);
    let dropped = |name: &str| {
        home.open(name, &LocalOptions::default())
            .and_then(|dataset| dataset.dropped())
    };
    let found: Vec<(String, u64)> = dropped("own.jsonl").unwrap().into_iter().collect();
    let expected = ["empty completion", "empty prompt"].map(|reason| (reason.to_owned(), 1));
    assert_eq!(found, expected);
    home.write("none.jsonl", empty);
    let error = dropped("none.jsonl").unwrap_err().to_string();
    assert!(error.contains("nothing is left of it"), "{error}");
}
