//! Windows: every token a target once, inputs one place before, documents kept apart, bytes exact.

use super::*;
use crate::stream::tests::stream;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Documents of `lengths` ordinary tokens, numbered through from 1, each ended by the separator 0.
/// Token n stands for n % 5 bytes.
fn numbered(lengths: &[usize]) -> TokenStream {
    let mut next = 1;
    let documents = lengths.iter().map(|&length| {
        let mut ids: Vec<u32> = (next..next + length as u32).collect();
        next += length as u32;
        let bytes = ids.iter().map(|id| u64::from(id % 5)).sum();
        ids.push(0);
        (ids, bytes)
    });
    let documents: Vec<_> = documents.collect();
    let half = documents.len() / 2;
    stream(&[documents[..half].to_vec(), documents[half..].to_vec()])
}

fn token_bytes() -> Vec<u32> {
    (0..10_000).map(|id| id % 5).collect()
}

fn settings(context: usize, rows: usize, seed: u64, boundaries: Boundaries) -> WindowSettings {
    WindowSettings {
        context,
        rows,
        seed,
        boundaries,
    }
}

/// How often each ordinary token is a target in the whole epoch `epoch`.
fn targets_of_epoch(windows: &Windows, epoch: u64) -> BTreeMap<i64, u32> {
    let mut seen = BTreeMap::new();
    for index in epoch * windows.per_epoch()..(epoch + 1) * windows.per_epoch() {
        let rows = windows.settings.rows as u64;
        let batch = windows.pretrain_batch(index / rows);
        let row = (index % rows) as usize;
        for &target in &batch.targets[row * batch.cols..(row + 1) * batch.cols] {
            *seen.entry(target).or_insert(0) += 1;
        }
    }
    seen.remove(&0);
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_epoch_has_no_token_twice_and_leaves_out_only_the_ends(
        lengths in prop::collection::vec(1usize..30, 2..12), context in 1usize..20,
        rows in 1usize..4, seed: u64, epoch in 0u64..4
    ) {
        let stream = numbered(&lengths);
        let tokens = stream.tokens();
        prop_assume!(tokens > context as u64);
        let windows = Windows::new(stream, settings(context, rows, seed, Boundaries::Ignored)).expect("windows");
        let seen = targets_of_epoch(&windows, epoch);
        prop_assert!(seen.values().all(|&count| count == 1));
        prop_assert!(tokens - windows.per_epoch() * (context as u64) < 2 * context as u64 + 1);
    }

    #[test]
    fn inputs_stand_one_before_their_targets(
        lengths in prop::collection::vec(1usize..30, 2..12), context in 1usize..20, seed: u64, step in 0u64..1000
    ) {
        let stream = numbered(&lengths);
        prop_assume!(stream.tokens() > context as u64);
        let mut ids = vec![];
        stream.read(0..stream.tokens(), &mut ids);
        for boundaries in [Boundaries::Ignored, Boundaries::Kept] {
            let windows = Windows::new(stream.clone(), settings(context, 3, seed, boundaries)).expect("windows");
            let batch = windows.pretrain_batch(step);
            batch.validate(10_000, context).expect("a good batch");
            prop_assert_eq!(batch.supervised(), 3 * context);
            for row in 0..3 {
                let inputs = &batch.input_ids[row * context..(row + 1) * context];
                let targets = &batch.targets[row * context..(row + 1) * context];
                prop_assert_eq!(&inputs[1..], &targets[..context - 1]);
                let window: Vec<u32> = inputs.iter().chain(targets.last()).map(|&id| id as u32).collect();
                prop_assert!(ids.windows(context + 1).any(|w| w == window));
            }
            let again = Windows::new(stream.clone(), settings(context, 3, seed, boundaries)).expect("windows");
            prop_assert_eq!(again.pretrain_batch(step), batch);
        }
    }

    #[test]
    fn kept_documents_share_nothing(
        lengths in prop::collection::vec(1usize..9, 2..20), context in 2usize..30, seed: u64
    ) {
        let stream = numbered(&lengths);
        prop_assume!(stream.tokens() > context as u64);
        let windows = Windows::new(stream, settings(context, 1, seed, Boundaries::Kept)).expect("windows");
        let batch = windows.pretrain_batch(5);
        let docs = batch.doc_ids.as_ref().expect("documents");
        for t in 0..context {
            // A separator opens the next document and predicts its first token from position 0.
            let opens = t == 0 || batch.input_ids[t] == 0;
            prop_assert_eq!(batch.position_ids[t] == 0, opens);
            if t > 0 {
                prop_assert_eq!(docs[t] - docs[t - 1], i32::from(opens));
                prop_assert_eq!(batch.position_ids[t], if opens { 0 } else { batch.position_ids[t - 1] + 1 });
            }
        }
    }

    #[test]
    fn validation_scores_every_token_once_and_counts_every_byte(
        lengths in prop::collection::vec(1usize..30, 2..12), context in 1usize..40, rows in 1usize..5,
        lead in prop::option::of(Just(0u32)), kept: bool, exact: bool
    ) {
        let stream = numbered(&lengths);
        let boundaries = if kept { Boundaries::Kept } else { Boundaries::Ignored };
        let table = token_bytes();
        let settings = ValidationSettings { context, rows, boundaries, lead };
        let windows = ValidationWindows::new(stream.clone(), settings, exact.then_some(&table[..])).expect("windows");
        let mut ids = vec![];
        stream.read(0..stream.tokens(), &mut ids);
        let first = usize::from(lead.is_none());
        let (mut targets, mut bytes) = (vec![], 0);
        for part in windows.iter() {
            part.batch.validate(10_000, context).expect("a good batch");
            prop_assert!(part.batch.rows <= rows);
            let own: Vec<i64> = part.batch.targets.iter().copied().filter(|&t| t != IGNORE).collect();
            if exact {
                prop_assert_eq!(part.bytes, own.iter().map(|&t| u64::from(table[t as usize])).sum::<u64>());
            }
            bytes += part.bytes;
            targets.extend(own.iter().map(|&t| t as u32));
        }
        prop_assert_eq!(&targets[..], &ids[first..]);
        prop_assert_eq!(windows.targets(), targets.len() as u64);
        prop_assert_eq!(windows.bytes(), bytes);
        prop_assert_eq!(windows.exact(), exact);
        if lead.is_some() {
            prop_assert_eq!(bytes, stream.text_bytes());
        }
    }
}

