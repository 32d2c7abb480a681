//! The experiment at work: which runs there are, each run once, each asked once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use etude_data::{Progress, Split};
use etude_eval::TaskMetric;
use etude_finetune::Recipe;
use etude_scores::Bootstrap;
use etude_train::{RunContext, durable};

use super::runs::{self, Arm, Key, Record};
use super::summary::{self, Answers, Compute, Cost, Pair, TransferSummary, Variant};
use super::{Transfer, TransferSettings};
use crate::arms::{self, Questions};

/// Everything that was run: both arms' runs, and the variants.
pub(super) struct Records {
    /// By arm and share, in the order of the seeds; the rate is the chosen one.
    arms: BTreeMap<(Arm, usize), (f64, Vec<Record>)>,
    /// Runs whose rates were not chosen.
    tried: Vec<(Arm, Record)>,
    base: Record,
    variants: Vec<(f64, Record)>,
}

/// The experiment under way.
pub(super) struct Lab<'a> {
    plan: &'a Transfer,
    context: &'a RunContext,
    say: &'a mut dyn FnMut(&str),
    questions: Questions,
    /// Training examples of the task.
    examples: usize,
    /// General text, where forgetting is measured.
    general: Option<String>,
    /// The runs that were looked at so far.
    seen: BTreeSet<String>,
}

impl<'a> Lab<'a> {
    pub(super) fn new(
        plan: &'a Transfer,
        context: &'a RunContext,
        say: &'a mut dyn FnMut(&str),
    ) -> Result<Self> {
        let task = &plan.finetune.task;
        let dataset = context
            .catalog
            .get_with(&task.source, &task.local)?
            .fetch(&context.cache, &Progress::Silent)?;
        let all = match (dataset.examples(&[Split::Train])?.count(), task.examples) {
            (all, 0) => all,
            (all, most) => all.min(most),
        };
        let smallest = plan.settings.shares.first().copied().unwrap_or(1.0);
        ensure!(
            all as f64 * smallest >= 0.5,
            "transfer.shares begins with {smallest}, which is no example of the {all} that `{}` has; begin with more",
            task.source
        );
        Ok(Self {
            plan,
            context,
            say,
            questions: Questions {
                metrics: plan.settings.metrics.clone(),
                limit: plan.settings.test,
            },
            examples: all,
            general: general_text(&plan.settings, context)?,
            seen: BTreeSet::new(),
        })
    }

    fn key(&self, arm: Arm, share: f64, seed: u64, rate: f64) -> Key {
        let examples = match share {
            all if all >= 1.0 => self.plan.finetune.task.examples,
            share => (self.examples as f64 * share).round().max(1.0) as usize,
        };
        Key {
            arm,
            share,
            examples,
            seed,
            rate,
            variant: None,
        }
    }

    /// The runs of the experiment, those that try rates included.
    fn total(&self) -> usize {
        let settings = &self.plan.settings;
        let tried = settings.tune_at.len() * (settings.rates.len() - 1);
        2 * (settings.shares.len() * settings.seeds.len() + tried)
            + self.plan.variants.len() * settings.rates.len()
    }

    /// Every run, and every answer. None when someone asked to stop.
    pub(super) fn all(&mut self) -> Result<Option<Records>> {
        let settings = &self.plan.settings;
        let mut records = Records {
            arms: BTreeMap::new(),
            tried: Vec::new(),
            base: self.base()?,
            variants: Vec::new(),
        };
        for arm in [Arm::Pretrained, Arm::Scratch] {
            let Some(rates) = self.tune(arm, &mut records.tried)? else {
                return Ok(None);
            };
            for (number, &share) in settings.shares.iter().enumerate() {
                let rate = nearest(&rates, share);
                let mut answered = Vec::new();
                for &seed in &settings.seeds {
                    let key = self.key(arm, share, seed, rate);
                    let Some(record) = self.answered(&key)? else {
                        return Ok(None);
                    };
                    answered.push(record);
                }
                records.arms.insert((arm, number), (rate, answered));
            }
        }
        for variant in 1..=self.plan.variants.len() {
            let Some(found) = self.variant(variant, &mut records.tried)? else {
                return Ok(None);
            };
            records.variants.push(found);
        }
        Ok(Some(records))
    }

