//! What a task file says: TOML, parsed and checked. What its templates make of a record is in
//! `prompt.rs`, what is measured in `metric.rs`.

use std::path::{Path, PathBuf};

use etude_data::{DataError, Split, parse_toml};
use serde::{Deserialize, Serialize};

use super::metric::HarnessMetric;

/// A task file.
///
/// Templates are Jinja over the fields of a record. Beside each key that lm-evaluation-harness has under
/// another name, that name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// The task's name in results: letters, digits, `-` and `_` (`task`).
    pub name: String,
    /// What it is, for people. Default none.
    #[serde(default)]
    pub title: String,
    /// Raised when a change makes scores incomparable (`metadata.version`). Default 1.
    #[serde(default = "first_version")]
    pub version: u32,
    /// How it is scored (`output_type`).
    pub kind: TaskKind,
    /// A `.jsonl` file, relative to the task file, whose lines are its records; or a data set by name,
    /// whose records have `prompt` and `completion`, or `text`.
    #[serde(default)]
    pub data: String,
    /// Which records of a data set by name (`test_split`). Default `test`.
    #[serde(default = "test")]
    pub split: Split,
    /// Begins every context, before the first example, as it stands (`description`). Default none.
    #[serde(default)]
    pub description: String,
    /// Template of what is given (`doc_to_text`). Default none: nothing is given.
    #[serde(default)]
    pub context: String,
    /// For multiple choice: what may follow (`doc_to_choice`).
    #[serde(default)]
    pub choices: Choices,
    /// What should follow (`doc_to_target`): for multiple choice the right choice, as its number from 0 or
    /// as its text; for a cloze the text; for generation the text, or a list of texts that are all right.
    #[serde(default)]
    pub answer: String,
    /// For perplexity: template of the text (`doc_to_target`). Default `{{ text }}`.
    #[serde(default = "text_field")]
    pub text: String,
    /// Stands between a context and what follows it (`target_delimiter`). Default one space.
    #[serde(default = "space")]
    pub delimiter: String,
    /// Template by whose value scores are also given apart. Default none.
    #[serde(default)]
    pub by: String,
    /// What is scored (`metric_list`). Default: what is usual for the kind.
    #[serde(default)]
    pub metrics: Vec<HarnessMetric>,
    /// Solved examples before the question.
    #[serde(default)]
    pub fewshot: Fewshot,
    /// For generation: where an answer ends.
    #[serde(default)]
    pub generation: GenerationSpec,
}

fn first_version() -> u32 {
    1
}

fn test() -> Split {
    Split::Test
}

fn space() -> String {
    " ".to_owned()
}

fn text_field() -> String {
    "{{ text }}".to_owned()
}

/// How a task is scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// The likeliest of several continuations (`multiple_choice`).
    MultipleChoice,
    /// The likelihood of the one right continuation, and whether greedy decoding would give it
    /// (`loglikelihood`).
    Cloze,
    /// The likelihood of whole texts (`loglikelihood_rolling`).
    Perplexity,
    /// A greedy answer, compared with the right one (`generate_until`).
    Generation,
}

impl TaskKind {
    /// The name that lm-evaluation-harness has for it.
    pub fn output_type(self) -> &'static str {
        match self {
            Self::MultipleChoice => "multiple_choice",
            Self::Cloze => "loglikelihood",
            Self::Perplexity => "loglikelihood_rolling",
            Self::Generation => "generate_until",
        }
    }
}

/// What may follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Choices {
    /// One expression that gives a list: `"{{ options }}"`.
    List(String),
    /// A template for each.
    Each(Vec<String>),
}

impl Default for Choices {
    fn default() -> Self {
        Self::Each(Vec::new())
    }
}

impl Choices {
    fn is_empty(&self) -> bool {
        match self {
            Self::List(text) => text.trim().is_empty(),
            Self::Each(all) => all.is_empty(),
        }
    }
}

/// Solved examples before the question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fewshot {
    /// How many (`num_fewshot`). Default 0.
    pub count: usize,
    /// A `.jsonl` file of them, relative to the task file. Default the task's own records; the question
    /// itself is never among its examples.
    pub data: String,
    /// Which records of a data set by name (`fewshot_split`). Default `train`.
    pub split: Split,
    /// Which ones. Default `random`.
    pub sampler: Sampler,
    /// For `random`: another seed draws others. Default 1234.
    pub seed: u64,
    /// Stands after each (`fewshot_delimiter`). Default an empty line.
    pub delimiter: String,
}

impl Default for Fewshot {
    fn default() -> Self {
        Self {
            count: 0,
            data: String::new(),
            split: Split::Train,
            sampler: Sampler::Random,
            seed: 1234,
            delimiter: "\n\n".to_owned(),
        }
    }
}

/// Which examples stand before a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampler {
    /// Drawn anew for each question, from the seed and the question's number alone.
    Random,
    /// The first ones, for all questions (`first_n`).
    First,
}

/// Where a generated answer ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerationSpec {
    /// At most this many tokens (`max_gen_toks`). Default 256.
    pub max_tokens: usize,
    /// Texts that end it, besides the end tokens (`until`). Default an empty line.
    pub stop: Vec<String>,
}

impl Default for GenerationSpec {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            stop: vec!["\n\n".to_owned()],
        }
    }
}

