//! Chat templates in the Jinja dialect of Hugging Face: the same source gives the same text as
//! `apply_chat_template(tokenize=False)` of Python's `transformers`.
//!
//! Which parts of that text are whose, and what of it is learnt, is worked out in `chat`.

mod functions;
mod methods;
mod python;

use std::cell::Cell;
use std::sync::LazyLock;

use chrono::NaiveDateTime;
use minijinja::{Environment, Value};
use regex::Regex;

use crate::{Message, TokenizerError};

pub use functions::write_like_python;
pub(crate) use methods::{is_space, strip};

const NAME: &str = "chat_template";
/// The filter that stands in for `{% generation %}` blocks.
const GENERATION: &str = "etude_generation";
/// The variable that holds the two marks which the filter puts around its text.
const MARKS: &str = "etude_marks";

/// The variable that holds the time which `strftime_now` tells, where one was set.
const NOW: &str = "etude_now";

/// What a rendering may cost: instructions and data, in units of the template engine. A real
/// template takes some hundred units a message.
const FUEL: u64 = 500_000;
const FUEL_PER_MESSAGE: u64 = 20_000;

/// The longest template, in bytes; real ones have up to some 30,000.
const MOST_SOURCE: usize = 256 << 10;
/// The stack on which templates are compiled and run: what they nest is handled by functions that call
/// themselves, and both are bounded by the two limits above. Memory is taken only as it is used.
const STACK: usize = 256 << 20;

/// `{% generation %}` and `{% endgeneration %}`, with their white-space control.
static GENERATION_TAG: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("the pattern is fixed")
});

/// A compiled chat template, and the special tokens that it may name.
#[derive(Clone)]
pub struct ChatTemplate {
    source: String,
    environment: Environment<'static>,
    special_tokens: Vec<(&'static str, String)>,
    marks_generation: bool,
    /// What `strftime_now` tells instead of the time.
    now: Option<NaiveDateTime>,
    /// The most messages that the environment is ready for.
    most_messages: usize,
}

impl ChatTemplate {
    /// Compiles `source`; `special_tokens` are variables such as `eos_token`.
    pub(crate) fn new(
        source: &str,
        special_tokens: &[(&'static str, String)],
    ) -> Result<Self, TokenizerError> {
        if source.len() > MOST_SOURCE {
            let message = format!("has {} bytes; at most {MOST_SOURCE} are read", source.len());
            return Err(TokenizerError::Template {
                line: None,
                message,
            });
        }
        let marks_generation = GENERATION_TAG.is_match(source);
        let compiled = GENERATION_TAG.replace_all(source, |tag: &regex::Captures<'_>| {
            let inside = match tag.get(2) {
                Some(_) => "endfilter".to_owned(),
                None => format!("filter {GENERATION}"),
            };
            format!("{{%{} {inside} {}%}}", &tag[1], &tag[3])
        });
        let environment = on_a_stack_of_its_own(|| {
            let mut environment = functions::environment();
            environment.add_template_owned(NAME, compiled.into_owned())?;
            Ok(environment)
        })?;
        Ok(Self {
            source: source.to_owned(),
            environment,
            special_tokens: special_tokens.to_vec(),
            marks_generation,
            now: None,
            most_messages: 0,
        })
    }

    /// This template, ready to render conversations of up to `count` messages again and again: otherwise each
    /// rendering makes itself an environment with the fuel for its messages.
    pub(crate) fn ready_for(&self, count: usize) -> Self {
        let mut template = self.clone();
        let fuel = FUEL + FUEL_PER_MESSAGE * count as u64;
        template.environment.set_fuel(Some(fuel));
        template.most_messages = count;
        template
    }

    /// The template as it writes at another time, such as `2024-07-26T00:00:00`, which `strftime_now` then tells; none
    /// stands for the present.
    ///
    /// # Errors
    /// A text that is no time.
    pub fn at(&self, now: Option<&str>) -> Result<Self, TokenizerError> {
        let parsed = now.map(|now| now.parse::<NaiveDateTime>()).transpose();
        let now = parsed.map_err(|error| TokenizerError::Template {
            line: None,
            message: format!("cannot be rendered at {}: {error}", now.unwrap_or_default()),
        })?;
        Ok(Self {
            now,
            ..self.clone()
        })
    }

    /// The template as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template marks the assistant's text with `{% generation %}`.
    pub fn marks_generation(&self) -> bool {
        self.marks_generation
    }

    /// The text of a conversation, with the opening of the assistant's next turn if asked for.
    ///
    /// This text does not tell the template's special tokens from such that a message spells; to
    /// encode a conversation use [`Tokenizer::render_prompt`](crate::Tokenizer::render_prompt).
    ///
    /// # Errors
    /// A template that fails, refuses the conversation, or does not end.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TokenizerError> {
        let messages = messages
            .iter()
            .map(|message| (message.role.as_str(), message.content.as_str()));
        self.render_pairs(messages, add_generation_prompt, None)
    }

