//! The tokenizer that everything else is asked of; each task has its own module.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::config::Config;
use crate::decode::{self, ByteTable, IncrementalDecoder};
use crate::encode::Encoder;
use crate::{
    ChatTemplate, Message, Rendered, Segment, TokenizerError, TrainReport, TrainSettings, chat,
    files, train,
};

/// Text to token ids and back. Cloning is cheap, and clones may be used from any thread.
#[derive(Clone)]
pub struct Tokenizer {
    parts: Arc<Parts>,
    template: Option<Arc<ChatTemplate>>,
    /// The special token that closes an assistant's turn in `template`.
    end_of_turn: Option<u32>,
}

/// What does not change when the template does.
struct Parts {
    engine: tokenizers::Tokenizer,
    encoder: Encoder,
    config: Config,
    special: SpecialIds,
    vocab_size: OnceLock<usize>,
    begins_texts: OnceLock<Option<u32>>,
    fingerprint: OnceLock<String>,
    byte_table: OnceLock<Option<Arc<ByteTable>>>,
}

struct SpecialIds {
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
}

impl Tokenizer {
    pub(crate) fn new(
        mut engine: tokenizers::Tokenizer,
        config: Config,
    ) -> Result<Self, TokenizerError> {
        make_deterministic(&mut engine);
        config.apply(&mut engine)?;
        let [bos, eos, pad] = config.ids(&engine)?;
        let encoder = Encoder::new(&engine)?;
        let parts = Parts {
            engine,
            encoder,
            config,
            special: SpecialIds { bos, eos, pad },
            vocab_size: OnceLock::new(),
            begins_texts: OnceLock::new(),
            fingerprint: OnceLock::new(),
            byte_table: OnceLock::new(),
        };
        Ok(Self {
            parts: Arc::new(parts),
            template: None,
            end_of_turn: None,
        })
    }

    /// Trains a byte-level BPE. Documents stream by; a sample of at most
    /// [`TrainSettings::byte_budget`] bytes of them is kept in memory. The same documents and
    /// settings give the same tokenizer, whatever the number of threads.
    ///
    /// # Errors
    /// Settings that cannot work, or no text at all.
    pub fn train(
        documents: impl Iterator<Item = String> + Send,
        settings: &TrainSettings,
    ) -> Result<(Self, TrainReport), TokenizerError> {
        train::train(documents, settings)
    }

