//! Regular expressions as Python has them, which some settings beside models and adapters are.

use regex::Regex;

/// Python's `re.fullmatch` of a pattern, which may begin with looks ahead: `^(?!.*vision).*_proj`. None for a pattern
/// that is none, and for those that look around or back elsewhere: how long these take cannot be told beforehand.
pub fn python_fullmatch(pattern: &str) -> Option<impl Fn(&str) -> bool + use<>> {
    let pattern = pattern.replace(r"\Z", r"\z");
    let mut looks = Vec::new();
    let mut rest = pattern.as_str();
    while let (negative, Some(group)) = look_ahead(rest) {
        let end = outside(group, ')')?;
        looks.push((negative, compile(&group[..end], "")?));
        rest = &group[end + 1..];
    }
    // Of alternatives, the first alone is what was looked for.
    if !looks.is_empty() && outside(rest, '|').is_some() {
        return None;
    }
    let whole = compile(rest, r"\z")?;
    Some(move |text: &str| {
        let holds = |(negative, ahead): &(bool, Regex)| ahead.is_match(text) != *negative;
        looks.iter().all(holds) && whole.is_match(text)
    })
}

/// A pattern at the beginning of a text, up to `end`.
fn compile(pattern: &str, end: &str) -> Option<Regex> {
    Regex::new(pattern).ok()?;
    Regex::new(&format!(r"\A(?:{pattern}){end}")).ok()
}

/// Whether a look ahead at the beginning of a pattern is a negative one, and what follows its opening.
fn look_ahead(pattern: &str) -> (bool, Option<&str>) {
    let start = pattern.strip_prefix('^').unwrap_or(pattern);
    match start.strip_prefix("(?!") {
        Some(group) => (true, Some(group)),
        None => (false, start.strip_prefix("(?=")),
    }
}

/// Where a character first stands in no group, in no set and without a backslash.
fn outside(pattern: &str, wanted: char) -> Option<usize> {
    let (mut depth, mut in_set, mut is_escaped) = (0, false, false);
    for (at, c) in pattern.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if in_set => in_set = c != ']',
            '[' => in_set = true,
            _ if c == wanted && depth == 0 => return Some(at),
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_of_the_whole_text() {
        let path = "model.layers.1.self_attn.q_proj";
        for (pattern, expected) in [
            (r".*_proj", true),
            (r"q_proj", false),
            (r".*layers\.[01]\..*(q|k)_proj", true),
            (r"^model\.layers\.(?P<idx>\d+)\.self_attn\.q_proj$", true),
            (r"model.*|x\Z", true),
            (r".*layers\.0.*", false),
            (r"^(?!.*(?:vision|visual)).*_proj$", true),
            (r"(?!.*\.[)(01]\.).*_proj", false),
            (r"(?=model)(?!.*mlp).*_proj", true),
            (r"(?=layers).*_proj", false),
        ] {
            let is_match = python_fullmatch(pattern).expect(pattern);
            assert_eq!(is_match(path), expected, "{pattern}");
        }
    }

    #[test]
    fn what_is_not_understood_is_none() {
        for pattern in [
            "(",
            "a)|(b",
            "(?!x",
            r"(?!x)a|b",
            r".*(?<!mlp)_proj",
            r"(.)\1",
        ] {
            assert!(python_fullmatch(pattern).is_none(), "{pattern}");
        }
    }
}
