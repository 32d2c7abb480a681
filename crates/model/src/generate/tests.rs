//! The engine on the golden models: rows beside other rows are as if alone, ends are the right ones.

use std::ops::ControlFlow::{Break, Continue};
use std::path::{Path, PathBuf};

use etude_tensor::safetensors::SafetensorsFile;
use etude_tensor::{Device, Kind, Tensor, device};

use super::*;
use crate::Input;
use crate::hf;

const FAMILIES: [&str; 7] = [
    "gpt2",
    "llama",
    "llama_bias_scaled",
    "mistral",
    "nanochat",
    "qwen2",
    "qwen3",
];

pub(super) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/goldens")
        .join(name)
}

pub(super) fn open(name: &str, kind: Kind) -> Decoder {
    // Models this small only lose by sharing their work out.
    device::set_threads(1);
    hf::load(&folder(name), kind, Device::Cpu)
        .expect("the golden folder loads")
        .decoder
}

pub(super) fn request(ids: &[u32], max_tokens: usize) -> Request {
    Request {
        ids: ids.to_vec(),
        max_tokens,
        end: Vec::new(),
        sampling: Sampling::greedy(),
        beams: Beams::default(),
    }
}

fn run(decoder: &Decoder, requests: &[Request]) -> Vec<Continuation> {
    let generator = Generator::new(decoder);
    generator
        .generate(requests, &mut |_, _| Continue(()))
        .expect("generates")
}

pub(super) fn alone(decoder: &Decoder, request: &Request) -> (Vec<u32>, FinishReason) {
    let one = run(decoder, std::slice::from_ref(request)).remove(0);
    (one.ids, one.finish_reason)
}

/// Prompts of these lengths, of arbitrary ids.
pub(super) fn prompts(lengths: &[usize]) -> Vec<Vec<u32>> {
    let id = |row: usize, at: usize| ((row * 31 + at * 17 + at * at * 5) % 96) as u32;
    let prompt = |(row, &length): (usize, &usize)| (0..length).map(|at| id(row, at)).collect();
    lengths.iter().enumerate().map(prompt).collect()
}

fn sampled(seed: u64) -> Sampling {
    Sampling {
        temperature: 1.0,
        top_p: 0.95,
        seed,
        ..Sampling::default()
    }
}

#[test]
fn greedy_is_transformers_greedy() {
    for name in FAMILIES {
        let golden =
            SafetensorsFile::open(&folder(name).join("golden.safetensors")).expect("opens");
        let ids = |tensor: &str| -> Vec<u32> {
            let ids: Vec<i64> = Vec::try_from(golden.tensor(tensor).expect(tensor)).expect("int64");
            ids.into_iter().map(|id| id as u32).collect()
        };
        let expected = ids("greedy");
        let made = alone(
            &open(name, Kind::Float),
            &request(&ids("prompt"), expected.len()),
        );
        assert_eq!(made, (expected, FinishReason::Length), "{name}");
    }
}

#[test]
fn a_repetition_penalty_is_transformers() {
    let text = std::fs::read_to_string(folder("sampling.json")).expect("the golden opens");
    let golden: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for case in golden["greedy"].as_array().expect("cases") {
        let ids =
            |name: &str| -> Vec<u32> { serde_json::from_value(case[name].clone()).expect("ids") };
        let expected = ids("ids");
        let mut request = request(&ids("prompt"), expected.len());
        request.sampling.repetition_penalty = case["repetition_penalty"].as_f64().expect("number");
        let decoder = open(case["model"].as_str().expect("a name"), Kind::Float);
        assert_eq!(alone(&decoder, &request).0, expected, "{case}");
    }
}

