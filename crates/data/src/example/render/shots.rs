//! Solved examples before each prompt: few-shot prompting.

use anyhow::{Result, ensure};

use super::{Renderer, plain_parts};
use crate::error::DataError;
use crate::example::{ExampleFormat, PlainFormat, Rendering};
use crate::message::{Message, Role};
use crate::task::TaskExample;

/// What comes before every prompt.
#[derive(Debug, Clone, Default)]
pub(super) struct Shots {
    /// In the plain format: prompts with their answers, an empty line after each.
    pub(super) text: String,
    /// In the chat format: earlier turns of the conversation.
    turns: Vec<Message>,
}

impl Shots {
    /// Between two examples of the plain format, and the end of an answer.
    const DELIMITER: &'static str = "\n\n";

    /// A conversation with the solved ones after its instructions.
    pub(super) fn before(&self, messages: Vec<Message>) -> Vec<Message> {
        let instructions = messages.iter().take_while(|m| m.role == Role::System);
        let instructions = instructions.count();
        let mut all = messages;
        all.splice(instructions..instructions, self.turns.iter().cloned());
        all
    }

    pub(super) fn any_turns(&self) -> bool {
        !self.turns.is_empty()
    }
}

impl Renderer {
    /// The same renderer with the first `count` of the candidates that fit, solved, before every prompt: as
    /// text with an empty line after each, or as earlier turns of the conversation. Only the example's own
    /// answer is supervised. The context grows by what they take, to `most` tokens.
    ///
    /// # Errors
    /// When fewer than `count` fit, or when they leave no room in `most` tokens.
    pub fn with_shots(
        mut self,
        candidates: &[TaskExample],
        count: usize,
        most: usize,
    ) -> Result<Renderer> {
        if candidates.len() < count {
            let what = format!(
                "there are {} solved examples to choose from, and {count} are wanted",
                candidates.len()
            );
            return Err(DataError::input(what, "ask for fewer").into());
        }
        let mut shots = Shots::default();
        let mut found = 0;
        for example in candidates {
            if found == count {
                break;
            }
            found += usize::from(self.solve(example, &mut shots)?);
        }
        if found < count {
            let what = format!(
                "{found} of {} solved examples fit a context of {} tokens, and {count} are wanted",
                candidates.len(),
                self.settings.context
            );
            return Err(DataError::input(what, "ask for fewer, or raise the context").into());
        }
        let taken = self.tokens(&shots)?;
        let room = most.saturating_sub(taken);
        ensure!(
            room > self.settings.answer_tokens,
            "{count} solved examples take {taken} of the model's {most} tokens, which leaves no room for a question; ask for fewer"
        );
        self.settings.context = most.min(self.settings.context + taken);
        self.shots = shots;
        Ok(self)
    }

    /// Texts that end an answer after solved ones, besides the end token: a model that was not fine-tuned goes on
    /// with the next example.
    pub fn ends_of_answers(&self) -> Vec<String> {
        match self.shots.text.is_empty() {
            true => Vec::new(),
            false => vec![Shots::DELIMITER.to_owned()],
        }
    }

    /// Adds an example with its answer; false if training would leave it out or cut its answer.
    fn solve(&self, example: &TaskExample, shots: &mut Shots) -> Result<bool> {
        let Rendering::Kept(whole) = self.render(example)? else {
            return Ok(false);
        };
        if whole.ids.len() > self.settings.context {
            return Ok(false);
        }
        match &self.settings.format {
            ExampleFormat::Plain(plain) => {
                let (prompt, completion) = plain_parts(example)?;
                let fitted = self.fit_text(prompt, |text| self.plain_prompt(plain, text))?;
                let Rendering::Kept(fitted) = fitted else {
                    return Ok(false);
                };
                shots.text += &solved(plain, &prompt[..fitted.used], completion);
            }
            ExampleFormat::Chat(chat) => {
                let Rendering::Kept((prompt, _)) = self.fit_chat_prompt(chat, example)? else {
                    return Ok(false);
                };
                let answer = Message::new(Role::Assistant, example.reference_text());
                let turns = prompt.into_iter().chain([answer]);
                shots.turns.extend(turns.filter(|m| m.role != Role::System));
            }
        }
        Ok(true)
    }

    /// What they take of the context.
    fn tokens(&self, shots: &Shots) -> Result<usize> {
        if !shots.any_turns() {
            return Ok(self.tokenizer.encode(&shots.text)?.len());
        }
        let alone = vec![Message::new(Role::User, "")];
        let with = self.chat_prompt(&shots.before(alone.clone()))?.len();
        // A template may write less of a longer conversation.
        Ok(with.saturating_sub(self.chat_prompt(&alone)?.len()))
    }
}

fn solved(plain: &PlainFormat, prompt: &str, completion: &str) -> String {
    let prompt = plain.prompt.replace("{prompt}", prompt);
    let answer = plain.completion.replace("{completion}", completion);
    format!("{prompt}{answer}{}", Shots::DELIMITER)
}
