//! Examples and batches as the model sees them, a token at a time, for people and programs to look at. A batch is
//! taken apart from its plain numbers alone: what is shown is what the step reads.

use anyhow::{Result, ensure};
use etude_tokenizer::Tokenizer;
use serde::Serialize;

use crate::batch::{Batch, IGNORE};
use crate::example::Explained;
use crate::task::TaskExample;

/// One token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenView {
    /// Its text. A character of several tokens stands at the last of them.
    pub text: String,
    /// Its id.
    pub id: u32,
    /// Who speaks: `template` (special tokens and the template's own words), `system`, `user`, `assistant`,
    /// `tool`, or `text` in pre-training.
    pub role: &'static str,
    /// Its position, from 0 in each document.
    pub position: u64,
    /// Whether it is to be predicted.
    pub supervised: bool,
}

/// An example, or the reason why it is not used.
#[derive(Clone, Debug, Serialize)]
pub struct ExampleView {
    /// Its number in its split, from 1.
    pub number: u64,
    /// Its name.
    pub id: String,
    /// File and line.
    pub source: String,
    /// Why it is left out, if it is.
    pub left_out: Option<String>,
    /// Tokens cut from its prompt, and from its answer.
    pub cut: [u64; 2],
    /// Further right answers, which count when the model's are scored and are not learnt.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// What the model sees of it.
    pub tokens: Vec<TokenView>,
}

/// The batch of a step.
#[derive(Clone, Debug, Serialize)]
pub struct BatchView {
    /// The step, from 1 as in the log.
    pub step: u64,
    /// Places: rows times columns.
    pub places: u64,
    /// Places that hold nothing.
    pub padding: u64,
    /// Places with a target.
    pub supervised: u64,
    /// The rows.
    pub rows: Vec<RowView>,
}

/// A row of a batch.
#[derive(Clone, Debug, Serialize)]
pub struct RowView {
    /// Its documents or examples, in order.
    pub segments: Vec<SegmentView>,
    /// The places behind them, which hold nothing.
    pub padding: u64,
}

/// One document's part of a row.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SegmentView {
    /// Its number in the row.
    pub document: u64,
    /// File and line.
    pub source: String,
    /// Its tokens: what is read, and the last one predicted, which is only a target.
    pub tokens: Vec<TokenView>,
}

impl BatchView {
    /// Takes a batch apart.
    ///
    /// # Errors
    /// When an id is not the tokenizer's.
    pub fn new(step: u64, batch: &Batch, tokenizer: &Tokenizer) -> Result<BatchView> {
        let rows: Vec<RowView> = (0..batch.rows)
            .map(|row| row_view(batch, row, tokenizer))
            .collect::<Result<_>>()?;
        Ok(BatchView {
            step,
            places: batch.tokens() as u64,
            padding: rows.iter().map(|row| row.padding).sum(),
            supervised: batch.supervised() as u64,
            rows,
        })
    }
}

impl SegmentView {
    /// Names the tokens of the example that this is, after comparing them.
    ///
    /// # Errors
    /// When the row holds other ids or another mask than the example: the batch is not made of it.
    pub fn name(&mut self, example: &Explained, source: String) -> Result<()> {
        let kept = example.rendering.as_kept();
        let same = kept.is_some_and(|kept| {
            let mut both = self
                .tokens
                .iter()
                .zip(kept.ids.iter().zip(&kept.supervised));
            // The last token is seen only where it is a target.
            self.tokens.len() + 1 >= kept.ids.len()
                && both.all(|(token, (&id, &learnt))| {
                    token.id == id && (token.supervised == learnt || token.position == 0)
                })
        });
        ensure!(
            same,
            "{source}: the batch does not hold this example as it is rendered; this is a bug"
        );
        for (token, part) in self.tokens.iter_mut().zip(&example.parts) {
            token.role = part.name();
        }
        self.source = source;
        Ok(())
    }
}

fn row_view(batch: &Batch, row: usize, tokenizer: &Tokenizer) -> Result<RowView> {
    let range = row * batch.cols..(row + 1) * batch.cols;
    let (ids, targets) = (
        &batch.input_ids[range.clone()],
        &batch.targets[range.clone()],
    );
    let positions = &batch.position_ids[range.clone()];
    // Without document numbers a position of 0 behind the first place is padding.
    let document = |col: usize| match &batch.doc_ids {
        Some(docs) => docs[range.start + col],
        None if col > 0 && positions[col] == 0 => -1,
        None => 0,
    };
    let mut segments: Vec<SegmentView> = Vec::new();
    let mut col = 0;
    while col < batch.cols && document(col) >= 0 {
        let number = document(col);
        let end = (col..batch.cols)
            .find(|&at| document(at) != number)
            .unwrap_or(batch.cols);
        let mut all: Vec<u32> = ids[col..end].iter().map(|&id| id as u32).collect();
        let mut supervised = vec![false];
        supervised.extend(targets[col..end].iter().map(|&target| target != IGNORE));
        match targets[end - 1] {
            IGNORE => drop(supervised.pop()),
            target => all.push(target as u32),
        }
        let texts = spelled(&all, tokenizer)?;
        let tokens = all.iter().zip(texts).zip(supervised).enumerate();
        let tokens = tokens.map(|(place, ((&id, text), supervised))| TokenView {
            text,
            id,
            role: if tokenizer.is_special(id) {
                "template"
            } else {
                "text"
            },
            position: positions[col] as u64 + place as u64,
            supervised,
        });
        segments.push(SegmentView {
            document: number as u64,
            source: String::new(),
            tokens: tokens.collect(),
        });
        col = end;
    }
    Ok(RowView {
        segments,
        padding: (batch.cols - col) as u64,
    })
}

impl ExampleView {
    /// An example as it is rendered.
    ///
    /// # Errors
    /// When an id is not the tokenizer's.
    pub fn new(
        number: u64,
        shown: &TaskExample,
        example: &Explained,
        tokenizer: &Tokenizer,
    ) -> Result<ExampleView> {
        let mut view = ExampleView {
            number,
            id: shown.id.clone(),
            source: shown.source.to_string(),
            left_out: example.rendering.reason().map(|reason| reason.to_string()),
            cut: [example.cut.prompt, example.cut.answer],
            also: shown.also.clone(),
            tokens: Vec::new(),
        };
        if let Some(kept) = example.rendering.as_kept() {
            let texts = spelled(&kept.ids, tokenizer)?;
            let parts = example.parts.iter().zip(&kept.supervised);
            let tokens = kept.ids.iter().zip(texts).zip(parts).enumerate();
            let tokens = tokens.map(|(place, ((&id, text), (part, &supervised)))| TokenView {
                text,
                id,
                role: part.name(),
                position: place as u64,
                supervised: supervised && place > 0,
            });
            view.tokens = tokens.collect();
        }
        Ok(view)
    }
}

/// The text of each token, together the text of all. A character of several tokens stands at the last of them.
///
/// # Errors
/// When an id is not the tokenizer's.
pub fn spelled(ids: &[u32], tokenizer: &Tokenizer) -> Result<Vec<String>> {
    let mut decoder = tokenizer.decoder(false);
    let mut texts = Vec::with_capacity(ids.len());
    for &id in ids {
        texts.push(decoder.push(id)?.unwrap_or_default());
    }
    if let Some(last) = texts.last_mut() {
        last.push_str(&decoder.finish());
    }
    Ok(texts)
}
