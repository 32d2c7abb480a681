//! A file's tokenizer as a `tokenizer.json` and a `tokenizer_config.json`, and the other way round.
//! Byte-level BPE alone; SentencePiece's and others are refused by name.

mod pre;
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
use pre::PreTokenizer;
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

/// Rebuilds the tokenizer of a file for the model in it.
pub(super) fn read(file: &GgufFile, config: &ModelConfig) -> Result<TokenizerFiles, GgufError> {
    let metadata = file.metadata();
    match metadata.text(MODEL)? {
        Some("gpt2") => {}
        Some(other) => {
            let reason = format!(
                "is `{other}`, which is not supported; Etude reads `gpt2`, byte-level BPE. \
                 Import the model from its Hugging Face folder instead"
            );
            return Err(metadata.error(MODEL, reason));
        }
        None => return Err(metadata.missing(MODEL)),
    }
    let pre = match metadata.text(PRE)? {
        Some(name) => PreTokenizer::named(name)
            .map_err(|known| metadata.error(PRE, format!("is `{name}`; Etude knows {known}")))?,
        None => PreTokenizer::GPT2,
    };
    let tokens = Tokens::read(metadata, config.vocab_size)?;
    let merges = merges(metadata, &tokens)?;
    let ids = config::token_ids(metadata)?;
    let named = |id: Option<u32>, key: &str| tokens.named(metadata, id, key);
    let bos = named(ids.bos, "bos")?;
    let eos = named(ids.eos.first().copied(), "eos")?;
    let pad = named(ids.pad, "padding")?;
    for id in &ids.eos {
        named(Some(*id), "eos")?;
    }
    let unknown = metadata.int("tokenizer.ggml.unknown_token_id")?;
    let unknown = named(unknown.and_then(|id| u32::try_from(id).ok()), "unknown")?;
    let add_bos = metadata.flag(ADD_BOS)?.unwrap_or(pre.adds_bos());
    let begins = bos.filter(|_| add_bos).zip(ids.bos);

    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": tokens.added(),
        "normalizer": pre.normalizer(),
        "pre_tokenizer": pre.json(),
        "post_processor": post_processor(begins),
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre.ignores_merges(), "vocab": tokens.vocabulary(), "merges": merges,
        },
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

/// The merges, each of two tokens that make a third.
fn merges(metadata: &Metadata, tokens: &Tokens<'_>) -> Result<Vec<Json>, GgufError> {
    let known: HashSet<&str> = tokens.texts.iter().map(String::as_str).collect();
    let mut merges = Vec::new();
    for (at, merge) in metadata.texts(MERGES)?.iter().enumerate() {
        let whole = |(left, right): &(&str, &str)| {
            known.contains(left)
                && known.contains(right)
                && known.contains(format!("{left}{right}").as_str())
        };
        let Some((left, right)) = merge.split_once(' ').filter(whole) else {
            let reason = format!("has as merge {at} {merge:?}, which does not make a token of two");
            return Err(metadata.error(MERGES, reason));
        };
        merges.push(json!([left, right]));
    }
    Ok(merges)
}

/// Byte-level, with the beginning token before each text where the model wants it.
fn post_processor(begins: Option<(&str, u32)>) -> Json {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
    let Some((bos, id)) = begins else {
        return byte_level;
    };
    let special = |type_id: i64| json!({"SpecialToken": {"id": bos, "type_id": type_id}});
    let sequence = |name: &str, type_id: i64| json!({"Sequence": {"id": name, "type_id": type_id}});
    let template = json!({
        "type": "TemplateProcessing",
        "single": [special(0), sequence("A", 0)],
        "pair": [special(0), sequence("A", 0), special(1), sequence("B", 1)],
        "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}},
    });
    json!({"type": "Sequence", "processors": [byte_level, template]})
}
