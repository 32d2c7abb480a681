//! The loss of a text under a model, in overlapping windows: bits per byte and perplexity.

mod bytes;

use anyhow::{Result, ensure};
use etude_data::{Batch, IGNORE};
use etude_model::Decoder;
use etude_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::nats::windows_loss;
use crate::progress::{Listener, Progress, Stage};
use bytes::token_bytes;

/// The most tokens of a window where none is asked for.
const LONGEST_DEFAULT: usize = 1024;

/// Tokens that go through the model at a time.
const BATCH_TOKENS: usize = 8192;

/// How a text is cut into windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextWindows {
    /// C, the tokens of a window; default the model's context, at most 1,024.
    pub context: Option<usize>,
    /// S, the tokens from one window's start to the next; default C, so that windows do not overlap.
    /// A smaller one gives each token more context and costs C / S times as much.
    pub stride: Option<usize>,
}

/// A text's score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TextScore {
    /// Mean cross-entropy of the scored tokens, in nats.
    pub nll: f64,
    /// Scored tokens.
    pub tokens: u64,
    /// Bytes of the text that the scored tokens stand for.
    pub bytes: u64,
    /// The scored tokens' nats over `bytes`, in bits.
    pub bits_per_byte: f64,
    /// `exp(nll)`.
    pub perplexity: f64,
}

/// Scores a text as it stands: no token is added before or after it.
///
/// Windows of C tokens start every S tokens. In each, the tokens are scored that no earlier window
/// scored, except the window's first, which has nothing before it; the others are context. So the
/// text's first token is never scored, and with S = C neither is the first of each window; with
/// S < C every token but the text's first is scored once.
///
/// `bits_per_byte` divides by the bytes of the scored tokens alone, not by the text's, so that a token
/// which costs nothing because it is not scored does not lower it either. For byte-level tokenizers
/// a token's bytes are exact, even inside a character. For others they follow from decoding token by
/// token, in proportion where decoding does not give the text back; all tokens together always
/// stand for all of the text's bytes.
///
/// `on_progress` hears of windows.
///
/// # Errors
/// A context or stride that cannot be, a tokenizer of another model, a text with nothing to score, and
/// a loss that is not finite.
pub fn text_loss(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    text: &str,
    windows: &TextWindows,
    on_progress: &mut Listener<'_>,
) -> Result<TextScore> {
    let (context, stride) = sizes(decoder, windows)?;
    let vocabulary = decoder.config().vocab_size;
    ensure!(
        tokenizer.vocab_size() as i64 <= vocabulary,
        "the tokenizer has token ids up to {}, and the model's vocabulary is {vocabulary}: they do not belong together",
        tokenizer.vocab_size() - 1
    );
    let ids = tokenizer.encode(text)?;
    ensure!(
        ids.len() > 1,
        "the text has {} tokens, and the first is never scored: there is nothing to score; give more text",
        ids.len()
    );
    let cuts = cut(ids.len(), context, stride);
    let rows = (BATCH_TOKENS / context).max(1);
    let total = cuts.len() as u64;
    let mut done = 0;
    let mut heard = Ok(());
    let batches = cuts.chunks(rows).map_while(|cuts| {
        heard = on_progress(Progress {
            stage: Stage::Scoring,
            done,
            total,
        });
        done += cuts.len() as u64;
        heard.is_ok().then(|| batch(&ids, cuts))
    });
    let (nats, tokens) = windows_loss(decoder, batches);
    heard?;
    on_progress(Progress {
        stage: Stage::Scoring,
        done: total,
        total,
    })?;
    let all = token_bytes(tokenizer, &ids, text)?;
    let bytes = cuts
        .iter()
        .map(|cut| all[cut.first_scored..cut.end].iter().sum::<u64>())
        .sum();
    score(nats, tokens, bytes)
}

fn score(nats: f64, tokens: u64, bytes: u64) -> Result<TextScore> {
    ensure!(
        nats.is_finite(),
        "the model's loss is {nats}: its weights are damaged, or too large for their number format"
    );
    ensure!(
        bytes > 0,
        "the scored tokens stand for no byte of the text; give more text"
    );
    let nll = nats / tokens as f64;
    Ok(TextScore {
        nll,
        tokens,
        bytes,
        bits_per_byte: nats / bytes as f64 / std::f64::consts::LN_2,
        perplexity: nll.exp(),
    })
}

/// C and S.
fn sizes(decoder: &Decoder, windows: &TextWindows) -> Result<(usize, usize)> {
    let longest = decoder.config().context as usize;
    let context = windows.context.unwrap_or(longest.min(LONGEST_DEFAULT));
    ensure!(
        (2..=longest).contains(&context),
        "context = {context}: a window takes 2 tokens (one to score and one before it) to {longest}, the model's context"
    );
    let stride = windows.stride.unwrap_or(context);
    ensure!(
        (1..=context).contains(&stride),
        "stride = {stride}: windows of {context} tokens start every 1 to {context} tokens; a larger stride would leave tokens out"
    );
    Ok((context, stride))
}

/// A window over `start .. end`, of which `first_scored .. end` is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    start: usize,
    first_scored: usize,
    end: usize,
}

/// The windows of `length` tokens that score something.
fn cut(length: usize, context: usize, stride: usize) -> Vec<Cut> {
    let mut cuts = Vec::new();
    let mut scored = 0;
    for start in (0..length).step_by(stride) {
        let end = (start + context).min(length);
        let first_scored = scored.max(start + 1);
        if first_scored < end {
            cuts.push(Cut {
                start,
                first_scored,
                end,
            });
        }
        scored = end;
        if end == length {
            break;
        }
    }
    cuts
}

/// Windows as rows; a shorter one is padded on the right, where causal attention never looks.
fn batch(ids: &[u32], cuts: &[Cut]) -> Batch {
    // The last token of a window is only a target.
    let cols = cuts
        .iter()
        .map(|cut| cut.end - cut.start - 1)
        .max()
        .unwrap_or(0);
    let size = cuts.len() * cols;
    let (mut input_ids, mut targets) = (Vec::with_capacity(size), Vec::with_capacity(size));
    for (row, cut) in cuts.iter().enumerate() {
        input_ids.extend(ids[cut.start..cut.end - 1].iter().map(|&id| i64::from(id)));
        targets.extend(
            (cut.start + 1..cut.end).map(|place| match place < cut.first_scored {
                true => IGNORE,
                false => i64::from(ids[place]),
            }),
        );
        input_ids.resize((row + 1) * cols, 0);
        targets.resize((row + 1) * cols, IGNORE);
    }
    let position_ids = cuts.iter().flat_map(|_| 0..cols as i64).collect();
    Batch {
        rows: cuts.len(),
        cols,
        input_ids,
        targets,
        position_ids,
        doc_ids: None,
    }
}

#[cfg(test)]
mod tests;
