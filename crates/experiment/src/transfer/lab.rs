//! The experiment at work: which runs there are, each run once, each asked once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use etude_data::{Progress, Split};
use etude_eval::{TaskMetric, TaskResult, score_items};
use etude_finetune::Recipe;
use etude_scores::Bootstrap;
use etude_train::RunContext;

use super::Transfer;
use super::circumstances::{Circumstances, General};
use super::runs::{self, Arm, BASE, Key, Record};
use super::summary;
use crate::arms::{self, Questions};

/// Everything that was run: both arms' runs, and the variants.
pub(super) struct Records {
    /// By arm and share, in the order of the seeds; the rate is the chosen one.
    pub(super) arms: BTreeMap<(Arm, usize), (f64, Vec<Record>)>,
    /// Runs whose rates were not chosen.
    pub(super) tried: Vec<(Arm, Record)>,
    pub(super) base: Record,
    pub(super) variants: Vec<(f64, Record)>,
}

/// The experiment under way.
pub(super) struct Lab<'a> {
    pub(super) plan: &'a Transfer,
    pub(super) context: &'a RunContext,
    say: &'a mut dyn FnMut(&str),
    questions: Questions,
    /// Training examples of the task.
    pub(super) examples: usize,
    general: Option<General>,
    circumstances: Circumstances,
    /// The runs that were looked at so far.
    seen: BTreeSet<String>,
    /// What the base model answered.
    base: Option<TaskResult>,
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
        let general = General::read(&plan.settings, context)?;
        let circumstances = Circumstances::new(plan, dataset.fingerprint()?, general.as_ref())?;
        circumstances.check(&context.folder)?;
        Ok(Self {
            plan,
            context,
            say,
            questions: Questions {
                metrics: plan.settings.metrics.clone(),
                choices: plan.finetune.eval.choices.clone(),
                limit: plan.settings.test,
            },
            examples: all,
            general,
            circumstances,
            base: None,
            seen: BTreeSet::new(),
        })
    }

    pub(super) fn key(&self, arm: Arm, share: f64, seed: u64, rate: f64) -> Key {
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
            let curve: Vec<(usize, Key)> = self.curve(arm, &rates).collect();
            for (number, key) in curve {
                let Some(record) = self.answered(&key)? else {
                    return Ok(None);
                };
                let empty = || (key.rate, Vec::new());
                let point = records.arms.entry((arm, number)).or_insert_with(empty);
                point.1.push(record);
            }
        }
        let variants: Vec<Vec<Key>> = self.variants().collect();
        for keys in &variants {
            let Some(found) = self.variant(keys, &mut records.tried)? else {
                return Ok(None);
            };
            records.variants.push(found);
        }
        Ok(Some(records))
    }

    /// The runs of an arm at each share, whose number stands beside, with each seed: at the best of the rates that were
    /// tried nearest to it.
    pub(super) fn curve(
        &self,
        arm: Arm,
        rates: &[(f64, f64)],
    ) -> impl Iterator<Item = (usize, Key)> {
        let settings = &self.plan.settings;
        let shares = settings.shares.iter().enumerate();
        shares.flat_map(move |(number, &share)| {
            let rate = nearest(rates, share);
            let key = move |&seed| (number, self.key(arm, share, seed, rate));
            settings.seeds.iter().map(key)
        })
    }

    /// The runs that try an arm's rates.
    pub(super) fn tuning(&self, arm: Arm) -> Vec<Key> {
        let shares = self.plan.settings.tune_at.iter();
        shares
            .flat_map(|&share| self.each_rate(arm, share))
            .collect()
    }

    /// A run with each rate, by the first seed.
    fn each_rate(&self, arm: Arm, share: f64) -> Vec<Key> {
        let settings = &self.plan.settings;
        let rates = settings.rates.iter();
        rates
            .map(|&rate| self.key(arm, share, settings.seeds[0], rate))
            .collect()
    }

    /// Each variant's runs, one with each rate.
    pub(super) fn variants(&self) -> impl Iterator<Item = Vec<Key>> {
        (1..=self.plan.variants.len()).map(|number| {
            let keys = self.each_rate(Arm::Pretrained, 1.0).into_iter();
            let variant = Some(number);
            keys.map(|key| Key { variant, ..key }).collect()
        })
    }

    /// An arm's best factor of the rates at each share where they are tried, by validation loss.
    pub(super) fn tune(
        &mut self,
        arm: Arm,
        tried: &mut Vec<(Arm, Record)>,
    ) -> Result<Option<Vec<(f64, f64)>>> {
        let mut best = Vec::new();
        for &share in &self.plan.settings.tune_at {
            let keys = self.each_rate(arm, share);
            let Some(chosen) = self.best_of(&keys, tried)? else {
                return Ok(None);
            };
            best.push((share, chosen));
        }
        Ok(Some(best))
    }

    /// The rate of the key with the lowest validation loss; the others' weights are forgotten.
    pub(super) fn best_of(
        &mut self,
        keys: &[Key],
        tried: &mut Vec<(Arm, Record)>,
    ) -> Result<Option<f64>> {
        let mut records = Vec::new();
        for key in keys {
            let Some(record) = self.trained(key)? else {
                return Ok(None);
            };
            records.push((key, record));
        }
        let losses = records
            .iter()
            .filter_map(|(key, record)| Some((key.rate, record.validation_loss?)));
        let (chosen, _) = losses
            .min_by(|(_, a), (_, b)| a.total_cmp(b))
            .with_context(|| {
                format!(
                    "transfer.rates = {:?}: training diverges with each of them; lower them, or the learning rates of the recipe",
                    self.plan.settings.rates
                )
            })?;
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
        keys: &[Key],
        tried: &mut Vec<(Arm, Record)>,
    ) -> Result<Option<(f64, Record)>> {
        let Some(rate) = self.best_of(keys, tried)? else {
            return Ok(None);
        };
        let key = keys.iter().find(|key| key.rate == rate);
        let record = self.answered(key.context("one of the keys was chosen")?)?;
        Ok(record.map(|record| (rate, record)))
    }

    pub(super) fn folder(&self, key: &Key) -> PathBuf {
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

    /// What a run is called.
    fn name(&self, key: &Key) -> String {
        match key.variant {
            Some(number) => format!("{}, {key}", self.plan.variants[number - 1].0),
            None => format!("{}, {key}", key.arm),
        }
    }

    /// Says that a run begins, unless it is there. Returns whether it is not.
    pub(super) fn announce(&mut self, key: &Key) -> Result<bool> {
        self.seen.insert(key.folder());
        let fresh = Record::read(&self.folder(key))?.is_none();
        if fresh {
            let (number, total) = (self.seen.len(), self.total());
            let name = self.name(key);
            (self.say)(&format!("[{number}/{total}] {name}"));
        }
        Ok(fresh)
    }

    /// Says what a worker said of a run, and what came out of it.
    pub(super) fn tell(&mut self, key: &Key, said: &str) -> Result<()> {
        let Some(record) = Record::read(&self.folder(key))? else {
            return Ok(());
        };
        let answered = record.result.as_ref().and_then(|result| self.score(result));
        let told = answered.unwrap_or_else(|| record.how_it_ended());
        let name = self.name(key);
        for line in said
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .chain([&*told])
        {
            (self.say)(&format!("    {name}: {line}"));
        }
        Ok(())
    }

    /// The main score of some answers, in words.
    fn score(&self, result: &TaskResult) -> Option<String> {
        let main = self.plan.settings.metrics.first()?.name();
        let score = result.scores.get(main)?;
        Some(format!(
            "{main} {:.3} [{:.3}, {:.3}] on {} test examples",
            score.value,
            score.low,
            score.high,
            result.items.len()
        ))
    }

    pub(super) fn trained(&mut self, key: &Key) -> Result<Option<Record>> {
        let fresh = self.announce(key)?;
        let folder = self.folder(key);
        let context = RunContext {
            progress: self.context.progress && fresh,
            ..self.context.for_folder(folder)
        };
        let record = runs::trained(&self.recipe(key), &context)?;
        if let Some(record) = record.as_ref().filter(|_| fresh) {
            (self.say)(&format!("    {}", record.how_it_ended()));
        }
        Ok(record)
    }

    /// A run's record with its answers, asked where that was not done yet; its weights are then forgotten.
    pub(super) fn answered(&mut self, key: &Key) -> Result<Option<Record>> {
        let folder = self.folder(key);
        let Some(mut record) = self.trained(key)? else {
            return Ok(None);
        };
        ensure!(
            record.validation_loss.is_some(),
            "{}: training diverged, with rates that did well elsewhere; leave the highest out of transfer.rates, or lower the learning rates of the recipe",
            folder.display()
        );
        if self.is_told(&mut record, &folder)? {
            return Ok(Some(record));
        }
        let Some(model) = runs::best(&folder)? else {
            // Its weights are gone, as those of a rate that was not chosen.
            if record.result.is_some() {
                let why = "what is asked now does not follow from its answers, so it is made again";
                (self.say)(&format!("{key}: {why}"));
            }
            // First what says that it is finished: half removed, it is made anew.
            let _ = std::fs::remove_file(folder.join("summary.json"));
            std::fs::remove_dir_all(&folder)
                .with_context(|| format!("{}: cannot be removed", folder.display()))?;
            return self.answered(key);
        };
        self.ask(&mut record, model, &self.recipe(key))?;
        record.write(&folder)?;
        runs::forget_weights(&folder)?;
        Ok(Some(record))
    }

    /// Whether a record tells all that is asked. Metrics that are asked for later are measured on the answers it holds.
    pub(super) fn is_told(&self, record: &mut Record, folder: &Path) -> Result<bool> {
        let Some(result) = &mut record.result else {
            return Ok(false);
        };
        if let Some(base) = &self.base {
            summary::same_examples(base, result)?;
        }
        let metrics = self.questions.metrics.iter().copied();
        let more: Vec<TaskMetric> = metrics
            .filter(|metric| !result.scores.contains_key(metric.name()))
            .collect();
        if !more.iter().all(|metric| metric.is_told_by(result)) {
            return Ok(false);
        }
        if !more.is_empty() {
            let scores = score_items(&result.items, &more, &Bootstrap::default())?;
            result.scores.extend(scores);
            record.write(folder)?;
        }
        Ok(record.general.is_some() || self.general.is_none())
    }

    /// Asks a model the test examples, and measures it on general text.
    fn ask(&mut self, record: &mut Record, model: PathBuf, recipe: &Recipe) -> Result<()> {
        let device = &recipe.train.device;
        let (_, result) =
            arms::answers(&model, &recipe.task, &self.questions, device, self.context)?;
        if let Some(base) = &self.base {
            summary::same_examples(base, &result)?;
        }
        if let Some(score) = self.score(&result) {
            (self.say)(&format!("    {score}"));
        }
        record.result = Some(result);
        record.general = match &self.general {
            Some(general) => Some(runs::general_loss(
                &model,
                &general.text,
                device,
                &self.context.interrupt,
            )?),
            None => None,
        };
        Ok(())
    }

    fn base_folder(&self) -> PathBuf {
        self.context.folder.join("runs").join(BASE)
    }

    /// Reads what the base model answered, where another process asked it.
    pub(super) fn know_the_base(&mut self) -> Result<()> {
        let record = Record::read(&self.base_folder())?;
        self.base = record.and_then(|record| record.result);
        Ok(())
    }

    /// The base model as it is, asked the same.
    pub(super) fn base(&mut self) -> Result<Record> {
        let folder = self.base_folder();
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("{}: cannot be made", folder.display()))?;
        let mut record = match Circumstances::are_kept(&self.context.folder) {
            true => Record::read(&folder)?.unwrap_or_default(),
            false => Record::default(), // nobody knows under which ones it was asked
        };
        if !self.is_told(&mut record, &folder)? {
            (self.say)("The base model, before any fine-tuning");
            let recipe = &self.plan.finetune;
            let model = etude_finetune::model_folder(&recipe.base.path);
            self.ask(&mut record, model, recipe)?;
            record.write(&folder)?;
        }
        self.base.clone_from(&record.result);
        // Only now: what nobody could be asked has not begun.
        self.circumstances.keep(&self.context.folder)?;
        Ok(record)
    }
}

/// The factor tried at the share nearest to this one.
fn nearest(rates: &[(f64, f64)], share: f64) -> f64 {
    let far = |tried: f64| (tried.ln() - share.ln()).abs();
    (rates.iter())
        .min_by(|a, b| far(a.0).total_cmp(&far(b.0)))
        .map_or(1.0, |(_, rate)| *rate)
}
