//! Task examples as token ids with a mask: which tokens are learnt, where each example was cut, and
//! how many had to be left out.
//!
//! One renderer serves training and evaluation: the ids of a training example begin with exactly the
//! ids of the prompt that evaluation gives the model. In the plain format prompt and answer are
//! encoded apart, so no token ever straddles the two; in the chat format the tokenizer's template
//! names the segments. The token that ends an answer is always supervised, by its position.

mod fit;
mod render;
mod report;

use std::fmt;

use anyhow::{Result, ensure};

use crate::message::Role;
use crate::task::SourceRef;

pub use render::Renderer;
pub use report::RenderReport;

/// Where the text of an example goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExampleFormat {
    /// Prompt and answer as plain text, the answer ended by the tokenizer's end token.
    Plain(PlainFormat),
    /// A conversation in the tokenizer's chat template.
    Chat(ChatFormat),
}

impl ExampleFormat {
    /// Checks the templates.
    ///
    /// # Errors
    /// When one does not name its field exactly once.
    pub fn validate(&self) -> Result<()> {
        match self {
            ExampleFormat::Plain(plain) => {
                check_template("prompt", &plain.prompt, "{prompt}")?;
                check_template("completion", &plain.completion, "{completion}")
            }
            ExampleFormat::Chat(chat) => check_template("prompt", &chat.prompt, "{prompt}"),
        }
    }
}

/// The plain format's texts.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlainFormat {
    /// The prompt, with `{prompt}` once where the example's own goes. Default `"{prompt}\n\n"`.
    pub prompt: String,
    /// The answer, with `{completion}` once. Most tokenizers hold words with the space before them,
    /// so after a prompt that ends in a word `" {completion}"` is better than a prompt that ends in
    /// a space. Default `"{completion}"`.
    pub completion: String,
    /// Whether the tokenizer's beginning token, if it has one, comes first. Default true.
    pub begin: bool,
}

impl Default for PlainFormat {
    fn default() -> PlainFormat {
        PlainFormat {
            prompt: "{prompt}\n\n".into(),
            completion: "{completion}".into(),
            begin: true,
        }
    }
}

/// The chat format's text.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChatFormat {
    /// The user's turn for an example that is a prompt and an answer, with `{prompt}` once where the
    /// example's own goes. Conversations stay as they are. Default `"{prompt}"`.
    pub prompt: String,
}

impl Default for ChatFormat {
    fn default() -> ChatFormat {
        ChatFormat {
            prompt: "{prompt}".into(),
        }
    }
}

impl ExampleFormat {
    /// Turns in the chat template, prompts as they are.
    pub fn chat() -> ExampleFormat {
        ExampleFormat::Chat(ChatFormat::default())
    }
}

/// What happens to an example that is longer than the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truncation {
    /// It is left out.
    #[default]
    Drop,
    /// Its prompt is cut to leave `answer_tokens` for the answer, in training and evaluation alike:
    /// a plain prompt loses its end (the template stays whole), a conversation its oldest exchanges
    /// first. An answer too long for the rest is left out.
    TruncatePrompt,
    /// Its end is cut off: the answer stays unfinished, and without its end token. An example whose
    /// answer is cut away wholly is left out.
    Truncate,
}

/// How examples are rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExampleSettings {
    /// Where the text goes.
    pub format: ExampleFormat,
    /// C, the most tokens that the model reads at once. An example may have one more, since its last
    /// token is only a target.
    pub context: usize,
    /// The tokens kept free for the answer, its end token included, when prompts are cut.
    pub answer_tokens: usize,
    /// What happens to longer examples.
    pub truncation: Truncation,
}

impl ExampleSettings {
    /// Checks the settings.
    ///
    /// # Errors
    /// When a template does not name its field exactly once, or the numbers leave no room.
    pub fn validate(&self) -> Result<()> {
        ensure!(
            self.context > 0,
            "a context of 0 tokens holds no example; give at least 1"
        );
        if self.truncation == Truncation::TruncatePrompt {
            ensure!(
                (1..=self.context).contains(&self.answer_tokens),
                "answer_tokens = {} leaves no room for {} in a context of {}; give 1 to {}",
                self.answer_tokens,
                if self.answer_tokens == 0 {
                    "the answer"
                } else {
                    "the prompt"
                },
                self.context,
                self.context
            );
        }
        self.format.validate()
    }

