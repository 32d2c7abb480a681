//! Next-token prediction over windows of the training text, for the training loop.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use etude_data::ledger::spelled;
use etude_data::{
    Batch, Boundaries, Shard, Split, ValidationSettings, ValidationWindows, WindowSettings,
    Windows, token_byte_lengths,
};
use etude_eval::windows_loss;
use etude_model::{Decoder, Prompt, Sampling, TextGenerator, TextSettings};
use etude_tokenizer::Tokenizer;
use etude_train::forecast::DataFacts;
use etude_train::{Evaluation, MakeBatch, Origin, Sample, Stage};

use crate::origins::Origins;
use crate::prepare::{Prepared, Read};
use crate::recipe::Recipe;

pub(crate) struct Pretraining {
    windows: Windows,
    sources: Vec<Read>,
    validation: ValidationWindows,
    quick: ValidationWindows,
    tokenizer: Tokenizer,
    recipe: Recipe,
}

impl Pretraining {
    pub(crate) fn new(recipe: &Recipe, prepared: &Prepared) -> Result<Self> {
        let windows = windows(recipe, prepared)?;
        let context = recipe.model.context as usize;
        let boundaries = recipe.data.boundaries;
        let tokenizer = prepared.tokenizer.clone();
        for (number, prompt) in recipe.eval.prompts.iter().enumerate() {
            let tokens = tokenizer.encode(prompt)?.len() + 1; // and the beginning token
            ensure!(
                tokens <= context,
                "eval.prompts[{number}] has {tokens} tokens, and model.context is {context}; shorten it"
            );
        }
        // The separator leads the text, so that every byte of it is scored.
        let lead = tokenizer.eos_id();
        let rows = recipe.train.rows_at_a_time();
        let lengths = token_byte_lengths(&tokenizer, lead.unwrap_or(0));
        let settings = ValidationSettings {
            context,
            rows,
            boundaries,
            lead,
        };
        let validation =
            ValidationWindows::new(prepared.validation.clone(), settings, Some(&lengths))?;
        let quick = match recipe.eval.windows {
            limit if limit > 0 && limit < validation.windows() => {
                validation.clone().limited(limit)?
            }
            _ => validation.clone(),
        };
        Ok(Self {
            windows,
            sources: prepared.sources.clone(),
            validation,
            quick,
            tokenizer,
            recipe: recipe.clone(),
        })
    }
}

/// The rows of a recipe: what step reads which tokens.
pub(crate) fn windows(recipe: &Recipe, prepared: &Prepared) -> Result<Windows> {
    let settings = WindowSettings {
        context: recipe.model.context as usize,
        rows: recipe.train.batch_rows,
        seed: recipe.train.seed,
        boundaries: recipe.data.boundaries,
    };
    Windows::new(prepared.train.clone(), settings)
}

impl Stage for Pretraining {
    fn name(&self) -> &'static str {
        "pretrain"
    }

    fn batches(&self) -> MakeBatch {
        let windows = self.windows.clone();
        Arc::new(move |step| Ok(windows.pretrain_batch(step)))
    }

    fn largest_batch(&self) -> Option<Batch> {
        None
    }

    fn evaluate(&self, decoder: &Decoder, last: bool) -> Result<Evaluation> {
        let windows = if last { &self.validation } else { &self.quick };
        let (nats, tokens) = windows_loss(decoder, windows.iter().map(|part| part.batch));
        let loss = nats / tokens as f64;
        let bits_per_byte = nats / std::f64::consts::LN_2 / windows.bytes() as f64;
        Ok(Evaluation {
            loss,
            bits_per_byte,
            perplexity: loss.exp(),
        })
    }

    fn validation_batches(&self, last: bool) -> Box<dyn Iterator<Item = Batch> + '_> {
        let windows = if last { &self.validation } else { &self.quick };
        Box::new(windows.iter().map(|part| part.batch))
    }

    fn validates_in_part(&self) -> bool {
        self.quick.windows() != self.validation.windows()
    }

    fn data_facts(&self) -> DataFacts {
        let stream = self.windows.stream();
        let files: BTreeSet<&Path> = stream.shards().iter().map(Shard::path).collect();
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
        DataFacts {
            epoch_tokens: stream.tokens(),
            epochs: self.windows.epochs(self.recipe.train.steps),
            mapped_bytes: files.into_iter().map(bytes).sum(),
        }
    }

    fn samples(&self, decoder: &Decoder) -> Result<Vec<Sample>> {
        let generator = TextGenerator::new(decoder, &self.tokenizer)?;
        let eval = &self.recipe.eval;
        let sampling = Sampling {
            temperature: eval.temperature,
            top_p: 0.95,
            seed: self.recipe.train.seed,
            ..Sampling::greedy()
        };
        let settings = TextSettings {
            max_tokens: eval.sample_tokens,
            sampling,
            ..TextSettings::default()
        };
        let mut samples = Vec::with_capacity(eval.prompts.len());
        for prompt in &eval.prompts {
            let made = generator.complete(&Prompt::Document(prompt.clone()), &settings)?;
            samples.push(Sample {
                prompt: prompt.clone(),
                text: made.text,
            });
        }
        Ok(samples)
    }

    fn prompts(&self) -> Vec<Prompt> {
        let prompts = self.recipe.eval.prompts.iter().cloned();
        prompts.map(Prompt::Document).collect()
    }

    fn origins(&self, step: u64, _batch: &Batch) -> Result<Vec<Vec<Origin>>> {
        // The first token of each document in each row, or of what the row has of it.
        let stream = self.windows.stream();
        let mut rows = Vec::new();
        for targets in self.windows.pretrain_targets(step) {
            let mut firsts = Vec::new();
            let mut at = targets.start;
            while at < targets.end {
                firsts.push(at);
                at = stream.document_of(at).1.tokens.end;
            }
            match self.recipe.data.boundaries {
                Boundaries::Kept => rows.extend(firsts.into_iter().map(|first| vec![first])),
                Boundaries::Ignored => rows.push(firsts),
            }
        }
        let origins = Origins {
            sources: &self.sources,
            stream,
            split: Split::Train,
            tokenizer: &self.tokenizer,
        };
        let mut found = origins.of(&rows.concat())?.into_iter();
        let rows = rows.iter();
        Ok(rows
            .map(|row| found.by_ref().take(row.len()).collect())
            .collect())
    }

    fn spelled(&self, ids: &[u32]) -> Result<Vec<String>> {
        spelled(ids, &self.tokenizer)
    }

    fn save_tokenizer(&self, folder: &Path) -> Result<()> {
        Ok(self.tokenizer.save(folder)?)
    }
}
