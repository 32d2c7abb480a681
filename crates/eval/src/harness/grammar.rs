//! Minimal pairs: two sentences of the same words, or of as many, one of which breaks a rule of English
//! grammar (after BLiMP, Warstadt et al. 2020, "BLiMP: The Benchmark of Linguistic Minimal Pairs for English";
//! the sentences are our own). A model that has learnt the rule finds the right one likelier; guessing gives
//! a half.
//!
//! Nine rules of fifty pairs each, from word lists in which every word is plain: no knowledge of the world
//! is asked for. The list is the same in every run, so that scores can be compared.

use std::collections::HashSet;
use std::path::PathBuf;

use etude_data::SourceRef;
use serde_json::json;

use super::sample::Record;

/// Pairs of each rule.
const PAIRS: usize = 50;

/// Nouns, one and several.
const PEOPLE: &[(&str, &str)] = &[
    ("boy", "boys"),
    ("girl", "girls"),
    ("king", "kings"),
    ("queen", "queens"),
    ("teacher", "teachers"),
    ("farmer", "farmers"),
    ("doctor", "doctors"),
    ("soldier", "soldiers"),
    ("brother", "brothers"),
    ("sister", "sisters"),
    ("friend", "friends"),
];

const THINGS: &[(&str, &str)] = &[
    ("book", "books"),
    ("house", "houses"),
    ("letter", "letters"),
    ("tree", "trees"),
    ("horse", "horses"),
    ("boat", "boats"),
    ("song", "songs"),
    ("river", "rivers"),
    ("picture", "pictures"),
];

/// Where somebody is.
const PLACES: &[&str] = &[
    "in the garden",
    "near the river",
    "behind the house",
    "at the door",
    "on the road",
    "under the tree",
    "by the sea",
];

/// What is said of one, of several. No form is a noun, too, with which "the king" could go on.
const DOINGS: &[(&str, &str)] = &[
    ("is waiting", "are waiting"),
    ("was waiting", "were waiting"),
    ("has fallen", "have fallen"),
    ("lives", "live"),
    ("sings", "sing"),
    ("speaks", "speak"),
    ("knows the way", "know the way"),
    ("is not at home", "are not at home"),
];

/// What somebody did to something: the past, the bare verb, the participle.
const DEEDS: &[(&str, &str, &str)] = &[
    ("saw", "see", "seen"),
    ("found", "find", "found"),
    ("loved", "love", "loved"),
    ("drew", "draw", "drawn"),
    ("forgot", "forget", "forgotten"),
    ("sold", "sell", "sold"),
    ("took", "take", "taken"),
];

const QUALITIES: &[&str] = &[
    "old",
    "small",
    "red",
    "beautiful",
    "new",
    "long",
    "dark",
    "white",
];

/// The number of a pair, from which each slot of its sentence takes a word.
#[derive(Clone, Copy)]
struct Turn(usize);

impl Turn {
    /// A word of a list. Slots step at different rates, so that words meet in ever other company.
    fn of<T: Copy>(self, list: &[T], rate: usize) -> T {
        list[(self.0 * rate + self.0 / list.len() + rate) % list.len()]
    }

    fn is_even(self) -> bool {
        self.0.is_multiple_of(2)
    }
}

/// The good and the bad sentence of a rule.
type Rule = fn(Turn) -> (String, String);

/// Phenomenon, rule, sentences.
const RULES: &[(&str, &str, Rule)] = &[
    ("agreement", "verb", verb),
    ("agreement", "verb_after_a_place", verb_after_a_place),
    ("agreement", "demonstrative", demonstrative),
    ("word_order", "object", object),
    ("word_order", "adjective", adjective),
    ("word_order", "question", question),
    ("negation", "ever", ever),
    ("negation", "any", any),
    ("negation", "do_support", do_support),
];

