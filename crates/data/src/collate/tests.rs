//! Rows: shifted targets, nothing across examples, packing that changes no target, and an order that
//! visits every example once an epoch.

use super::*;
use crate::task::SourceRef;
use proptest::prelude::*;

/// An example of `prompt` unsupervised and `answer` supervised tokens, all different from those of
/// examples with other numbers.
fn example(number: u32, prompt: usize, answer: usize) -> RenderedExample {
    let length = (prompt + answer) as u32;
    RenderedExample {
        id: format!("example {number}"),
        ids: (0..length).map(|i| 1_000 * (number + 1) + i).collect(),
        supervised: (0..length).map(|i| i >= prompt as u32).collect(),
        source: SourceRef {
            file: "train.jsonl".into(),
            line: u64::from(number) + 1,
        },
        truncated: false,
        target_bytes: 0,
    }
}

fn settings(rows: usize, layout: Rows) -> FinetuneSettings {
    FinetuneSettings {
        rows,
        layout,
        seed: 4,
        pad: 1,
    }
}

/// All (input, position, target) that are supervised, which is all that the loss can see of a
/// position; sorted, so that the order of rows is of no account.
fn supervised(batch: &Batch) -> Vec<(i64, i64, i64)> {
    let all =
        (0..batch.tokens()).map(|i| (batch.input_ids[i], batch.position_ids[i], batch.targets[i]));
    let mut all: Vec<_> = all.filter(|place| place.2 != IGNORE).collect();
    all.sort_unstable();
    all
}

#[test]
fn padded_rows_by_hand() {
    let (short, long) = (example(0, 2, 1), example(1, 1, 4));
    let batch = collate(&[&short, &long], 9);
    assert_eq!((batch.rows, batch.cols), (2, 4));
    assert_eq!(batch.input_ids, [1000, 1001, 9, 9, 2000, 2001, 2002, 2003]);
    assert_eq!(
        batch.targets,
        [IGNORE, 1002, IGNORE, IGNORE, 2001, 2002, 2003, 2004]
    );
    assert_eq!(batch.position_ids, [0, 1, 0, 0, 0, 1, 2, 3]);
    assert_eq!(batch.doc_ids, None);
}

