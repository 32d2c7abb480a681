//! From records to what the model is given: templates, right answers, solved examples.

use anyhow::{Context, Result};
use etude_data::{DataError, key_hash, nearest};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value};

use super::sample::Record;
use super::spec::{Choices, Sampler, TaskKind};
use super::task::HarnessTask;

/// Instructions that a template may take on one record: none needs more, one that loops ends.
const FUEL: u64 = 1_000_000;

/// A task's templates, made ready.
pub(super) struct Prompts<'t> {
    task: &'t HarnessTask,
    env: Environment<'static>,
}

/// A record as the task asks it.
pub(super) struct Question {
    /// What is given, without solved examples.
    pub(super) context: String,
    /// For multiple choice.
    pub(super) choices: Vec<String>,
    /// For multiple choice: the right one of them.
    pub(super) gold: usize,
    /// The right answers as text: one, or for generation any number from one.
    pub(super) answers: Vec<String>,
}

impl<'t> Prompts<'t> {
    /// Parses the templates of a task.
    ///
    /// # Errors
    /// The template that is wrong, by key and line.
    pub(super) fn new(task: &'t HarnessTask) -> Result<Self> {
        let mut env = Environment::new();
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        env.set_syntax(
            SyntaxConfig::builder()
                .keep_trailing_newline(true)
                .build()?,
        );
        env.set_auto_escape_callback(|_| AutoEscape::None);
        etude_tokenizer::write_like_python(&mut env);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.set_fuel(Some(FUEL));
        let spec = &task.spec;
        let mut templates = vec![
            ("context".to_owned(), &spec.context),
            ("answer".to_owned(), &spec.answer),
            ("text".to_owned(), &spec.text),
            ("by".to_owned(), &spec.by),
        ];
        match &spec.choices {
            Choices::List(list) => templates.push(("choices".to_owned(), list)),
            Choices::Each(all) => {
                templates.extend((0..).zip(all).map(|(i, text)| (choice_key(i), text)));
            }
        }
        for (key, source) in templates {
            env.add_template_owned(key.clone(), source.clone())
                .map_err(|error| {
                    let line = error.line().unwrap_or(1);
                    let detail = error.detail().unwrap_or("not a template");
                    let what = format!("`{key}`, line {line} of the template: {detail}");
                    DataError::in_file(&task.origin, what, "correct the template (Jinja)")
                })?;
        }
        Ok(Self { task, env })
    }

    /// A record as the task asks it.
    ///
    /// # Errors
    /// A field that the record lacks, or a right answer that is none of the choices; both name its line.
    pub(super) fn question(&self, record: &Record) -> Result<Question> {
        let spec = &self.task.spec;
        let context = self.text("context", &spec.context, record)?;
        let mut question = Question {
            context,
            choices: Vec::new(),
            gold: 0,
            answers: Vec::new(),
        };
        match spec.kind {
            TaskKind::MultipleChoice => {
                question.choices = self.choices(record)?;
                question.gold = self.gold(record, &question.choices)?;
                question.answers = vec![question.choices[question.gold].clone()];
            }
            TaskKind::Cloze => {
                question.answers = vec![self.text("answer", &spec.answer, record)?]
            }
            TaskKind::Generation => question.answers = self.answers(record)?,
            TaskKind::Perplexity => question.answers = vec![self.text("text", &spec.text, record)?],
        }
        Ok(question)
    }

    /// The value by which scores are given apart.
    pub(super) fn by(&self, record: &Record) -> Result<String> {
        self.text("by", &self.task.spec.by, record)
    }

    /// All that stands before the answer of the record `number`: description, solved examples, question.
    ///
    /// # Errors
    /// As [`Prompts::question`], and when there are too few examples.
    pub(super) fn context(
        &self,
        number: usize,
        record: &Record,
        question: &Question,
    ) -> Result<String> {
        let spec = &self.task.spec;
        let mut context = spec.description.clone();
        for shot in self.shots(number, record)? {
            let example = self.question(shot)?;
            let answer = example.answers.first().map_or("", String::as_str);
            for part in [
                &example.context,
                &spec.delimiter,
                answer,
                &spec.fewshot.delimiter,
            ] {
                context.push_str(part);
            }
        }
        context.push_str(&question.context);
        Ok(context)
    }

