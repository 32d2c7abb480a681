//! A file's tokenizer as a `tokenizer.json` and a `tokenizer_config.json`, and the other way round.
//! Byte-level BPE and SentencePiece's BPE; others are refused by name.

mod bpe;
mod pre;
mod sentencepiece;
mod write;

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::config;
use super::error::GgufError;
use super::file::GgufFile;
use super::metadata::Metadata;
use crate::config::ModelConfig;
pub(super) use write::write;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const TEMPLATE: &str = "tokenizer.chat_template";

/// What a token is: text, or a sign of its own (special), or one that its user added.
const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;
/// A byte of SentencePiece's, for what no piece has.
const BYTE: i64 = 6;

/// The files of a tokenizer.
#[derive(Debug)]
pub(super) struct TokenizerFiles {
    tokenizer: Json,
    config: Json,
}

impl TokenizerFiles {
    /// Writes both into a folder that is there.
    pub(super) fn write(&self, folder: &Path) -> Result<(), GgufError> {
        let files = [
            ("tokenizer.json", &self.tokenizer),
            ("tokenizer_config.json", &self.config),
        ];
        for (name, json) in files {
            let path = folder.join(name);
            fs::write(&path, format!("{json:#}\n")).map_err(GgufError::io(&path))?;
        }
        Ok(())
    }
}

/// What the kinds of tokenizers differ in, as parts of a `tokenizer.json`.
struct Engine {
    normalizer: Json,
    pre_tokenizer: Json,
    post_processor: Json,
    decoder: Json,
    model: Json,
    /// Texts begin with the beginning token unless the file says otherwise.
    adds_bos: bool,
}

/// Rebuilds the tokenizer of a file for the model in it.
pub(super) fn read(file: &GgufFile, config: &ModelConfig) -> Result<TokenizerFiles, GgufError> {
    let metadata = file.metadata();
    let kind = metadata.text(MODEL)?;
    let kind = kind.ok_or_else(|| metadata.missing(MODEL))?;
    if !["gpt2", "llama"].contains(&kind) {
        let reason = format!(
            "is `{kind}`, which is not supported; Etude reads `gpt2` (byte-level BPE) and `llama` \
             (SentencePiece's BPE). Import the model from its Hugging Face folder instead"
        );
        return Err(metadata.error(MODEL, reason));
    }
    let tokens = Tokens::read(metadata, config.vocab_size)?;
    let ids = config::token_ids(metadata)?;
    let named = |id: Option<u32>, key: &str| tokens.named(metadata, id, key);
    let bos = named(ids.bos, "bos")?;
    let eos = named(ids.eos.first().copied(), "eos")?;
    let pad = named(ids.pad, "padding")?;
    for (key, id) in config::end_ids(metadata)? {
        named(Some(id), key)?;
    }
    let unknown = metadata.int("tokenizer.ggml.unknown_token_id")?;
    let unknown = named(unknown.and_then(|id| u32::try_from(id).ok()), "unknown")?;
    let engine = match kind {
        "gpt2" => bpe::engine(metadata, &tokens)?,
        _ => sentencepiece::engine(metadata, &tokens, unknown)?,
    };
    let add_bos = metadata.flag(ADD_BOS)?.unwrap_or(engine.adds_bos);
    let begins = bos.filter(|_| add_bos).zip(ids.bos);

    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": tokens.added(),
        "normalizer": engine.normalizer,
        "pre_tokenizer": engine.pre_tokenizer,
        "post_processor": post_processor(engine.post_processor, begins),
        "decoder": engine.decoder,
        "model": engine.model,
    });
    let mut settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false,
        "add_bos_token": begins.is_some(), "model_max_length": config.context,
    });
    let object = settings.as_object_mut().expect("built as an object");
    for (name, token) in [
        ("bos_token", bos),
        ("eos_token", eos),
        ("unk_token", unknown),
        ("pad_token", pad),
        ("chat_template", metadata.text(TEMPLATE)?),
    ] {
        object.extend(token.map(|token| (name.to_owned(), json!(token))));
    }
    Ok(TokenizerFiles {
        tokenizer,
        config: settings,
    })
}

