//! What is told of documents that are there twice, or nearly, before anybody learns from them.

use std::fs;
use std::path::Path;
use std::time::Instant;

use etude_data::ledger::{Asked, Finding};
use etude_data::{Cache, Catalog, Split};
use etude_train::interrupt::Interrupt;
use etude_train::{RecipeText, RunContext};
use serde_json::json;

/// A document of some sixty words that no other one has.
fn document(number: usize) -> String {
    (0..60)
        .map(|word| format!("{}{} ", ["la", "mo", "ri"][word % 3], number * 1000 + word))
        .collect()
}

fn warnings(root: &Path, documents: &[String]) -> Vec<Finding> {
    let file = root.join("texts.jsonl");
    let lines = documents
        .iter()
        .map(|text| json!({ "text": text }).to_string() + "\n");
    fs::write(&file, lines.collect::<String>()).expect("writes");
    warnings_of(root, &format!("{file:?}"))
}

/// The warnings about `sources`, as they stand in a recipe's list.
fn warnings_of(root: &Path, sources: &str) -> Vec<Finding> {
    let text = format!(
        "[data]\nsources = [{sources}]\nlocal = {{ validation = 30 }}\n[tokenizer]\nvocab_size = 280\n\
         [model]\nn_layer = 1\nn_head = 2\nn_embd = 16\ncontext = 32\n[optimizer]\nkind = \"muon\"\n\
         [train]\nsteps = 1\nbatch_rows = 4\ndevice = \"cpu\"\n[eval]\nsample_tokens = 8\n"
    );
    let source = RecipeText {
        name: "tiny".to_owned(),
        origin: "tiny.toml".into(),
        text,
    };
    let context = RunContext {
        folder: root.join("unused"),
        catalog: Catalog::load(&[] as &[&Path]).expect("the shipped manifests"),
        cache: Cache::at(root.join("cache")),
        progress: false,
        interrupt: Interrupt::default(),
        started: Instant::now(),
    };
    let asked = Asked {
        split: Split::Train,
        first: 0,
        example: None,
        batch: None,
        seen: None,
    };
    let recipe = source.parse(&[]).expect("parses");
    let found = etude_pretrain::inspect(&recipe, &context, &asked).expect("inspects");
    assert_eq!(found.ledger.rests, [], "the books balance all the same");
    found.ledger.warnings
}

fn counts(found: &[Finding]) -> Vec<(&str, u64)> {
    let each = found.iter();
    each.map(|one| (one.kind.as_str(), one.count)).collect()
}

#[test]
fn documents_that_are_there_twice_or_nearly_are_told() {
    let root = tempfile::tempdir().expect("a folder");
    let good: Vec<String> = (0..80).map(document).collect();
    assert_eq!(warnings(root.path(), &good), []);

    // To the letter. Equal texts fall into one split, and within the held-out one they do no harm.
    let mut twice = good.clone();
    twice.extend_from_slice(&good[..40]);
    let found = warnings(root.path(), &twice);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].kind, "duplicate");
    assert!((20..40).contains(&found[0].count), "{found:?}");
    assert!(found[0].places[0].contains("texts.jsonl:8"), "{found:?}");

    // Some words more. Which of a pair is held out falls as it falls.
    let mut nearly = good.clone();
    nearly.extend(good.iter().map(|text| format!("A title. {text}")));
    let found = warnings(root.path(), &nearly);
    let [("near-duplicate", within), ("near-overlap", across)] = counts(&found)[..] else {
        panic!("{found:?}")
    };
    assert!(
        within > 20 && across > 15 && within + across < 80,
        "{found:?}"
    );
    assert!(found[0].places[0].contains(" and "), "{found:?}");
    assert!(
        found[1].text.contains("validation loss is too low"),
        "{found:?}"
    );

    // Half of the words are others: another document.
    let mut other = good.clone();
    other.extend((0..80).map(|n| good[n][..good[n].len() / 2].to_owned() + &document(n + 500)));
    assert_eq!(warnings(root.path(), &other), []);
}

#[test]
fn a_file_inside_another_source_is_told() {
    let root = tempfile::tempdir().expect("a folder");
    let corpus = root.path().join("corpus");
    fs::create_dir_all(&corpus).expect("a folder");
    for (name, number) in [("a.txt", 1), ("b.txt", 2), ("c.txt", 3)] {
        fs::write(corpus.join(name), document(number)).expect("writes");
    }
    let lines = |from| (from..from + 9).map(|n| json!({ "text": document(n) }).to_string() + "\n");
    fs::create_dir_all(root.path().join("records")).expect("a folder");
    for (name, from) in [("a.jsonl", 10), ("b.jsonl", 30)] {
        let text: String = lines(from).collect();
        fs::write(root.path().join("records").join(name), text).expect("writes");
    }
    let of = |names: [&str; 2]| {
        let paths = names.map(|name| format!("{:?}", root.path().join(name)));
        warnings_of(root.path(), &paths.join(", "))
    };
    let found = of(["corpus", "corpus/c.txt"]);
    assert_eq!(counts(&found), [("overlap", 1)]);
    assert!(
        found[0].text.contains("belongs to both corpus and c")
            && found[0].places[0].ends_with("c.txt"),
        "{found:?}"
    );
    assert_eq!(of(["corpus/a.txt", "corpus/c.txt"]), []);
    // The same records are held out of both.
    assert_eq!(of(["records", "records/b.jsonl"]), []);
}
