//! A tokenizer as metadata.

use etude_tokenizer::Tokenizer;
use serde_json::Value as Json;

use super::pre::PreTokenizer;
use super::sentencepiece::{self, SCORES, SPACE_PREFIX};
use super::{
    ADD_BOS, CONTROL, MERGES, MODEL, NORMAL, PRE, TEMPLATE, TOKENS, TYPES, UNKNOWN, UNUSED,
    USER_DEFINED,
};
use crate::gguf::error::GgufError;
use crate::gguf::metadata::Value;
use crate::hf::TokenIds;

/// The entries of a tokenizer, for a model with an embedding of `vocab_size` rows.
pub(in crate::gguf) fn write(
    tokenizer: &Tokenizer,
    ids: &TokenIds,
    vocab_size: i64,
) -> Result<Vec<(String, Value)>, GgufError> {
    let json: Json = serde_json::from_str(&tokenizer.to_json()).expect("it was just written");
    let model = &json["model"];
    if model["type"] != "BPE" {
        return Err(GgufError::unexportable(format!(
            "its tokenizer is of the type {}; only BPE is written",
            model["type"]
        )));
    }
    let way = match model["byte_fallback"] == true {
        true => Way::Pieces(sentencepiece::prefixes(&json).ok_or_else(|| {
            GgufError::unexportable(format!(
                "GGUF has no way to say how its SentencePiece model treats spaces: {} and {}",
                json["normalizer"], json["pre_tokenizer"]
            ))
        })?),
        false => Way::Bytes(PreTokenizer::recognise(&json).ok_or_else(|| {
            GgufError::unexportable(format!(
                "GGUF has no name for its pre-tokenizer, {} with the normalizer {} and ignore_merges {}",
                json["pre_tokenizer"], json["normalizer"], model["ignore_merges"]
            ))
        })?),
    };
    let is_pieces = matches!(way, Way::Pieces(_));
    let size = usize::try_from(vocab_size).expect("a decoder has a vocabulary");
    let mut texts: Vec<String> = (0..size).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![UNUSED; size];
    let mut put = |id: &Json, text: &str, kind: i64| {
        let place = id.as_u64().and_then(|id| usize::try_from(id).ok());
        match place.filter(|place| *place < size) {
            Some(place) => {
                texts[place] = text.to_owned();
                types[place] = kind;
                Ok(())
            }
            None => Err(GgufError::unexportable(format!(
                "its tokenizer has the id {id}, its embedding {size} rows"
            ))),
        }
    };
    for (text, id) in model["vocab"].as_object().into_iter().flatten() {
        let kind = match way {
            Way::Pieces(_) => sentencepiece::kind(text, model),
            Way::Bytes(_) => NORMAL,
        };
        put(id, text, kind)?;
    }
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        let kind = if is_pieces && token["content"] == model["unk_token"] {
            UNKNOWN
        } else if token["special"] == true {
            CONTROL
        } else {
            USER_DEFINED
        };
        put(
            &token["id"],
            token["content"].as_str().unwrap_or_default(),
            kind,
        )?;
    }
    let merges = model["merges"].as_array().into_iter().flatten();
    let merges = merges.map(|merge| match merge {
        Json::Array(parts) => parts
            .iter()
            .filter_map(Json::as_str)
            .collect::<Vec<_>>()
            .join(" "),
        other => other.as_str().unwrap_or_default().to_owned(),
    });
    let merges: Vec<String> = merges.collect();
    let (kind, of_its_kind) = match way {
        Way::Pieces(_) => {
            let scores = sentencepiece::ranks(&texts, &merges);
            if !sentencepiece::tell(&scores, &texts, &types, &merges) {
                return Err(GgufError::unexportable(
                    "its merges do not follow from the scores of its pieces, as SentencePiece's do: llama.cpp would make other tokens",
                ));
            }
            ("llama", vec![(SCORES, Value::Floats(scores))])
        }
        Way::Bytes(pre) => (
            "gpt2",
            vec![
                (PRE, Value::Text(pre.name().to_owned())),
                (MERGES, Value::Texts(merges)),
            ],
        ),
    };
    let mut entries = vec![
        (MODEL, Value::Text(kind.to_owned())),
        (TOKENS, Value::Texts(texts)),
        (TYPES, Value::Integers(types)),
        (
            ADD_BOS,
            Value::Flag(begins_with_bos(&json["post_processor"])),
        ),
        (SPACE_PREFIX, Value::Flag(matches!(way, Way::Pieces(true)))),
    ];
    entries.extend(of_its_kind);
    let unknown = model["unk_token"].as_str().filter(|_| is_pieces);
    let unknown = unknown.and_then(|token| tokenizer.token_id(token));
    let is_known = |id: &u32| (*id as usize) < size;
    let [eos, eot, eom] = ends(tokenizer, ids, is_known);
    for (key, id) in [
        (
            "tokenizer.ggml.bos_token_id",
            ids.bos.filter(is_known).or(tokenizer.bos_id()),
        ),
        ("tokenizer.ggml.eos_token_id", eos),
        ("tokenizer.ggml.eot_token_id", eot),
        ("tokenizer.ggml.eom_token_id", eom),
        (
            "tokenizer.ggml.padding_token_id",
            ids.pad.filter(is_known).or(tokenizer.pad_id()),
        ),
        ("tokenizer.ggml.unknown_token_id", unknown),
    ] {
        let id = id.filter(is_known);
        entries.extend(id.map(|id| (key, Value::Unsigned(id.into()))));
    }
    if let Some(template) = tokenizer.chat_template() {
        entries.push((TEMPLATE, Value::Text(template.source().to_owned())));
    }
    Ok(entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect())
}

/// Where llama.cpp stops: the ends of a text, of a turn and of a message, by which it means no more than three tokens.
/// The one that ends a turn of the template is the second; the model's own take what places are left.
fn ends(
    tokenizer: &Tokenizer,
    ids: &TokenIds,
    is_known: impl Fn(&u32) -> bool,
) -> [Option<u32>; 3] {
    let own: Vec<u32> = ids.eos.iter().copied().filter(is_known).collect();
    let first = own.first().copied().or(tokenizer.eos_id());
    let turn = tokenizer.end_of_turn_id();
    let mut left = own.iter().copied();
    let mut next = || left.find(|&id| Some(id) != first && Some(id) != turn);
    let second = turn.filter(|_| turn != first).or_else(&mut next);
    [first, second.or(turn), next()]
}

/// How a tokenizer makes tokens.
#[derive(Clone, Copy)]
enum Way {
    /// Byte-level BPE over words cut in this way.
    Bytes(PreTokenizer),
    /// SentencePiece's, with or without a space before each text.
    Pieces(bool),
}

/// Whether Hugging Face's tokenizer puts a special token before each text.
fn begins_with_bos(processor: &Json) -> bool {
    match processor["type"].as_str() {
        Some("Sequence") => {
            let inner = processor["processors"].as_array();
            inner.into_iter().flatten().any(begins_with_bos)
        }
        Some("TemplateProcessing") => !processor["single"][0]["SpecialToken"].is_null(),
        _ => false,
    }
}
