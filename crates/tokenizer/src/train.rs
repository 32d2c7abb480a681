//! Training a byte-level BPE from a stream of documents.

use std::time::Instant;

use ahash::AHashMap;
use compact_str::CompactString;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tokenizers::AddedToken;
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;

use crate::config::Config;
use crate::sample::Sample;
use crate::{Tokenizer, TokenizerError, bytes, split};

/// Begins and separates documents; the id 0 of a trained tokenizer, its `bos` and its `eos`.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Fills a batch.
pub const PAD: &str = "<|pad|>";
/// Opens the user's turn.
pub const USER: &str = "<|user|>";
/// Opens the assistant's turn.
pub const ASSISTANT: &str = "<|assistant|>";
/// Opens the system's turn.
pub const SYSTEM: &str = "<|system|>";
/// Closes every turn.
pub const END_OF_TURN: &str = "<|end|>";

/// The chat template of a trained tokenizer that has all of the special tokens above.
pub const DEFAULT_TEMPLATE: &str = include_str!("default_template.jinja");

/// The pair counts of the engine's trainer are 32-bit; no pair can occur more often than there
/// are bytes, so a budget up to this cannot overflow them.
const LARGEST_BUDGET: u64 = i32::MAX as u64;

/// How text is cut into words before BPE; no token ever reaches across two words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// GPT-2's pattern: a run of letters, of digits or of punctuation, each with the space before
    /// it. `2024` may become one token.
    #[default]
    Words,
    /// The same, and each digit is a token of its own. Better where the model is to calculate;
    /// numbers cost more tokens.
    Digits,
}

/// What to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSettings {
    /// Tokens in all, special ones and the 256 bytes included. Default 4,096. A small corpus may
    /// yield fewer.
    pub vocab_size: usize,
    /// At most this many bytes of text are used, sampled evenly over the documents.
    /// Default 64 MiB, largest 2 GiB - 1.
    pub byte_budget: u64,
    /// A pair seen less often than this is not merged. Default 2.
    pub min_frequency: u64,
    /// How text is cut into words. Default [`Split::Words`].
    pub split: Split,
    /// Special tokens, which take the ids 0, 1, … in this order. [`END_OF_TEXT`], or the first
    /// where it is missing, becomes `bos` and `eos`.
    pub special_tokens: Vec<String>,
}

impl Default for TrainSettings {
    fn default() -> Self {
        Self {
            vocab_size: 4096,
            byte_budget: 64 << 20,
            min_frequency: 2,
            split: Split::Words,
            special_tokens: [END_OF_TEXT, PAD, USER, ASSISTANT, SYSTEM, END_OF_TURN]
                .map(String::from)
                .to_vec(),
        }
    }
}

impl TrainSettings {
    /// Refuses settings that cannot work.
    pub fn validate(&self) -> Result<(), TokenizerError> {
        let setting = |field, message| Err(TokenizerError::Setting { field, message });
        let smallest = 256 + self.special_tokens.len();
        if self.vocab_size < smallest || self.vocab_size > u32::MAX as usize {
            let message = format!(
                "is {}, but the 256 bytes and {} special tokens alone take {smallest}; \
                 give at least that, usually 1,000 to 50,000",
                self.vocab_size,
                self.special_tokens.len()
            );
            return setting("vocab_size", message);
        }
        if self.byte_budget == 0 || self.byte_budget > LARGEST_BUDGET {
            let message = format!("is {}; give 1 to {LARGEST_BUDGET} bytes", self.byte_budget);
            return setting("byte_budget", message);
        }
        for (index, token) in self.special_tokens.iter().enumerate() {
            if self.special_tokens[..index].contains(token) {
                return setting(
                    "special_tokens",
                    format!("names {token:?} twice; remove one"),
                );
            }
            // A token that is a single word could be learnt as a merge, and then plain text
            // would encode to it.
            let mut words = 0;
            split::words(token, self.split, |_| words += 1);
            if words < 2 {
                let message = format!(
                    "holds {token:?}, which ordinary text may contain as a word; \
                     mix letters and punctuation, as in \"<|name|>\""
                );
                return setting("special_tokens", message);
            }
        }
        Ok(())
    }
}

