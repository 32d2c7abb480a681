//! Sums over batches against the model run token by token.

use etude_data::{IGNORE, RenderedExample, SourceRef, collate, collate_packed};
use etude_model::Family;

use super::*;
use crate::task::testing::decoder;

const FAMILIES: [Family; 3] = [Family::Llama, Family::Gpt2, Family::NanoChat];

/// An example of `length` arbitrary ids, the last `answer` of them supervised.
fn example(seed: u64, length: usize, answer: usize) -> RenderedExample {
    let ids = (0..length as u64).map(|at| ((seed * 71 + at * at * 13 + at * 7) % 290) as u32);
    RenderedExample {
        id: format!("{seed}"),
        ids: ids.collect(),
        supervised: (0..length).map(|at| at >= length - answer).collect(),
        source: SourceRef {
            file: "x".into(),
            line: seed,
        },
        truncated: false,
        target_bytes: 1,
    }
}

/// The nats of an example's supervised tokens, each from the tokens before it alone.
fn alone(decoder: &Decoder, example: &RenderedExample) -> f64 {
    let ids: Vec<i64> = example.ids.iter().map(|&id| i64::from(id)).collect();
    let nats = |at: usize| {
        let before = Tensor::from_slice(&ids[..at]).unsqueeze(0);
        let logits = no_grad(|| decoder.logits(&decoder.hidden(Input::plain(&before), None)));
        let last = logits.select(1, at as i64 - 1).select(0, 0);
        -last.log_softmax(-1, Kind::Double).double_value(&[ids[at]])
    };
    (1..ids.len())
        .filter(|&at| example.supervised[at])
        .map(nats)
        .sum()
}

#[test]
fn rows_and_sums_are_those_of_examples_alone() {
    let examples = [
        example(1, 9, 4),
        example(2, 17, 16),
        example(3, 2, 1),
        example(4, 12, 5),
    ];
    let references: Vec<&RenderedExample> = examples.iter().collect();
    for family in FAMILIES {
        let decoder = decoder(family, 40);
        let expected: Vec<f64> = examples
            .iter()
            .map(|example| alone(&decoder, example))
            .collect();
        let total: f64 = expected.iter().sum();
        let padded = collate(&references, 3);
        for (found, expected) in batch_nats(&decoder, &padded).iter().zip(&expected) {
            assert!(
                (found - expected).abs() < 1e-9,
                "{family:?}: {found} {expected}"
            );
        }
        let packed = collate_packed(&[references[..3].to_vec(), references[3..].to_vec()], 28, 3);
        let rows = batch_nats(&decoder, &packed);
        assert!(
            (rows[0] - expected[..3].iter().sum::<f64>()).abs() < 1e-9,
            "{family:?}"
        );
        assert!((rows[1] - expected[3]).abs() < 1e-9, "{family:?}");
        for batches in [
            vec![padded.clone()],
            vec![packed],
            padded.micro_batches(1).collect(),
        ] {
            let (nats, tokens) = windows_loss(&decoder, batches);
            assert!((nats - total).abs() < 1e-8, "{family:?}: {nats} {total}");
            assert_eq!(tokens, 4 + 16 + 1 + 5);
        }
    }
}

#[test]
fn batches_without_targets_count_nothing_and_no_graph_is_kept() {
    let decoder = decoder(Family::Llama, 40);
    let mut empty = collate(&[&example(1, 9, 4)], 0);
    empty.targets.fill(IGNORE);
    assert_eq!(windows_loss(&decoder, [empty.clone()]), (0.0, 0));
    assert_eq!(batch_nats(&decoder, &empty), [0.0]);
    assert_eq!(windows_loss(&decoder, []), (0.0, 0));
    windows_loss(&decoder, [collate(&[&example(1, 9, 4)], 0)]);
    assert!(
        decoder
            .params()
            .iter()
            .all(|(_, tensor)| !tensor.grad().defined())
    );
}

#[test]
fn rows_and_tokens_are_the_parts_of_the_sum() {
    let decoder = decoder(Family::Llama, 400);
    let examples = [
        example(1, 390, 389),
        example(2, 390, 389),
        example(3, 300, 7),
    ];
    let batch = collate(&examples.iter().collect::<Vec<_>>(), 0);
    let (nats, _) = windows_loss(&decoder, [batch.clone()]);
    let rows = batch_nats(&decoder, &batch);
    assert!((rows.iter().sum::<f64>() - nats).abs() < 1e-7 * nats);
    let (last, _) = windows_loss(&decoder, [collate(&[&examples[2]], 0)]);
    assert!((rows[2] - last).abs() < 1e-8);
    let tokens = token_nats(&decoder, &batch);
    assert_eq!(tokens.len(), batch.supervised());
    let nats: Vec<f64> = tokens.iter().map(|&(_, nats)| nats).collect();
    let sum = batch_loss(&decoder, &batch).unwrap();
    let own = Tensor::from_slice(&nats)
        .to_kind(sum.kind())
        .sum(sum.kind());
    assert!(own.equal(&sum.detach()), "to the last bit");
}