impl TaskSpec {
    /// Parses and checks a task file that was read from `file`.
    ///
    /// # Errors
    /// Names file, line (for syntax and unknown keys) or key, and what to do.
    pub fn parse(text: &str, file: &Path) -> Result<Self, DataError> {
        let mut spec: Self = parse_toml(text, file)?;
        spec.check()
            .map_err(|(what, remedy)| DataError::in_file(file, what, remedy))?;
        if spec.metrics.is_empty() {
            spec.metrics = HarnessMetric::usual(spec.kind);
        }
        Ok(spec)
    }

    /// What is wrong, and the remedy.
    fn check(&self) -> Result<(), (String, String)> {
        let wrong = |what: &str, remedy: &str| Err((what.to_owned(), remedy.to_owned()));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.name.is_empty() || !self.name.chars().all(plain) {
            return wrong(
                &format!("`name` is `{}`", self.name),
                "use letters, digits, `-` and `_`: files are named after it",
            );
        }
        if self.data.is_empty() {
            return wrong(
                "`data` is missing",
                "name a .jsonl file, or a data set of `etude data list`",
            );
        }
        match self.kind {
            TaskKind::MultipleChoice if self.choices.is_empty() => {
                return wrong(
                    "`choices` is missing, which a multiple choice needs",
                    "write `choices = \"{{ options }}\"` for a list in the record, or a list of templates",
                );
            }
            TaskKind::MultipleChoice | TaskKind::Cloze | TaskKind::Generation
                if self.answer.is_empty() =>
            {
                return wrong(
                    "`answer` is missing",
                    "write the template of the right answer, such as `answer = \"{{ answer }}\"`",
                );
            }
            TaskKind::Perplexity if self.fewshot.count > 0 => {
                return wrong(
                    "`fewshot.count` means nothing for perplexity",
                    "leave it out: a text is scored as it stands",
                );
            }
            _ => {}
        }
        if self.kind != TaskKind::MultipleChoice && !self.choices.is_empty() {
            return wrong(
                "`choices` belongs to `kind = \"multiple-choice\"` alone",
                "leave it out, or change the kind",
            );
        }
        if self.generation.max_tokens == 0 {
            return wrong(
                "`generation.max_tokens` is 0",
                "give at least 1: nothing can be answered without a token",
            );
        }
        if self.generation.stop.iter().any(String::is_empty) {
            return wrong(
                "`generation.stop` holds an empty text",
                "leave it out; it would end every answer at once",
            );
        }
        match self.metrics.iter().find(|metric| !metric.fits(self.kind)) {
            None => Ok(()),
            Some(metric) => {
                let known: Vec<&str> = HarnessMetric::usual(self.kind)
                    .iter()
                    .map(HarnessMetric::name)
                    .collect();
                Err((
                    format!(
                        "`metrics` names `{metric}`, which a task of kind `{}` has not",
                        self.kind.output_type().replace('_', "-")
                    ),
                    format!("usual here: `{}`", known.join("`, `")),
                ))
            }
        }
    }

    /// The file of `data`, if it is one.
    pub(super) fn file(data: &str, task_file: &Path) -> Option<PathBuf> {
        let is_file = data.ends_with(".jsonl");
        is_file.then(|| task_file.parent().unwrap_or(Path::new("")).join(data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = \"a\"\nkind = \"multiple-choice\"\ndata = \"a.jsonl\"\n\
                        choices = \"{{ options }}\"\nanswer = \"{{ answer }}\"\n";

    fn error(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        let text = GOOD.replace(from, to);
        TaskSpec::parse(&text, Path::new("a.toml"))
            .expect_err(to)
            .to_string()
    }

    #[test]
    fn defaults_are_what_the_field_uses() -> Result<(), DataError> {
        let spec = TaskSpec::parse(GOOD, Path::new("a.toml"))?;
        let names: Vec<&str> = spec.metrics.iter().map(HarnessMetric::name).collect();
        assert_eq!(names, ["acc", "acc_norm"]);
        assert_eq!((spec.version, spec.delimiter.as_str()), (1, " "));
        assert_eq!((spec.fewshot.count, spec.fewshot.seed), (0, 1234));
        Ok(())
    }

    #[test]
    fn mistakes_are_named_with_file_line_and_remedy() {
        let message = error("answer =", "anwser =");
        assert!(
            message.starts_with("a.toml:5: unknown key `anwser`: did you mean `answer`?"),
            "{message}"
        );
        let message = error("multiple-choice", "multiple-choise");
        assert!(
            message.starts_with("a.toml:2: unknown value `multiple-choise`: did you mean"),
            "{message}"
        );
        assert!(error("\"a\"", "\"a/b\"").contains("`name` is `a/b`"));
        assert!(error("choices = \"{{ options }}\"\n", "").contains("`choices` is missing"));
        assert!(error("multiple-choice", "cloze").contains("`choices` belongs to"));
        let message = error("name", "metrics = [\"bits_per_byte\"]\nname");
        assert!(
            message.contains("usual here: `acc`, `acc_norm`"),
            "{message}"
        );
        let message = error("name", "metrics = [\"acc_nrom\"]\nname");
        assert!(
            message.contains("a.toml:1") && message.contains("acc_norm"),
            "{message}"
        );
    }
}
