//! What can be wrong with a request, each with its remedy.

use crate::sample::SamplingError;

/// What cannot be generated from, and why.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// Nothing to continue.
    #[error(
        "prompt {prompt} (counting from 0) is empty; give at least one token, such as the one that begins a document"
    )]
    EmptyPrompt {
        /// The place of the request.
        prompt: usize,
    },
    /// The prompt does not fit.
    #[error(
        "prompt {prompt} (counting from 0) has {tokens} tokens, and the model's context is {context}; shorten the prompt"
    )]
    PromptTooLong {
        /// The place of the request.
        prompt: usize,
        /// Its tokens.
        tokens: usize,
        /// The most tokens that the model reads.
        context: i64,
    },
    /// A token that the model does not have.
    #[error(
        "prompt {prompt} (counting from 0): token {id} at place {place} is outside the model's vocabulary of {vocabulary}; the prompt was encoded with another tokenizer than the model's"
    )]
    UnknownId {
        /// The place of the request.
        prompt: usize,
        /// The token's place in it.
        place: usize,
        /// The token.
        id: u32,
        /// The tokens that the model has.
        vocabulary: i64,
    },
    /// Nothing to make.
    #[error("max_tokens = 0: nothing is to be generated; give at least 1")]
    NoTokens,
    /// A sampling setting that means nothing.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// A setting of a search by beams that means nothing.
    #[error("beams.{field} = {value}: it must be {must}")]
    Beams {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        must: &'static str,
    },
    /// Two ways to choose tokens at once.
    #[error(
        "a search by beams looks for the most likely text and draws none at random: give temperature 0 with it, or one beam"
    )]
    SampledBeams,
    /// The model's output is broken.
    #[error(
        "prompt {prompt} (counting from 0): the model's logits after {tokens} tokens are not finite; its weights are damaged, or too large for their number format"
    )]
    NotFinite {
        /// The place of the request.
        prompt: usize,
        /// The tokens read.
        tokens: usize,
    },
    /// A stop string that is everywhere.
    #[error("stop string {place} (counting from 0) is empty; leave it out")]
    EmptyStop {
        /// Its place in the list.
        place: usize,
    },
    /// The tokenizer is not the model's.
    #[error(
        "the tokenizer has token ids up to {largest}, and the model's vocabulary is {vocabulary}: they do not belong together"
    )]
    Vocabulary {
        /// The tokenizer's largest id.
        largest: usize,
        /// The tokens that the model has.
        vocabulary: i64,
    },
    /// The tokenizer's own trouble.
    #[error(transparent)]
    Tokenizer(#[from] etude_tokenizer::TokenizerError),
}
