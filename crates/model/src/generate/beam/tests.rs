//! The search on the golden models: Transformers' texts, whatever stands beside them.

use std::ops::ControlFlow::{Break, Continue};

use etude_tensor::Device;
use serde_json::Value;

use super::super::tests::{alone, folder, open, prompts, request};
use super::*;

fn search(width: usize) -> Beams {
    Beams {
        width,
        ..Beams::default()
    }
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("ids")
}

/// The model, the request and Transformers' continuation of each golden case.
fn goldens() -> Vec<(String, Request, Vec<u32>)> {
    let text = std::fs::read_to_string(folder("sampling.json")).expect("the golden opens");
    let golden: Value = serde_json::from_str(&text).expect("JSON");
    let case = |case: &Value| {
        let settings = &case["settings"];
        let number = |name: &str, usual: f64| settings[name].as_f64().unwrap_or(usual);
        let request = Request {
            ids: ids(&case["prompt"]),
            max_tokens: number("max_new_tokens", 0.0) as usize,
            end: ids(&case["ends"]),
            sampling: Sampling {
                repetition_penalty: number("repetition_penalty", 1.0),
                ..Sampling::greedy()
            },
            beams: Beams {
                width: number("num_beams", 1.0) as usize,
                length_penalty: number("length_penalty", 1.0),
            },
        };
        let model = case["model"].as_str().expect("a name").to_owned();
        (model, request, ids(&case["ids"]))
    };
    golden["beams"]
        .as_array()
        .expect("cases")
        .iter()
        .map(case)
        .collect()
}

#[test]
fn the_search_is_transformers() {
    let goldens = goldens();
    for name in ["gpt2", "llama", "mistral", "qwen3"] {
        let decoder = open(name, etude_tensor::Kind::Float);
        let cases: Vec<_> = goldens.iter().filter(|case| case.0 == name).collect();
        assert_eq!(cases.len(), 24);
        for (_, request, expected) in &cases {
            let (made, reason) = alone(&decoder, request);
            assert_eq!(&made, expected, "{name} {request:?}");
            let ends = request
                .end
                .contains(made.last().expect("one token at least"));
            assert_eq!(reason == FinishReason::Stop, ends, "{name} {request:?}");
        }
        // All at once: prompts of several lengths, one to nine beams, rows that end early.
        let mut requests: Vec<Request> = cases.iter().map(|case| case.1.clone()).collect();
        requests.push(Request {
            beams: Beams::default(),
            ..requests[0].clone()
        });
        let mut told = vec![Vec::new(); requests.len()];
        let together = Generator::new(&decoder).generate(&requests, &mut |row, id| {
            told[row].push(id);
            Continue(())
        });
        let together = together.expect("generates");
        for ((made, told), (_, request, expected)) in together.iter().zip(&told).zip(&cases) {
            assert_eq!(&made.ids, expected, "{name} {request:?}");
            let ended = usize::from(made.finish_reason == FinishReason::Stop);
            assert_eq!(told, &expected[..expected.len() - ended]);
        }
        let greedy = together.last().expect("the greedy one");
        assert_eq!(greedy.ids, alone(&decoder, &requests[24]).0);
    }
}

#[test]
fn a_search_finds_what_is_at_least_as_likely_as_the_greedy_text() {
    let decoder = open("llama", etude_tensor::Kind::Float);
    let logprob = |prompt: &[u32], made: &[u32]| -> f64 {
        let all: Vec<i64> = prompt.iter().chain(made).map(|&id| i64::from(id)).collect();
        let read = Tensor::from_slice(&all).unsqueeze(0);
        let input = crate::Input::plain(&read);
        let logits = etude_tensor::no_grad(|| decoder.logits(&decoder.hidden(input, None)));
        let logprobs = logits.log_softmax(-1, Kind::Double);
        let of = |at: usize| logprobs.double_value(&[0, at as i64 - 1, all[at]]);
        (prompt.len()..all.len()).map(of).sum()
    };
    let mut better = 0;
    for prompt in prompts(&[2, 3, 5, 8, 13]) {
        let greedy = request(&prompt, 6);
        // Of 96 tokens six deep all of the first two levels is searched.
        let wide = Request {
            beams: search(Beams::MOST),
            ..greedy.clone()
        };
        let [greedy, wide] = [greedy, wide].map(|request| alone(&decoder, &request).0);
        let [least, most] = [&greedy, &wide].map(|made| logprob(&prompt, made));
        assert!(most >= least - 1e-5, "{most} {least}");
        better += usize::from(most > least + 1e-5);
    }
    assert!(better > 0, "greedy texts are not always the likeliest");
}

