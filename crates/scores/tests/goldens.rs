//! Equality with sacrebleu 2.6.0 and rouge-score 0.1.2 on what `scripts/goldens/scores.py` wrote.

use std::path::Path;

use etude_scores::{
    Bleu, BleuTokenizer, Chrf, Metric, Pair, Rouge, RougeKind, Smoothing, exact_match, stem,
    token_f1,
};
use serde_json::Value;

/// How far a score may be off; sums of a few logarithms differ in the last bit between libraries.
const TOLERANCE: f64 = 1e-12;

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/goldens")
        .join(name);
    let text = std::fs::read_to_string(&path).expect("the golden file is in the repository");
    serde_json::from_str(&text).expect("the golden file is JSON")
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().expect("an array")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().expect("a string")
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn flag(value: &Value, key: &str) -> bool {
    value[key].as_bool().expect("true or false")
}

fn pairs(goldens: &Value) -> Vec<Pair> {
    let pair = |case: &Value| {
        let references = list(case, "references").iter();
        Pair::new(
            text(case, "prediction"),
            references.map(|r| r.as_str().expect("a string")),
        )
    };
    list(goldens, "cases").iter().map(pair).collect()
}

fn assert_close(found: f64, expected: &Value, what: impl FnOnce() -> String) {
    let expected = number(expected);
    assert!(
        (found - expected).abs() <= TOLERANCE,
        "{}: {found} instead of {expected}",
        what()
    );
}

#[test]
fn items_score_as_the_reference_tools_score_them() {
    let goldens = golden("cases.json");
    let (pairs, cases) = (pairs(&goldens), list(&goldens, "cases"));
    assert!(cases.len() >= 300, "the goldens shrank to {}", cases.len());
    for (pair, case) in pairs.iter().zip(cases) {
        let Pair {
            prediction,
            references,
        } = pair;
        let check = |name: &str, found: f64, expected: &Value| {
            assert_close(found, expected, || format!("{name} of {pair:?}"));
        };
        for (name, kind) in [
            ("rouge1", RougeKind::N(1)),
            ("rouge2", RougeKind::N(2)),
            ("rouge3", RougeKind::N(3)),
            ("rougeL", RougeKind::L),
            ("rougeLsum", RougeKind::Lsum),
        ] {
            for (group, rouge) in [
                ("rouge", Rouge::new(kind)),
                ("rouge_stem", Rouge::stemmed(kind)),
            ] {
                let found = rouge.score(prediction, references);
                let expected = &case[group][name];
                check(name, found.precision, &expected[0]);
                check(name, found.recall, &expected[1]);
                check(name, found.f, &expected[2]);
            }
        }
        let bleu = Bleu::default().sentence(prediction, references);
        check("bleu", bleu, &case["bleu"]);
        for (name, chrf) in [("chrf", Chrf::default()), ("chrf++", Chrf::with_words(2))] {
            let found = chrf.score(&chrf.statistics(prediction, references));
            check(name, found, &case[name]);
        }
        let exact = exact_match(prediction, references);
        check("exact match", exact, &case["exact_match"]);
        check(
            "token F1",
            token_f1(prediction, references),
            &case["token_f1"],
        );
    }
}

fn tokenizer(name: &str) -> BleuTokenizer {
    let all = [
        BleuTokenizer::V13a,
        BleuTokenizer::Intl,
        BleuTokenizer::Char,
        BleuTokenizer::None,
    ];
    let named = all.into_iter().find(|tokenizer| tokenizer.name() == name);
    named.expect("a tokenizer that both know")
}

fn bleu(settings: &Value) -> Bleu {
    let value = settings["smooth_value"].as_f64();
    Bleu {
        tokenizer: tokenizer(text(settings, "tokenize")),
        smoothing: match text(settings, "smooth_method") {
            "exp" => Smoothing::Exp,
            "floor" => Smoothing::Floor(value.unwrap_or(0.1)),
            "add-k" => Smoothing::AddK(value.unwrap_or(1.0)),
            _ => Smoothing::None,
        },
        lowercase: flag(settings, "lowercase"),
        effective_order: flag(settings, "effective_order"),
    }
}

fn chrf(settings: &Value) -> Chrf {
    let mut chrf = Chrf::with_words(number(&settings["word_order"]) as usize);
    chrf.beta = number(&settings["beta"]) as u32;
    chrf.lowercase = flag(settings, "lowercase");
    chrf.whitespace = flag(settings, "whitespace");
    chrf.eps_smoothing = flag(settings, "eps_smoothing");
    chrf
}

