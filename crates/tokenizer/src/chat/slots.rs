//! Rendering a template so that the contents of messages stay apart from the template's own text.
//!
//! First each content is replaced by a slot, a short text that stands nowhere else. The template
//! is also rendered with the contents themselves, and the slots, filled in (with the content, or
//! with the content stripped, as templates like to do), must give exactly that. Where they do not,
//! since the template looks into a content or changes it, the contents go in as they are and only
//! the special tokens spelt in them are replaced by slots.

use std::collections::HashMap;
use std::ops::Range;

use crate::template::{is_space, strip};
use crate::{ChatTemplate, Message, Tokenizer, TokenizerError};

/// A rendering with slots.
pub(crate) struct Slotted {
    /// The text, each slot spelt in it. All positions below are in this text.
    pub(crate) text: String,
    pub(crate) slots: Vec<Slot>,
    /// What the template marked as written by the assistant.
    pub(crate) marked: Vec<Range<usize>>,
}

impl Slotted {
    /// The text with every slot filled.
    fn filled_in(&self) -> String {
        let mut text = String::new();
        let mut at = 0;
        for slot in &self.slots {
            text.push_str(&self.text[at..slot.range.start]);
            text.push_str(&slot.value);
            at = slot.range.end;
        }
        text + &self.text[at..]
    }
}

/// A place that untrusted text goes to.
#[derive(Clone)]
pub(crate) struct Slot {
    pub(crate) range: Range<usize>,
    /// The message that the text comes from.
    pub(crate) message: usize,
    /// The text.
    pub(crate) value: String,
}

/// Renders any number of first messages of one conversation in the same manner.
pub(crate) struct Renderer<'a> {
    template: ChatTemplate,
    messages: &'a [Message],
    /// What the template is given as contents.
    contents: Vec<String>,
    /// `(message, text)` by the number that a slot is spelt with.
    values: Vec<(usize, String)>,
    /// Whether each slot is the whole content of its message.
    whole: bool,
    marks: Marks,
}

/// Characters that stand neither in the template nor in the messages.
#[derive(Clone, Copy)]
struct Marks {
    slot: char,
    open: char,
    close: char,
}

impl<'a> Renderer<'a> {
    /// Finds out how this conversation can be rendered.
    pub(crate) fn new(
        tokenizer: &'a Tokenizer,
        messages: &'a [Message],
        add_generation_prompt: bool,
    ) -> Result<Self, TokenizerError> {
        let template = tokenizer
            .chat_template()
            .ok_or(TokenizerError::NoTemplate)?;
        let marks = Marks::unused(template, messages);
        let template = template.ready_for(messages.len());
        let mut renderer = Self {
            template,
            messages,
            contents: Vec::new(),
            values: Vec::new(),
            whole: true,
            marks,
        };
        for (index, message) in messages.iter().enumerate() {
            let content = renderer.slot_for(index, &message.content);
            renderer.contents.push(content);
        }
        let direct = renderer.template.render(messages, add_generation_prompt)?;
        // A template may refuse a slot where it would take the content.
        if let Ok(slotted) = renderer.render(messages.len(), add_generation_prompt)
            && let Some(variants) = filled(&slotted, &direct)
        {
            renderer.strip_as(&slotted, &variants);
            return Ok(renderer);
        }
        renderer.spell_out(tokenizer);
        Ok(renderer)
    }

    /// Whether a content's place is known, and not just the special tokens in it.
    pub(crate) fn knows_contents(&self) -> bool {
        self.whole
    }

