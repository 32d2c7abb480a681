//! Text generation with a tiny tokenizer and a random model: batches, streaming, stop strings.

use std::ops::ControlFlow::{Break, Continue};

use etude_tensor::{Device, Kind, device, no_grad, seed_everything};
use etude_tokenizer::{Role, TrainSettings};

use super::*;
use crate::config::{Family, ModelConfig, Sizes};

fn tokenizer() -> Tokenizer {
    let documents = [
        "the rose is red, the violet is blue",
        "a rose is a rose — é, 日本, 🌹",
    ];
    let settings = TrainSettings {
        vocab_size: 280,
        ..TrainSettings::default()
    };
    Tokenizer::train(documents.into_iter().map(String::from), &settings)
        .expect("trains")
        .0
}

/// A random model whose vocabulary is larger than the tokenizer's, as padded embeddings are.
fn decoder() -> Decoder {
    device::set_threads(1);
    seed_everything(11);
    let sizes = Sizes {
        vocab_size: 320,
        n_layer: 2,
        n_head: 2,
        n_kv_head: 1,
        n_embd: 16,
        n_inner: 32,
        context: 96,
        tied: true,
    };
    let config = ModelConfig::new(Family::Llama, sizes);
    let decoder = Decoder::new(config, Kind::Double, Device::Cpu).expect("possible");
    // Larger weights than training starts from, so that the text is not one token repeated.
    no_grad(|| {
        for (_, tensor) in decoder
            .params()
            .iter()
            .filter(|(_, tensor)| tensor.dim() == 2)
        {
            let _ = tensor.shallow_clone().g_mul_scalar_(12.0);
        }
    });
    decoder
}

fn warm(seed: u64) -> TextSettings {
    let sampling = Sampling {
        temperature: 1.0,
        seed,
        ..Sampling::default()
    };
    TextSettings {
        max_tokens: 40,
        sampling,
        ..TextSettings::default()
    }
}

fn text(prompt: &str) -> Prompt {
    Prompt::Text(prompt.to_owned())
}

#[test]
fn texts_in_a_batch_are_as_alone_and_streams_join_to_them() {
    let (decoder, tokenizer) = (decoder(), tokenizer());
    let generator = TextGenerator::new(&decoder, &tokenizer).expect("they belong together");
    let talk = Prompt::Messages(vec![Message::new(Role::User, "is it <|end|> red?")]);
    let prompts = [
        text("a rose"),
        talk,
        Prompt::Document("the violet is".to_owned()),
        text("é"),
    ];
    let settings: Vec<TextSettings> = (0..4).map(warm).collect();
    let requests: Vec<_> = prompts.iter().zip(&settings).collect();
    let mut heard = vec![String::new(); 4];
    let together = generator.generate(&requests, &mut |row, piece| {
        assert!(!piece.is_empty());
        heard[row] += piece;
        Continue(())
    });
    let together = together.expect("generates");
    for (row, made) in together.iter().enumerate() {
        let alone = generator
            .complete(requests[row].0, requests[row].1)
            .expect("generates");
        assert_eq!((&made.text, &made.ids), (&alone.text, &alone.ids));
        assert_eq!(made.text, heard[row]);
        assert_eq!(
            made.text,
            tokenizer.decode(&made.ids, true).expect("decodes")
        );
        assert!(made.ids.len() == 40 || made.finish_reason == FinishReason::Stop);
        assert!(made.tokens_per_second > 0.0);
    }
    assert!(
        together.iter().any(|made| made.text.len() > 20),
        "{together:?}"
    );
}

#[test]
fn prompts_are_encoded_as_they_should() {
    let (decoder, tokenizer) = (decoder(), tokenizer());
    let generator = TextGenerator::new(&decoder, &tokenizer).expect("they belong together");
    let plain = tokenizer.encode("a <|end|>").expect("encodes");
    assert_eq!(
        generator.encode(&text("a <|end|>")).expect("encodes"),
        plain
    );
    let bos = tokenizer.bos_id().expect("trained tokenizers have one");
    let document = generator
        .encode(&Prompt::Document("a <|end|>".to_owned()))
        .expect("encodes");
    assert_eq!(document, [&[bos], &plain[..]].concat());
    let talk = vec![Message::new(Role::User, "a <|end|>")];
    let segments = tokenizer.render_prompt(&talk).expect("renders");
    let expected = tokenizer.encode_segments(&segments).expect("encodes").ids;
    assert_eq!(
        generator.encode(&Prompt::Messages(talk)).expect("encodes"),
        expected
    );
    assert_eq!(generator.end(), tokenizer.stop_ids());
}

#[test]
fn stop_strings_cut_the_text_wherever_the_tokens_end() {
    let (decoder, tokenizer) = (decoder(), tokenizer());
    let generator = TextGenerator::new(&decoder, &tokenizer).expect("they belong together");
    let generator = generator.with_end(Vec::new());
    let whole = generator
        .complete(&text("a rose"), &warm(3))
        .expect("generates");
    let characters: Vec<char> = whole.text.chars().collect();
    assert!(characters.len() > 15, "{whole:?}");
    let mut straddled = 0;
    for start in 0..characters.len() - 3 {
        let stop: String = characters[start..start + 3].iter().collect();
        let cut = whole.text.find(&stop).expect("it is there");
        let settings = TextSettings {
            stop: vec!["never there".to_owned(), stop.clone()],
            ..warm(3)
        };
        let mut heard = String::new();
        let mut listen = |_: usize, piece: &str| {
            heard += piece;
            Continue(())
        };
        let prompt = text("a rose");
        let made = generator
            .generate(&[(&prompt, &settings)], &mut listen)
            .expect("generates");
        assert_eq!(made[0].text, whole.text[..cut], "{stop:?}");
        assert_eq!(heard, made[0].text, "nothing of a stop string is ever told");
        assert_eq!(made[0].finish_reason, FinishReason::StopString);
        let count = made[0].ids.len();
        assert_eq!(made[0].ids, whole.ids[..count]);
        let before = tokenizer
            .decode(&made[0].ids[..count - 1], true)
            .expect("decodes");
        straddled += usize::from(before.len() > cut);
    }
    assert!(
        straddled > 3,
        "only {straddled} stop strings lay over several tokens"
    );
}

