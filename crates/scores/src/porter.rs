//! The Porter stemmer, as NLTK extends it and rouge-score uses it.
//!
//! Porter 1980, "An algorithm for suffix stripping", with the departures that NLTK makes by default:
//! a table of irregular words, `ies` and `ied` after one letter, `y` after any consonant, two-letter
//! words as short ones, and `bli`, `alli`, `fulli`, `logi` in step 2.

/// The stem of a lower-case word of ASCII letters and digits (digits count as consonants). A word
/// with other characters, which ROUGE never has, is its own stem.
pub fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(form, _)| *form == word) {
        return (*stem).to_owned();
    }
    if word.len() <= 2 || !word.is_ascii() {
        return word.to_owned();
    }
    let word = plurals(word);
    let word = past_and_gerund(&word);
    let word = final_y(&word);
    let word = double_suffixes(&word);
    let word = apply(&word, STEP_3, |stem, _| measure(stem) > 0);
    let word = apply(&word, STEP_4, |stem, suffix| {
        measure(stem) > 1 && (suffix != "ion" || stem.ends_with(['s', 't']))
    });
    let word = final_e(&word);
    match word.ends_with("ll") && measure(&word[..word.len() - 1]) > 1 {
        true => word[..word.len() - 1].to_owned(),
        false => word,
    }
}

/// Words that the rules get wrong, with their stems.
const IRREGULAR: &[(&str, &str)] = &[
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// A suffix and what takes its place.
type Rule = (&'static str, &'static str);

/// Step 2, each if the stem has a vowel-consonant pair. The order matters: the first suffix that
/// fits decides.
const STEP_2: &[Rule] = &[
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
    ("logi", "log"),
];

/// Step 3, each if the stem has a vowel-consonant pair.
const STEP_3: &[Rule] = &[
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
];

/// Step 4, each if the stem has two vowel-consonant pairs, and for `ion` an s or t before it.
const STEP_4: &[Rule] = &[
    ("al", ""),
    ("ance", ""),
    ("ence", ""),
    ("er", ""),
    ("ic", ""),
    ("able", ""),
    ("ible", ""),
    ("ant", ""),
    ("ement", ""),
    ("ment", ""),
    ("ent", ""),
    ("ion", ""),
    ("ou", ""),
    ("ism", ""),
    ("ate", ""),
    ("iti", ""),
    ("ous", ""),
    ("ive", ""),
    ("ize", ""),
];

/// Applies the first rule whose suffix fits, if its condition on (stem, suffix) holds; no later rule
/// is tried if it does not.
fn apply(word: &str, rules: &[Rule], condition: impl Fn(&str, &str) -> bool) -> String {
    for (suffix, replacement) in rules {
        if let Some(stem) = word.strip_suffix(suffix) {
            return match condition(stem, suffix) {
                true => format!("{stem}{replacement}"),
                false => word.to_owned(),
            };
        }
    }
    word.to_owned()
}

/// Step 1a.
fn plurals(word: &str) -> String {
    if word.len() == 4 && word.ends_with("ies") {
        return word[..3].to_owned();
    }
    let rules = &[("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")];
    apply(word, rules, |_, _| true)
}

/// Step 1b.
fn past_and_gerund(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        let ending = if word.len() == 4 { "ie" } else { "i" };
        return format!("{stem}{ending}");
    }
    if let Some(stem) = word.strip_suffix("eed") {
        let ending = if measure(stem) > 0 { "ee" } else { "eed" };
        return format!("{stem}{ending}");
    }
    let cut = ["ed", "ing"]
        .iter()
        .filter_map(|suffix| word.strip_suffix(suffix))
        .find(|stem| consonants(stem).contains(&false));
    let Some(stem) = cut else {
        return word.to_owned();
    };
    if stem.ends_with("at") || stem.ends_with("bl") || stem.ends_with("iz") {
        format!("{stem}e")
    } else if ends_double_consonant(stem) {
        match stem.ends_with(['l', 's', 'z']) {
            true => stem.to_owned(),
            false => stem[..stem.len() - 1].to_owned(),
        }
    } else if measure(stem) == 1 && ends_short(stem) {
        format!("{stem}e")
    } else {
        stem.to_owned()
    }
}

/// Step 1c.
fn final_y(word: &str) -> String {
    apply(word, &[("y", "i")], |stem, _| {
        stem.len() > 1 && consonants(stem).last() == Some(&true)
    })
}

/// Step 2. `alli` is shortened before anything else, and the result goes through again.
fn double_suffixes(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("alli")
        && measure(stem) > 0
    {
        return double_suffixes(&format!("{stem}al"));
    }
    apply(word, STEP_2, |stem, suffix| match suffix {
        // The l of `logi` counts as the stem's, so that "geologi" and "theologi" are stemmed alike.
        "logi" => measure(&word[..word.len() - 3]) > 0,
        _ => measure(stem) > 0,
    })
}

/// Step 5a.
fn final_e(word: &str) -> String {
    match word.strip_suffix('e') {
        Some(stem) if measure(stem) > 1 || (measure(stem) == 1 && !ends_short(stem)) => {
            stem.to_owned()
        }
        _ => word.to_owned(),
    }
}

/// For each byte whether it is a consonant; a y is one unless it follows one.
fn consonants(word: &str) -> Vec<bool> {
    let mut flags = Vec::with_capacity(word.len());
    for byte in word.bytes() {
        flags.push(match byte {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => flags.last() != Some(&true),
            _ => true,
        });
    }
    flags
}

/// How many times a consonant follows a vowel: the number of syllables, roughly.
fn measure(stem: &str) -> usize {
    let flags = consonants(stem);
    flags.windows(2).filter(|pair| !pair[0] && pair[1]).count()
}

fn ends_double_consonant(word: &str) -> bool {
    match word.as_bytes() {
        [.., a, b] => a == b && consonants(word).last() == Some(&true),
        _ => false,
    }
}

/// Whether a word ends consonant-vowel-consonant, the last not w, x or y, as in "hop"; or is a vowel
/// and a consonant.
fn ends_short(word: &str) -> bool {
    match consonants(word).as_slice() {
        [.., true, false, true] => !word.ends_with(['w', 'x', 'y']),
        [false, true] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::stem;

    #[test]
    fn the_papers_examples() {
        for (word, expected) in [
            ("caresses", "caress"),
            ("ponies", "poni"),
            ("ties", "tie"),
            ("feed", "feed"),
            ("agreed", "agre"),
            ("plastered", "plaster"),
            ("motoring", "motor"),
            ("sing", "sing"),
            ("conflated", "conflat"),
            ("hopping", "hop"),
            ("falling", "fall"),
            ("filing", "file"),
            ("happy", "happi"),
            ("relational", "relat"),
            ("hopefulness", "hope"),
            ("electrical", "electr"),
            ("adoption", "adopt"),
            ("controlling", "control"),
            ("enjoyment", "enjoy"),
            ("skies", "sky"),
            ("generalizations", "gener"),
        ] {
            assert_eq!(stem(word), expected, "{word}");
        }
    }

    #[test]
    fn takes_anything() {
        for word in ["", "s", "née", "ééies", "\u{1041}ing"] {
            assert_eq!(stem(word), word);
        }
        assert_eq!(stem("eed"), "eed");
        assert_eq!(stem("2020s"), "2020");
    }
}
