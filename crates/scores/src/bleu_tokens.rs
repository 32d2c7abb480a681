//! The tokenizers of BLEU: which of them was used changes the score more than most models do, so
//! each is the one that sacrebleu calls by the same name.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::text::words;

/// How BLEU splits text into words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BleuTokenizer {
    /// The rules of NIST's `mteval-v13a`: ASCII punctuation apart, digits with their separators
    /// together, four HTML entities decoded. The default, and what papers mean by BLEU.
    #[default]
    #[serde(rename = "13a")]
    V13a,
    /// The international rules of `mteval-v14`: punctuation and symbols of all of Unicode apart.
    Intl,
    /// Every character but white space is a word.
    Char,
    /// Words are what white space separates; for text that is tokenized already.
    None,
}

impl BleuTokenizer {
    /// The name in signatures.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V13a => "13a",
            Self::Intl => "intl",
            Self::Char => "char",
            Self::None => "none",
        }
    }

    /// The words of a text.
    pub fn tokenize(self, text: &str) -> Vec<String> {
        match self {
            Self::V13a => split(&V13A, &format!(" {} ", decode_entities(text))),
            Self::Intl => split(&INTL, text),
            Self::Char => words(text).flat_map(str::chars).map(String::from).collect(),
            Self::None => words(text).map(str::to_owned).collect(),
        }
    }
}

/// Substitutions, applied in turn to the whole line.
type Rules = Vec<(Regex, &'static str)>;

/// Punctuation other than period, comma, apostrophe and hyphen; then period and comma unless a
/// digit stands before, unless a digit stands after; then a hyphen after a digit.
static V13A: LazyLock<Rules> = LazyLock::new(|| {
    compile(&[
        (r##"([!-&(-+/:-@\[-`{-~ ])"##, " ${1} "),
        (r"([^0-9])([.,])", "${1} ${2} "),
        (r"([.,])([^0-9])", " ${1} ${2}"),
        (r"([0-9])(-)", "${1} ${2} "),
    ])
});

/// Punctuation unless a number stands before, unless a number stands after; then all symbols.
static INTL: LazyLock<Rules> = LazyLock::new(|| {
    compile(&[
        (r"(\P{N})(\p{P})", "${1} ${2} "),
        (r"(\p{P})(\P{N})", " ${1} ${2}"),
        (r"(\p{S})", " ${1} "),
    ])
});

fn compile(rules: &[(&str, &'static str)]) -> Rules {
    rules
        .iter()
        .map(|&(pattern, to)| (Regex::new(pattern).expect("a well-formed pattern"), to))
        .collect()
}

fn split(rules: &Rules, line: &str) -> Vec<String> {
    let mut line = Cow::Borrowed(line);
    for (pattern, to) in rules {
        line = Cow::Owned(pattern.replace_all(&line, *to).into_owned());
    }
    words(&line).map(str::to_owned).collect()
}

/// What 13a does before it splits: drops the marker of skipped segments, joins words hyphenated
/// over a line end, and decodes four entities, the ampersand second, so that `&amp;lt;` ends as `<`.
fn decode_entities(text: &str) -> String {
    text.replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ")
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(tokenizer: BleuTokenizer, text: &str) -> String {
        tokenizer.tokenize(text).join(" ")
    }

    #[test]
    fn v13a_keeps_numbers_whole() {
        let text = "It's 1,234.50 (net), e.g. 10-20; self-made. 5.";
        assert_eq!(
            joined(BleuTokenizer::V13a, text),
            "It's 1,234.50 ( net ) , e . g . 10 - 20 ; self-made . 5 ."
        );
        assert_eq!(
            joined(BleuTokenizer::V13a, "&amp;lt;b&gt; &quot;x&quot; hy-\nphen"),
            "< b > \" x \" hyphen"
        );
    }

    #[test]
    fn intl_knows_unicode() {
        assert_eq!(
            joined(BleuTokenizer::Intl, "«Ça va?» 3,5 € – in 2020."),
            "« Ça va ? » 3,5 € – in 2020."
        );
    }

    #[test]
    fn char_and_none() {
        assert_eq!(joined(BleuTokenizer::Char, "añ b"), "a ñ b");
        assert_eq!(joined(BleuTokenizer::None, " a,b  c"), "a,b c");
    }
}