#[test]
fn texts_that_spell_an_end_have_ended() {
    let decoder = open("qwen3", etude_tensor::Kind::Float);
    let request = Request {
        beams: search(3),
        ..request(&prompts(&[4])[0], 10)
    };
    let (free, _) = alone(&decoder, &request);
    let pair = [free[3], free[4]];
    let spells = |_: usize, ids: &[u32]| ids.ends_with(&pair);
    let generator = Generator::new(&decoder);
    let requests = [request];
    let mut heard = 0;
    let made = generator.generate_until(&requests, &spells, &mut |_, _| {
        heard += 1;
        Continue(())
    });
    let made = made.expect("generates").remove(0);
    assert_eq!(made.finish_reason, FinishReason::StopString);
    let spelt = made.ids.windows(2).position(|ids| ids == pair);
    assert_eq!(spelt, Some(made.ids.len() - 2), "{:?}", made.ids);
    assert_eq!(heard, made.ids.len());
    // Who listens may end the text too.
    let made = generator.generate(&requests, &mut |_, id| {
        if id == free[1] {
            Break(FinishReason::StopString)
        } else {
            Continue(())
        }
    });
    let made = made.expect("generates").remove(0);
    let end = free.iter().position(|&id| id == free[1]).expect("there");
    assert_eq!(made.ids, free[..=end]);
    assert_eq!(made.finish_reason, FinishReason::StopString);
}

#[test]
fn a_search_never_leaves_the_tokenizers_vocabulary_and_ends_with_the_context() {
    let decoder = open("gpt2", etude_tensor::Kind::Float);
    let context = decoder.config().context as usize;
    let asked = Request {
        beams: search(5),
        ..request(&prompts(&[context - 6])[0], 100)
    };
    let generator = Generator::new(&decoder).with_vocabulary(7);
    let made = generator.generate(&[asked], &mut |_, _| Continue(()));
    let made = made.expect("generates").remove(0);
    assert_eq!(
        (made.ids.len(), made.finish_reason),
        (7, FinishReason::Length)
    );
    assert!(made.ids.iter().all(|&id| id < 7), "{:?}", made.ids);
    // More beams than there are texts.
    let few = Request {
        beams: search(100),
        ..request(&[1, 2], 2)
    };
    let one = Generator::new(&decoder).with_vocabulary(1);
    let made = one.generate(&[few], &mut |_, _| Continue(()));
    assert_eq!(made.expect("generates").remove(0).ids, [0, 0]);
}

#[test]
fn what_cannot_be_is_refused() {
    let decoder = open("gpt2", etude_tensor::Kind::Float);
    let asked = |beams: Beams, temperature: f64| {
        let mut request = Request {
            beams,
            ..request(&[1], 3)
        };
        request.sampling.temperature = temperature;
        Generator::new(&decoder).generate(&[request], &mut |_, _| Continue(()))
    };
    let crooked = Beams {
        length_penalty: f64::NAN,
        ..search(2)
    };
    for (beams, temperature, words) in [
        (search(0), 0.0, "beams.width = 0"),
        (search(257), 0.0, "to 256"),
        (crooked, 0.0, "beams.length_penalty = NaN"),
        (search(2), 0.7, "give temperature 0"),
    ] {
        let error = asked(beams, temperature).expect_err("refused").to_string();
        assert!(error.contains(words), "{error}");
    }
    etude_tensor::no_grad(|| {
        decoder.params().iter().for_each(|(_, tensor)| {
            let _ = tensor.shallow_clone().fill_(f64::NAN);
        })
    });
    assert!(matches!(
        asked(search(2), 0.0),
        Err(GenerateError::NotFinite {
            prompt: 0,
            tokens: 1
        })
    ));
}

#[test]
fn one_beam_is_the_greedy_text_in_bf16_too() {
    let decoder = crate::hf::load(&folder("llama"), Kind::BFloat16, Device::Cpu)
        .expect("loads")
        .decoder;
    let greedy = request(&[3, 4, 5], 8);
    let one = [(
        0,
        &Request {
            beams: search(1),
            ..greedy.clone()
        },
    )];
    let made =
        etude_tensor::no_grad(|| super::search(&Generator::new(&decoder), &one, &|_, _| false));
    assert_eq!(made.expect("searches")[0].1.ids, alone(&decoder, &greedy).0);
}
