//! From the records of all runs to `transfer.json` and `examples.jsonl`.

use std::time::Instant;

use anyhow::{Context, Result};
use etude_scores::Bootstrap;
use etude_train::durable;

use super::lab::{Lab, Records};
use super::runs::{Arm, Record};
use super::summary::{self, Answers, Compute, Cost, Pair, TransferSummary, Variant};

impl Lab<'_> {
    /// What the runs found.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub(super) fn summarize(
        &self,
        records: &Records,
        pretraining: Option<Cost>,
        started: Instant,
    ) -> Result<TransferSummary> {
        let settings = &self.plan.settings;
        let bootstrap = Bootstrap::default();
        let main = settings.metrics.first().context("at least one metric")?;
        let answers = |arm, number| -> Result<Answers<'_>> {
            let (rate, found) = records
                .arms
                .get(&(arm, number))
                .context("every share was run")?;
            Ok(Answers {
                rate: *rate,
                records: found.iter().collect(),
            })
        };
        let mut pairs = Vec::new();
        for (number, &share) in settings.shares.iter().enumerate() {
            pairs.push(Pair {
                share,
                examples: (self.examples as f64 * share).round().max(1.0) as usize,
                pretrained: answers(Arm::Pretrained, number)?,
                scratch: answers(Arm::Scratch, number)?,
            });
        }
        let (points, data_ratios) = summary::curves(&pairs, &settings.metrics, &bootstrap)?;
        let data_ratio = data_ratios.get(main.name()).copied();
        // Where both arms have learnt something and differ: a tenth of the data, or what is nearest.
        let shown = (pairs.iter())
            .min_by(|a, b| {
                let far = |pair: &Pair<'_>| (pair.share.ln() - 0.1f64.ln()).abs();
                far(a).total_cmp(&far(b))
            })
            .context("at least one share")?;
        let lines: String = summary::examples(shown, main)?
            .into_iter()
            .map(|line| format!("{line}\n"))
            .collect();
        durable::write(
            &self.context.folder.join("examples.jsonl"),
            lines.as_bytes(),
        )?;

        let base = records.base.result.as_ref().context("the base was asked")?;
        let bits = |record: &Record| record.general.map(|score| score.bits_per_byte);
        let variant = |name: &str, rate: f64, record: &Record| -> Result<Variant> {
            let result = record.result.as_ref().context("every run was asked")?;
            Ok(Variant {
                name: name.to_owned(),
                scores: result.scores.clone(),
                general: bits(record),
                rate,
                seconds: record.seconds,
            })
        };
        let last = settings.shares.len() - 1;
        let (rate, whole) = &records.arms[&(Arm::Pretrained, last)];
        let plain = whole.first().context("at least one seed")?;
        let mut variants = vec![variant("As the recipe says", *rate, plain)?];
        for ((name, _), (rate, record)) in self.plan.variants.iter().zip(&records.variants) {
            variants.push(variant(name, *rate, record)?);
        }
        let cost = |arm: Arm| {
            let main = records.arms.iter().filter(move |(key, _)| key.0 == arm);
            let main = main.flat_map(|(_, (_, records))| records);
            let tried = records.tried.iter().filter(move |(of, _)| *of == arm);
            let variants = (records.variants.iter()).filter(move |_| arm == Arm::Pretrained);
            let beside = tried.map(|(_, record)| record);
            Cost::of(main.chain(beside).chain(variants.map(|(_, record)| record)))
        };
        let arms = [&self.plan.finetune, &self.plan.scratch];
        Ok(TransferSummary {
            task: self.plan.finetune.task.source.clone(),
            metric: main.name().to_owned(),
            higher_is_better: main.higher_is_better(),
            n: base.items.len(),
            steps: arms.map(|recipe| recipe.train.steps),
            batch_rows: arms.map(|recipe| recipe.train.batch_rows),
            base: base.scores.clone(),
            points,
            data_ratio,
            data_ratios,
            compute: Compute {
                pretraining,
                finetuning: Cost::of([plain]),
                finetunings: cost(Arm::Pretrained),
                scratch: cost(Arm::Scratch),
            },
            variants,
            general_before: bits(&records.base),
            general: settings.general.clone(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}