    /// An arm's best factor of the rates at each share where they are tried, by validation loss.
    fn tune(
        &mut self,
        arm: Arm,
        tried: &mut Vec<(Arm, Record)>,
    ) -> Result<Option<Vec<(f64, f64)>>> {
        let mut best = Vec::new();
        for &share in &self.plan.settings.tune_at {
            let keys: Vec<Key> = (self.plan.settings.rates.iter())
                .map(|&rate| self.key(arm, share, self.plan.settings.seeds[0], rate))
                .collect();
            let Some(chosen) = self.best_of(&keys, tried)? else {
                return Ok(None);
            };
            best.push((share, chosen));
        }
        Ok(Some(best))
    }

    /// The rate of the key with the lowest validation loss; the others' weights are forgotten.
    fn best_of(&mut self, keys: &[Key], tried: &mut Vec<(Arm, Record)>) -> Result<Option<f64>> {
        let mut records = Vec::new();
        for key in keys {
            let Some(record) = self.trained(key)? else {
                return Ok(None);
            };
            records.push((key, record));
        }
        let chosen = (records.iter())
            .min_by(|(_, a), (_, b)| a.validation_loss.total_cmp(&b.validation_loss))
            .map(|(key, _)| key.rate)
            .context("at least one rate")?;
        for (key, record) in records {
            if key.rate != chosen {
                runs::forget_weights(&self.folder(key))?;
                tried.push((key.arm, record));
            }
        }
        Ok(Some(chosen))
    }

    fn variant(
        &mut self,
        number: usize,
        tried: &mut Vec<(Arm, Record)>,
    ) -> Result<Option<(f64, Record)>> {
        let settings = &self.plan.settings;
        let keys: Vec<Key> = (settings.rates.iter())
            .map(|&rate| Key {
                variant: Some(number),
                ..self.key(Arm::Pretrained, 1.0, settings.seeds[0], rate)
            })
            .collect();
        let Some(rate) = self.best_of(&keys, tried)? else {
            return Ok(None);
        };
        let key = keys.iter().find(|key| key.rate == rate);
        let record = self.answered(key.context("one of the keys was chosen")?)?;
        Ok(record.map(|record| (rate, record)))
    }

    fn folder(&self, key: &Key) -> PathBuf {
        self.context.folder.join("runs").join(key.folder())
    }

    fn recipe(&self, key: &Key) -> Recipe {
        let recipe = match (key.variant, key.arm) {
            (Some(number), _) => &self.plan.variants[number - 1].1,
            (None, Arm::Pretrained) => &self.plan.finetune,
            (None, Arm::Scratch) => &self.plan.scratch,
        };
        key.recipe(recipe)
    }

    fn trained(&mut self, key: &Key) -> Result<Option<Record>> {
        self.seen.insert(key.folder());
        let folder = self.folder(key);
        let fresh = Record::read(&folder)?.is_none();
        let name = match key.variant {
            Some(number) => self.plan.variants[number - 1].0.clone(),
            None => key.arm.to_string(),
        };
        if fresh {
            let (number, total) = (self.seen.len(), self.total());
            (self.say)(&format!("[{number}/{total}] {name}, {key}"));
        }
        let context = RunContext {
            progress: self.context.progress && fresh,
            ..self.context.for_folder(folder)
        };
        let record = runs::trained(&self.recipe(key), &context)?;
        if let Some(record) = record.as_ref().filter(|_| fresh) {
            (self.say)(&format!(
                "    validation loss {:.4} at step {}, {:.0} s",
                record.validation_loss, record.best_step, record.seconds
            ));
        }
        Ok(record)
    }

