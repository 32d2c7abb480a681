//! Shards: what is written is read back, and nothing damaged, foreign or mismatched gets in.

use super::*;
use proptest::prelude::*;

const FINGERPRINT: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn write(path: &Path, vocab_size: usize, documents: &[(Vec<u32>, u64)]) -> Shard {
    let mut writer = ShardWriter::create(path, FINGERPRINT, vocab_size).expect("a new shard");
    for (ids, bytes) in documents {
        writer.push(ids, *bytes).expect("room for a document");
    }
    writer.finish().expect("a whole shard")
}

fn sample(folder: &Path) -> (PathBuf, Vec<u8>) {
    let path = folder.join("text.tokens");
    write(&path, 300, &[(vec![5, 6, 0], 9), (vec![7, 0], 3)]);
    let bytes = std::fs::read(&path).expect("the file just written");
    (path, bytes)
}

#[test]
fn keeps_documents_counts_and_width() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (vocab, width) in [(1 << 16, TokenWidth::U16), ((1 << 16) + 1, TokenWidth::U32)] {
        let documents = [(vec![65_535, 3, 0], 9), (vec![0], 0), (vec![4, 0], 5)];
        let shard = write(&folder.path().join("new/text.tokens"), vocab, &documents);
        shard.verify().expect("a whole shard");
        assert_eq!(
            (shard.tokens(), shard.documents(), shard.text_bytes()),
            (6, 3, 14)
        );
        assert_eq!((shard.width(), shard.id_bound()), (width, 65_536));
        assert_eq!(
            shard.document(1),
            ShardDocument {
                tokens: 3..4,
                text_bytes: 0
            }
        );
        assert_eq!(
            shard.document(2),
            ShardDocument {
                tokens: 4..6,
                text_bytes: 5
            }
        );
        let of: Vec<u64> = (0..6).map(|t| shard.document_of(t)).collect();
        assert_eq!(of, [0, 0, 0, 1, 2, 2]);
        let mut ids = vec![];
        shard.read(1..5, &mut ids);
        assert_eq!(ids, [3, 0, 0, 4]);
    }
}

#[test]
fn an_unfinished_shard_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("text.tokens");
    let mut writer = ShardWriter::create(&path, FINGERPRINT, 10).expect("a new shard");
    writer.push(&[1, 2, 0], 4).expect("room");
    drop(writer);
    assert_eq!(
        std::fs::read_dir(folder.path())
            .expect("the folder")
            .count(),
        0
    );
}

#[test]
fn an_id_outside_the_vocabulary_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("text.tokens");
    let mut writer = ShardWriter::create(&path, FINGERPRINT, 10).expect("a new shard");
    let error = writer
        .push(&[1, 10], 4)
        .expect_err("10 is outside")
        .to_string();
    assert!(
        error.contains("token id 10") && error.contains("vocabulary of 10"),
        "{error}"
    );
}

#[test]
fn every_changed_byte_is_noticed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, good) = sample(folder.path());
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x41;
        std::fs::write(&path, &bytes).expect("a writable folder");
        let opened = Shard::open(&path);
        if at < HEADER_BYTES {
            let error = opened.expect_err("a changed header").to_string();
            assert!(
                error.contains("text.tokens") && error.contains("delete"),
                "byte {at}: {error}"
            );
        } else {
            let verified = opened.and_then(|shard| shard.verify());
            assert!(verified.is_err(), "byte {at} of the payload");
        }
    }
}

#[test]
fn every_cut_is_noticed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, good) = sample(folder.path());
    for length in 0..good.len() {
        std::fs::write(&path, &good[..length]).expect("a writable folder");
        assert!(Shard::open(&path).is_err(), "cut to {length} bytes");
    }
    std::fs::write(&path, [&good[..], &[0]].concat()).expect("a writable folder");
    assert!(
        matches!(Shard::open(&path), Err(ShardError::Damaged { .. })),
        "one byte too many"
    );
}

#[test]
fn errors_say_which_kind() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, good) = sample(folder.path());
    let shard = Shard::open(&path).expect("a whole shard");
    shard
        .check_tokenizer(FINGERPRINT)
        .expect("its own tokenizer");
    let other = "f".repeat(64);
    let error = shard
        .check_tokenizer(&other)
        .expect_err("another tokenizer")
        .to_string();
    assert!(
        error.contains(FINGERPRINT) && error.contains(&other),
        "{error}"
    );
    assert!(matches!(
        shard.check_tokenizer("abc"),
        Err(ShardError::Fingerprint(_))
    ));
    drop(shard);

    std::fs::write(&path, "Once upon a time there was a file of text.").expect("writable");
    assert!(matches!(
        Shard::open(&path),
        Err(ShardError::Foreign { .. })
    ));
    let mut newer = good.clone();
    newer[8] = 2;
    std::fs::write(&path, &newer).expect("writable");
    assert!(matches!(
        Shard::open(&path),
        Err(ShardError::Version { found: 2, .. })
    ));
    std::fs::write(&path, &good[..good.len() / 2]).expect("writable");
    assert!(matches!(
        Shard::open(&path),
        Err(ShardError::Damaged { .. })
    ));
    let missing = folder.path().join("none");
    let error = Shard::open(&missing).expect_err("no such file").to_string();
    assert!(error.contains("none"), "{error}");
}

/// A header with a right checksum can still lie; its sums must not overflow or read outside.
#[test]
fn a_lying_header_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (path, good) = sample(folder.path());
    let honest = Header::from_bytes(&good).expect("a good header");
    let lies = [
        Header {
            tokens: u64::MAX,
            ..honest.clone()
        },
        Header {
            documents: u64::MAX,
            ..honest.clone()
        },
        Header {
            tokens: 1,
            ..honest.clone()
        },
        Header {
            tokens: 6,
            ..honest.clone()
        },
        Header {
            text_bytes: 1,
            ..honest.clone()
        },
    ];
    for lie in lies {
        let bytes = [&lie.to_bytes()[..], &good[HEADER_BYTES..]].concat();
        std::fs::write(&path, bytes).expect("writable");
        let outcome = Shard::open(&path).and_then(|shard| shard.verify());
        // Six tokens end in the same padding, so only the counts can differ: that one is legal.
        assert_eq!(outcome.is_ok(), lie.tokens == 6, "{lie:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_documents_are_read_back(
        documents in prop::collection::vec((prop::collection::vec(0u32..70_000, 0..20), 0u64..1000), 0..20)
    ) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let shard = write(&folder.path().join("s"), 70_000, &documents);
        shard.verify().expect("a whole shard");
        let mut all = vec![];
        shard.read(0..shard.tokens(), &mut all);
        prop_assert_eq!(&all, &documents.iter().flat_map(|d| d.0.clone()).collect::<Vec<u32>>());
        for (i, (ids, bytes)) in documents.iter().enumerate() {
            let document = shard.document(i as u64);
            let mut own = vec![];
            shard.read(document.tokens.clone(), &mut own);
            prop_assert_eq!(&own, ids);
            prop_assert_eq!(document.text_bytes, *bytes);
            for token in document.tokens {
                prop_assert_eq!(shard.document_of(token), i as u64);
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn a_shard_is_as_readable_as_other_files() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (ours, _) = sample(folder.path());
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "x").expect("room");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode();
    assert_eq!(mode(&ours), mode(&plain));
}
