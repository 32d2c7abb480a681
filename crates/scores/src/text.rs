//! White space as Python's `str` methods see it, which is what the reference tools split on.
//!
//! Python also counts the four ASCII separators U+001C to U+001F as space; Rust's
//! [`char::is_whitespace`] does not.

/// Whether Python's `str.isspace` holds for the character.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The runs of non-space characters, as Python's `str.split()` gives them.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// The text without space at its end, as Python's `str.rstrip()` gives it.
pub(crate) fn trim_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// The text without space at either end, as Python's `str.strip()` gives it.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_where_python_splits() {
        let text = " a\u{1c}b\u{a0}c\u{200b}d\u{3000}\te\r\n";
        assert_eq!(
            words(text).collect::<Vec<_>>(),
            ["a", "b", "c\u{200b}d", "e"]
        );
        assert_eq!(trim_end("a \u{1f}\n"), "a");
        assert_eq!(trim("\u{85} a b "), "a b");
    }
}