/// A number by turns: what is right, and what is wrong.
fn by_number<'a>(turn: Turn, (one, several): (&'a str, &'a str)) -> (&'a str, &'a str) {
    if turn.is_even() {
        (one, several)
    } else {
        (several, one)
    }
}

fn both(frame: impl Fn(&str) -> String, (good, bad): (&str, &str)) -> (String, String) {
    (frame(good), frame(bad))
}

fn verb(turn: Turn) -> (String, String) {
    let (who, _) = by_number(turn, turn.of(PEOPLE, 1));
    let place = turn.of(PLACES, 3);
    both(
        |does| format!("The {who} {does} {place}."),
        by_number(turn, turn.of(&DOINGS[..6], 1)),
    )
}

/// The noun next to the verb has the other number.
fn verb_after_a_place(turn: Turn) -> (String, String) {
    let (who, _) = by_number(turn, turn.of(PEOPLE, 1));
    let (_, near) = by_number(turn, turn.of(THINGS, 2));
    both(
        |does| format!("The {who} near the {near} {does}."),
        by_number(turn, turn.of(DOINGS, 1)),
    )
}

fn demonstrative(turn: Turn) -> (String, String) {
    let (what, _) = by_number(turn, turn.of(THINGS, 1));
    let (who, _) = turn.of(PEOPLE, 3);
    let (did, _, _) = turn.of(DEEDS, 1);
    let near = (turn.0 / 2).is_multiple_of(2);
    let words = if near {
        ("this", "these")
    } else {
        ("that", "those")
    };
    both(
        |word| format!("The {who} {did} {word} {what}."),
        by_number(turn, words),
    )
}

fn object(turn: Turn) -> (String, String) {
    let (who, _) = turn.of(PEOPLE, 1);
    let (what, _) = turn.of(THINGS, 2);
    let (did, _, _) = turn.of(DEEDS, 1);
    (
        format!("The {who} {did} the {what}."),
        format!("The {who} the {what} {did}."),
    )
}

fn adjective(turn: Turn) -> (String, String) {
    let (what, _) = turn.of(THINGS, 1);
    let (who, _) = turn.of(PEOPLE, 2);
    let (did, _, _) = turn.of(DEEDS, 3);
    let quality = turn.of(QUALITIES, 3);
    (
        format!("The {who} {did} the {quality} {what}."),
        format!("The {who} {did} the {what} {quality}."),
    )
}

fn question(turn: Turn) -> (String, String) {
    let (who, _) = turn.of(PEOPLE, 1);
    let (_, does, _) = turn.of(DEEDS, 1);
    let (what, _) = turn.of(THINGS, 2);
    let word = turn.of(&["When", "Where", "Why", "How"], 1);
    (
        format!("{word} did the {who} {does} the {what}?"),
        format!("{word} the {who} did {does} the {what}?"),
    )
}

/// After "no" it is "ever", after "every" it is "already": each word is right as often as it is wrong, so that how
/// frequent it is helps nobody.
fn ever(turn: Turn) -> (String, String) {
    let (_, _, done) = turn.of(DEEDS, 1);
    let (what, _) = turn.of(THINGS, 2);
    let (who, _) = turn.of(PEOPLE, 1);
    let (whose, words) = match turn.is_even() {
        true => ("No", ("ever", "already")),
        false => ("Every", ("already", "ever")),
    };
    both(
        |word| format!("{whose} {who} has {word} {done} the {what}."),
        words,
    )
}

fn any(turn: Turn) -> (String, String) {
    let (_, several) = turn.of(PEOPLE, 1);
    let (did, _, _) = turn.of(DEEDS, 1);
    let (_, things) = turn.of(THINGS, 2);
    let (whose, words) = match turn.is_even() {
        true => ("None", ("any", "some")),
        false => ("All", ("some", "any")),
    };
    both(
        |word| format!("{whose} of the {several} {did} {word} {things}."),
        words,
    )
}

