//! How text is cut into words before BPE: GGUF has a name for each way, `tokenizer.json` the rule itself.

use serde_json::{Value as Json, json};

/// One way, with what goes along with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PreTokenizer {
    /// GGUF's names; the first is the one to write.
    names: &'static [&'static str],
    rule: Rule,
    /// A word that is a token is taken whole, whatever the merges say.
    ignores_merges: bool,
    /// Text is normalized to NFC.
    nfc: bool,
    /// Texts begin with the beginning token unless the file says otherwise.
    adds_bos: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// GPT-2's pattern.
    Gpt2,
    /// Each digit by itself, then GPT-2's pattern.
    DigitsGpt2,
    /// Another pattern.
    Pattern(&'static str),
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const KNOWN: [PreTokenizer; 5] = [
    PreTokenizer::GPT2,
    PreTokenizer {
        names: &["smollm", "starcoder", "codeshell", "refact"],
        rule: Rule::DigitsGpt2,
        ..PreTokenizer::GPT2
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        rule: Rule::Pattern(LLAMA3),
        ignores_merges: true,
        adds_bos: true,
        ..PreTokenizer::GPT2
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen", "megrez"],
        rule: Rule::Pattern(QWEN2),
        nfc: true,
        ..PreTokenizer::GPT2
    },
    PreTokenizer {
        names: &["tekken"],
        rule: Rule::Pattern(TEKKEN),
        ignores_merges: true,
        adds_bos: true,
        ..PreTokenizer::GPT2
    },
];

impl PreTokenizer {
    /// GPT-2's.
    pub(super) const GPT2: PreTokenizer = PreTokenizer {
        names: &["gpt-2"],
        rule: Rule::Gpt2,
        ignores_merges: false,
        nfc: false,
        adds_bos: false,
    };

    /// The one of GGUF's name, or else the names that are known.
    pub(super) fn named(name: &str) -> Result<PreTokenizer, String> {
        let found = KNOWN.into_iter().find(|known| known.names.contains(&name));
        found.ok_or_else(|| {
            let names: Vec<&str> = KNOWN
                .iter()
                .flat_map(|known| known.names)
                .copied()
                .collect();
            names.join(", ")
        })
    }

    /// The one that a `tokenizer.json` describes, if GGUF has a name for it and all that goes with the name.
    pub(super) fn recognise(json: &Json) -> Option<PreTokenizer> {
        let found = Self::of_rule(&json["pre_tokenizer"])?;
        let normalizer = &json["normalizer"];
        let inside = match normalizer["type"] == "Sequence" {
            true => normalizer["normalizers"].as_array()?.as_slice(),
            false => std::slice::from_ref(normalizer),
        };
        let nfc = match inside {
            [] | [Json::Null] => false,
            [one] if one["type"] == "NFC" => true,
            _ => return None,
        };
        let ignores_merges = json["model"]["ignore_merges"] == true;
        (found.nfc == nfc && found.ignores_merges == ignores_merges).then_some(found)
    }

    fn of_rule(json: &Json) -> Option<PreTokenizer> {
        let parts = match json["type"].as_str()? {
            "Sequence" => json["pretokenizers"].as_array()?.as_slice(),
            _ => std::slice::from_ref(json),
        };
        let (byte_level, before) = parts.split_last()?;
        if byte_level["type"] != "ByteLevel" || byte_level["add_prefix_space"] == true {
            return None;
        }
        let cuts = byte_level["use_regex"] != false;
        let rule = |rule: Rule| KNOWN.into_iter().find(|known| known.rule == rule);
        match before {
            [] if cuts => rule(Rule::Gpt2),
            [digits] if cuts && digits["individual_digits"] == true => rule(Rule::DigitsGpt2),
            [split] if !cuts && split["behavior"] == "Isolated" && split["invert"] == false => {
                let pattern = split["pattern"]["Regex"].as_str()?;
                KNOWN
                    .into_iter()
                    .find(|known| known.rule_pattern() == Some(pattern))
            }
            _ => None,
        }
    }

    fn rule_pattern(&self) -> Option<&'static str> {
        match self.rule {
            Rule::Pattern(pattern) => Some(pattern),
            _ => None,
        }
    }

    /// GGUF's name.
    pub(super) fn name(&self) -> &'static str {
        self.names[0]
    }

    pub(super) fn ignores_merges(&self) -> bool {
        self.ignores_merges
    }

    pub(super) fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// `tokenizer.json`'s normalizer.
    pub(super) fn normalizer(&self) -> Json {
        if self.nfc {
            json!({"type": "NFC"})
        } else {
            Json::Null
        }
    }

    /// `tokenizer.json`'s pre-tokenizer.
    pub(super) fn json(&self) -> Json {
        let byte_level = |cuts: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": cuts});
        let sequence = |first: Json, second: Json| json!({"type": "Sequence", "pretokenizers": [first, second]});
        match self.rule {
            Rule::Gpt2 => byte_level(true),
            Rule::DigitsGpt2 => sequence(
                json!({"type": "Digits", "individual_digits": true}),
                byte_level(true),
            ),
            Rule::Pattern(pattern) => sequence(
                json!({
                    "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false,
                }),
                byte_level(false),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_recognised_by_its_rule() {
        for known in KNOWN {
            let mut file = json!({
                "pre_tokenizer": known.json(), "normalizer": known.normalizer(),
                "model": {"ignore_merges": known.ignores_merges()},
            });
            assert_eq!(PreTokenizer::recognise(&file), Some(known));
            file["normalizer"] = json!({"type": "Lowercase"});
            assert_eq!(
                PreTokenizer::recognise(&file),
                None,
                "the name means no such thing"
            );
            for name in known.names {
                assert_eq!(PreTokenizer::named(name), Ok(known));
            }
        }
        let known = PreTokenizer::named("bert").expect_err("another kind");
        assert!(
            known.contains("smollm") && known.contains("qwen2"),
            "{known}"
        );
        let prefixed = json!({"type": "ByteLevel", "add_prefix_space": true, "use_regex": true});
        assert_eq!(
            PreTokenizer::recognise(&json!({"pre_tokenizer": prefixed})),
            None
        );
        assert_eq!(PreTokenizer::recognise(&Json::Null), None);
    }
}