/// The vocabulary with the type of each token.
struct Tokens<'a> {
    texts: &'a [String],
    types: Vec<i64>,
    /// From here on all tokens are added ones; files of Hugging Face keep those out of the BPE.
    base: usize,
}

impl<'a> Tokens<'a> {
    fn read(metadata: &'a Metadata, vocab_size: i64) -> Result<Self, GgufError> {
        let mut texts = metadata.texts(TOKENS)?;
        if texts.len() as i64 > vocab_size {
            let reason = format!(
                "has {} tokens, and the model's embedding has {vocab_size} rows",
                texts.len()
            );
            return Err(metadata.error(TOKENS, reason));
        }
        let mut types = match metadata.integers(TYPES)? {
            Some(types) if types.len() == texts.len() => types.to_vec(),
            Some(types) => {
                let (types, texts) = (types.len(), texts.len());
                return Err(metadata.error(TYPES, format!("has {types} types for {texts} tokens")));
            }
            None => vec![NORMAL; texts.len()],
        };
        // Where the embedding has more rows than the tokenizer had tokens, converters fill up.
        let fills = |at: usize| texts[at] == format!("[PAD{at}]");
        let mut count = texts.len();
        while count > 0 && types[count - 1] == UNUSED && fills(count - 1) {
            count -= 1;
        }
        texts = &texts[..count];
        types.truncate(count);
        let mut seen = HashSet::with_capacity(count);
        if let Some(at) = texts.iter().position(|text| !seen.insert(text.as_str())) {
            let reason = format!("has {:?} twice, the second time as token {at}", texts[at]);
            return Err(metadata.error(TOKENS, reason));
        }
        let tail = types.iter().rev().take_while(|&&kind| is_added(kind));
        let base = count - tail.count();
        Ok(Self { texts, types, base })
    }

    /// The text of the token that a key names.
    fn named(
        &self,
        metadata: &Metadata,
        id: Option<u32>,
        key: &str,
    ) -> Result<Option<&'a str>, GgufError> {
        let Some(id) = id else { return Ok(None) };
        let text = self.texts.get(id as usize).map(String::as_str);
        text.map(Some).ok_or_else(|| {
            let reason = format!("is {id}, and there are {} tokens", self.texts.len());
            metadata.error(&format!("tokenizer.ggml.{key}_token_id"), reason)
        })
    }

    fn vocabulary(&self) -> Map<String, Json> {
        let texts = self.texts[..self.base].iter().enumerate();
        texts.map(|(id, text)| (text.clone(), json!(id))).collect()
    }

    fn added(&self) -> Vec<Json> {
        let all = self.texts.iter().zip(&self.types).enumerate();
        all.filter(|(_, (_, kind))| is_added(**kind))
            .map(|(id, (text, kind))| {
                json!({
                    "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": *kind != USER_DEFINED,
                })
            })
            .collect()
    }
}

fn is_added(kind: i64) -> bool {
    matches!(kind, CONTROL | USER_DEFINED | UNKNOWN)
}

/// `base`, and the beginning token before each text where the model wants it.
fn post_processor(base: Json, begins: Option<(&str, u32)>) -> Json {
    let Some((bos, id)) = begins else {
        return base;
    };
    let special = |type_id: i64| json!({"SpecialToken": {"id": bos, "type_id": type_id}});
    let sequence = |name: &str, type_id: i64| json!({"Sequence": {"id": name, "type_id": type_id}});
    let template = json!({
        "type": "TemplateProcessing",
        "single": [special(0), sequence("A", 0)],
        "pair": [special(0), sequence("A", 0), special(1), sequence("B", 1)],
        "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}},
    });
    if base.is_null() {
        return template;
    }
    json!({"type": "Sequence", "processors": [base, template]})
}