    /// Loads a `tokenizer.json`, or the model folder that holds one, without its BPE's `dropout`: the same text is the
    /// same ids. For a folder, and for a file
    /// of exactly that name, `tokenizer_config.json`, `chat_template.jinja`,
    /// `generation_config.json` and `config.json` beside it are read where they exist.
    ///
    /// # Errors
    /// A file that is missing or cannot be parsed, and a chat template that does not compile.
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        files::load(path)
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` (with the chat template) into a folder,
    /// which is made if need be. Python's `transformers.AutoTokenizer` loads it.
    ///
    /// # Errors
    /// A folder that cannot be written; files from before stay whole.
    pub fn save(&self, folder: &Path) -> Result<(), TokenizerError> {
        files::save(self, folder)
    }

    /// The ids of plain text: no special token is added, and the spelling of one in the text is
    /// ordinary text, so whoever wrote it cannot end a turn or begin one.
    ///
    /// Where the tokenizer alone allows it, a long text is encoded in parallel; the ids are the
    /// same.
    ///
    /// # Errors
    /// Only what the engine may refuse, such as an unknown character without an unknown token.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.parts.encoder.plain(&self.parts.engine, text)
    }

    /// The ids of trusted text, in which special tokens are recognised; none is added.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_special(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.parts.encoder.with_special(&self.parts.engine, text)
    }

    /// [`Tokenizer::encode`] of many texts, on all cores.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_batch<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
    ) -> Result<Vec<Vec<u32>>, TokenizerError> {
        self.parts.encoder.batch(&self.parts.engine, texts)
    }

    /// The text of ids; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// An id that stands for no token.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        decode::whole(self, ids, skip_special)
    }

    /// A decoder that is fed one id at a time; it owns what it needs.
    pub fn decoder(&self, skip_special: bool) -> IncrementalDecoder {
        IncrementalDecoder::new(self.clone(), skip_special)
    }

    /// Largest id + 1, which is what a model's embedding must hold.
    pub fn vocab_size(&self) -> usize {
        *self.parts.vocab_size.get_or_init(|| {
            let vocabulary = self.parts.engine.get_vocab(true);
            vocabulary.values().max().map_or(0, |id| *id as usize + 1)
        })
    }

    /// The token that a text or conversation begins with.
    pub fn bos_id(&self) -> Option<u32> {
        self.parts.special.bos
    }

    /// The beginning token that the tokenizer's own files name: Transformers' `bos_token_id`. [`Tokenizer::bos_id`] is
    /// also one of the model's, or of a usual spelling.
    pub fn named_bos_id(&self) -> Option<u32> {
        self.token_id(self.parts.config.token("bos_token").ok()??)
    }

    /// The token that the tokenizer itself puts before every text, where its post-processor does: Llama's and Mistral's,
    /// for one. [`Tokenizer::encode`] leaves it out.
    pub fn begins_texts(&self) -> Option<u32> {
        let find = || {
            let processor = serde_json::to_value(self.parts.engine.get_post_processor()?).ok()?;
            let inside = processor.get("processors").and_then(|all| all.as_array());
            let mut all = inside.into_iter().flatten().chain([&processor]);
            let first =
                all.find_map(|one| one.get("single")?.get(0)?.get("SpecialToken")?.get("id"));
            self.token_id(first?.as_str()?)
        };
        *self.parts.begins_texts.get_or_init(find)
    }

    /// The tokens whose ids are `vocab_size` or more, which a model of that many does not know, as they are shown in a
    /// message.
    pub fn beyond(&self, vocab_size: usize) -> Vec<String> {
        let ids = vocab_size.min(u32::MAX as usize) as u32..self.vocab_size() as u32;
        ids.filter_map(|id| Some(format!("`{}` ({id})", self.id_to_token(id)?)))
            .collect()
    }

    /// This tokenizer for a model that knows the first `vocab_size` ids alone, where all others are tokens that were added
    /// to the vocabulary and that neither the chat template nor the post-processor writes: without them. Their spelling is ordinary text then.
    /// None where that cannot be.
    pub fn within(&self, vocab_size: usize) -> Option<Self> {
        let ids = u32::try_from(vocab_size).ok()?..self.vocab_size() as u32;
        let gone: Vec<String> = ids.filter_map(|id| self.id_to_token(id)).collect();
        let source = self
            .chat_template()
            .map_or("", |template| template.source());
        let mut json: Value = serde_json::from_str(&self.to_json()).ok()?;
        let processor = json.get("post_processor").map(Value::to_string);
        let written = [source, processor.as_deref().unwrap_or_default()].concat();
        let roles = self.parts.config.named_tokens().ok()?;
        let is_written = |text: &String| {
            let mut roles = roles.iter().filter(|(_, token)| token == text);
            written.contains(text.as_str()) || roles.any(|(role, _)| source.contains(role))
        };
        if gone.iter().any(is_written) {
            return None;
        }
        let added = json.get_mut("added_tokens")?.as_array_mut()?;
        added.retain(|token| {
            token["id"]
                .as_u64()
                .is_some_and(|id| id < vocab_size as u64)
        });
        let engine = files::parse(&json.to_string()).ok()?;
        let tokenizer = Self::new(engine, self.parts.config.without(&gone, vocab_size)).ok()?;
        if tokenizer.vocab_size() > vocab_size {
            return None;
        }
        match source {
            "" => Some(tokenizer),
            source => tokenizer.with_chat_template(source).ok(),
        }
    }

    /// The token that a text ends with. A turn may end with another: see
    /// [`Tokenizer::end_of_turn_id`].
    pub fn eos_id(&self) -> Option<u32> {
        self.parts.special.eos
    }

    /// The token that fills a batch.
    pub fn pad_id(&self) -> Option<u32> {
        self.parts.special.pad
    }

    /// The special token that closes an assistant's turn in the chat template.
    pub fn end_of_turn_id(&self) -> Option<u32> {
        self.end_of_turn
    }

    /// Every id at which generation ends: `eos`, those of `generation_config.json`, and the chat
    /// template's end of turn; sorted.
    pub fn stop_ids(&self) -> Vec<u32> {
        let mut ids = self.parts.config.generation_eos.clone();
        ids.extend(self.eos_id());
        ids.extend(self.end_of_turn);
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The id of a token by its exact spelling in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.parts.engine.token_to_id(token)
    }

    /// The spelling of a token in the vocabulary.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        let added = self
            .parts
            .engine
            .get_added_vocabulary()
            .get_added_tokens_decoder();
        added
            .get(&id)
            .map(|token| token.content.clone())
            .or_else(|| self.parts.engine.id_to_token(id))
    }

    /// Whether an id is a special token, which decoding with `skip_special` leaves out.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self
            .parts
            .engine
            .get_added_vocabulary()
            .get_added_tokens_decoder();
        added.get(&id).is_some_and(|token| token.special)
    }

    /// The canonical `tokenizer.json`, on one line.
    pub fn to_json(&self) -> String {
        self.parts
            .engine
            .to_string(false)
            .expect("its parts came from JSON")
    }

    /// SHA-256, in hexadecimal, of the tokenizer's canonical `tokenizer.json`. Two tokenizers with
    /// the same one give the same ids; saving and loading keeps it. The chat template is not part
    /// of it.
    pub fn fingerprint(&self) -> String {
        let compute = || {
            Sha256::digest(self.to_json().as_bytes())
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect()
        };
        self.parts.fingerprint.get_or_init(compute).clone()
    }

    /// The chat template, if there is one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.template.as_deref()
    }

    /// This tokenizer with another chat template, in the Jinja that Hugging Face uses.
    ///
    /// # Errors
    /// A template that does not compile, with its line.
    pub fn with_chat_template(&self, source: &str) -> Result<Self, TokenizerError> {
        let template = ChatTemplate::new(source, &self.parts.config.named_tokens()?)?;
        let mut tokenizer = Self {
            template: Some(Arc::new(template)),
            ..self.clone()
        };
        tokenizer.end_of_turn = chat::end_of_turn(&tokenizer);
        Ok(tokenizer)
    }

    /// This tokenizer with a chat template that writes the same on every day: `strftime_now` tells the 26th of July
    /// 2024, which the templates of Llama 3 name where there is no clock. For what is kept and compared: data to learn
    /// from, questions of an evaluation, records.
    pub fn without_clock(&self) -> Self {
        let still = |template: &Arc<ChatTemplate>| {
            let template = template.at(Some("2024-07-26T00:00:00"));
            Arc::new(template.expect("that is a time"))
        };
        Self {
            template: self.template.as_ref().map(still),
            ..self.clone()
        }
    }

    /// Renders a conversation to train on. Each assistant turn is supervised from the end of its
    /// generation prompt up to and including its end-of-turn token; the white space that a
    /// template prints after that token is not. An earlier turn that the template writes otherwise
    /// once the conversation goes on is context and not learnt; to learn it too, render the
    /// conversation up to it as an example of its own. Where the template writes even the prompt of
    /// the last turn otherwise once it is answered, the segments are that prompt and the answer.
    ///
    /// Message contents are untrusted: special tokens spelt in them stay text.
    ///
    /// # Errors
    /// No template, a template that fails, one whose prompt for the last assistant turn does not lead
    /// to that turn (unless it marks the assistant's text with `{% generation %}`), one that never
    /// ends the turn, and a conversation in which nothing is supervised.
    pub fn render_conversation(
        &self,
        messages: &[Message],
    ) -> Result<Vec<Segment>, TokenizerError> {
        chat::render_conversation(self, messages)
    }

    /// How many tokens [`render_prompt`](Self::render_prompt) makes of a conversation, give or take a few at the ends
    /// of earlier turns, in a small part of the time when it has many.
    ///
    /// # Errors
    /// As `render_prompt`.
    pub fn approximate_prompt_tokens(&self, messages: &[Message]) -> Result<usize, TokenizerError> {
        chat::approximate_prompt_tokens(self, messages)
    }

    /// Renders a prompt to answer: the messages and the template's generation prompt, nothing
    /// supervised. Its ids are the first ids of the conversation that goes on from it.
    ///
    /// # Errors
    /// No template, or a template that fails.
    pub fn render_prompt(&self, messages: &[Message]) -> Result<Vec<Segment>, TokenizerError> {
        chat::render_prompt(self, messages)
    }

    /// Encodes segments one by one, so that a segment's ids never depend on what follows, and says
    /// for each id whether it is supervised and which segment it came from.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_segments(&self, segments: &[Segment]) -> Result<Rendered, TokenizerError> {
        chat::encode_segments(self, segments)
    }

    pub(crate) fn engine(&self) -> &tokenizers::Tokenizer {
        &self.parts.engine
    }

    pub(crate) fn encoder(&self) -> &Encoder {
        &self.parts.encoder
    }

    pub(crate) fn config(&self) -> &Config {
        &self.parts.config
    }

    /// The bytes of each token, for byte-level tokenizers.
    pub(crate) fn byte_table(&self) -> Option<&Arc<ByteTable>> {
        self.parts
            .byte_table
            .get_or_init(|| ByteTable::of(self).map(Arc::new))
            .as_ref()
    }
}

/// Takes BPE's `dropout` out (Provilkov et al. 2020): with it, the same text is other ids each time.
fn make_deterministic(engine: &mut tokenizers::Tokenizer) {
    let tokenizers::ModelWrapper::BPE(model) = engine.get_model() else {
        return;
    };
    if model.dropout.is_some() {
        let mut model = model.clone();
        model.dropout = None;
        engine.with_model(model);
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos_id())
            .field("eos", &self.eos_id())
            .field("pad", &self.pad_id())
            .field("has_chat_template", &self.template.is_some())
            .finish_non_exhaustive()
    }
}