#[test]
fn epochs_cut_at_different_places() {
    let windows = Windows::new(
        numbered(&[400, 300]),
        settings(64, 2, 8, Boundaries::Ignored),
    )
    .expect("windows");
    let offsets: Vec<u64> = (0..20)
        .map(|e| windows.window_start(e * windows.per_epoch()) % 64)
        .collect();
    let mut different = offsets.clone();
    different.sort_unstable();
    different.dedup();
    assert!(different.len() > 10, "{offsets:?}");
    assert_eq!(windows.per_epoch(), (702 - 64) / 64);
    assert!((windows.epochs(9) - 2.0).abs() < 1e-9);
}

#[test]
fn kept_boundaries_by_hand() {
    let windows =
        Windows::new(numbered(&[2, 3, 1]), settings(8, 1, 0, Boundaries::Kept)).expect("windows");
    let batch = windows.pretrain_batch(0);
    assert_eq!(batch.input_ids, [1, 2, 0, 3, 4, 5, 0, 6]);
    assert_eq!(batch.targets, [2, 0, 3, 4, 5, 0, 6, 0]);
    assert_eq!(batch.doc_ids.expect("documents"), [0, 0, 1, 1, 1, 1, 2, 2]);
    assert_eq!(batch.position_ids, [0, 1, 0, 1, 2, 3, 0, 1]);
}

#[test]
fn a_text_shorter_than_a_window_is_refused() {
    let error = Windows::new(numbered(&[2, 3]), settings(7, 1, 0, Boundaries::Ignored))
        .expect_err("7 tokens")
        .to_string();
    assert!(
        error.contains("7 tokens") && error.contains("at most 6"),
        "{error}"
    );
    Windows::new(numbered(&[2, 3]), settings(6, 1, 0, Boundaries::Ignored))
        .expect("one window just fits");
    assert!(Windows::new(numbered(&[9, 9]), settings(0, 1, 0, Boundaries::Ignored)).is_err());
    assert!(Windows::new(numbered(&[9, 9]), settings(4, 0, 0, Boundaries::Ignored)).is_err());
}

#[test]
fn a_limited_validation_is_spread_over_the_text() {
    let table = token_bytes();
    let settings = ValidationSettings {
        context: 10,
        rows: 2,
        boundaries: Boundaries::Ignored,
        lead: Some(0),
    };
    let all = ValidationWindows::new(numbered(&[50, 48]), settings, Some(&table)).expect("windows");
    assert_eq!((all.windows(), all.batches()), (10, 5));
    let few = all.clone().limited(3).expect("three windows");
    assert_eq!((few.windows(), few.batches(), few.targets()), (3, 2, 30));
    let of_all: Vec<ValidationBatch> = all.clone().iter().collect();
    let spread: Vec<i64> = few.iter().flat_map(|part| part.batch.targets).collect();
    let row = |batch: usize, row: usize| &of_all[batch].batch.targets[row * 10..row * 10 + 10];
    // Windows 0, 3 and 6 of ten.
    assert_eq!(spread, [row(0, 0), row(1, 1), row(3, 0)].concat());
    assert_eq!(few.bytes(), few.iter().map(|part| part.bytes).sum::<u64>());
    assert_eq!(all.clone().limited(99).expect("all of them").windows(), 10);
    assert!(all.limited(0).is_err());
}

#[test]
fn a_table_that_does_not_add_up_is_not_believed() {
    let settings = ValidationSettings {
        context: 10,
        rows: 2,
        boundaries: Boundaries::Ignored,
        lead: Some(0),
    };
    let wrong: Vec<u32> = vec![1; 10_000];
    let windows =
        ValidationWindows::new(numbered(&[50, 48]), settings, Some(&wrong)).expect("windows");
    assert!(!windows.exact());
    assert_eq!(windows.bytes(), numbered(&[50, 48]).text_bytes());
    let small = vec![1; 3];
    assert!(
        !ValidationWindows::new(numbered(&[50, 48]), settings, Some(&small))
            .expect("windows")
            .exact()
    );
}
