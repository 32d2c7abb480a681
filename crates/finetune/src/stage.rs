//! Supervised examples for the training loop.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use etude_data::ledger::spelled;
use etude_data::{
    Batch, DataError, FinetuneBatches, FinetuneSettings, RenderedExample, Rendering, Rows, collate,
    spread,
};
use etude_eval::windows_loss;
use etude_model::hf::{self, Recommended, peft};
use etude_model::{Decoder, Prompt, TextGenerator, TextSettings};
use etude_tokenizer::Tokenizer;
use etude_train::forecast::DataFacts;
use etude_train::{Evaluation, MakeBatch, Origin, Sample, Stage};

use crate::base;
use crate::recipe::{Layout, Recipe};
use crate::task::{Task, positions, row_tokens};

/// Positions that are read at a time where training reads fewer.
const PLACES: usize = 16 * 1024;

/// Prompts answered during the run, as tokens and as text.
struct Shown {
    text: String,
    ids: Vec<u32>,
}

pub(crate) struct Finetuning {
    batches: FinetuneBatches,
    validation: Vec<RenderedExample>,
    shown: Vec<Shown>,
    tokenizer: Tokenizer,
    rows: usize,
    steps: u64,
    pad: u32,
    answer_tokens: usize,
    /// How the base would have its answers drawn, and so the model that comes of it.
    recommended: Recommended,
}

impl Finetuning {
    /// `context`: the most positions of the model.
    pub(crate) fn new(
        recipe: &Recipe,
        task: &Task,
        tokenizer: &Tokenizer,
        context: usize,
    ) -> Result<Self> {
        let recommended = match recipe.base.from_scratch {
            true => Recommended::default(),
            false => hf::load_generation(&base::model_folder(&recipe.base.path))?,
        };
        let batches = batches(recipe, task, tokenizer, context)?;
        let mut validation = Vec::new();
        for example in spread(task.validation.iter().collect(), recipe.eval.examples) {
            validation.extend(task.renderer.render(example)?.kept());
        }
        if validation.is_empty() {
            return Err(DataError::input(
                format!("{}: no validation example fits into the context", task.name),
                "raise the context, shorten the examples, or choose another task.truncation",
            )
            .into());
        }
        // Rows of like length go together, so that little is padding.
        validation.sort_by_key(|example| example.ids.len());
        let mut shown = Vec::new();
        let samples = match recipe.eval.samples {
            0 => Vec::new(),
            samples => spread(task.validation.iter().collect(), samples),
        };
        for example in samples {
            if let Rendering::Kept(prompt) = task.renderer.render_prompt(example)? {
                shown.push(Shown {
                    text: example.prompt_text().to_string(),
                    ids: prompt.ids,
                });
            }
        }
        Ok(Self {
            batches,
            validation,
            shown,
            tokenizer: tokenizer.clone(),
            rows: recipe.train.rows_at_a_time(),
            steps: recipe.train.steps,
            pad: pad(tokenizer),
            answer_tokens: recipe.task.answer_tokens,
            recommended,
        })
    }

    /// The rows that it trains on.
    pub(crate) fn rows(&self) -> &FinetuneBatches {
        &self.batches
    }

    /// The mean length of the training examples, in tokens.
    pub(crate) fn typical_length(&self) -> usize {
        let examples = self.batches.examples();
        examples
            .iter()
            .map(|example| example.ids.len())
            .sum::<usize>()
            / examples.len()
    }
}

/// The batches of a recipe: what step reads which examples, and how they lie in rows. `context`: the most positions
/// of the model.
///
/// # Errors
/// When the layout does not fit the model.
pub fn batches(
    recipe: &Recipe,
    task: &Task,
    tokenizer: &Tokenizer,
    context: usize,
) -> Result<FinetuneBatches> {
    let settings = FinetuneSettings {
        rows: recipe.train.batch_rows,
        layout: rows(recipe, context),
        seed: recipe.train.seed,
        pad: pad(tokenizer),
    };
    FinetuneBatches::new(task.train.clone(), settings)
}

/// Padding is never attended to or supervised; any token will do where none is named.
fn pad(tokenizer: &Tokenizer) -> u32 {
    tokenizer.pad_id().or(tokenizer.eos_id()).unwrap_or(0)
}

/// How the recipe puts examples into rows.
fn rows(recipe: &Recipe, context: usize) -> Rows {
    let task = &recipe.task;
    match task.layout {
        Layout::Padded => Rows::Padded,
        Layout::Grouped => Rows::Grouped,
        Layout::Packed => {
            let longest = positions(task, context);
            Rows::Packed(row_tokens(task).unwrap_or(longest))
        }
    }
}