    pub(crate) fn messages(&self) -> &'a [Message] {
        self.messages
    }

    pub(crate) fn marks_generation(&self) -> bool {
        self.template.marks_generation()
    }

    /// Renders the first `count` messages.
    pub(crate) fn render(
        &self,
        count: usize,
        add_generation_prompt: bool,
    ) -> Result<Slotted, TokenizerError> {
        let pairs = self.messages[..count].iter().zip(&self.contents);
        let pairs = pairs.map(|(message, content)| (message.role.as_str(), content.as_str()));
        let marks = String::from_iter([self.marks.open, self.marks.close]);
        let marks = self.template.marks_generation().then_some(marks.as_str());
        let text = self
            .template
            .render_pairs(pairs, add_generation_prompt, marks)?;
        self.parse(&text)
    }

    /// Renders the first `count` messages, or nothing if the template now treats a content
    /// otherwise than in the whole conversation.
    pub(crate) fn render_alike(
        &self,
        count: usize,
        add_generation_prompt: bool,
    ) -> Result<Option<Slotted>, TokenizerError> {
        let slotted = self.render(count, add_generation_prompt)?;
        if self.whole {
            let direct = self
                .template
                .render(&self.messages[..count], add_generation_prompt)?;
            return Ok((slotted.filled_in() == direct).then_some(slotted));
        }
        Ok(Some(slotted))
    }

    /// A new slot, unless the text is empty: then there is nothing to protect, and templates
    /// often ask whether there is any content.
    fn slot_for(&mut self, message: usize, value: &str) -> String {
        if value.is_empty() {
            return String::new();
        }
        let mark = self.marks.slot;
        self.values.push((message, value.to_owned()));
        format!("{mark}{}{mark}", self.values.len() - 1)
    }

    /// Takes what the template made of each content as the content.
    fn strip_as(&mut self, slotted: &Slotted, variants: &[String]) {
        for (slot, variant) in slotted.slots.iter().zip(variants) {
            if let Some(value) = self
                .values
                .iter_mut()
                .find(|(message, _)| *message == slot.message)
            {
                value.1.clone_from(variant);
            }
        }
    }

    /// Gives the template the contents themselves, with slots for the special tokens in them.
    fn spell_out(&mut self, tokenizer: &Tokenizer) {
        self.whole = false;
        self.contents.clear();
        self.values.clear();
        for (index, message) in self.messages.iter().enumerate() {
            let mut content = String::new();
            let mut rest = message.content.as_str();
            while let Some((range, token)) = tokenizer.encoder().first_special(rest) {
                // White space that the token takes in is content like any other.
                let at = range.start + rest[range.clone()].find(&token).unwrap_or(0);
                content.push_str(&rest[..at]);
                content.push_str(&self.slot_for(index, &token));
                rest = &rest[at + token.len()..];
            }
            content.push_str(rest);
            self.contents.push(content);
        }
    }

    /// Takes the marks out of a rendering and finds the slots.
    fn parse(&self, rendering: &str) -> Result<Slotted, TokenizerError> {
        let mut slotted = Slotted {
            text: String::new(),
            slots: Vec::new(),
            marked: Vec::new(),
        };
        let mut open = None;
        let mut rest = rendering;
        let mark = self.marks;
        while let Some(at) = rest.find([mark.slot, mark.open, mark.close]) {
            slotted.text.push_str(&rest[..at]);
            rest = &rest[at..];
            let found = rest.chars().next().expect("it was just found");
            let here = slotted.text.len();
            if found == mark.slot {
                let end = rest[found.len_utf8()..]
                    .find(found)
                    .map(|end| end + found.len_utf8());
                let number = end.and_then(|end| rest[found.len_utf8()..end].parse::<usize>().ok());
                let (Some(end), Some((message, value))) =
                    (end, number.and_then(|number| self.values.get(number)))
                else {
                    return Err(cut_slot());
                };
                let spelt = &rest[..end + found.len_utf8()];
                slotted.text.push_str(spelt);
                let range = here..slotted.text.len();
                slotted.slots.push(Slot {
                    range,
                    message: *message,
                    value: value.clone(),
                });
                rest = &rest[spelt.len()..];
                continue;
            }
            if found == mark.open {
                open = Some(here);
            } else if let Some(start) = open.take() {
                slotted.marked.push(start..here);
            }
            rest = &rest[found.len_utf8()..];
        }
        slotted.text.push_str(rest);
        Ok(slotted)
    }
}

/// Only seen by a caller when the template tears a special token's text apart.
fn cut_slot() -> TokenizerError {
    TokenizerError::Template {
        line: None,
        message: "takes the text of a message apart inside of a special token that the message \
                  spells; remove that text from the message"
            .to_owned(),
    }
}

impl Marks {
    fn unused(template: &ChatTemplate, messages: &[Message]) -> Self {
        let used = |candidate: &char| {
            template.source().contains(*candidate)
                || messages
                    .iter()
                    .any(|message| message.content.contains(*candidate))
        };
        // A private-use plane has 65,534 characters; no sane text uses all of them.
        let mut free = ('\u{F0000}'..='\u{FFFFD}').filter(|candidate| !used(candidate));
        let mut next = || free.next().unwrap_or('\u{10FFFD}');
        Self {
            slot: next(),
            open: next(),
            close: next(),
        }
    }
}

/// What goes into each slot for the filled text to be `direct`, if anything does: for every
/// message one variant of its content, stripped or not.
///
/// Follows all ways at once, slot by slot; two that have come to the same place are one, so this
/// takes time in proportion to the text.
fn filled(slotted: &Slotted, direct: &str) -> Option<Vec<String>> {
    /// A way to have filled the slots so far.
    struct Way<'s> {
        at: usize,
        before: usize,
        variant: &'s str,
    }
    let literal_after = |index: usize| {
        let end = slotted
            .slots
            .get(index + 1)
            .map_or(slotted.text.len(), |s| s.range.start);
        &slotted.text[slotted.slots[index].range.end..end]
    };
    let first = slotted
        .slots
        .first()
        .map_or(slotted.text.len(), |slot| slot.range.start);
    if !direct.starts_with(&slotted.text[..first]) {
        return None;
    }
    let mut layers = vec![vec![Way {
        at: first,
        before: 0,
        variant: "",
    }]];
    for (index, slot) in slotted.slots.iter().enumerate() {
        let value = slot.value.as_str();
        let no_start = value.trim_start_matches(is_space);
        let no_end = value.trim_end_matches(is_space);
        let mut layer: Vec<Way<'_>> = Vec::new();
        for (before, way) in layers[index].iter().enumerate() {
            for variant in [value, strip(value), no_start, no_end] {
                let rest = direct[way.at..].strip_prefix(variant);
                let rest = rest.and_then(|rest| rest.strip_prefix(literal_after(index)));
                let Some(rest) = rest else { continue };
                let at = direct.len() - rest.len();
                if layer.iter().all(|known| known.at != at) {
                    layer.push(Way {
                        at,
                        before,
                        variant,
                    });
                }
            }
        }
        layers.push(layer);
    }
    let mut number = layers
        .last()?
        .iter()
        .position(|way| way.at == direct.len())?;
    let mut chosen = Vec::new();
    for layer in layers[1..].iter().rev() {
        chosen.push(layer[number].variant.to_owned());
        number = layer[number].before;
    }
    chosen.reverse();
    let mut by_message = HashMap::new();
    let consistent = slotted
        .slots
        .iter()
        .zip(&chosen)
        .all(|(slot, variant)| by_message.entry(slot.message).or_insert(variant) == &variant);
    consistent.then_some(chosen)
}