/// What training saw and made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainReport {
    /// Documents in the stream.
    pub documents_seen: u64,
    /// Bytes in the stream.
    pub bytes_seen: u64,
    /// Bytes that the statistics were made of; less than `bytes_seen` when the budget was met.
    pub bytes_used: u64,
    /// Tokens of the result, which is less than asked for when the text has too few pairs.
    pub vocab_size: usize,
    /// Wall-clock seconds, reading the stream included.
    pub seconds: f64,
}

impl std::fmt::Display for TrainReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} tokens from {} of {} bytes in {} documents ({}) in {:.2} s",
            self.vocab_size,
            self.bytes_used,
            self.bytes_seen,
            self.documents_seen,
            if self.bytes_used < self.bytes_seen {
                "sampled evenly"
            } else {
                "all of them"
            },
            self.seconds
        )
    }
}

/// See [`Tokenizer::train`].
pub(crate) fn train(
    documents: impl Iterator<Item = String>,
    settings: &TrainSettings,
) -> Result<(Tokenizer, TrainReport), TokenizerError> {
    let start = Instant::now();
    settings.validate()?;
    let mut sample = Sample::new(settings.byte_budget);
    documents.for_each(|document| sample.add(&document));
    let mut report = TrainReport {
        documents_seen: sample.documents_seen,
        bytes_seen: sample.bytes_seen,
        bytes_used: sample.bytes_kept,
        vocab_size: 0,
        seconds: 0.0,
    };
    if report.bytes_used == 0 {
        return Err(TokenizerError::EmptyCorpus {
            documents: report.documents_seen,
        });
    }

    let words = count_words(&sample.into_pieces(), settings.split);
    let mut model = BPE::default();
    let special_tokens = trainer(settings)
        .do_train(&words, &mut model)
        .map_err(TokenizerError::engine)?;

    let mut engine = tokenizers::Tokenizer::new(model);
    engine.with_pre_tokenizer(Some(pre_tokenizer(settings.split)));
    engine.with_decoder(Some(ByteLevelDecoder::default()));
    engine
        .add_special_tokens(special_tokens)
        .map_err(TokenizerError::engine)?;
    let has = |token: &str| settings.special_tokens.iter().any(|known| known == token);
    let config = Config::trained(
        if has(END_OF_TEXT) {
            Some(END_OF_TEXT)
        } else {
            settings.special_tokens.first().map(String::as_str)
        },
        has(PAD).then_some(PAD),
    );
    let mut tokenizer = Tokenizer::new(engine, config)?;
    if [END_OF_TEXT, USER, ASSISTANT, SYSTEM, END_OF_TURN]
        .into_iter()
        .all(has)
    {
        tokenizer = tokenizer.with_chat_template(DEFAULT_TEMPLATE)?;
    }

    report.vocab_size = tokenizer.vocab_size();
    report.seconds = start.elapsed().as_secs_f64();
    Ok((tokenizer, report))
}

fn trainer(settings: &TrainSettings) -> BpeTrainer {
    let special = |token: &String| AddedToken::from(token.clone(), true);
    BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(settings.vocab_size)
        .min_frequency(settings.min_frequency)
        .special_tokens(settings.special_tokens.iter().map(special).collect())
        .initial_alphabet(bytes::alphabet().collect())
        .build()
}

/// The engine's pre-tokenizer for `split`; [`split::words`] cuts the same words.
pub(crate) fn pre_tokenizer(split: Split) -> PreTokenizerWrapper {
    let byte_level = ByteLevel::new(false, true, true);
    match split {
        Split::Words => byte_level.into(),
        Split::Digits => Sequence::new(vec![Digits::new(true).into(), byte_level.into()]).into(),
    }
}

/// How often each word occurs, written in the byte alphabet.
fn count_words(pieces: &[String], split: Split) -> AHashMap<CompactString, u64> {
    let counts = pieces
        .par_iter()
        .fold(AHashMap::new, |mut counts: AHashMap<&str, u64>, piece| {
            split::words(piece, split, |word| *counts.entry(word).or_default() += 1);
            counts
        })
        .reduce(AHashMap::new, |large, small| {
            let (mut large, small) = if large.len() < small.len() {
                (small, large)
            } else {
                (large, small)
            };
            for (word, count) in small {
                *large.entry(word).or_default() += count;
            }
            large
        });
    let spelt = |(word, count)| (CompactString::from(bytes::to_alphabet(word)), count);
    counts.into_iter().map(spelt).collect()
}