/// Examples in the order of their lengths, as many at a time as training reads rows. Where that is few, 16, which need
/// no more memory without gradients, unless they are long.
fn together(
    mut rest: &[RenderedExample],
    trained: usize,
) -> impl Iterator<Item = &[RenderedExample]> {
    std::iter::from_fn(move || {
        let fit = |rows: &usize| *rows <= trained || rows * rest[rows - 1].ids.len() <= PLACES;
        let rows = (1..=rest.len().min(trained.max(16))).rev().find(fit)?;
        let (now, later) = rest.split_at(rows);
        rest = later;
        Some(now)
    })
}

impl Stage for Finetuning {
    fn name(&self) -> &'static str {
        "finetune"
    }

    fn batches(&self) -> MakeBatch {
        let batches = self.batches.clone();
        Arc::new(move |step| Ok(batches.finetune_batch(step)))
    }

    fn largest_batch(&self) -> Option<Batch> {
        Some(self.batches.largest_batch())
    }

    fn evaluate(&self, decoder: &Decoder, _last: bool) -> Result<Evaluation> {
        let (nats, tokens) = windows_loss(decoder, self.validation_batches(true));
        let bytes: u64 = self
            .validation
            .iter()
            .map(|example| example.target_bytes)
            .sum();
        let loss = nats / tokens as f64;
        let bits_per_byte = nats / std::f64::consts::LN_2 / bytes as f64;
        Ok(Evaluation {
            loss,
            bits_per_byte,
            perplexity: loss.exp(),
        })
    }

    fn validation_batches(&self, _last: bool) -> Box<dyn Iterator<Item = Batch> + '_> {
        let rows = together(&self.validation, self.rows);
        Box::new(rows.map(|rows| collate(&rows.iter().collect::<Vec<_>>(), self.pad)))
    }

    fn data_facts(&self) -> DataFacts {
        let examples = self.batches.examples();
        DataFacts {
            epoch_tokens: examples
                .iter()
                .map(|example| example.ids.len() as u64)
                .sum(),
            epochs: self.batches.epochs(self.steps),
            mapped_bytes: 0,
        }
    }

    fn samples(&self, decoder: &Decoder) -> Result<Vec<Sample>> {
        let generator = TextGenerator::new(decoder, &self.tokenizer)?;
        let settings = TextSettings {
            max_tokens: self.answer_tokens,
            ..TextSettings::default()
        };
        let mut samples = Vec::with_capacity(self.shown.len());
        for shown in &self.shown {
            let made = generator.complete(&Prompt::Ids(shown.ids.clone()), &settings)?;
            samples.push(Sample {
                prompt: shown.text.clone(),
                text: made.text,
            });
        }
        Ok(samples)
    }

    fn prompts(&self) -> Vec<Prompt> {
        let shown = self.shown.iter();
        shown.map(|shown| Prompt::Ids(shown.ids.clone())).collect()
    }

    fn origins(&self, step: u64, _batch: &Batch) -> Result<Vec<Vec<Origin>>> {
        let examples = self.batches.finetune_rows(step).into_iter().flatten();
        let origin = |example: &RenderedExample| Origin {
            file: example.source.file.clone(),
            line: example.source.line,
            name: example.id.clone(),
            truncated: example.truncated,
        };
        Ok(examples.map(|example| vec![origin(example)]).collect())
    }

    fn spelled(&self, ids: &[u32]) -> Result<Vec<String>> {
        spelled(ids, &self.tokenizer)
    }

    fn save_tokenizer(&self, folder: &Path) -> Result<()> {
        if !peft::is_adapter(folder) {
            hf::save_generation(&self.recommended, folder)?;
        }
        Ok(self.tokenizer.save(folder)?)
    }
}

#[cfg(test)]
mod tests {
    use etude_data::SourceRef;

    use super::*;

    #[test]
    fn few_long_rows_and_more_short_ones_are_read_at_a_time() {
        let example = |length: usize| RenderedExample {
            id: String::new(),
            ids: vec![0; length],
            supervised: vec![true; length],
            source: SourceRef {
                file: "a".into(),
                line: 1,
            },
            truncated: false,
            target_bytes: 1,
        };
        let lengths = [10; 20].into_iter().chain([3000; 7]).chain([20_000; 2]);
        let examples: Vec<RenderedExample> = lengths.map(example).collect();
        let read =
            |trained| -> Vec<usize> { together(&examples, trained).map(<[_]>::len).collect() };
        assert_eq!(read(1), [16, 5, 5, 1, 1, 1]);
        assert_eq!(read(4), [16, 5, 5, 3]);
        assert_eq!(read(40), [29]);
        assert_eq!(together(&[], 4).count(), 0);
    }
}
