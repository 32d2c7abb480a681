//! Held-out rows: every token of a text is a target exactly once, and every batch knows how many
//! bytes of text it covers, so that bits per byte are exact.

use anyhow::{Result, ensure};

use super::{Boundaries, RowBuilder};
use crate::batch::Batch;
use crate::error::DataError;
use crate::stream::TokenStream;

/// How held-out rows are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidationSettings {
    /// C, the tokens in a row.
    pub context: usize,
    /// B, the most rows in a batch.
    pub rows: usize,
    /// Whether documents are kept apart; as in training.
    pub boundaries: Boundaries,
    /// What stands before the first token, so that it too is scored: the document separator. `None`
    /// leaves the first token of the stream as context only, and its bytes out of the count.
    pub lead: Option<u32>,
}

/// The rows of a held-out text, in order, without overlap.
#[derive(Clone, Debug)]
pub struct ValidationWindows {
    stream: TokenStream,
    settings: ValidationSettings,
    /// The windows in use, by number: all of them, or evenly spread ones.
    windows: Vec<u64>,
    /// The bytes of text that the targets of each window (of all of them) stand for.
    bytes: Vec<u64>,
    exact: bool,
}

/// Some held-out rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidationBatch {
    /// The rows.
    pub batch: Batch,
    /// The bytes of text that their targets stand for; a separator stands for none.
    pub bytes: u64,
}

impl ValidationWindows {
    /// Cuts the stream. `token_bytes` gives the bytes of text that each token id stands for, 0 for
    /// separators (see [`token_byte_lengths`](crate::token_byte_lengths)). Where it is missing, or
    /// does not add up to a document's length, bytes are spread evenly over the tokens of each
    /// document: the total is still exact, the part of single windows is then an estimate.
    ///
    /// # Errors
    /// When the context or the number of rows is 0, or the text has no token to score.
    pub fn new(
        stream: TokenStream,
        settings: ValidationSettings,
        token_bytes: Option<&[u32]>,
    ) -> Result<ValidationWindows> {
        ensure!(
            settings.context > 0,
            "a validation context of 0 tokens scores nothing; give at least 1"
        );
        ensure!(
            settings.rows > 0,
            "a validation batch of 0 rows scores nothing; give at least 1"
        );
        let first = u64::from(settings.lead.is_none());
        if stream.tokens() <= first {
            let what = format!(
                "the held-out text has {} token, so there is nothing to score",
                stream.tokens()
            );
            return Err(DataError::input(what, "give more text, or hold more of it out").into());
        }
        let count = (stream.tokens() - first).div_ceil(settings.context as u64);
        let (bytes, exact) = window_bytes(&stream, first, settings.context as u64, token_bytes);
        let windows = (0..count).collect();
        Ok(ValidationWindows {
            stream,
            settings,
            windows,
            bytes,
            exact,
        })
    }

    /// The same with at most `limit` windows, spread evenly over the text: a cheaper estimate.
    ///
    /// # Errors
    /// When `limit` is 0.
    pub fn limited(mut self, limit: u64) -> Result<ValidationWindows> {
        ensure!(
            limit > 0,
            "validation on 0 windows scores nothing; give at least 1"
        );
        let all = self.windows.len() as u64;
        if limit < all {
            let spread = |i: u64| (u128::from(i) * u128::from(all) / u128::from(limit)) as usize;
            self.windows = (0..limit).map(|i| self.windows[spread(i)]).collect();
        }
        Ok(self)
    }

    /// The number of windows in use.
    pub fn windows(&self) -> u64 {
        self.windows.len() as u64
    }

    /// The number of batches.
    pub fn batches(&self) -> u64 {
        self.windows().div_ceil(self.settings.rows as u64)
    }

    /// The bytes of text that all targets in use stand for.
    pub fn bytes(&self) -> u64 {
        self.windows
            .iter()
            .map(|&window| self.bytes[window as usize])
            .sum()
    }

    /// The number of targets in use.
    pub fn targets(&self) -> u64 {
        self.windows
            .iter()
            .map(|&window| self.span(window).1 as u64)
            .sum()
    }

