//! From a task example to ids and mask, through the tokenizer.

use anyhow::{Context, Result, ensure};
use etude_tokenizer::Tokenizer;
use rayon::prelude::*;

use super::fit::{FittedText, drop_oldest_exchange, fit_text};
use super::{
    ChatFormat, DropReason, ExampleFormat, ExampleSettings, PlainFormat, RenderReport,
    RenderedExample, RenderedPrompt, Rendering, Truncation,
};
use crate::error::DataError;
use crate::message::{Message, Role};
use crate::task::{TaskBody, TaskExample};

/// Renders task examples for one tokenizer under one policy. Shared by training and evaluation.
#[derive(Debug, Clone)]
pub struct Renderer {
    tokenizer: Tokenizer,
    settings: ExampleSettings,
    /// The token that ends a plain answer.
    end: Option<u32>,
}

/// A whole example before the context's limit is put to it.
struct Whole {
    ids: Vec<u32>,
    supervised: Vec<bool>,
    prompt_truncated: bool,
    /// The bytes of text that the supervised tokens stand for.
    target_bytes: u64,
}

/// What becomes of one example.
struct Rendered {
    rendering: Rendering<RenderedExample>,
    /// Of its prompts and answers.
    characters: u64,
    /// Whether the prompt of evaluation is not its beginning.
    prompt_differs: bool,
    /// Answers that are context alone.
    answers_as_context: u64,
}

impl Renderer {
    /// Prepares rendering.
    ///
    /// # Errors
    /// When the settings are impossible, the plain format is asked of a tokenizer without an end
    /// token, or the chat format of one without a chat template.
    pub fn new(tokenizer: &Tokenizer, settings: ExampleSettings) -> Result<Renderer> {
        settings.validate()?;
        let end = tokenizer.eos_id();
        match settings.format {
            ExampleFormat::Plain(_) if end.is_none() => {
                return Err(DataError::input(
                    "the tokenizer names no end token, so a plain answer could never end",
                    "set \"eos_token\" in its tokenizer_config.json",
                )
                .into());
            }
            ExampleFormat::Chat(_) if tokenizer.chat_template().is_none() => {
                return Err(DataError::input(
                    "the tokenizer has no chat template",
                    "use the plain format, or add a chat_template.jinja to the model folder",
                )
                .into());
            }
            _ => {}
        }
        Ok(Renderer {
            tokenizer: tokenizer.clone(),
            settings,
            end,
        })
    }

    /// The settings in force.
    pub fn settings(&self) -> &ExampleSettings {
        &self.settings
    }

    /// Renders a set of examples, in order, and counts what became of them.
    ///
    /// # Errors
    /// When an example has no answer to learn, or not one example is left.
    pub fn render_all(
        &self,
        examples: &[TaskExample],
    ) -> Result<(Vec<RenderedExample>, RenderReport)> {
        let rendered: Vec<Rendered> = examples
            .par_iter()
            .map(|example| self.render_and_check(example))
            .collect::<Result<_>>()?;
        let (mut kept, mut report) = (Vec::new(), RenderReport::default());
        for rendered in rendered {
            match rendered.rendering {
                Rendering::Kept(example) => {
                    report.keep(&example, rendered.characters, rendered.prompt_differs);
                    report.answers_as_context += rendered.answers_as_context;
                    kept.push(example);
                }
                Rendering::Dropped(reason) => report.drop(reason),
            }
        }
        ensure!(
            !examples.is_empty(),
            "there is no example to render; give at least one"
        );
        if kept.is_empty() {
            let reasons: Vec<String> = report
                .dropped
                .iter()
                .map(|(reason, count)| format!("{count} left out: {reason}"))
                .collect();
            let what = format!(
                "not one of the {} examples fits the context of {} tokens ({})",
                examples.len(),
                self.settings.context,
                reasons.join(", ")
            );
            return Err(DataError::input(
                what,
                "raise the context, shorten the examples, or choose another truncation policy",
            )
            .into());
        }
        Ok((kept, report))
    }

    /// Renders one example for training.
    ///
    /// # Errors
    /// When the example has no answer to learn, or its shape does not fit the format.
    pub fn render(&self, example: &TaskExample) -> Result<Rendering<RenderedExample>> {
        let rendering = match &self.settings.format {
            ExampleFormat::Plain(plain) => self.plain_example(plain, example),
            ExampleFormat::Chat(chat) => self.chat_example(chat, example),
        };
        let whole = match rendering.with_context(|| example.source.to_string())? {
            Rendering::Kept(whole) => whole,
            Rendering::Dropped(reason) => return Ok(Rendering::Dropped(reason)),
        };
        if !whole.supervised.iter().skip(1).any(|&s| s) {
            return Err(DataError::at(
                &example.source,
                "no token of the example is supervised, so nothing can be learnt from it",
                "check its answer and the chat template",
            )
            .into());
        }
        self.fit(whole, example)
    }