    /// [`render`](Self::render) for messages with more than a role and a content (tool calls,
    /// names), written as JSON, and with further variables (`tools`, `documents`, a template's own
    /// switches). A field that is null counts as left out, and a message's reasoning is found under
    /// each of the names that templates have for it.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn render_json(
        &self,
        messages: &serde_json::Value,
        add_generation_prompt: bool,
        variables: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<String, TokenizerError> {
        let count = messages.as_array().map_or(0, Vec::len);
        let variables = variables
            .iter()
            .map(|(name, value)| (name.clone(), python::from_json(value)));
        let messages = python::from_json(&normalized(messages));
        self.run(messages, count, add_generation_prompt, variables.collect())
    }

    /// Renders `(role, content)` pairs, with the two `marks` around what `{% generation %}` holds.
    pub(crate) fn render_pairs<'m>(
        &self,
        messages: impl Iterator<Item = (&'m str, &'m str)>,
        add_generation_prompt: bool,
        marks: Option<&str>,
    ) -> Result<String, TokenizerError> {
        let messages: Vec<Value> = messages
            .map(|(role, content)| Value::from_pairs([("role", role), ("content", content)]))
            .collect();
        let count = messages.len();
        let marks = marks.map(|marks| (MARKS.to_owned(), Value::from(marks)));
        self.run(
            Value::from(messages),
            count,
            add_generation_prompt,
            marks.into_iter().collect(),
        )
    }

    fn run(
        &self,
        messages: Value,
        count: usize,
        add_generation_prompt: bool,
        variables: Vec<(String, Value)>,
    ) -> Result<String, TokenizerError> {
        if count > self.most_messages || self.most_messages == 0 {
            let ready = self.ready_for(count.max(1));
            return ready.run(messages, count, add_generation_prompt, variables);
        }
        let environment = &self.environment;
        let none = || Value::from(());
        let mut context: Vec<(String, Value)> = vec![
            ("messages".to_owned(), messages),
            ("tools".to_owned(), none()),
            ("documents".to_owned(), none()),
            (
                "add_generation_prompt".to_owned(),
                Value::from(add_generation_prompt),
            ),
        ];
        let tokens = self.special_tokens.iter();
        context.extend(tokens.map(|(name, text)| ((*name).to_owned(), Value::from(text))));
        context.extend(variables);
        // Seconds and their parts are told as they were set.
        let now = self
            .now
            .map(|now| Value::from(now.to_string().replace(' ', "T")));
        context.extend(now.map(|now| (NOW.to_owned(), now)));
        on_a_stack_of_its_own(move || {
            let template = environment.get_template(NAME)?;
            template.render(Value::from_pairs(context))
        })
    }
}

/// Does work whose depth somebody else's template decides, and drops what it made there, too.
fn on_a_stack_of_its_own<T: Send>(
    work: impl FnOnce() -> Result<T, minijinja::Error> + Send,
) -> Result<T, TokenizerError> {
    with_room(move || work().map_err(|error| template_error(&error)))
}

thread_local! {
    /// Whether this thread has the stack that templates need.
    static ROOMY: Cell<bool> = const { Cell::new(false) };
}

/// Does work that renders many templates on one thread that has the stack for it, instead of one for each.
pub(crate) fn with_room<T: Send>(
    work: impl FnOnce() -> Result<T, TokenizerError> + Send,
) -> Result<T, TokenizerError> {
    if ROOMY.get() {
        return work();
    }
    let failed = |message: &str| TokenizerError::Template {
        line: None,
        message: message.to_owned(),
    };
    let work = move || {
        ROOMY.set(true);
        work()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        let running = thread
            .spawn_scoped(scope, work)
            .map_err(|_| failed("cannot be run: the system has no thread for it"))?;
        running
            .join()
            .unwrap_or_else(|_| Err(failed("ends the template engine")))
    })
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// Messages as `apply_chat_template` gives them to a template: without fields that are null, and with
/// `reasoning_content` and `thinking` where any name for a message's reasoning is given.
fn normalized(messages: &serde_json::Value) -> serde_json::Value {
    let mut messages = messages.clone();
    let list = messages.as_array_mut().map_or(&mut [][..], |list| list);
    for message in list {
        let Some(fields) = message.as_object_mut() else {
            continue;
        };
        fields.retain(|_, value| !value.is_null());
        let names = ["reasoning_content", "thinking", "reasoning"];
        let Some(reasoning) = names.iter().find_map(|name| fields.get(*name)).cloned() else {
            continue;
        };
        fields
            .entry("thinking")
            .or_insert_with(|| reasoning.clone());
        fields.insert("reasoning_content".to_owned(), reasoning);
    }
    messages
}

fn template_error(error: &minijinja::Error) -> TokenizerError {
    use minijinja::ErrorKind;
    let detail = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    let message = match error.kind() {
        ErrorKind::OutOfFuel => {
            "runs on and on; a loop in it does not end, or the conversation is far too long".into()
        }
        // Raised by the template itself: it speaks for itself.
        ErrorKind::InvalidOperation => detail,
        kind => format!("{kind}: {detail}"),
    };
    TokenizerError::Template {
        line: error.line(),
        message,
    }
}
