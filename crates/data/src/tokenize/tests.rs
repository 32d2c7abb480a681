//! Tokenizing into the cache: order, separators, counts, finding shards again, two at once, errors.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::anyhow;
use etude_tokenizer::TrainSettings;

use super::*;
use crate::shard::ShardDocument;
use crate::stream::TokenStream;
use crate::task::SourceRef;
use crate::windows::{Boundaries, ValidationSettings, ValidationWindows};

fn tokenizer() -> Tokenizer {
    let settings = TrainSettings {
        vocab_size: 300,
        ..TrainSettings::default()
    };
    let documents = (0..20).map(|_| "the sea and the old man and the naïve 🌊".to_string());
    Tokenizer::train(documents, &settings)
        .expect("a small tokenizer")
        .0
}

fn documents(texts: &[&str]) -> Vec<Document> {
    let document = |(i, text): (usize, &&str)| Document {
        key: i.to_string(),
        text: text.to_string(),
        source: SourceRef {
            file: "text.txt".into(),
            line: i as u64 + 1,
        },
    };
    texts.iter().enumerate().map(document).collect()
}

fn settings(folder: &Path) -> TokenizeSettings {
    TokenizeSettings {
        cache: folder.join("cache"),
        name: "a/b train".into(),
        separator: 0,
    }
}

fn run(folder: &Path, documents: &[Document]) -> Result<Tokenized> {
    tokenize(
        &tokenizer(),
        || Ok(documents.iter().map(Ok::<_, Infallible>)),
        &settings(folder),
        &mut |_| {},
    )
}

#[test]
fn keeps_texts_order_and_counts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let texts = ["the sea", "", "and the naïve 🌊 <|endoftext|>", "x"];
    let mut last = TokenizeProgress::default();
    let documents = documents(&texts);
    let made = tokenize(
        &tokenizer(),
        || Ok(documents.iter().map(Ok::<_, Infallible>)),
        &settings(folder.path()),
        &mut |now| last = now,
    )
    .expect("a shard");
    assert_eq!(
        (made.empty, made.cached, made.shard.documents()),
        (1, false, 3)
    );
    let full: Vec<&str> = texts.into_iter().filter(|text| !text.is_empty()).collect();
    assert_eq!(made.shard.text_bytes(), full.concat().len() as u64);
    for (index, text) in full.iter().enumerate() {
        let ShardDocument { tokens, text_bytes } = made.shard.document(index as u64);
        let mut ids = vec![];
        made.shard.read(tokens, &mut ids);
        assert_eq!(ids.pop(), Some(0), "the separator ends each document");
        assert!(!ids.contains(&0), "and stands nowhere else");
        assert_eq!(tokenizer().decode(&ids, false).expect("its own ids"), *text);
        assert_eq!(text_bytes, text.len() as u64);
    }
    assert_eq!(
        (last.documents, last.bytes, last.tokens),
        (3, made.shard.text_bytes(), made.shard.tokens())
    );
}

#[test]
fn finds_its_shard_again_and_tells_other_texts_apart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = run(folder.path(), &documents(&["the sea", "the man"])).expect("a shard");
    let again = run(folder.path(), &documents(&["the sea", "the man"])).expect("the same shard");
    assert!(!first.cached && again.cached);
    assert_eq!(first.shard.path(), again.shard.path());
    // The same characters, differently divided, are another text.
    let other = run(folder.path(), &documents(&["the sea the", " man"])).expect("another shard");
    assert!(!other.cached);
    assert_ne!(first.shard.path(), other.shard.path());
}

#[test]
fn several_at_once_make_one_shard() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let made = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let tokenized =
                    run(folder.path(), &documents(&["the sea", "the man"])).expect("a shard");
                tokenized.shard.verify().expect("whole");
                made.fetch_add(usize::from(!tokenized.cached), Ordering::SeqCst);
            });
        }
    });
    assert_eq!(made.into_inner(), 1);
}

#[test]
fn a_damaged_shard_is_named_and_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let documents = documents(&["the sea", "the man"]);
    let path = run(folder.path(), &documents)
        .expect("a shard")
        .shard
        .path()
        .to_path_buf();
    let mut bytes = std::fs::read(&path).expect("the shard");
    bytes[200] ^= 1;
    std::fs::write(&path, &bytes).expect("writable");
    let error = run(folder.path(), &documents)
        .expect_err("damaged")
        .to_string();
    assert!(
        error.contains(&path.display().to_string()) && error.contains("delete it"),
        "{error}"
    );
    assert_eq!(std::fs::read(&path).expect("still there"), bytes);
}

#[test]
fn an_empty_corpus_and_a_failing_reader_are_errors() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for texts in [&[][..], &["", ""]] {
        let error = run(folder.path(), &documents(texts))
            .expect_err("no text")
            .to_string();
        assert!(error.contains("no text"), "{error}");
    }
    let failing = || {
        Ok([
            Ok(documents(&["the sea"]).remove(0)),
            Err(anyhow!("text.txt:2: broken")),
        ]
        .into_iter())
    };
    let error = tokenize(&tokenizer(), failing, &settings(folder.path()), &mut |_| {});
    assert!(
        error
            .expect_err("line 2")
            .to_string()
            .contains("text.txt:2")
    );
    let outside = TokenizeSettings {
        separator: 1 << 20,
        ..settings(folder.path())
    };
    let none = || Ok(std::iter::empty::<Result<Document, Infallible>>());
    let error = tokenize(&tokenizer(), none, &outside, &mut |_| {}).expect_err("outside");
    assert!(error.to_string().contains("separator"), "{error}");
}

#[test]
fn byte_lengths_make_windows_exact() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let shard = run(
        folder.path(),
        &documents(&["the sea and naïve 🌊 waves", "x"]),
    )
    .expect("a shard")
    .shard;
    let bytes = shard.text_bytes();
    let settings = ValidationSettings {
        context: 5,
        rows: 2,
        boundaries: Boundaries::Kept,
        lead: Some(0),
    };
    let table = token_byte_lengths(&tokenizer(), 0);
    let stream = TokenStream::new(vec![shard]).expect("a stream");
    let windows = ValidationWindows::new(stream, settings, Some(&table)).expect("windows");
    assert!(windows.exact());
    assert_eq!(windows.bytes(), bytes);
}