#[test]
fn rows_beside_others_are_as_if_alone() {
    for name in FAMILIES {
        // In float64, where sums in another order do not reach a decision.
        let decoder = open(name, Kind::Double);
        let context = decoder.config().context as usize;
        let lengths = [3, 11, 1, context - 4, 7, 7, 2];
        // One row to the end of the context, long after the row without padding has ended; others
        // short; all kinds of settings side by side.
        let most = [context, 5, 9, 400, 20, 1, 14];
        let settings = [
            Sampling::greedy(),
            sampled(1),
            Sampling {
                top_k: 9,
                ..sampled(2)
            },
            Sampling::greedy(),
            Sampling {
                repetition_penalty: 1.5,
                ..sampled(3)
            },
            Sampling {
                min_p: 0.1,
                ..sampled(4)
            },
            Sampling {
                repetition_penalty: 1.3,
                ..Sampling::greedy()
            },
        ];
        let requests: Vec<Request> = (prompts(&lengths).into_iter().zip(most).zip(settings))
            .map(|((ids, max_tokens), sampling)| Request {
                ids,
                max_tokens,
                end: vec![5],
                sampling,
                beams: Beams::default(),
            })
            .collect();
        let expected: Vec<_> = requests
            .iter()
            .map(|request| alone(&decoder, request))
            .collect();
        for batch in [
            &[0, 1, 2, 3, 4, 5, 6][..],
            &[3, 0],
            &[0, 4],
            &[2, 1],
            &[6, 5, 4, 2],
        ] {
            let rows: Vec<Request> = batch.iter().map(|&row| requests[row].clone()).collect();
            for (made, &row) in run(&decoder, &rows).into_iter().zip(batch) {
                let made = (made.ids, made.finish_reason);
                assert_eq!(made, expected[row], "{name}, row {row} in {batch:?}");
            }
        }
        let total: usize = expected.iter().map(|(ids, _)| ids.len()).sum();
        assert!(
            total > 60,
            "{name}: the rows are long enough to see a fault, {total}"
        );
    }
}

#[test]
fn top_k_on_the_device_draws_as_top_k_on_the_host() {
    let decoder = open("llama", Kind::Double);
    let mut requests: Vec<Request> = prompts(&[4, 4])
        .iter()
        .map(|ids| request(ids, 30))
        .collect();
    requests[0].sampling = Sampling {
        top_k: 12,
        ..sampled(8)
    };
    // Beside a row that needs all logits, the first row's top-k is the host's work.
    requests[1].sampling = sampled(9);
    let together = run(&decoder, &requests);
    for (request, together) in requests.iter().zip(together) {
        assert_eq!(alone(&decoder, request).0, together.ids);
    }
}

#[test]
fn seeds_differ_and_repeat() {
    let decoder = open("gpt2", Kind::Float);
    let with = |seed| {
        let sampling = Sampling {
            temperature: 1.5,
            seed,
            ..Sampling::default()
        };
        alone(
            &decoder,
            &Request {
                sampling,
                ..request(&[1, 2, 3], 20)
            },
        )
        .0
    };
    assert_eq!(with(4), with(4));
    assert_ne!(with(4), with(5));
}

#[test]
fn the_context_is_used_to_its_end() {
    let decoder = open("gpt2", Kind::Float);
    let context = decoder.config().context as usize;
    for length in [1, 10, context - 1, context] {
        let prompt = &prompts(&[length])[0];
        let (ids, reason) = alone(&decoder, &request(prompt, 1000));
        assert_eq!(
            (ids.len(), reason),
            (context - length + 1, FinishReason::Length)
        );
        // Each is the most likely token after all before it, read afresh.
        let mut all: Vec<i64> = prompt.iter().map(|&id| i64::from(id)).collect();
        for id in ids {
            let read = Tensor::from_slice(&all).unsqueeze(0);
            let logits = no_grad(|| decoder.logits(&decoder.hidden(Input::plain(&read), None)));
            let best = logits
                .select(1, all.len() as i64 - 1)
                .argmax(-1, false)
                .int64_value(&[0]);
            assert_eq!(i64::from(id), best);
            all.push(best);
        }
    }
}

