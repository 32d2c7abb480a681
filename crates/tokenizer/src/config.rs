//! What stands beside a `tokenizer.json`: which tokens begin, end and pad, which are special, and
//! the chat template. Reads `tokenizer_config.json`, `generation_config.json` and `config.json` as
//! Hugging Face writes them; field names of theirs live here and in `files.rs` alone.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tokenizers::AddedToken;

use crate::TokenizerError;

/// The roles of single special tokens, in Hugging Face's words.
const NAMED: [&str; 7] = [
    "bos_token",
    "eos_token",
    "pad_token",
    "unk_token",
    "sep_token",
    "cls_token",
    "mask_token",
];

/// Settings of a tokenizer that its `tokenizer.json` does not hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    /// `tokenizer_config.json` as it was read, so that saving keeps what we do not know.
    raw: Map<String, Value>,
    /// Where `raw` came from, for error messages.
    path: PathBuf,
    /// End tokens of `generation_config.json`, or of `config.json`.
    pub(crate) generation_eos: Vec<u32>,
    /// `bos_token_id` of `generation_config.json` or `config.json`.
    generation_bos: Option<u32>,
    /// `pad_token_id` of the same.
    generation_pad: Option<u32>,
}

impl Config {
    /// For a tokenizer that was trained here.
    pub(crate) fn trained(eos: Option<&str>, pad: Option<&str>) -> Self {
        let mut raw = Map::new();
        for (field, token) in [("bos_token", eos), ("eos_token", eos), ("pad_token", pad)] {
            if let Some(token) = token {
                raw.insert(field.to_owned(), json!(token));
            }
        }
        raw.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
        Self {
            raw,
            ..Self::default()
        }
    }