    /// A run's record with its answers, asked where that was not done yet; its weights are then forgotten.
    fn answered(&mut self, key: &Key) -> Result<Option<Record>> {
        let folder = self.folder(key);
        let Some(mut record) = self.trained(key)? else {
            return Ok(None);
        };
        if self.asked(&record) {
            return Ok(Some(record));
        }
        let Some(model) = runs::best(&folder) else {
            // Its weights are gone, as those of a rate that was not chosen: the run has to be made again.
            std::fs::remove_dir_all(&folder)
                .with_context(|| format!("{}: cannot be removed", folder.display()))?;
            return self.answered(key);
        };
        self.ask(&mut record, model, &self.recipe(key))?;
        record.write(&folder)?;
        runs::forget_weights(&folder)?;
        Ok(Some(record))
    }

    fn asked(&self, record: &Record) -> bool {
        let scored = record.result.as_ref().is_some_and(|result| {
            let names = self.questions.metrics.iter().map(TaskMetric::name);
            names
                .into_iter()
                .all(|name| result.scores.contains_key(name))
        });
        scored && (record.general.is_some() || self.general.is_none())
    }

    /// Asks a model the test examples, and measures it on general text.
    fn ask(&mut self, record: &mut Record, model: PathBuf, recipe: &Recipe) -> Result<()> {
        let device = &recipe.train.device;
        let (_, result) =
            arms::answers(&model, &recipe.task, &self.questions, device, self.context)?;
        let main = self.plan.settings.metrics.first();
        if let Some((name, score)) =
            main.and_then(|metric| result.scores.get_key_value(metric.name()))
        {
            (self.say)(&format!(
                "    {name} {:.3} [{:.3}, {:.3}] on {} test examples",
                score.value,
                score.low,
                score.high,
                result.items.len()
            ));
        }
        record.result = Some(result);
        record.general = match &self.general {
            Some(text) => Some(runs::general_loss(
                &model,
                text,
                device,
                &self.context.interrupt,
            )?),
            None => None,
        };
        Ok(())
    }

    /// The base model as it is, asked the same.
    fn base(&mut self) -> Result<Record> {
        let folder = self.context.folder.join("runs").join("base");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("{}: cannot be made", folder.display()))?;
        if let Some(record) = Record::read(&folder)?.filter(|record| self.asked(record)) {
            return Ok(record);
        }
        (self.say)("The base model, before any fine-tuning");
        let mut record = Record::default();
        let recipe = &self.plan.finetune;
        let model = etude_finetune::model_folder(&recipe.base.path);
        self.ask(&mut record, model, recipe)?;
        record.write(&folder)?;
        Ok(record)
    }

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
            Cost::of(main.chain(tried.map(|(_, record)| record)))
        };
        Ok(TransferSummary {
            task: self.plan.finetune.task.source.clone(),
            metric: main.name().to_owned(),
            higher_is_better: main.higher_is_better(),
            n: base.items.len(),
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

/// The factor tried at the share nearest to this one.
fn nearest(rates: &[(f64, f64)], share: f64) -> f64 {
    let far = |tried: f64| (tried.ln() - share.ln()).abs();
    (rates.iter())
        .min_by(|a, b| far(a.0).total_cmp(&far(b.0)))
        .map_or(1.0, |(_, rate)| *rate)
}

/// The validation text of the general source, up to the limit.
fn general_text(settings: &TransferSettings, context: &RunContext) -> Result<Option<String>> {
    let Some(source) = &settings.general else {
        return Ok(None);
    };
    let dataset = context
        .catalog
        .get(source)?
        .fetch(&context.cache, &Progress::Silent)?;
    let mut text = String::new();
    for document in dataset.documents(&[Split::Validation])? {
        if text.len() >= settings.general_bytes {
            break;
        }
        text.push_str(&document?.text);
        text.push_str("\n\n");
    }
    ensure!(
        !text.is_empty(),
        "transfer.general = {source}: it holds out no validation text"
    );
    let cut = (0..=settings.general_bytes.min(text.len()))
        .rev()
        .find(|&at| text.is_char_boundary(at));
    text.truncate(cut.unwrap_or(0));
    Ok(Some(text))
}