    /// The most ids of a whole example.
    fn most_ids(&self) -> usize {
        self.context + 1
    }

    /// The most ids of a prompt: there must be room for at least one token of the answer.
    fn most_prompt_ids(&self) -> usize {
        match self.truncation {
            Truncation::TruncatePrompt => self.most_ids() - self.answer_tokens,
            Truncation::Drop | Truncation::Truncate => self.context,
        }
    }
}

fn check_template(name: &str, template: &str, field: &str) -> Result<()> {
    let count = template.matches(field).count();
    ensure!(
        count == 1,
        "{name} = {template:?} holds {field} {count} times; it must stand there once"
    );
    Ok(())
}

/// An example as the model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedExample {
    /// The example's name.
    pub id: String,
    /// Its tokens: prompt, answer, end.
    pub ids: Vec<u32>,
    /// Which of them are to be predicted.
    pub supervised: Vec<bool>,
    /// Where it was read.
    pub source: SourceRef,
    /// Whether something was cut.
    pub truncated: bool,
    /// The bytes of text that the supervised tokens stand for; end tokens stand for none.
    pub target_bytes: u64,
}

impl RenderedExample {
    /// The number of targets. The first token has nothing before it, so it is never one.
    pub fn targets(&self) -> usize {
        self.supervised.iter().skip(1).filter(|&&s| s).count()
    }
}

/// An example with what is told of it: whose each token is, and what was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// What became of it.
    pub rendering: Rendering<RenderedExample>,
    /// Whose each of its tokens is; none when it is left out.
    pub parts: Vec<TokenPart>,
    /// What was cut.
    pub cut: Cut,
}

/// Tokens cut from an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Before the answer.
    pub prompt: u64,
    /// Supervised ones.
    pub answer: u64,
}

/// Whose a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenPart {
    /// The template's, special tokens included.
    Template,
    /// What someone says.
    Said(Role),
}

impl TokenPart {
    /// `template`, or the role's name.
    pub fn name(self) -> &'static str {
        match self {
            TokenPart::Template => "template",
            TokenPart::Said(role) => role.as_str(),
        }
    }
}

/// What evaluation gives the model: exactly the first ids of the training example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedPrompt {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Whether the prompt was cut to fit.
    pub truncated: bool,
}

/// An example that can be used, or the reason why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rendering<T> {
    /// It is used.
    Kept(T),
    /// It is left out.
    Dropped(DropReason),
}

impl<T> Rendering<T> {
    /// The same with what is kept changed.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Rendering<U> {
        match self {
            Rendering::Kept(kept) => Rendering::Kept(change(kept)),
            Rendering::Dropped(reason) => Rendering::Dropped(reason),
        }
    }

    /// The rendering, if it is used.
    pub fn as_kept(&self) -> Option<&T> {
        match self {
            Rendering::Kept(kept) => Some(kept),
            Rendering::Dropped(_) => None,
        }
    }

    /// Why it is left out, if it is.
    pub fn reason(&self) -> Option<DropReason> {
        match self {
            Rendering::Kept(_) => None,
            Rendering::Dropped(reason) => Some(*reason),
        }
    }

    /// The rendering, if it is used.
    pub fn kept(self) -> Option<T> {
        match self {
            Rendering::Kept(kept) => Some(kept),
            Rendering::Dropped(_) => None,
        }
    }
}

/// Why an example is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// Longer than the context, and the policy is to drop.
    TooLong,
    /// The prompt leaves no room for an answer, even cut as far as the policy allows.
    PromptTooLong,
    /// The answer does not fit beside the prompt.
    AnswerTooLong,
    /// Truncation removed the answer wholly.
    AnswerCutAway,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DropReason::TooLong => "too long",
            DropReason::PromptTooLong => "prompt too long",
            DropReason::AnswerTooLong => "answer too long",
            DropReason::AnswerCutAway => "answer cut away",
        })
    }
}

#[cfg(test)]
mod tests;