    /// The solved examples of the record `number`: a function of the seed and that number alone, so that
    /// neither a limit nor the order of evaluation changes them.
    fn shots(&self, number: usize, record: &Record) -> Result<Vec<&Record>> {
        let (wanted, pool) = (&self.task.spec.fewshot, self.task.shots());
        let usable = |shot: &&Record| shot.value != record.value;
        let chosen: Vec<&Record> = match wanted.sampler {
            _ if wanted.count == 0 => Vec::new(),
            Sampler::First => pool.iter().filter(usable).take(wanted.count).collect(),
            Sampler::Random => {
                let mut left: Vec<usize> = (0..pool.len()).collect();
                let mut chosen = Vec::with_capacity(wanted.count);
                let salt = format!("{}/{number}", wanted.seed);
                while chosen.len() < wanted.count && !left.is_empty() {
                    let hash = key_hash(&salt, &left.len().to_string());
                    let place = (u128::from(hash) * left.len() as u128) >> 64;
                    let shot = &pool[left.swap_remove(place as usize)];
                    if usable(&shot) {
                        chosen.push(shot);
                    }
                }
                chosen
            }
        };
        if chosen.len() == wanted.count {
            return Ok(chosen);
        }
        let what = format!(
            "`fewshot.count` is {}, and there are {} examples besides {}",
            wanted.count,
            chosen.len(),
            record.source
        );
        let remedy = "lower it, or name a larger file under `fewshot.data`";
        Err(DataError::in_file(&self.task.origin, what, remedy).into())
    }

    fn choices(&self, record: &Record) -> Result<Vec<String>> {
        let choices: Vec<String> = match &self.task.spec.choices {
            Choices::Each(all) => (0..)
                .zip(all)
                .map(|(i, text)| self.text(&choice_key(i), text, record))
                .collect::<Result<_>>()?,
            Choices::List(list) => {
                let value = self.value("choices", list, record)?;
                let items = match value.kind() {
                    ValueKind::Seq | ValueKind::Iterable => value.try_iter().ok(),
                    _ => None,
                };
                let Some(items) = items else {
                    let what = format!("`choices` gives {value}, which is no list");
                    let remedy = "write an expression that gives a list, such as \"{{ options }}\", or a list of templates";
                    return Err(self.at(record, what, remedy));
                };
                items.map(|item| item.to_string()).collect()
            }
        };
        if choices.len() < 2 {
            let what = format!("`choices` gives {} of them", choices.len());
            return Err(self.at(record, what, "give at least two, or leave the record out"));
        }
        match choices.iter().any(String::is_empty) {
            true => Err(self.at(record, "a choice is empty", "fill it, or leave it out")),
            false => Ok(choices),
        }
    }

    fn gold(&self, record: &Record, choices: &[String]) -> Result<usize> {
        let value = self.value("answer", &self.task.spec.answer, record)?;
        let text = value.to_string();
        let by_text = choices.iter().position(|choice| *choice == text);
        let by_number = text
            .trim()
            .parse()
            .ok()
            .filter(|&n: &usize| n < choices.len());
        // A number is a place, even where a choice is spelt like it.
        let found = match value.is_number() {
            true => by_number,
            false => by_text.or(by_number),
        };
        found.ok_or_else(|| {
            let what = format!(
                "the answer `{text}` is none of the choices `{}`",
                choices.join("`, `")
            );
            let remedy = "write the right choice, or its number from 0";
            self.at(record, what, remedy)
        })
    }

    /// The right answers of a task that generates.
    fn answers(&self, record: &Record) -> Result<Vec<String>> {
        let value = self.value("answer", &self.task.spec.answer, record)?;
        let answers: Vec<String> = match value.kind() {
            ValueKind::Seq => value.try_iter()?.map(|item| item.to_string()).collect(),
            _ => vec![value.to_string()],
        };
        match answers.is_empty() {
            true => Err(self.at(
                record,
                "`answer` gives an empty list",
                "give a right answer",
            )),
            false => Ok(answers),
        }
    }