/// The bare verb after "did not", the participle after "had not".
fn do_support(turn: Turn) -> (String, String) {
    let (who, _) = turn.of(PEOPLE, 1);
    let (_, does, done) = turn.of(DEEDS, 1);
    let (what, _) = turn.of(THINGS, 2);
    // Each verb by turns, too.
    let (helps, words) = match (turn.0 / DEEDS.len()).is_multiple_of(2) {
        true => ("did", (does, done)),
        false => ("had", (done, does)),
    };
    both(
        |verb| format!("The {who} {helps} not {verb} the {what}."),
        words,
    )
}

/// All pairs, as records with `good`, `bad`, `phenomenon` and `rule`.
pub(super) fn records() -> Vec<Record> {
    let mut records = Vec::with_capacity(RULES.len() * PAIRS);
    for (phenomenon, rule, pair) in RULES {
        let mut seen = HashSet::new();
        // A turn that says what an earlier one said is passed over; the lists allow far more turns.
        let pairs = (0..20 * PAIRS).map(|turn| pair(Turn(turn)));
        for (good, bad) in pairs.filter(|pair| seen.insert(pair.clone())).take(PAIRS) {
            let source = SourceRef {
                file: PathBuf::from("grammar"),
                line: records.len() as u64 + 1,
            };
            let value = json!({
                "good": good, "bad": bad, "phenomenon": phenomenon, "rule": rule,
            });
            records.push(Record { value, source });
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn text<'a>(record: &'a Record, field: &str) -> &'a str {
        record.value[field].as_str().expect("a text")
    }

    #[test]
    fn there_are_fifty_different_pairs_of_each_rule() {
        let records = records();
        assert_eq!(records.len(), RULES.len() * PAIRS);
        let goods: HashSet<&str> = records.iter().map(|record| text(record, "good")).collect();
        assert!(goods.len() > records.len() * 9 / 10, "{}", goods.len());
        for record in &records {
            let (good, bad) = (text(record, "good"), text(record, "bad"));
            assert_ne!(good, bad);
            // A shorter sentence would be likelier for that alone.
            let words = |text: &str| text.split(' ').count();
            assert_eq!(words(good), words(bad), "{good} / {bad}");
        }
    }

    /// Whoever knows how frequent words are, and nothing of their order, guesses.
    #[test]
    fn no_word_is_right_more_often_than_wrong() {
        for rule in records().chunks(PAIRS) {
            let mut lead: HashMap<String, i64> = HashMap::new();
            for record in rule {
                for (field, sign) in [("good", 1), ("bad", -1)] {
                    for word in text(record, field).split([' ', '.', '?']) {
                        *lead.entry(word.to_lowercase()).or_default() += sign;
                    }
                }
            }
            lead.retain(|_, lead| lead.abs() > 2);
            assert!(lead.is_empty(), "{}: {lead:?}", text(&rule[0], "rule"));
        }
    }

    #[test]
    fn the_pairs_are_these() {
        let records = records();
        let first: Vec<(&str, &str)> = (0..RULES.len())
            .map(|rule| &records[rule * PAIRS + 1])
            .map(|record| (text(record, "good"), text(record, "bad")))
            .collect();
        let expected = [
            (
                "The kings have fallen by the sea.",
                "The kings has fallen by the sea.",
            ),
            (
                "The kings near the horse have fallen.",
                "The kings near the horse has fallen.",
            ),
            (
                "The doctor loved these letters.",
                "The doctor loved this letters.",
            ),
            ("The king loved the horse.", "The king the horse loved."),
            (
                "The teacher took the dark letter.",
                "The teacher took the letter dark.",
            ),
            (
                "Why did the king love the horse?",
                "Why the king did love the horse?",
            ),
            (
                "Every king has already loved the horse.",
                "Every king has ever loved the horse.",
            ),
            (
                "All of the kings loved some horses.",
                "All of the kings loved any horses.",
            ),
            (
                "The king did not love the horse.",
                "The king did not loved the horse.",
            ),
        ];
        assert_eq!(first, expected);
    }
}
