//! The end of a run: the last validation, samples and checkpoint, the result and the summary. What a session that
//! died did not come to is done by the next one.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result};
use etude_tensor::memory;

use super::Trainer;
use crate::stage::{FinalLosses, Summary};
use crate::{forecast, weights};

impl Trainer<'_> {
    pub(super) fn finish(&mut self) -> Result<Summary> {
        self.settle(0, Instant::now())?;
        self.evaluate()?;
        let sampled = self.sample();
        self.checkpoint()?;
        sampled?;
        self.conclude()
    }

    /// What a session left to do that made the last checkpoint.
    pub(super) fn finish_again(&mut self) -> Result<Summary> {
        self.sample_again()?;
        self.conclude()
    }

    /// The summary of a run that was finished when this session began.
    pub(super) fn finished_before(&self) -> Option<Summary> {
        let text = std::fs::read(self.folder.file("summary.json")).ok()?;
        let summary: Summary = serde_json::from_slice(&text).ok()?;
        let saved = self.checkpoints.place(self.state.step);
        let whole = || weights::result_is_that_of(&saved, self.folder);
        (summary.steps == self.state.step && whole()).then_some(summary)
    }

    /// The result and the summary, after the last checkpoint.
    fn conclude(&mut self) -> Result<Summary> {
        let (stage, decoder, ids) = (self.stage, self.decoder, &self.settings.ids);
        let seconds = self.log.seconds();
        weights::save_result(stage, decoder, ids, self.folder)?;
        let last = self
            .state
            .last_evaluation
            .clone()
            .context("the last checkpoint was made after a validation")?;
        let mut summary = Summary {
            stage: self.stage.name().to_owned(),
            steps: self.state.step,
            tokens: self.state.tokens,
            supervised_tokens: self.state.supervised,
            seconds,
            tokens_per_second: self.state.tokens as f64 / seconds.max(1e-9),
            seconds_to_first_step: self.seconds_to_first_step,
            parameters: self.decoder.params().numel(),
            trained_parameters: self
                .decoder
                .trainable()
                .map(|param| param.tensor.numel() as u64)
                .sum(),
            peak_memory: memory::peak_rss(),
            last: FinalLosses {
                train_loss: self.state.last_loss,
                validation_loss: last.loss,
                bits_per_byte: last.bits_per_byte,
                perplexity: last.perplexity,
            },
            scores: BTreeMap::new(),
            forecast: None,
        };
        summary.forecast = forecast::Comparison::of(&summary, self.folder);
        self.folder.write_json("summary.json", &summary)?;
        self.log.finish();
        Ok(summary)
    }
}