#[test]
fn packed_rows_by_hand() {
    let (a, b, c) = (example(0, 2, 1), example(1, 1, 2), example(2, 1, 1));
    let batch = collate_packed(&[vec![&a, &b], vec![&c]], 5, 9);
    assert_eq!(
        batch.input_ids,
        [1000, 1001, 2000, 2001, 9, 3000, 9, 9, 9, 9]
    );
    let x = IGNORE;
    assert_eq!(batch.targets, [x, 1002, 2001, 2002, x, 3001, x, x, x, x]);
    assert_eq!(batch.position_ids, [0, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        batch.doc_ids.expect("packed"),
        [0, 0, 1, 1, -1, 0, -1, -1, -1, -1]
    );
}

proptest! {
    #[test]
    fn packed_and_separate_rows_teach_the_same(
        sizes in prop::collection::vec((0usize..12, 2usize..9), 1..40), cols in 20usize..60, seed: u64
    ) {
        let examples: Vec<_> =
            sizes.iter().enumerate().map(|(i, &(p, a))| example(i as u32, p, a)).collect();
        let separate = collate(&examples.iter().collect::<Vec<_>>(), 0);
        let packs = pack(&examples, cols, seed).expect("all fit");
        let rows: Vec<Vec<&RenderedExample>> =
            packs.iter().map(|row| row.iter().map(|&i| &examples[i as usize]).collect()).collect();
        let packed = collate_packed(&rows, cols, 0);
        packed.validate(1_000_000, 60).expect("a good batch");
        separate.validate(1_000_000, 60).expect("a good batch");
        prop_assert_eq!(supervised(&packed), supervised(&separate));

        // A target is of the example of its input, and the input's document holds that example only.
        let docs = packed.doc_ids.as_ref().expect("packed");
        for at in 0..packed.tokens() {
            if packed.targets[at] != IGNORE {
                prop_assert_eq!(packed.targets[at], packed.input_ids[at] + 1);
            }
            if at % cols > 0 && docs[at] >= 0 {
                let same = docs[at] == docs[at - 1];
                prop_assert_eq!(same, packed.input_ids[at] / 1000 == packed.input_ids[at - 1] / 1000);
            }
        }
        // Best fit leaves no two rows that could be one.
        let room = |row: &Vec<u32>| row.iter().map(|&i| inputs(&examples[i as usize])).sum::<usize>();
        let mut used: Vec<usize> = packs.iter().map(room).collect();
        used.sort_unstable();
        if let [first, second, ..] = used[..] {
            prop_assert!(first + second > cols);
        }
    }

    #[test]
    fn an_epoch_reads_each_example_once(
        count in 1u32..50, rows in 1usize..7, epoch in 0u64..3, packed: bool
    ) {
        let examples: Vec<_> = (0..count).map(|i| example(i, 2, 1 + i as usize % 5)).collect();
        let layout = if packed { Rows::Packed(16) } else { Rows::Padded };
        let batches = FinetuneBatches::new(examples.clone(), settings(rows, layout)).expect("batches");
        // Whole epochs end inside batches: count rows, not batches.
        let (first, last) = (epoch * batches.rows_per_epoch(), (epoch + 1) * batches.rows_per_epoch());
        let mut seen = vec![0; count as usize];
        for index in first..last {
            let batch = batches.finetune_batch(index / rows as u64);
            prop_assert_eq!(batch.rows, rows);
            let row = (index % rows as u64) as usize;
            for &id in &batch.input_ids[row * batch.cols..(row + 1) * batch.cols] {
                if id >= 1000 && id % 1000 == 0 {
                    seen[(id / 1000 - 1) as usize] += 1;
                }
            }
        }
        prop_assert!(seen.iter().all(|&times| times == 1), "{:?}", seen);
        let again = FinetuneBatches::new(examples, settings(rows, layout)).expect("batches");
        prop_assert_eq!(again.finetune_batch(epoch + 7), batches.finetune_batch(epoch + 7));
    }
}

#[test]
fn the_last_batch_runs_over_into_the_next_epoch() {
    let examples: Vec<_> = (0..5).map(|i| example(i, 1, 2)).collect();
    let batches = FinetuneBatches::new(examples, settings(3, Rows::Padded)).expect("batches");
    assert_eq!(
        (batches.rows_per_epoch(), batches.steps_per_epoch()),
        (5, 2)
    );
    assert!((batches.epochs(5) - 3.0).abs() < 1e-12);
    let order = Order::new(5, 4);
    let firsts: Vec<i64> = batches
        .finetune_batch(1)
        .input_ids
        .chunks(2)
        .map(|row| row[0])
        .collect();
    let expected: Vec<i64> = (3..6)
        .map(|i| 1000 * (order.at(i).item as i64 + 1))
        .collect();
    assert_eq!(firsts, expected);
    assert_eq!(order.at(5).epoch, 1);
}

#[test]
fn grouped_batches_hold_the_same_examples_with_less_padding() {
    let length = |i: u32| 1 + (i * 37 % 50) as usize;
    let examples: Vec<_> = (0..64).map(|i| example(i, 1, length(i))).collect();
    let make =
        |layout| FinetuneBatches::new(examples.clone(), settings(4, layout)).expect("batches");
    let (padded, grouped) = (make(Rows::Padded), make(Rows::Grouped));
    let (mut places, mut sizes) = ([Vec::new(), Vec::new()], [0, 0]);
    for step in 0..16 {
        for (i, batches) in [&padded, &grouped].into_iter().enumerate() {
            let batch = batches.finetune_batch(step);
            places[i].extend(supervised(&batch));
            sizes[i] += batch.tokens();
        }
    }
    places.iter_mut().for_each(|places| places.sort_unstable());
    assert_eq!(places[0], places[1], "an epoch is the same examples");
    assert!(4 * sizes[1] < 3 * sizes[0], "{sizes:?}");
    assert!(grouped.largest_batch().cols >= 50);
    let lengths: Vec<usize> = (0..16)
        .map(|step| grouped.finetune_batch(step).cols)
        .collect();
    assert!(
        !lengths.is_sorted(),
        "batches come in a drawn order: {lengths:?}"
    );
}

#[test]
fn the_largest_batch_of_packed_rows_is_the_fullest() {
    let examples: Vec<_> = (0..9).map(|i| example(i, 1, 1 + i as usize)).collect();
    let batches = FinetuneBatches::new(examples, settings(2, Rows::Packed(12))).expect("batches");
    let used = |batch: &Batch| {
        let docs = batch.doc_ids.as_ref().expect("packed");
        docs.iter().filter(|&&doc| doc >= 0).count()
    };
    let largest = used(&batches.largest_batch());
    assert!((0..50).all(|step| used(&batches.finetune_batch(step)) <= largest));
}

#[test]
fn the_largest_batch_is_as_large_as_any() {
    let examples: Vec<_> = (0..9).map(|i| example(i, 1, 1 + i as usize)).collect();
    let batches = FinetuneBatches::new(examples, settings(4, Rows::Padded)).expect("batches");
    let largest = batches.largest_batch();
    assert_eq!((largest.rows, largest.cols), (4, 9));
    assert!((0..50).all(|step| batches.finetune_batch(step).cols <= largest.cols));
}

#[test]
fn sets_that_teach_nothing_are_refused_by_name() {
    let says = |examples, settings, words: &str| {
        let error = FinetuneBatches::new(examples, settings)
            .expect_err(words)
            .to_string();
        assert!(error.contains(words), "{error:?} lacks {words:?}");
    };
    says(vec![], settings(1, Rows::Padded), "no example");
    says(vec![example(0, 2, 2)], settings(0, Rows::Padded), "0 rows");
    says(
        vec![example(0, 2, 2), example(1, 3, 0)],
        settings(1, Rows::Padded),
        "train.jsonl:2",
    );
    // A lone first token can be no target.
    says(
        vec![example(0, 0, 1)],
        settings(1, Rows::Padded),
        "train.jsonl:1",
    );
    says(
        vec![example(0, 9, 9)],
        settings(1, Rows::Packed(16)),
        "takes 17 tokens",
    );
}

#[test]
fn a_batch_without_examples_is_the_batch_of_the_others() {
    let all = [(3, 4), (1, 9), (2, 2), (5, 1), (4, 4)]
        .into_iter()
        .zip(0..);
    let all: Vec<RenderedExample> = all.map(|((p, a), n)| example(n, p, a)).collect();
    let named = |numbers: &[usize]| -> Vec<&RenderedExample> {
        numbers.iter().map(|&number| &all[number]).collect()
    };
    let whole = collate(&named(&[0, 1, 2, 3, 4]), 0);
    for (left_out, others) in [
        (&[1][..], &[0, 2, 3, 4][..]),
        (&[0, 4], &[1, 2, 3]),
        (&[0, 1, 2, 4], &[3]),
    ] {
        assert_eq!(whole.without(left_out), Some(collate(&named(others), 0)));
    }
    assert_eq!(whole.without(&[0, 1, 2, 3, 4]), None);

    // Packed, they move together; the numbers of documents only tell them apart.
    let rows = |rows: &[&[usize]], cols| {
        let rows: Vec<Vec<&RenderedExample>> = rows.iter().map(|row| named(row)).collect();
        collate_packed(&rows, cols, 0)
    };
    let whole = rows(&[&[0, 2], &[1], &[3, 4]], 16);
    let less = whole.without(&[0]).expect("others are left");
    let expected = rows(&[&[2], &[1], &[3, 4]], 12);
    let told = |batch: &Batch| {
        let Batch {
            input_ids,
            targets,
            position_ids,
            ..
        } = batch.clone();
        (
            (batch.rows, batch.cols),
            [input_ids, targets, position_ids],
            batch.stretches(),
        )
    };
    assert_eq!(told(&less), told(&expected));
    let less = whole.without(&[2]).expect("others are left");
    assert_eq!(told(&less), told(&rows(&[&[0, 2], &[3, 4]], 12)));
}