#[test]
fn corpora_score_as_sacrebleu_scores_them_under_every_setting() {
    let goldens = golden("cases.json");
    let pairs = pairs(&goldens);
    for row in list(&goldens, "corpora") {
        let end = |i: usize| number(&row["range"][i]) as usize;
        let part = &pairs[end(0)..end(1)];
        let settings = &row["settings"];
        let metric = match text(row, "metric") {
            "bleu" => Metric::Bleu(bleu(settings)),
            _ => Metric::Chrf(chrf(settings)),
        };
        let measured = etude_scores::Measured::new(&metric, part).expect("references");
        let value = measured.value().expect("a score");
        assert_close(value, &row["score"], || row.to_string());
        assert_eq!(metric.signature(part), text(row, "signature"), "{row}");
        match metric {
            Metric::Bleu(bleu) => check_parts(&bleu, part, row),
            Metric::Chrf(chrf) => assert_eq!(chrf.label(), text(row, "label")),
            _ => unreachable!("the goldens have two metrics"),
        }
    }
}

fn check_parts(bleu: &Bleu, part: &[Pair], row: &Value) {
    let mut sum = etude_scores::BleuStatistics::default();
    for pair in part {
        sum += bleu.statistics(&pair.prediction, &pair.references);
    }
    let found = bleu.score(&sum);
    let expected = &row["brevity_penalty"];
    assert_close(found.brevity_penalty, expected, || row.to_string());
    for (precision, expected) in found.precisions.iter().zip(list(row, "precisions")) {
        assert_close(*precision, expected, || row.to_string());
    }
}

#[test]
fn rouge_of_a_corpus_is_the_mean_of_its_items() {
    let goldens = golden("cases.json");
    let (pairs, cases) = (pairs(&goldens), list(&goldens, "cases"));
    let sum: f64 = cases
        .iter()
        .map(|case| number(&case["rouge"]["rougeL"][2]))
        .sum();
    let score = Metric::parse("rouge_l")
        .and_then(|m| m.score(&pairs))
        .expect("a score");
    assert!((score.value - sum / cases.len() as f64).abs() <= TOLERANCE);
    assert!(score.low < score.value && score.value < score.high);
}

#[test]
fn tokens_are_those_of_sacrebleu() {
    let goldens = golden("cases.json");
    for row in list(&goldens, "tokens") {
        // BLEU strips the end of a segment before any tokenizer sees it; these texts end so too.
        let found = tokenizer(text(row, "tokenizer")).tokenize(text(row, "text").trim_end());
        assert_eq!(serde_json::json!(found), row["tokens"], "{row}");
    }
}

/// FNV-1a of words, each followed by a line end.
fn digest(words: impl Iterator<Item = String>) -> String {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    for word in words {
        for byte in word.bytes().chain([b'\n']) {
            digest = (digest ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    format!("{digest:016x}")
}

#[test]
fn stems_are_those_of_nltk() {
    let goldens = golden("stems.json");
    for pair in text(&goldens, "explicit").split(' ') {
        let (word, expected) = pair.split_once('>').expect("word>stem");
        assert_eq!(stem(word), expected, "{word}");
    }
    let bases: Vec<&str> = text(&goldens, "bases").split(' ').collect();
    let endings: Vec<&str> = text(&goldens, "endings").split(' ').chain([""]).collect();
    assert!(bases.len() * endings.len() > 30_000);
    for ending in &endings {
        let found = digest(bases.iter().map(|base| stem(&format!("{base}{ending}"))));
        assert_eq!(
            found,
            text(&goldens["by_ending"], ending),
            "words in -{ending}"
        );
    }
    let letters = text(&goldens, "letters").as_bytes();
    for (block, expected) in (0..).zip(list(&goldens, "made_up")) {
        let mut state: u64 = block;
        let mut draw = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let words = (0..2000).map(|_| {
            let length = draw(9);
            let mut word: String = (0..length)
                .map(|_| letters[draw(letters.len())] as char)
                .collect();
            word += endings[draw(endings.len())];
            stem(&word)
        });
        assert_eq!(
            digest(words),
            expected.as_str().expect("a digest"),
            "block {block}"
        );
    }
}
