//! From a task example to ids and mask, through the tokenizer.

mod chat;
mod learnt;
mod shots;

use anyhow::{Result, ensure};
use etude_tokenizer::Tokenizer;
use rayon::prelude::*;

use self::learnt::{answers, located, stretches};
use self::shots::Shots;
use super::fit::{FittedText, fit_text};
use super::{
    Cut, DropReason, ExampleFormat, ExampleSettings, Explained, PlainFormat, RenderReport,
    RenderedExample, RenderedPrompt, Rendering, TokenPart, Truncation,
};
use crate::error::DataError;
use crate::ledger::Amount;
use crate::message::Role;
use crate::task::{TaskBody, TaskExample};

/// Renders task examples for one tokenizer under one policy. Shared by training and evaluation.
#[derive(Debug, Clone)]
pub struct Renderer {
    tokenizer: Tokenizer,
    settings: ExampleSettings,
    /// The token that ends a plain answer.
    end: Option<u32>,
    shots: Shots,
}

/// A whole example before the context's limit is put to it.
struct Whole {
    ids: Vec<u32>,
    supervised: Vec<bool>,
    parts: Vec<TokenPart>,
    prompt_truncated: bool,
    /// Tokens that the prompt lost.
    prompt_cut: u64,
    /// The bytes of text that the supervised tokens stand for.
    target_bytes: u64,
}

/// A prompt that fits, and how many tokens it lost for that.
struct Fitted {
    prompt: RenderedPrompt,
    cut: u64,
}