    /// Renders what evaluation gives the model for this example.
    ///
    /// # Errors
    /// When the example's shape does not fit the format.
    pub fn render_prompt(&self, example: &TaskExample) -> Result<Rendering<RenderedPrompt>> {
        let prompt = match &self.settings.format {
            ExampleFormat::Plain(plain) => {
                plain_parts(example).and_then(|(prompt, _)| self.fit_plain_prompt(plain, prompt))
            }
            ExampleFormat::Chat(chat) => self
                .fit_chat_prompt(chat, example)
                .map(|fit| fit.map(|(_, prompt)| prompt)),
        };
        prompt.with_context(|| example.source.to_string())
    }

    fn render_and_check(&self, example: &TaskExample) -> Result<Rendered> {
        let rendering = self.render(example)?;
        let differs = match (&rendering, self.render_prompt(example)?) {
            (Rendering::Kept(whole), Rendering::Kept(prompt)) => {
                !whole.ids.starts_with(&prompt.ids)
            }
            _ => false,
        };
        let texts = example.messages();
        let characters = texts.iter().map(|m| m.content.chars().count() as u64).sum();
        let answers = texts.iter().filter(|m| m.role == Role::Assistant).count();
        let learnt = match &rendering {
            Rendering::Kept(whole) if !whole.truncated => stretches(&whole.supervised),
            _ => answers,
        };
        Ok(Rendered {
            rendering,
            characters,
            prompt_differs: differs,
            answers_as_context: answers.saturating_sub(learnt) as u64,
        })
    }

    /// Puts the context's limit to a whole example.
    fn fit(&self, whole: Whole, example: &TaskExample) -> Result<Rendering<RenderedExample>> {
        let Whole {
            mut ids,
            mut supervised,
            prompt_truncated,
            mut target_bytes,
        } = whole;
        let (most, mut truncated) = (self.settings.most_ids(), prompt_truncated);
        if ids.len() > most {
            match self.settings.truncation {
                Truncation::Drop => return Ok(Rendering::Dropped(DropReason::TooLong)),
                Truncation::TruncatePrompt => {
                    return Ok(Rendering::Dropped(DropReason::AnswerTooLong));
                }
                Truncation::Truncate => {
                    ids.truncate(most);
                    supervised.truncate(most);
                    truncated = true;
                    if !supervised.iter().skip(1).any(|&s| s) {
                        return Ok(Rendering::Dropped(DropReason::AnswerCutAway));
                    }
                    target_bytes = target_bytes.min(self.learnt_bytes(&ids, &supervised)?);
                }
            }
        }
        Ok(Rendering::Kept(RenderedExample {
            id: example.id.clone(),
            ids,
            supervised,
            source: example.source.clone(),
            truncated,
            target_bytes,
        }))
    }

    fn plain_example(
        &self,
        plain: &PlainFormat,
        example: &TaskExample,
    ) -> Result<Rendering<Whole>> {
        let (prompt, completion) = plain_parts(example)?;
        if completion.trim().is_empty() {
            return Err(DataError::input(
                "the completion is empty, so nothing can be learnt from it",
                "leave the example out or give it an answer",
            )
            .into());
        }
        let RenderedPrompt { mut ids, truncated } = match self.fit_plain_prompt(plain, prompt)? {
            Rendering::Kept(prompt) => prompt,
            Rendering::Dropped(reason) => return Ok(Rendering::Dropped(self.dropped(reason))),
        };
        let answer = plain.completion.replace("{completion}", completion);
        let mut supervised = vec![false; ids.len()];
        ids.extend(self.tokenizer.encode(&answer)?);
        ids.push(self.end.expect("checked when the renderer was made"));
        supervised.resize(ids.len(), true);
        let target_bytes = answer.len() as u64;
        Ok(Rendering::Kept(Whole {
            ids,
            supervised,
            prompt_truncated: truncated,
            target_bytes,
        }))
    }

    /// The plain prompt's ids, cut where the policy allows it and the length asks for it.
    fn fit_plain_prompt(
        &self,
        plain: &PlainFormat,
        prompt: &str,
    ) -> Result<Rendering<RenderedPrompt>> {
        let fitted = self.fit_text(prompt, |text| self.plain_prompt(plain, text))?;
        Ok(fitted.map(|text| RenderedPrompt {
            ids: text.ids,
            truncated: text.used < prompt.len(),
        }))
    }

    fn plain_prompt(&self, plain: &PlainFormat, prompt: &str) -> Result<Vec<u32>> {
        let begin = self.tokenizer.bos_id().filter(|_| plain.begin);
        let mut ids: Vec<u32> = begin.into_iter().collect();
        ids.extend(
            self.tokenizer
                .encode(&plain.prompt.replace("{prompt}", prompt))?,
        );
        Ok(ids)
    }

