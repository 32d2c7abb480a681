//! Prompts of any lengths, padded to one batch, are continued as each is alone: in float32, for every
//! family, with all settings of sampling side by side, with end tokens, stop strings and penalties.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::ops::ControlFlow::{Break, Continue};
use std::path::Path;

use etude_model::{
    Beams, Decoder, Family, FinishReason, Generator, ModelConfig, Prompt, Request, Sampling, Sizes,
    TextGenerator, TextSettings, hf,
};
use etude_tensor::{Device, Kind, device, no_grad, seed_everything};
use etude_tokenizer::{Message, Role, Tokenizer, TrainSettings};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

const GOLDENS: [&str; 9] = [
    "gpt2",
    "gpt2_bare",
    "llama",
    "llama_bias_scaled",
    "llama_tied",
    "mistral",
    "nanochat",
    "qwen2",
    "qwen3",
];

fn sampling() -> impl Strategy<Value = Sampling> {
    let penalty = prop_oneof![2 => Just(1.0), 1 => 1.05..1.8];
    let top_k = prop_oneof![Just(0), 1usize..20];
    let top_p = prop_oneof![Just(1.0), 0.3..1.0];
    let min_p = prop_oneof![3 => Just(0.0), 1 => 0.01..0.3];
    let temperature = prop_oneof![Just(0.0), 0.3..1.5];
    (temperature, top_k, top_p, min_p, penalty, any::<u64>()).prop_map(
        |(temperature, top_k, top_p, min_p, repetition_penalty, seed)| Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            seed,
        },
    )
}

/// A search now and then, which draws nothing.
fn searched() -> impl Strategy<Value = (Sampling, Beams)> {
    let beams = (prop_oneof![3 => Just(1), 1 => 2usize..6], -0.5..2.0);
    (sampling(), beams).prop_map(|(mut sampling, (width, length_penalty))| {
        if width > 1 {
            sampling.temperature = 0.0;
        }
        (
            sampling,
            Beams {
                width,
                length_penalty,
            },
        )
    })
}

/// Runs the same cases each time. Sums are rounded otherwise in a product of another shape, so among some
/// hundred thousand draws one falls on the other side of the border between two tokens.
fn check<S: Strategy>(cases: u32, strategy: &S, test: impl Fn(S::Value)) {
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(cases)
    };
    let same = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, same)
        .run(strategy, |value| {
            test(value);
            Ok(())
        })
        .unwrap();
}

#[test]
fn ids_are_those_of_each_prompt_alone() {
    device::set_threads(1); // models this small only lose by sharing their work out
    let request = (
        prop::collection::vec(0u32..96, 1..30),
        1usize..24,
        prop::collection::vec(0u32..96, 0..4),
        searched(),
        // After how many tokens the listener ends the row.
        prop_oneof![2 => Just(usize::MAX), 1 => 1usize..10],
    );
    let batch = prop::collection::vec(request, 2..7);
    for name in GOLDENS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/goldens")
            .join(name);
        let decoder = hf::load(&folder, Kind::Float, Device::Cpu).unwrap().decoder;
        let generator = Generator::new(&decoder);
        let run = |rows: &[(Request, usize)]| {
            let requests: Vec<Request> = rows.iter().map(|(request, _)| request.clone()).collect();
            let mut heard = vec![0; rows.len()];
            let made = generator.generate(&requests, &mut |row, _| {
                heard[row] += 1;
                match heard[row] == rows[row].1 {
                    true => Break(FinishReason::StopString),
                    false => Continue(()),
                }
            });
            let made = made.unwrap().into_iter();
            made.map(|made| (made.ids, made.finish_reason))
                .collect::<Vec<_>>()
        };
        check(12, &batch, |batch| {
            let rows: Vec<(Request, usize)> = (batch.into_iter())
                .map(|(ids, max_tokens, end, (sampling, beams), most)| {
                    let request = Request {
                        ids,
                        max_tokens,
                        end,
                        sampling,
                        beams,
                    };
                    (request, most)
                })
                .collect();
            for (row, together) in rows.iter().zip(run(&rows)) {
                let alone = run(std::slice::from_ref(row));
                assert_eq!(together, alone[0], "{name}: {row:?}");
            }
        });
    }
}

/// A decoder whose weights are drawn larger than training starts from, so that its text varies.
fn drawn(family: Family) -> Decoder {
    seed_everything(7);
    let sizes = Sizes {
        vocab_size: 320,
        n_layer: 2,
        n_head: 2,
        n_kv_head: if family == Family::Gpt2 { 2 } else { 1 },
        n_embd: 16,
        n_inner: 32,
        context: 128,
        tied: false,
    };
    let mut config = ModelConfig::new(family, sizes);
    config.sliding_window = (family == Family::Mistral).then_some(9);
    let decoder = Decoder::new(config, Kind::Float, Device::Cpu).unwrap();
    no_grad(|| {
        for (_, tensor) in decoder.params().iter() {
            if tensor.dim() == 2 {
                // Matrices that start at zero are drawn too.
                let _ = tensor.shallow_clone().normal_(0.0, 0.4);
            }
        }
    });
    decoder
}

#[test]
fn texts_are_those_of_each_prompt_alone() {
    device::set_threads(1);
    let documents = [
        "the rose is red, the violet is blue",
        "a rose is a rose — é, 日本, 🌹",
    ];
    let settings = TrainSettings {
        vocab_size: 280,
        ..TrainSettings::default()
    };
    let documents = documents.into_iter().map(String::from);
    let tokenizer = Tokenizer::train(documents, &settings).unwrap().0;
    let prompt = prop_oneof![
        "[a-z é]{1,40}".prop_map(Prompt::Text),
        "[a-z🌹]{0,20}".prop_map(Prompt::Document),
        "[a-z ]{0,20}".prop_map(|text| Prompt::Messages(vec![Message::new(Role::User, text)])),
    ];
    let row = (prompt, 1usize..40, searched(), any::<prop::sample::Index>());
    let batch = prop::collection::vec(row, 2..6);
    for family in Family::ALL {
        let decoder = drawn(family);
        let generator = TextGenerator::new(&decoder, &tokenizer).unwrap();
        check(10, &batch, |batch| {
            let rows: Vec<(Prompt, TextSettings)> = (batch.into_iter())
                .map(|(prompt, max_tokens, (sampling, beams), place)| {
                    let mut settings = TextSettings {
                        max_tokens,
                        sampling,
                        beams,
                        stop: Vec::new(),
                    };
                    // A stop string that does come, more often than not.
                    let free = generator.complete(&prompt, &settings).unwrap().text;
                    let letters: Vec<char> = free.chars().collect();
                    if letters.len() > 2 {
                        let start = place.index(letters.len() - 1);
                        settings.stop = vec![letters[start..].iter().take(2).collect()];
                    }
                    (prompt, settings)
                })
                .collect();
            let requests: Vec<_> = rows.iter().map(|(prompt, told)| (prompt, told)).collect();
            let mut ignore = |_: usize, _: &str| Continue(());
            let together = generator.generate(&requests, &mut ignore).unwrap();
            for ((prompt, settings), together) in rows.iter().zip(together) {
                let alone = generator.complete(prompt, settings).unwrap();
                assert_eq!(
                    (&together.text, &together.ids, together.finish_reason),
                    (&alone.text, &alone.ids, alone.finish_reason),
                    "{family:?}: {prompt:?}, {settings:?}"
                );
            }
        });
    }
}