    /// Reads the files of a model folder; each may be missing.
    pub(crate) fn read(folder: &Path) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer_config.json");
        let mut config = Self {
            raw: read_object(&path)?,
            path,
            ..Self::default()
        };
        // Older tokenizers name special tokens in a file of their own.
        let map = read_object(&folder.join("special_tokens_map.json"))?;
        for (name, token) in map {
            if NAMED.contains(&name.as_str()) && !token.is_null() {
                config.raw.entry(name).or_insert(token);
            }
        }
        // Where both give an id, what generation was told wins: it knows of end-of-turn tokens.
        for name in ["config.json", "generation_config.json"] {
            let path = folder.join(name);
            let object = read_object(&path)?;
            let ids = |field: &str| ids_of(&object, field, &path);
            let first = |field: &str| Ok::<_, TokenizerError>(ids(field)?.first().copied());
            let eos = ids("eos_token_id")?;
            if !eos.is_empty() {
                config.generation_eos = eos;
            }
            config.generation_bos = first("bos_token_id")?.or(config.generation_bos);
            config.generation_pad = first("pad_token_id")?.or(config.generation_pad);
        }
        Ok(config)
    }

    /// The text of a single special token such as `eos_token`, which may be written as a string
    /// or as an object with `content`.
    pub(crate) fn token(&self, field: &str) -> Result<Option<&str>, TokenizerError> {
        match self.raw.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match content(value) {
                Some(text) => Ok(Some(text)),
                None => Err(self.wrong(field, "must be a string, or an object with \"content\"")),
            },
        }
    }

    fn wrong(&self, field: &str, message: &str) -> TokenizerError {
        let (path, field) = (self.path.clone(), field.to_owned());
        TokenizerError::Config {
            path,
            field,
            message: message.to_owned(),
        }
    }

    /// `(name, text)` of every single special token, as templates see them.
    pub(crate) fn named_tokens(&self) -> Result<Vec<(&'static str, String)>, TokenizerError> {
        let mut found = Vec::new();
        for name in NAMED {
            found.extend(self.token(name)?.map(|text| (name, text.to_owned())));
        }
        Ok(found)
    }

    /// Texts of all tokens that this file calls special.
    fn special_texts(&self) -> Result<Vec<String>, TokenizerError> {
        let mut texts: Vec<String> = self
            .named_tokens()?
            .into_iter()
            .map(|(_, text)| text)
            .collect();
        for field in ["additional_special_tokens", "extra_special_tokens"] {
            match self.raw.get(field) {
                Some(Value::Array(list)) => {
                    texts.extend(list.iter().filter_map(content).map(str::to_owned));
                }
                Some(Value::Object(named)) => {
                    texts.extend(named.values().filter_map(content).map(str::to_owned));
                }
                _ => {}
            }
        }
        Ok(texts)
    }

    /// Tells the engine of tokens that only this file knows, or only this file calls special.
    pub(crate) fn apply(&self, engine: &mut tokenizers::Tokenizer) -> Result<(), TokenizerError> {
        for (id, token) in self.added_tokens()? {
            if engine.token_to_id(&token.content).is_some() {
                continue;
            }
            let text = token.content.clone();
            engine.add_tokens([token]).map_err(TokenizerError::engine)?;
            if engine.token_to_id(&text) != Some(id) {
                let message = format!(
                    "gives {text:?} the id {id}, which tokenizer.json leaves no room for; \
                     the two files belong to different tokenizers"
                );
                return Err(self.wrong("added_tokens_decoder", &message));
            }
        }
        let mut promoted = Vec::new();
        for text in self.special_texts()? {
            let Some(id) = engine.token_to_id(&text) else {
                continue;
            };
            let known = engine
                .get_added_vocabulary()
                .get_added_tokens_decoder()
                .get(&id)
                .cloned();
            match known {
                Some(token) if token.special => {}
                Some(token) => promoted.push(token.special(true)),
                None => promoted.push(AddedToken::from(text, true)),
            }
        }
        if !promoted.is_empty() {
            engine
                .add_special_tokens(promoted)
                .map_err(TokenizerError::engine)?;
        }
        Ok(())
    }

    /// `added_tokens_decoder`, by rising id.
    fn added_tokens(&self) -> Result<Vec<(u32, AddedToken)>, TokenizerError> {
        const FIELD: &str = "added_tokens_decoder";
        let Some(Value::Object(table)) = self.raw.get(FIELD) else {
            return Ok(Vec::new());
        };
        let mut tokens = Vec::new();
        for (id, token) in table {
            let (Ok(id), Some(text)) = (id.parse::<u32>(), content(token)) else {
                let message = "must map ids to objects with \"content\"";
                return Err(self.wrong(FIELD, message));
            };
            let flag = |name: &str| token.get(name).and_then(Value::as_bool).unwrap_or(false);
            let added = AddedToken::from(text, flag("special"))
                .single_word(flag("single_word"))
                .lstrip(flag("lstrip"))
                .rstrip(flag("rstrip"))
                .normalized(flag("normalized"));
            tokens.push((id, added));
        }
        tokens.sort_by_key(|(id, _)| *id);
        Ok(tokens)
    }

    /// The ids of `bos`, `eos` and `pad`: named by this file, else by the model's configuration,
    /// else one of the usual spellings among the special tokens.
    pub(crate) fn ids(
        &self,
        engine: &tokenizers::Tokenizer,
    ) -> Result<[Option<u32>; 3], TokenizerError> {
        let vocabulary = engine.get_added_vocabulary();
        let usual = |texts: &[&str]| {
            texts
                .iter()
                .filter(|text| vocabulary.is_special_token(text))
                .find_map(|text| engine.token_to_id(text))
        };
        let named = |field: &str| {
            Ok::<_, TokenizerError>(self.token(field)?.and_then(|text| engine.token_to_id(text)))
        };
        let bos = named("bos_token")?.or(self.generation_bos);
        let eos = named("eos_token")?.or(self.generation_eos.first().copied());
        let pad = named("pad_token")?.or(self.generation_pad);
        Ok([
            bos.or_else(|| usual(&["<|endoftext|>", "<s>", "<|begin_of_text|>", "<bos>"])),
            eos.or_else(|| usual(&["<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>"])),
            pad.or_else(|| usual(&["<|pad|>", "<pad>", "[PAD]"])),
        ])
    }

    /// The same without the tokens `gone`, by their spellings, whose ids are `least` or more.
    pub(crate) fn without(&self, gone: &[String], least: usize) -> Self {
        let is_gone =
            |value: &Value| content(value).is_some_and(|text| gone.iter().any(|own| own == text));
        let mut config = self.clone();
        config.raw.retain(|_, value| !is_gone(value));
        for value in config.raw.values_mut() {
            match value {
                Value::Array(list) => list.retain(|entry| !is_gone(entry)),
                Value::Object(named) => named.retain(|_, entry| !is_gone(entry)),
                _ => {}
            }
        }
        let is_left = |id: &u32| (*id as usize) < least;
        config.generation_eos.retain(is_left);
        config.generation_bos = config.generation_bos.filter(is_left);
        config.generation_pad = config.generation_pad.filter(is_left);
        config
    }

    /// `chat_template` as it stands: a string, or a list of `{name, template}`, of which `default`
    /// is taken, or else the first.
    pub(crate) fn template(&self) -> Result<Option<String>, TokenizerError> {
        const MESSAGE: &str = "must be a string or a list of {\"name\", \"template\"}";
        match self.raw.get("chat_template") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(source)) => Ok(Some(source.clone())),
            Some(Value::Array(list)) => {
                let is_default = |entry: &&Value| entry.get("name") == Some(&json!("default"));
                let entry = list.iter().find(is_default).or(list.first());
                let source = entry.and_then(|entry| entry.get("template")?.as_str());
                match source {
                    Some(source) => Ok(Some(source.to_owned())),
                    None => Err(self.wrong("chat_template", MESSAGE)),
                }
            }
            Some(_) => Err(self.wrong("chat_template", MESSAGE)),
        }
    }

    /// The `tokenizer_config.json` to write, with `template` where it is not already the one in
    /// use.
    pub(crate) fn to_json(&self, template: Option<&str>) -> Value {
        let mut raw = self.raw.clone();
        raw.entry("tokenizer_class")
            .or_insert(json!("PreTrainedTokenizerFast"));
        if let Some(source) = template
            && self.template().ok().flatten().as_deref() != Some(source)
        {
            raw.insert("chat_template".to_owned(), json!(source));
        }
        Value::Object(raw)
    }
}

/// The text of a token written as a string or as an object.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// One id or a list of them.
fn ids_of(
    object: &Map<String, Value>,
    field: &str,
    path: &Path,
) -> Result<Vec<u32>, TokenizerError> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    // Some tools write -1 for "none".
    let is_there = |value: &&Value| value.as_i64().is_none_or(|id| id >= 0);
    let found = match object.get(field) {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(list)) => list.iter().filter(is_there).map(id).collect(),
        Some(value) if !is_there(&value) => Some(Vec::new()),
        Some(value) => id(value).map(|id| vec![id]),
    };
    found.ok_or_else(|| TokenizerError::Config {
        path: path.to_owned(),
        field: field.to_owned(),
        message: "must be a token id or a list of them".to_owned(),
    })
}

/// The object of a JSON file; empty when there is no such file.
fn read_object(path: &Path) -> Result<Map<String, Value>, TokenizerError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(source) => {
            return Err(TokenizerError::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    serde_json::from_str(&text).map_err(|error| TokenizerError::Parse {
        path: path.to_owned(),
        message: error.to_string(),
    })
}