#[test]
fn end_tokens_end_and_leave_no_text() {
    let (decoder, tokenizer) = (decoder(), tokenizer());
    let endless = TextGenerator::new(&decoder, &tokenizer)
        .expect("fits")
        .with_end(Vec::new());
    let whole = endless.complete(&text("the"), &warm(5)).expect("generates");
    assert_eq!(
        (whole.ids.len(), whole.finish_reason),
        (40, FinishReason::Length)
    );
    let place = 9;
    let first = whole
        .ids
        .iter()
        .position(|id| *id == whole.ids[place])
        .expect("it is there");
    let ending = endless.clone().with_end(vec![whole.ids[place]]);
    let made = ending.complete(&text("the"), &warm(5)).expect("generates");
    assert_eq!(
        (made.ids.as_slice(), made.finish_reason),
        (&whole.ids[..=first], FinishReason::Stop)
    );
    assert_eq!(
        made.text,
        tokenizer
            .decode(&whole.ids[..first], true)
            .expect("decodes")
    );
    // A special token's spelling as a stop string ends the text at the token.
    let special = |seed| {
        let made = endless
            .complete(&text("the"), &warm(seed))
            .expect("generates");
        let at = made.ids.iter().position(|&id| tokenizer.is_special(id))?;
        Some((
            seed,
            tokenizer.id_to_token(made.ids[at])?,
            made.ids[..=at].to_vec(),
        ))
    };
    let (seed, spelling, ids) = (0..200).find_map(special).expect("one has a special token");
    let settings = TextSettings {
        stop: vec![spelling],
        ..warm(seed)
    };
    let made = endless
        .complete(&text("the"), &settings)
        .expect("generates");
    assert_eq!((made.ids, made.finish_reason), (ids, FinishReason::Stop));
}

#[test]
fn a_listener_can_end_a_row() {
    let (decoder, tokenizer) = (decoder(), tokenizer());
    let generator = TextGenerator::new(&decoder, &tokenizer)
        .expect("fits")
        .with_end(Vec::new());
    let (prompts, settings) = ([text("a"), text("the rose")], warm(1));
    let mut heard = String::new();
    let made = generator.generate(
        &[(&prompts[0], &settings), (&prompts[1], &settings)],
        &mut |row, piece| {
            if row == 1 {
                return Continue(());
            }
            heard += piece;
            Break(())
        },
    );
    let made = made.expect("generates");
    assert_eq!(made[0].text, heard);
    assert!(made[0].ids.len() < 40 && made[1].ids.len() == 40);
}

#[test]
fn what_cannot_be_is_refused() {
    let (decoder, tokenizer) = (decoder(), tokenizer());
    let generator = TextGenerator::new(&decoder, &tokenizer).expect("fits");
    let refuse = |prompt: &Prompt, settings: &TextSettings, words: &str| {
        let error = generator
            .complete(prompt, settings)
            .expect_err(words)
            .to_string();
        assert!(error.contains(words), "{error:?} lacks {words:?}");
    };
    let good = warm(0);
    refuse(&text(""), &good, "is empty");
    refuse(
        &text(&"rose ".repeat(300)),
        &good,
        "the model's context is 96",
    );
    refuse(
        &text("a"),
        &TextSettings {
            stop: vec![String::new()],
            ..good.clone()
        },
        "stop string 0",
    );
    refuse(
        &text("a"),
        &TextSettings {
            max_tokens: 0,
            ..good.clone()
        },
        "max_tokens = 0",
    );
    let cold = Sampling {
        temperature: f64::NAN,
        ..Sampling::default()
    };
    refuse(
        &text("a"),
        &TextSettings {
            sampling: cold,
            ..good
        },
        "sampling.temperature",
    );

    let small = Sizes {
        vocab_size: 100,
        n_layer: 1,
        n_head: 1,
        n_kv_head: 1,
        n_embd: 8,
        n_inner: 8,
        context: 8,
        tied: true,
    };
    let small = ModelConfig::new(Family::Llama, small);
    let small = Decoder::new(small, Kind::Float, Device::Cpu).expect("possible");
    let error = TextGenerator::new(&small, &tokenizer)
        .expect_err("too small")
        .to_string();
    let largest = tokenizer.vocab_size() - 1;
    assert!(
        error.contains(&format!("up to {largest}")) && error.contains("100"),
        "{error}"
    );
}

#[test]
fn a_generation_is_json() {
    let made = Generation {
        text: "a".to_owned(),
        ids: vec![1],
        finish_reason: FinishReason::StopString,
        tokens_per_second: 2.0,
        prompt_tokens: 3,
    };
    let json = serde_json::to_value(&made).expect("JSON");
    assert_eq!(json["finish_reason"], "stop_string");
    assert_eq!(
        serde_json::from_value::<Generation>(json).expect("comes back"),
        made
    );
    for reason in [
        FinishReason::Stop,
        FinishReason::Length,
        FinishReason::StopString,
    ] {
        assert_eq!(serde_json::to_value(reason).expect("JSON"), reason.name());
    }
}
