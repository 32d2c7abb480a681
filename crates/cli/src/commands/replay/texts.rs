//! The texts of a replayed step, token by token: coloured by what each cost, or marked where there are no colours.

use std::io::IsTerminal;

use etude_train::replay::{Example, Replay, TokenLoss};

use super::page::{excerpt, ranked};
use crate::output::{self, count, plain};

/// Tokens that are named as the costliest of a text.
const COSTLIEST: usize = 5;
/// Tokens before one of them that are shown with it.
const BEFORE: usize = 8;

/// Which texts are shown, and how.
pub(super) struct Shown<'a> {
    /// So many, those first that raise the loss most.
    pub(super) first: usize,
    /// These instead, by number.
    pub(super) chosen: &'a [usize],
    /// A token a line.
    pub(super) tokens: bool,
}

impl Shown<'_> {
    /// The texts.
    pub(super) fn text(&self, found: &Replay) -> String {
        let colour = std::io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let shown: Vec<&Example> = match self.chosen {
            [] => ranked(found).into_iter().take(self.first).collect(),
            chosen => chosen
                .iter()
                .map(|&number| &found.examples[number - 1])
                .collect(),
        };
        let mut text = match (shown.is_empty() || self.tokens, colour) {
            (true, _) => String::new(),
            (false, true) => format!(
                "\nBelow, supervised tokens are coloured by the probability that the model gave them: {}, {}, {}, {}; \
                 what is \x1b[2mpale\x1b[0m is context.\n",
                painted("half and more", "32"),
                painted("from 10%", "33"),
                painted("from 0.1%", "31"),
                painted("less", "1;37;41"),
            ),
            (false, false) => {
                "\nBelow, lines that begin with + are supervised, the others context; \u{23ce} is a line break.\n".to_owned()
            }
        };
        for example in shown {
            text += &heading(example);
            text += &match (self.tokens, colour) {
                (true, _) => table(&example.tokens),
                (false, true) => coloured(&example.tokens),
                (false, false) => marked(&example.tokens),
            };
            if !self.tokens {
                text += &costliest(&example.tokens);
            }
        }
        text
    }
}

fn heading(example: &Example) -> String {
    let mut text = format!("\nexample {}, row {}", example.number, example.row + 1);
    for origin in &example.origins {
        text += &format!(", {}", plain(&origin.to_string()));
        if !origin.to_string().ends_with(&origin.name) {
            text += &format!(" ({})", plain(&excerpt(&origin.name)));
        }
        if origin.truncated {
            text += ", cut to fit";
        }
    }
    text + &match example.supervised {
        0 => ": nothing supervised\n".to_owned(),
        supervised => format!(
            ": loss {:.4} over {} tokens\n",
            example.loss,
            count(supervised as u64)
        ),
    }
}

/// The tokens that cost most, with what stands before them.
fn costliest(tokens: &[TokenLoss]) -> String {
    let mut places: Vec<(usize, f64)> = tokens
        .iter()
        .enumerate()
        .filter_map(|(place, token)| Some((place, token.nats?)))
        .collect();
    places.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let rows = places.iter().take(COSTLIEST).map(|&(place, nats)| {
        let before = &tokens[place.saturating_sub(BEFORE)..place];
        let before: String = before.iter().map(|token| token.text.as_str()).collect();
        vec![
            format!("  {nats:.3} nats"),
            format!("p {}", probability((-nats).exp())),
            format!("{} after {before:?}", quoted(&tokens[place].text)),
        ]
    });
    output::columns(&rows.collect::<Vec<_>>())
}

/// A token's text. The first tokens of a character that has several have none.
fn quoted(text: &str) -> String {
    match text {
        "" => "the first part of a character".to_owned(),
        text => format!("{text:?}"),
    }
}

fn probability(p: f64) -> String {
    match p {
        p if p >= 0.001 || !p.is_finite() => format!("{:.1}%", 100.0 * p),
        p => format!("{p:.0e}"),
    }
}

/// A token a line.
fn table(tokens: &[TokenLoss]) -> String {
    let mut rows = vec![
        ["PLACE", "ID", "NATS", "P", "TEXT"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(tokens.iter().enumerate().map(|(place, token)| {
        vec![
            place.to_string(),
            token.id.to_string(),
            token
                .nats
                .map_or("-".to_owned(), |nats| format!("{nats:.4}")),
            token.probability.map_or("-".to_owned(), probability),
            quoted(&token.text),
        ]
    }));
    output::columns(&rows)
}

/// Text with what would move the cursor made visible, line breaks kept.
fn visible(text: &str) -> String {
    let shown = |c: char| {
        if c.is_control() && c != '\n' {
            '\u{fffd}'
        } else {
            c
        }
    };
    text.chars().map(shown).collect()
}

fn painted(text: &str, code: &str) -> String {
    format!("\x1b[{code}m{text}\x1b[0m")
}

fn coloured(tokens: &[TokenLoss]) -> String {
    let code = |token: &TokenLoss| match token.probability {
        None => "2",
        Some(p) if p >= 0.5 => "32",
        Some(p) if p >= 0.1 => "33",
        Some(p) if p >= 0.001 => "31",
        Some(_) => "1;37;41", // a loss that is not a number, too
    };
    let mut text = String::new();
    for run in tokens.chunk_by(|one, next| code(one) == code(next)) {
        let said: String = run.iter().map(|token| token.text.as_str()).collect();
        text += &painted(&visible(&said), code(&run[0]));
    }
    text + "\n"
}

fn marked(tokens: &[TokenLoss]) -> String {
    let mut text = String::new();
    for run in tokens.chunk_by(|one, next| one.supervised == next.supervised) {
        let said: String = run.iter().map(|token| token.text.as_str()).collect();
        let mark = if run[0].supervised { '+' } else { ' ' };
        for line in visible(&said).split_inclusive('\n') {
            text += &format!("{mark} {}\n", line.replace('\n', "\u{23ce}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, nats: Option<f64>) -> TokenLoss {
        TokenLoss {
            id: 0,
            text: text.into(),
            supervised: nats.is_some(),
            nats,
            probability: nats.map(|nats| (-nats).exp()),
        }
    }

    #[test]
    fn tokens_are_marked_coloured_and_the_costliest_named() {
        let tokens = [
            token("a\u{1b}\n", None),
            token("b", Some(0.1)),
            token("c", Some(9.0)),
            token("d", Some(f64::NAN)),
        ];
        assert_eq!(marked(&tokens), "  a\u{fffd}\u{23ce}\n+ bcd\n");
        assert_eq!(
            coloured(&tokens),
            "\x1b[2ma\u{fffd}\n\x1b[0m\x1b[32mb\x1b[0m\x1b[1;37;41mcd\x1b[0m\n"
        );
        let told = costliest(&tokens);
        let lines: Vec<&str> = told.lines().collect();
        assert!(
            lines[0].contains("NaN") && lines[0].contains("\"d\""),
            "{told}"
        );
        assert_eq!(
            lines[1],
            "  9.000 nats  p 1e-4   \"c\" after \"a\\u{1b}\\nb\""
        );
    }
}
