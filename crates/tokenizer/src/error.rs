//! The one error type of the crate. Each message names the file or setting and says what to do.

use std::path::PathBuf;

/// Everything that can go wrong when a tokenizer is trained, loaded, saved or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file could not be read.
    #[error("cannot read {}: {source}; check that it exists and is readable", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// A file could not be written. What stood there before is unharmed.
    #[error("cannot write {}: {source}; check the folder's permissions and the space left", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The folder holds no `tokenizer.json`.
    #[error(
        "{} holds no tokenizer.json; give a model folder or the file itself \
         (`tokenizer.save_pretrained` of Python's transformers writes one for a fast tokenizer)",
        folder.display()
    )]
    NoTokenizer {
        /// The folder.
        folder: PathBuf,
    },
    /// A `tokenizer.json` that the engine refuses, or a file beside it that is not JSON.
    #[error("{} is not what this version reads there: {message}; save the tokenizer again with a recent `tokenizers`", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column.
        message: String,
    },
    /// A field of a file beside the tokenizer has a value that means nothing here.
    #[error("{}, field \"{field}\": {message}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What is wrong and what to write instead.
        message: String,
    },
    /// A training setting that cannot work.
    #[error("tokenizer setting `{field}`: {message}")]
    Setting {
        /// The name in [`TrainSettings`](crate::TrainSettings).
        field: &'static str,
        /// What is wrong and what to write instead.
        message: String,
    },
    /// Training was given no text.
    #[error("no text to train a tokenizer on: {documents} documents, all empty; check the source")]
    EmptyCorpus {
        /// Documents that were seen.
        documents: u64,
    },
    /// A chat template that does not compile, or fails or loops when it is run.
    #[error("chat template{}: {message}", line.map(|n| format!(", line {n}")).unwrap_or_default())]
    Template {
        /// The line, counted from 1, where known.
        line: Option<usize>,
        /// What is wrong.
        message: String,
    },
    /// A conversation is to be rendered and the tokenizer has no chat template.
    #[error(
        "this tokenizer has no chat template; put a chat_template.jinja into the model folder, \
         or set one with `with_chat_template`"
    )]
    NoTemplate,
    /// The template renders the last assistant turn, or what comes before it, differently when that
    /// turn is to be made, so what is trained would not be what is served.
    #[error(
        "the chat template renders the conversation up to assistant turn {turn} differently when that \
         turn is to be made (first difference at {near:?}), so training and serving would not agree; \
         end the conversation with that turn, or mark the assistant's text in the template with \
         {{% generation %}} … {{% endgeneration %}}"
    )]
    NotPrefixStable {
        /// Index of the assistant's message, from 0.
        turn: usize,
        /// Text around the first difference.
        near: String,
    },
    /// Rendering left nothing for the model to learn.
    #[error(
        "no token of this conversation would be supervised: {reason}; a training example needs at \
         least one assistant turn that the template prints"
    )]
    NothingSupervised {
        /// Why.
        reason: String,
    },
    /// The template prints nothing after the assistant's turn that could teach the model to stop.
    #[error(
        "the chat template prints no end-of-turn token after assistant turn {turn}, so a model \
         trained on it would never stop; add the end token (such as eos_token) after the content"
    )]
    NoEndOfTurn {
        /// Index of the assistant's message, from 0.
        turn: usize,
    },
    /// Rows of different lengths, and no token to fill them up with.
    #[error(
        "this tokenizer has neither a padding nor an end token to fill up shorter rows with; \
         name a pad_token in its tokenizer_config.json"
    )]
    NoPadding,
    /// An id that stands for no token.
    #[error(
        "id {id} is not in this tokenizer's vocabulary of {vocab_size}; the ids come from another \
         tokenizer, or a model with a padded vocabulary was sampled past its end"
    )]
    UnknownId {
        /// The id.
        id: u32,
        /// Largest id + 1.
        vocab_size: usize,
    },
    /// The engine failed on text or ids.
    #[error("the tokenizer's engine failed: {message}")]
    Engine {
        /// What it said.
        message: String,
    },
}

impl TokenizerError {
    /// The engine's boxed error as ours.
    pub(crate) fn engine(error: impl std::fmt::Display) -> Self {
        TokenizerError::Engine {
            message: error.to_string(),
        }
    }
}