    /// A template filled in.
    fn text(&self, key: &str, source: &str, record: &Record) -> Result<String> {
        let template = self.env.get_template(key).context("all were added")?;
        template
            .render(Value::from(Serde(&record.value)))
            .map_err(|error| self.refused(key, source, record, &error))
    }

    /// What a template stands for that is one expression; of another its text.
    fn value(&self, key: &str, source: &str, record: &Record) -> Result<Value> {
        let inside = source
            .trim()
            .strip_prefix("{{")
            .and_then(|rest| rest.strip_suffix("}}"));
        let Some(expression) = inside.filter(|inside| !inside.contains("}}")) else {
            return Ok(Value::from(self.text(key, source, record)?));
        };
        let refused = |error: minijinja::Error| self.refused(key, source, record, &error);
        let expression = self.env.compile_expression(expression).map_err(refused)?;
        let value = expression
            .eval(Value::from(Serde(&record.value)))
            .map_err(refused)?;
        match value.is_undefined() {
            true => Err(self.missing(key, record)),
            false => Ok(value),
        }
    }

    fn refused(
        &self,
        key: &str,
        source: &str,
        record: &Record,
        error: &minijinja::Error,
    ) -> anyhow::Error {
        match error.kind() {
            ErrorKind::UndefinedError => self.missing(key, record),
            _ => {
                let detail = error.detail().unwrap_or("it fails");
                let what = format!("`{key}` cannot be made of it: {detail} (`{source}`)");
                self.at(record, what, "correct the template or the record")
            }
        }
    }

    /// A template asks for what the record has not.
    fn missing(&self, key: &str, record: &Record) -> anyhow::Error {
        let fields: Vec<&str> = record
            .value
            .as_object()
            .into_iter()
            .flat_map(|fields| fields.keys().map(String::as_str))
            .collect();
        let template = self.env.get_template(key).ok();
        let mut asked: Vec<String> = template
            .iter()
            .flat_map(|template| template.undeclared_variables(false))
            .filter(|name| !fields.contains(&name.as_str()))
            .collect();
        asked.sort();
        let Some(name) = asked.first() else {
            let what = format!("lacks something that `{key}` asks for");
            return self.at(record, what, "correct the template or the record");
        };
        let remedy = match nearest(name, fields.iter().copied()) {
            Some(close) => format!("did you mean `{close}`?"),
            None => format!("its fields are `{}`", fields.join("`, `")),
        };
        self.at(
            record,
            format!("has no `{name}`, which `{key}` asks for"),
            remedy,
        )
    }

    /// An error at a record, which names the task file too.
    fn at(
        &self,
        record: &Record,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> anyhow::Error {
        let what = format!("{} (task {})", what.into(), self.task.origin.display());
        DataError::at(&record.source, what, remedy).into()
    }
}

fn choice_key(number: usize) -> String {
    format!("choices.{number}")
}

#[cfg(test)]
mod tests {
    use etude_data::Catalog;

    use super::*;

    #[test]
    fn values_are_written_as_python_writes_them() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let toml = concat!(
            "name = \"x\"\ndata = \"x.jsonl\"\nkind = \"multiple-choice\"\n",
            "context = \"{{ sure }} {{ nothing }} {{ words }} {{ half }}\"\n",
            "choices = [\"False\", \"True\"]\nanswer = \"{{ sure }}\"\n",
        );
        std::fs::write(folder.path().join("x.toml"), toml)?;
        let line = r#"{"sure": true, "nothing": null, "words": ["a", "it's"], "half": 0.5}"#;
        std::fs::write(folder.path().join("x.jsonl"), line)?;
        let catalog = Catalog::load(&[] as &[&std::path::Path])?;
        let file = folder.path().join("x.toml");
        let task = HarnessTask::load(&file.to_string_lossy(), &catalog)?;
        let question = Prompts::new(&task)?.question(&task.records[0])?;
        assert_eq!(question.context, "True None ['a', \"it's\"] 0.5");
        assert_eq!(question.gold, 1);
        Ok(())
    }
}