/// What becomes of one example.
struct Rendered {
    rendering: Rendering<RenderedExample>,
    cut: Cut,
    /// Of its prompts and answers.
    text: Amount,
    /// Whether the prompt of evaluation is not its beginning.
    prompt_differs: bool,
    /// Answers that are context alone, though nothing says that they should be.
    answers_as_context: u64,
    /// Those before the first question.
    answers_unasked: u64,
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
            tokenizer: tokenizer.without_clock(),
            settings,
            end,
            shots: Shots::default(),
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
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
        for (rendered, source) in rendered.into_iter().zip(examples.iter().map(|e| &e.source)) {
            match rendered.rendering {
                Rendering::Kept(example) => {
                    let Rendered { text, cut, .. } = rendered;
                    report.keep(&example, text, cut, rendered.prompt_differs);
                    report.answers_as_context += rendered.answers_as_context;
                    report.answers_unasked += rendered.answers_unasked;
                    kept.push(example);
                }
                Rendering::Dropped(reason) => report.drop(reason, rendered.text, source),
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
                "raise the context (task.context, or task.row_tokens of packed rows), shorten the examples, or choose another truncation policy",
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
        Ok(self.explain(example)?.rendering)
    }

    /// Renders one example for training, and says whose each token is and what was cut.
    ///
    /// # Errors
    /// As [`Renderer::render`].
    pub fn explain(&self, example: &TaskExample) -> Result<Explained> {
        let rendering = match &self.settings.format {
            ExampleFormat::Plain(plain) => self.plain_example(plain, example),
            ExampleFormat::Chat(chat) => self.chat_example(chat, example),
        };
        let whole = match rendering.map_err(|error| located(error, example))? {
            Rendering::Kept(whole) => whole,
            Rendering::Dropped(reason) => return Ok(left_out(reason)),
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
            ExampleFormat::Plain(plain) => plain_parts(example)
                .and_then(|(prompt, _)| self.fit_plain_prompt(plain, prompt))
                .map(|fit| fit.map(|fitted| fitted.prompt)),
            ExampleFormat::Chat(chat) => self
                .fit_chat_prompt(chat, example)
                .map(|fit| fit.map(|(_, fitted)| fitted.prompt)),
        };
        prompt.map_err(|error| located(error, example))
    }

    fn render_and_check(&self, example: &TaskExample) -> Result<Rendered> {
        let Explained { rendering, cut, .. } = self.explain(example)?;
        let differs = match (&rendering, self.render_prompt(example)?) {
            (Rendering::Kept(whole), Rendering::Kept(prompt)) => {
                !whole.ids.starts_with(&prompt.ids)
            }
            _ => false,
        };
        let texts = example.messages();
        let text = Amount::of(texts.iter().map(|message| message.content.as_str()));
        let answers = answers(&texts, &example.unlearnt);
        let learnt = match &rendering {
            Rendering::Kept(whole) if !whole.truncated => stretches(&whole.supervised),
            _ => answers,
        };
        let context = answers.saturating_sub(learnt);
        let unasked = match context {
            0 => 0,
            _ => self.unasked(example)?.min(context),
        };
        Ok(Rendered {
            rendering,
            cut,
            text,
            prompt_differs: differs,
            answers_as_context: (context - unasked) as u64,
            answers_unasked: unasked as u64,
        })
    }

    /// Puts the context's limit to a whole example.
    fn fit(&self, whole: Whole, example: &TaskExample) -> Result<Explained> {
        let Whole {
            mut ids,
            mut supervised,
            mut parts,
            prompt_truncated,
            prompt_cut,
            mut target_bytes,
        } = whole;
        let mut cut = Cut {
            prompt: prompt_cut,
            answer: 0,
        };
        let (most, mut truncated) = (self.settings.most_ids(), prompt_truncated);
        if ids.len() > most {
            match self.settings.truncation {
                Truncation::Drop => return Ok(left_out(DropReason::TooLong)),
                Truncation::TruncatePrompt => {
                    return Ok(left_out(DropReason::AnswerTooLong));
                }
                Truncation::Truncate => {
                    cut.answer = supervised[most..].iter().filter(|&&s| s).count() as u64;
                    cut.prompt += (ids.len() - most) as u64 - cut.answer;
                    ids.truncate(most);
                    parts.truncate(most);
                    supervised.truncate(most);
                    truncated = true;
                    if !supervised.iter().skip(1).any(|&s| s) {
                        return Ok(left_out(DropReason::AnswerCutAway));
                    }
                    target_bytes = target_bytes.min(self.learnt_bytes(&ids, &supervised)?);
                }
            }
        }
        let rendering = Rendering::Kept(RenderedExample {
            id: example.id.clone(),
            ids,
            supervised,
            source: example.source.clone(),
            truncated,
            target_bytes,
        });
        Ok(Explained {
            rendering,
            parts,
            cut,
        })
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
        let fitted = match self.fit_plain_prompt(plain, prompt)? {
            Rendering::Kept(fitted) => fitted,
            Rendering::Dropped(reason) => return Ok(Rendering::Dropped(self.dropped(reason))),
        };
        let RenderedPrompt { mut ids, truncated } = fitted.prompt;
        let answer = plain.completion.replace("{completion}", completion);
        let begin = usize::from(plain.begin && self.tokenizer.bos_id().is_some());
        let mut parts = vec![TokenPart::Template; begin];
        parts.extend(self.parts(&ids[begin..], &plain.prompt, "{prompt}", Role::User));
        let mut supervised = vec![false; ids.len()];
        let answer_ids = self.tokenizer.encode(&answer)?;
        parts.extend(self.parts(
            &answer_ids,
            &plain.completion,
            "{completion}",
            Role::Assistant,
        ));
        ids.extend(answer_ids);
        ids.push(self.end.expect("checked when the renderer was made"));
        parts.push(TokenPart::Template);
        supervised.resize(ids.len(), true);
        let target_bytes = answer.len() as u64;
        Ok(Rendering::Kept(Whole {
            ids,
            supervised,
            parts,
            prompt_truncated: truncated,
            prompt_cut: fitted.cut,
            target_bytes,
        }))
    }

    /// Whose each token of a filled-in template is: its own at both ends, as far as they hold its words alone, and
    /// the role's between them.
    fn parts(&self, ids: &[u32], template: &str, field: &str, role: Role) -> Vec<TokenPart> {
        let mut parts = vec![TokenPart::Said(role); ids.len()];
        let Some((before, behind)) = template.split_once(field) else {
            return parts;
        };
        // Byte-level tokens are spelled with a character for each byte.
        let bytes = |id: u32| {
            let token = self.tokenizer.id_to_token(id);
            token.map_or(usize::MAX, |token| token.chars().count())
        };
        let name = |both: &mut dyn Iterator<Item = (&mut TokenPart, &u32)>, mut left: usize| {
            for (part, &id) in both {
                let bytes = bytes(id);
                if bytes > left {
                    break;
                }
                left -= bytes;
                *part = TokenPart::Template;
            }
        };
        name(&mut parts.iter_mut().zip(ids), before.len());
        name(&mut parts.iter_mut().zip(ids).rev(), behind.len());
        parts
    }

    /// The plain prompt's ids, cut where the policy allows it and the length asks for it.
    fn fit_plain_prompt(&self, plain: &PlainFormat, prompt: &str) -> Result<Rendering<Fitted>> {
        let fitted = self.fit_text(prompt, |text| self.plain_prompt(plain, text))?;
        Ok(fitted.map(|text| Fitted {
            cut: (text.whole - text.ids.len()) as u64,
            prompt: RenderedPrompt {
                ids: text.ids,
                truncated: text.used < prompt.len(),
            },
        }))
    }

    fn plain_prompt(&self, plain: &PlainFormat, prompt: &str) -> Result<Vec<u32>> {
        let begin = self.tokenizer.bos_id().filter(|_| plain.begin);
        let mut ids: Vec<u32> = begin.into_iter().collect();
        let prompt = plain.prompt.replace("{prompt}", prompt);
        ids.extend(
            self.tokenizer
                .encode(&format!("{}{prompt}", self.shots.text))?,
        );
        Ok(ids)
    }

    /// The bytes of text that the supervised ids stand for, special tokens aside.
    fn learnt_bytes(&self, ids: &[u32], supervised: &[bool]) -> Result<u64> {
        let learnt = ids.iter().zip(supervised).filter(|&(_, &s)| s);
        let learnt: Vec<u32> = learnt.map(|(&id, _)| id).collect();
        Ok(self.tokenizer.decode(&learnt, true)?.len() as u64)
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

/// An example that is not used.
fn left_out(reason: DropReason) -> Explained {
    Explained {
        rendering: Rendering::Dropped(reason),
        parts: Vec::new(),
        cut: Cut::default(),
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
