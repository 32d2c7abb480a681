//! Where the first number that is not finite shows up in a step that could not be applied.

use std::collections::BTreeSet;

use etude_data::{Batch, Stretch};
use etude_eval::batch_stream;
use etude_model::Decoder;
use etude_tensor::{Kind, Tensor, no_grad};
use serde::Serialize;

use super::examples::Example;
use crate::step::StepSettings;

/// What was not finite, and where first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fault {
    /// The first part of the forward pass, or the first gradient of the backward pass.
    pub place: String,
    /// The examples that have it, by number.
    pub examples: Vec<usize>,
    /// The first token of the first of them at which it shows, when it does in the forward pass.
    pub token: Option<FaultyToken>,
    /// Weights that were broken before the step: `embedding.weight: 16 of 384 numbers`.
    pub weights: Vec<String>,
}

/// The token that is read where a number is not finite first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FaultyToken {
    /// The example's number.
    pub example: usize,
    /// The column of the batch.
    pub column: usize,
    /// Its id.
    pub id: i64,
}

/// Searches a step that was refused. `gradient` names the first on the way back that is not finite.
pub(super) fn find(
    decoder: &Decoder,
    batch: &Batch,
    settings: &StepSettings,
    examples: &[Example],
    gradient: Option<&str>,
) -> Fault {
    let weights = broken_weights(decoder);
    let stretches = batch.stretches();
    let forward = Forward::watch(decoder, batch, settings, &stretches);
    let mut sick = forward.examples;
    sick.extend(
        examples
            .iter()
            .filter(|example| example.nats().any(|nats| !nats.is_finite()))
            .map(|example| example.number),
    );
    if let Some((_, place, token)) = forward.first {
        return Fault {
            place,
            examples: sick.into_iter().collect(),
            token: Some(token),
            weights,
        };
    }
    if !sick.is_empty() {
        let place = "the output layer".to_owned();
        let first = examples
            .iter()
            .find(|example| sick.contains(&example.number));
        let token = first.and_then(|example| {
            let sick = |nats: Option<f64>| nats.is_some_and(|nats| !nats.is_finite());
            let place = example.tokens.iter().position(|token| sick(token.nats))?;
            let column = example.cols.start + place - 1; // the token before it was read
            Some(FaultyToken {
                example: example.number,
                column,
                id: batch.input_ids[example.row * batch.cols + column],
            })
        });
        return Fault {
            place,
            examples: sick.into_iter().collect(),
            token,
            weights,
        };
    }
    let alone = examples.iter().filter(|one| !one.grad_norm.is_finite());
    Fault {
        place: match gradient {
            Some(name) => format!("the gradient of {name}"),
            None => "the norm of the gradients, each of which is finite".to_owned(),
        },
        examples: alone.map(|example| example.number).collect(),
        token: None,
        weights,
    }
}

/// What was seen on the way forward.
#[derive(Default)]
struct Forward {
    /// Number and name of the earliest part, and the token.
    first: Option<(usize, String, FaultyToken)>,
    examples: BTreeSet<usize>,
}

impl Forward {
    fn watch(
        decoder: &Decoder,
        batch: &Batch,
        settings: &StepSettings,
        stretches: &[Stretch],
    ) -> Self {
        let mut seen = Self::default();
        let mut first_row = 0;
        for micro in batch.micro_batches(settings.rows) {
            let mut part = 0;
            let mut look = |name: &str, stream: &Tensor| {
                for place in places(stream) {
                    let (row, column) = (first_row + place / micro.cols, place % micro.cols);
                    let inside = |s: &Stretch| s.row == row && s.cols.contains(&column);
                    let Some(number) = stretches.iter().position(inside) else {
                        continue; // padding
                    };
                    seen.examples.insert(number + 1);
                    if seen
                        .first
                        .as_ref()
                        .is_none_or(|(earliest, ..)| part < *earliest)
                    {
                        let token = FaultyToken {
                            example: number + 1,
                            column,
                            id: batch.input_ids[row * batch.cols + column],
                        };
                        seen.first = Some((part, readable(name), token));
                    }
                }
                part += 1;
            };
            settings.precision.autocast(decoder.device(), || {
                batch_stream(decoder, &micro, &mut look)
            });
            first_row += micro.rows;
        }
        seen
    }
}

/// The places of a stream `(B, T, C)` that hold anything that is not finite, row by row.
fn places(stream: &Tensor) -> Vec<usize> {
    if finite(stream) {
        return Vec::new();
    }
    let sick = stream.isfinite().logical_not().any_dim(-1, false); // (B, T)
    let places = sick.reshape([-1]).nonzero().squeeze_dim(-1);
    let places = Vec::<i64>::try_from(places).expect("int64"); // sync
    places.into_iter().map(|place| place as usize).collect()
}

fn finite(tensor: &Tensor) -> bool {
    !tensor.defined() || tensor.isfinite().all().int64_value(&[]) != 0 // sync
}

fn readable(part: &str) -> String {
    match part.strip_prefix("layers.") {
        Some(index) => format!("the output of layer {index}"),
        None if part == "norm" => "the last norm".to_owned(),
        None => format!("the {part}"),
    }
}

fn broken_weights(decoder: &Decoder) -> Vec<String> {
    let own = decoder.params().entries().iter();
    let adapter = decoder.adapter().into_iter();
    let all = own.chain(adapter.flat_map(|adapter| adapter.params().entries()));
    let broken = all.filter(|param| no_grad(|| !finite(&param.tensor)));
    broken
        .map(|param| {
            let count = no_grad(|| param.tensor.isfinite().logical_not().sum(Kind::Int64));
            let (count, all) = (count.int64_value(&[]), param.tensor.numel());
            format!("{}: {count} of {all} numbers", param.name)
        })
        .collect()
}
