//! Cutting prompts that are too long, at the level of text, so that what is left is encoded as any
//! other text would be.

use anyhow::Result;

use super::{DropReason, Rendering};
use crate::message::{Message, Role};

/// The beginning of a text that fits.
#[derive(Debug)]
pub(super) struct FittedText {
    /// Its ids, with all that `encode` puts around it.
    pub(super) ids: Vec<u32>,
    /// How many bytes of the text were used.
    pub(super) used: usize,
    /// How many ids the whole text would have given.
    pub(super) whole: usize,
}

/// The text if `encode` gives at most `most` ids for it; otherwise, where it may be `cut`, a
/// beginning for which it does.
pub(super) fn fit_text(
    text: &str,
    most: usize,
    cut: bool,
    mut encode: impl FnMut(&str) -> Result<Vec<u32>>,
) -> Result<Rendering<FittedText>> {
    let mut ids = encode(text)?;
    let whole = ids.len();
    let mut used = text.len();
    if cut && ids.len() > most {
        let fixed = encode("")?.len();
        while ids.len() > most && used > 0 {
            used = shorter(text, used, ids.len(), most, fixed);
            ids = encode(&text[..used])?;
        }
    }
    let fits = ids.len() <= most;
    Ok(if fits {
        Rendering::Kept(FittedText { ids, used, whole })
    } else {
        Rendering::Dropped(DropReason::PromptTooLong)
    })
}

/// Takes away the oldest exchange: all that comes before the second user turn, save system turns.
/// Returns false, and changes nothing, when only one is left.
pub(super) fn drop_oldest_exchange(messages: &mut Vec<Message>) -> bool {
    let mut users = messages
        .iter()
        .enumerate()
        .filter(|(_, m)| m.role == Role::User);
    let (Some(_), Some((second, _))) = (users.next(), users.next()) else {
        return false;
    };
    let mut at = 0;
    messages.retain(|m| {
        at += 1;
        at > second || m.role == Role::System
    });
    true
}

/// A length for the beginning of `text` that should take at most `most` tokens, given that its first
/// `length` bytes take `tokens`, `fixed` of them whatever the text. It is smaller than `length`, falls
/// between two characters, and between two words where one ends nearby.
fn shorter(text: &str, length: usize, tokens: usize, most: usize, fixed: usize) -> usize {
    let (room, used) = (
        most.saturating_sub(fixed),
        tokens.saturating_sub(fixed).max(1),
    );
    let guess = (length as u128 * room as u128 / used as u128) as usize;
    let mut guess = guess.min(length.saturating_sub(1));
    while !text.is_char_boundary(guess) {
        guess -= 1;
    }
    let word = text[..guess].rfind(char::is_whitespace).unwrap_or(0);
    // A text without spaces is cut inside a word rather than lost.
    if guess - word <= 32 && word > 0 {
        word
    } else {
        guess
    }
}
