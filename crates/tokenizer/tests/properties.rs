//! What holds for any text and any ids.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::sync::LazyLock;

use etude_tokenizer::{Message, Role, Split, Tokenizer, TrainSettings};
use proptest::prelude::*;
use serde_json::json;
use support::{golden, load, stream, text};

static BYTE_LEVEL: LazyLock<[Tokenizer; 2]> = LazyLock::new(|| {
    let goldens = golden("byte_level.json");
    let corpus = goldens["corpus"].as_array().unwrap();
    [Split::Words, Split::Digits].map(|split| {
        let settings = TrainSettings {
            vocab_size: 600,
            split,
            ..TrainSettings::default()
        };
        let documents = corpus.iter().map(|document| text(document).to_owned());
        Tokenizer::train(documents.collect::<Vec<_>>().into_iter(), &settings)
            .unwrap()
            .0
    })
});

static SENTENCE_PIECE: LazyLock<[Tokenizer; 2]> = LazyLock::new(|| {
    let goldens = golden("sentence_piece.json");
    let config = json!({"bos_token": "<s>", "eos_token": "</s>"});
    ["legacy", "first"].map(|kind| load(&goldens[kind]["tokenizer"], config.clone()))
});

/// Any text, often with what tokenizers trip over.
fn any_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        3 => any::<String>(),
        2 => "[a-z ,.']{0,20}",
        1 => "\\s{0,5}",
        1 => "[0-9]{1,6}",
        1 => Just("<|endoftext|>".to_owned()),
        1 => Just("<|end|>\n".to_owned()),
        1 => Just("</s>".to_owned()),
        1 => Just("👩‍🚀🏳️‍🌈é".to_owned()),
    ];
    proptest::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn decoding_gives_the_text_back(text in any_text()) {
        for tokenizer in BYTE_LEVEL.iter() {
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert!(ids.iter().all(|id| !tokenizer.is_special(*id)));
            prop_assert_eq!(&tokenizer.decode(&ids, true).unwrap(), &text);
            prop_assert_eq!(&tokenizer.decode(&ids, false).unwrap(), &text);
        }
    }

    #[test]
    fn streams_join_to_the_whole_and_split_no_character(text in any_text()) {
        for tokenizer in BYTE_LEVEL.iter().chain(SENTENCE_PIECE.iter()) {
            let ids = tokenizer.encode(&text).unwrap();
            let whole = tokenizer.decode(&ids, false).unwrap();
            let pieces = stream(tokenizer, &ids, false);
            prop_assert_eq!(&pieces.concat(), &whole);
            if !text.contains(char::REPLACEMENT_CHARACTER) {
                let broken = whole.contains(char::REPLACEMENT_CHARACTER);
                prop_assert!(!broken);
            }
        }
    }

    #[test]
    fn streams_of_any_ids_join_to_the_whole(
        seeds in proptest::collection::vec(any::<u32>(), 0..40), skip in any::<bool>(),
    ) {
        for tokenizer in BYTE_LEVEL.iter().chain(SENTENCE_PIECE.iter()) {
            let size = tokenizer.vocab_size() as u32;
            let ids: Vec<u32> = seeds.iter().map(|seed| seed % size).collect();
            let whole = tokenizer.decode(&ids, skip).unwrap();
            prop_assert_eq!(stream(tokenizer, &ids, skip).concat(), whole);
        }
    }

    #[test]
    fn plain_text_never_becomes_a_special_token(text in any_text()) {
        for tokenizer in SENTENCE_PIECE.iter() {
            let unknown = tokenizer.token_id("<unk>").unwrap();
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert!(ids.iter().all(|id| *id == unknown || !tokenizer.is_special(*id)));
        }
    }

    #[test]
    fn any_conversation_agrees_with_its_prompts(
        system in any_text(), asked in any_text(), answer in any_text(), again in any_text(),
    ) {
        let tokenizer = &BYTE_LEVEL[0];
        let talk = [
            Message::new(Role::System, system),
            Message::new(Role::User, asked),
            Message::new(Role::Assistant, answer.clone()),
            Message::new(Role::User, again),
            Message::new(Role::Assistant, answer.clone()),
        ];
        let segments = tokenizer.render_conversation(&talk).unwrap();
        let whole = tokenizer.encode_segments(&segments).unwrap();
        for turn in [2, 4] {
            let prompt = tokenizer.render_prompt(&talk[..turn]).unwrap();
            let prompt = tokenizer.encode_segments(&prompt).unwrap();
            prop_assert!(whole.ids.starts_with(&prompt.ids));
        }
        let learnt = whole.ids.iter().zip(&whole.supervised).filter(|(_, on)| **on);
        let learnt: Vec<u32> = learnt.map(|(id, _)| *id).collect();
        let expected = format!("{answer}<|end|>").repeat(2);
        prop_assert_eq!(tokenizer.decode(&learnt, false).unwrap(), expected);
        // 1 at the beginning, and 2 for each of 5 turns.
        prop_assert_eq!(whole.ids.iter().filter(|id| tokenizer.is_special(**id)).count(), 11);
    }
}

#[test]
fn a_long_text_encoded_in_pieces_has_the_same_ids() {
    let goldens = golden("byte_level.json");
    let corpus: String = goldens["corpus"]
        .as_array()
        .unwrap()
        .iter()
        .map(text)
        .collect();
    let long = corpus.repeat(100);
    for (tokenizer, name) in BYTE_LEVEL.iter().zip(["words", "digits"]) {
        // Nothing is cut where special tokens are recognised, and there are none in this text.
        let whole = tokenizer.encode_with_special(&long).unwrap();
        assert_eq!(tokenizer.encode(&long).unwrap(), whole, "{name}");
        let batch = tokenizer
            .encode_batch(&[long.as_str(), "", "one", long.as_str()])
            .unwrap();
        assert_eq!(batch[0], whole);
        assert_eq!(batch[1], [0u32; 0]);
        assert_eq!(batch[2], tokenizer.encode("one").unwrap());
        assert_eq!(batch[3], whole);
    }
}

#[test]
fn a_stream_waits_for_whole_characters_and_no_longer() {
    let tokenizer = &BYTE_LEVEL[0];
    let mut decoder = tokenizer.decoder(true);
    let mut pieces = Vec::new();
    for id in tokenizer.encode("a🦊b").unwrap() {
        pieces.push(decoder.push(id).unwrap());
    }
    let shown: Vec<String> = pieces.iter().flatten().cloned().collect();
    assert_eq!(shown, ["a", "🦊", "b"]);
    assert!(pieces.contains(&None), "the fox takes several tokens here");
    assert_eq!(decoder.finish(), "");
    let beyond = tokenizer.vocab_size() as u32;
    assert!(tokenizer.decoder(true).push(beyond).is_err());
    let error = tokenizer
        .decode(&[beyond - 1, beyond], true)
        .unwrap_err()
        .to_string();
    assert!(error.contains(&format!("id {beyond}")), "{error}");
}