    fn chat_example(&self, chat: &ChatFormat, example: &TaskExample) -> Result<Rendering<Whole>> {
        let answer = example
            .messages()
            .into_iter()
            .rfind(|m| m.role == Role::Assistant);
        let remedy = "leave the example out or give it an answer";
        let Some(answer) = answer else {
            return Err(DataError::input(
                "the conversation has no assistant turn, so no token of it is supervised",
                remedy,
            )
            .into());
        };
        if answer.content.trim().is_empty() {
            return Err(DataError::input(
                "the last assistant turn is empty, so nothing can be learnt from it",
                remedy,
            )
            .into());
        }
        let (mut messages, prompt) = match self.fit_chat_prompt(chat, example)? {
            Rendering::Kept(kept) => kept,
            Rendering::Dropped(reason) => return Ok(Rendering::Dropped(self.dropped(reason))),
        };
        messages.push(answer);
        let segments = self.tokenizer.render_conversation(&turns(&messages))?;
        let rendered = self.tokenizer.encode_segments(&segments)?;
        let target_bytes = self.learnt_bytes(&rendered.ids, &rendered.supervised)?;
        Ok(Rendering::Kept(Whole {
            ids: rendered.ids,
            supervised: rendered.supervised,
            prompt_truncated: prompt.truncated,
            target_bytes,
        }))
    }

    /// The bytes of text that the supervised ids stand for, special tokens aside.
    fn learnt_bytes(&self, ids: &[u32], supervised: &[bool]) -> Result<u64> {
        let learnt = ids.iter().zip(supervised).filter(|&(_, &s)| s);
        let learnt: Vec<u32> = learnt.map(|(&id, _)| id).collect();
        Ok(self.tokenizer.decode(&learnt, true)?.len() as u64)
    }

    /// The conversation before its last answer, as messages and as ids. Where the policy allows it,
    /// the oldest exchanges go first (instructions stay), then the end of the last user turn.
    fn fit_chat_prompt(
        &self,
        chat: &ChatFormat,
        example: &TaskExample,
    ) -> Result<Rendering<(Vec<Message>, RenderedPrompt)>> {
        let mut messages = example.prompt_messages();
        let mut truncated = false;
        while self.cuts_prompts()
            && self.chat_prompt(&messages)?.len() > self.settings.most_prompt_ids()
            && drop_oldest_exchange(&mut messages)
        {
            truncated = true;
        }
        // Without a user turn there is no text to cut: the empty one stands for it.
        let last = messages.iter().rposition(|m| m.role == Role::User);
        let text = last.map_or(String::new(), |last| messages[last].content.clone());
        let fitted = self.fit_text(&text, |text| {
            if let Some(last) = last {
                messages[last].content = match example.body {
                    TaskBody::Completion { .. } => chat.prompt.replacen("{prompt}", text, 1),
                    TaskBody::Chat { .. } => text.to_string(),
                };
            }
            self.chat_prompt(&messages)
        })?;
        truncated |= matches!(&fitted, Rendering::Kept(kept) if kept.used < text.len());
        Ok(fitted.map(|kept| {
            (
                messages,
                RenderedPrompt {
                    ids: kept.ids,
                    truncated,
                },
            )
        }))
    }

    fn chat_prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let segments = self.tokenizer.render_prompt(&turns(messages))?;
        Ok(self.tokenizer.encode_segments(&segments)?.ids)
    }

    fn fit_text(
        &self,
        text: &str,
        encode: impl FnMut(&str) -> Result<Vec<u32>>,
    ) -> Result<Rendering<FittedText>> {
        fit_text(
            text,
            self.settings.most_prompt_ids(),
            self.cuts_prompts(),
            encode,
        )
    }

    fn cuts_prompts(&self) -> bool {
        self.settings.truncation == Truncation::TruncatePrompt
    }

    /// The reason as training sees it: a prompt that fills the context is an example too long, or
    /// one whose answer would be cut away.
    fn dropped(&self, reason: DropReason) -> DropReason {
        match (self.settings.truncation, reason) {
            (Truncation::Drop, DropReason::PromptTooLong) => DropReason::TooLong,
            (Truncation::Truncate, DropReason::PromptTooLong) => DropReason::AnswerCutAway,
            (_, reason) => reason,
        }
    }
}

/// The prompt and the completion of an example that has them.
fn plain_parts(example: &TaskExample) -> Result<(&str, &str)> {
    match &example.body {
        TaskBody::Completion { prompt, completion } => Ok((prompt, completion)),
        TaskBody::Chat { .. } => Err(DataError::input(
            "the example is a conversation, which the plain format cannot hold",
            "use the chat format, or give a prompt and a completion",
        )
        .into()),
    }
}

/// The supervised stretches of a mask.
fn stretches(supervised: &[bool]) -> usize {
    supervised
        .chunk_by(|a, b| a == b)
        .filter(|run| run[0])
        .count()
}

/// The messages as the tokenizer's template takes them.
fn turns(messages: &[Message]) -> Vec<etude_tokenizer::Message> {
    let role = |role| match role {
        Role::System => etude_tokenizer::Role::System,
        Role::User => etude_tokenizer::Role::User,
        Role::Assistant => etude_tokenizer::Role::Assistant,
        Role::Tool => etude_tokenizer::Role::Tool,
    };
    messages
        .iter()
        .map(|m| etude_tokenizer::Message::new(role(m.role), m.content.clone()))
        .collect()
}