    /// Whether the bytes of single windows are exact, not only their total over the whole text.
    pub fn exact(&self) -> bool {
        self.exact
    }

    /// Batch number `index`.
    ///
    /// # Panics
    /// When `index` is not below [`batches`](ValidationWindows::batches).
    pub fn batch(&self, index: u64) -> ValidationBatch {
        assert!(
            index < self.batches(),
            "validation batch {index} of {}",
            self.batches()
        );
        let first = index as usize * self.settings.rows;
        let last = (first + self.settings.rows).min(self.windows.len());
        let mut rows = RowBuilder::new(self.settings.context, self.settings.boundaries);
        let mut bytes = 0;
        for &window in &self.windows[first..last] {
            let (target, count) = self.span(window);
            rows.push(&self.stream, target, count, self.settings.lead);
            bytes += self.bytes[window as usize];
        }
        ValidationBatch {
            batch: rows.finish(),
            bytes,
        }
    }

    /// All batches in order.
    pub fn iter(&self) -> impl Iterator<Item = ValidationBatch> + '_ {
        (0..self.batches()).map(|index| self.batch(index))
    }

    /// The first target of a window and how many it has.
    fn span(&self, window: u64) -> (u64, usize) {
        let context = self.settings.context as u64;
        let target = u64::from(self.settings.lead.is_none()) + window * context;
        (target, context.min(self.stream.tokens() - target) as usize)
    }
}

/// The bytes of each window of `context` targets from token `first` on, and whether they are exact.
fn window_bytes(
    stream: &TokenStream,
    first: u64,
    context: u64,
    token_bytes: Option<&[u32]>,
) -> (Vec<u64>, bool) {
    if let Some(bytes) = token_bytes.and_then(|table| exact_bytes(stream, first, context, table)) {
        return (bytes, true);
    }
    let mut windows = Windowed::new(stream, first, context);
    for_each_document(stream, |tokens, text_bytes, _| {
        let length = u128::from(tokens.end - tokens.start);
        // Up to the k-th token of n, floor(bytes * k / n): every step is whole, and the sum is exact.
        let up_to = |k: u64| (u128::from(text_bytes) * u128::from(k) / length) as u64;
        for (k, token) in tokens.clone().enumerate() {
            windows.add(token, up_to(k as u64 + 1) - up_to(k as u64));
        }
        true
    });
    (windows.bytes, false)
}

/// The bytes by a table of token lengths, or `None` where they miss the length of any document.
fn exact_bytes(stream: &TokenStream, first: u64, context: u64, table: &[u32]) -> Option<Vec<u64>> {
    let mut windows = Windowed::new(stream, first, context);
    let whole = for_each_document(stream, |tokens, text_bytes, ids| {
        let mut sum = 0;
        for (token, &id) in tokens.zip(ids) {
            let Some(&bytes) = table.get(id as usize) else {
                return false;
            };
            windows.add(token, u64::from(bytes));
            sum += u64::from(bytes);
        }
        sum == text_bytes
    });
    whole.then_some(windows.bytes)
}

/// Calls `visit` with the place, text length and ids of each document that has tokens, until it
/// returns false; returns whether it never did.
fn for_each_document(
    stream: &TokenStream,
    mut visit: impl FnMut(std::ops::Range<u64>, u64, &[u32]) -> bool,
) -> bool {
    let (mut at, mut ids) = (0, Vec::new());
    while at < stream.tokens() {
        let document = stream.document_of(at).1;
        ids.clear();
        stream.read(document.tokens.clone(), &mut ids);
        at = document.tokens.end;
        if !visit(document.tokens, document.text_bytes, &ids) {
            return false;
        }
    }
    true
}

/// Sums of bytes by window.
struct Windowed {
    bytes: Vec<u64>,
    first: u64,
    context: u64,
}

impl Windowed {
    fn new(stream: &TokenStream, first: u64, context: u64) -> Windowed {
        let count = (stream.tokens() - first).div_ceil(context);
        Windowed {
            bytes: vec![0; count as usize],
            first,
            context,
        }
    }

    fn add(&mut self, token: u64, bytes: u64) {
        if token >= self.first {
            self.bytes[((token - self.first) / self.context) as usize] += bytes;
        }
    }
}