#[test]
fn ends_are_the_right_ones() {
    let decoder = open("qwen2", Kind::Float);
    let prompt = &prompts(&[5])[0];
    let (free, _) = alone(&decoder, &request(prompt, 12));
    let end = free[7];
    let first = free.iter().position(|&id| id == end).expect("it is there");
    let ending = Request {
        end: vec![95, end],
        ..request(prompt, 12)
    };
    assert_eq!(
        alone(&decoder, &ending),
        (free[..=first].to_vec(), FinishReason::Stop)
    );

    let mut heard = Vec::new();
    let made = Generator::new(&decoder)
        .generate(&[ending.clone(), request(prompt, 12)], &mut |row, id| {
            heard.push((row, id));
            let count = heard.iter().filter(|(other, _)| *other == row).count();
            if row == 1 && count == 3 {
                Break(FinishReason::StopString)
            } else {
                Continue(())
            }
        })
        .expect("generates");
    assert_eq!(
        (made[1].ids.as_slice(), made[1].finish_reason),
        (&free[..3], FinishReason::StopString)
    );
    let of = |row| {
        heard
            .iter()
            .filter(move |(r, _)| *r == row)
            .map(|(_, id)| *id)
    };
    assert_eq!(
        of(0).collect::<Vec<_>>(),
        free[..first],
        "the end token is not told"
    );
    assert_eq!(of(1).collect::<Vec<_>>(), free[..3]);
    assert!(made[0].seconds > 0.0);
}

#[test]
fn ids_beyond_the_tokenizer_are_never_chosen() {
    let decoder = open("llama", Kind::Float);
    let prompt = &prompts(&[5])[0];
    assert!(
        alone(&decoder, &request(prompt, 30))
            .0
            .iter()
            .any(|&id| id >= 40)
    );
    let generator = Generator::new(&decoder).with_vocabulary(40);
    for sampling in [
        Sampling::greedy(),
        sampled(1),
        Sampling {
            top_k: 50,
            ..sampled(1)
        },
    ] {
        let request = Request {
            sampling,
            ..request(prompt, 30)
        };
        let made = generator
            .generate(&[request], &mut |_, _| Continue(()))
            .expect("generates");
        assert_eq!(made[0].ids.len(), 30);
        assert!(made[0].ids.iter().all(|&id| id < 40), "{:?}", made[0].ids);
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_made() {
    let decoder = open("gpt2", Kind::Float);
    let refuse = |request: Request, words: &[&str]| {
        let good = Request {
            ids: vec![1],
            ..request.clone()
        };
        let generator = Generator::new(&decoder);
        let error = generator
            .generate(&[good, request], &mut |_, _| panic!("nothing is made"))
            .expect_err("refused")
            .to_string();
        for word in words {
            assert!(error.contains(word), "{error:?} lacks {word:?}");
        }
    };
    refuse(request(&[], 3), &["prompt 1", "empty"]);
    refuse(
        request(&[0; 33], 3),
        &["prompt 1", "33 tokens", "context is 32"],
    );
    refuse(
        request(&[0, 96], 3),
        &["prompt 1", "token 96 at place 1", "vocabulary of 96"],
    );
    refuse(request(&[0], 0), &["max_tokens = 0"]);
    let cold = Sampling {
        temperature: -1.0,
        ..Sampling::default()
    };
    refuse(
        Request {
            sampling: cold,
            ..request(&[0], 1)
        },
        &["sampling.temperature = -1"],
    );
    assert!(run(&decoder, &[]).is_empty());
}

#[test]
fn broken_weights_are_named() {
    let decoder = open("gpt2", Kind::Float);
    no_grad(|| {
        decoder.params().iter().for_each(|(_, tensor)| {
            let _ = tensor.shallow_clone().fill_(f64::NAN);
        })
    });
    for sampling in [
        Sampling::greedy(),
        sampled(1),
        Sampling {
            top_k: 5,
            ..sampled(1)
        },
    ] {
        let request = Request {
            sampling,
            ..request(&[1, 2], 4)
        };
        let found = Generator::new(&decoder).generate(&[request], &mut |_, _| Continue(()));
        assert!(matches!(
            found,
            Err(GenerateError::NotFinite {
                prompt: 0,
                tokens: 2
            })
        ));
    }
}
