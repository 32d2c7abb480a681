//! The supervision ledger: where every record, character and token of a recipe went, from the files to the
//! optimizer, as accounts with two sides that must be equal. What one account passes on, the next receives
//! under the same key. What does not add up is not hidden: [`Ledger::rests`] names it.
//!
//! The sides are counted apart (one where things are read, the other by what became of each), so an unexplained
//! rest means that something was lost or counted twice. Counting is left to whoever does the work.

mod ask;
mod near;
mod similar;
mod unused;
mod view;
mod warn;

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

pub use ask::{Asked, Inspection, Seen};
pub(crate) use near::{NearDocuments, NearPair};
pub use similar::{Similar, Texts};
pub use unused::unused_fields;
pub use view::{BatchView, ExampleView, RowView, SegmentView, TokenView, spelled};
pub use warn::{Finding, counted, findings};

/// How much of something, in each unit that is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Records, documents, examples or windows.
    pub items: u64,
    /// Unicode characters.
    pub characters: u64,
    /// Bytes of UTF-8.
    pub bytes: u64,
    /// Tokens, or places of a batch.
    pub tokens: u64,
}

impl Amount {
    /// One item of these texts.
    pub fn of<'t>(texts: impl IntoIterator<Item = &'t str>) -> Amount {
        let mut amount = Amount {
            items: 1,
            ..Amount::default()
        };
        for text in texts {
            amount.characters += text.chars().count() as u64;
            amount.bytes += text.len() as u64;
        }
        amount
    }

    /// So many tokens of so many items.
    pub fn tokens(items: u64, tokens: u64) -> Amount {
        Amount {
            items,
            tokens,
            ..Amount::default()
        }
    }

    /// What one unit says.
    pub fn get(&self, unit: Unit) -> u64 {
        match unit {
            Unit::Items => self.items,
            Unit::Characters => self.characters,
            Unit::Bytes => self.bytes,
            Unit::Tokens => self.tokens,
        }
    }

    /// The same, `times` over.
    pub fn times(self, times: u64) -> Amount {
        Amount {
            items: self.items * times,
            characters: self.characters * times,
            bytes: self.bytes * times,
            tokens: self.tokens * times,
        }
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Amount) {
        self.items += other.items;
        self.characters += other.characters;
        self.bytes += other.bytes;
        self.tokens += other.tokens;
    }
}

/// What an account counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Records, documents, examples or windows.
    Items,
    /// Characters.
    Characters,
    /// Bytes.
    Bytes,
    /// Tokens.
    Tokens,
}

impl Unit {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Items => "items",
            Unit::Characters => "characters",
            Unit::Bytes => "bytes",
            Unit::Tokens => "tokens",
        }
    }
}

/// One line of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What it is.
    pub name: String,
    /// Lines of one key, in whatever accounts, must be equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How much.
    #[serde(flatten)]
    pub amount: Amount,
    /// The first places (`file:line`) where it happened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<String>,
}

impl Line {
    /// A line.
    pub fn new(name: impl Into<String>, amount: Amount) -> Line {
        Line {
            name: name.into(),
            key: None,
            amount,
            places: Vec::new(),
        }
    }

    /// The same, tied to the lines of that key.
    pub fn keyed(mut self, key: impl Into<String>) -> Line {
        self.key = Some(key.into());
        self
    }

    /// The same, with places where it happened.
    pub fn at(mut self, places: Vec<String>) -> Line {
        self.places = places;
        self
    }
}

/// What came in and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// What it is about.
    pub title: String,
    /// The units in which its sides are equal.
    pub units: Vec<Unit>,
    /// What came in.
    #[serde(rename = "in")]
    pub incoming: Vec<Line>,
    /// What became of it.
    #[serde(rename = "out")]
    pub outgoing: Vec<Line>,
}

/// What does not add up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// The account, or the two lines that are not equal.
    pub place: String,
    /// The unit.
    pub unit: Unit,
    /// What came in.
    pub incoming: u64,
    /// What of it is accounted for.
    pub outgoing: u64,
}

/// All accounts of a recipe, and what was found in its data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// In the order of events.
    pub accounts: Vec<Account>,
    /// What should be looked at.
    pub warnings: Vec<Finding>,
    /// What does not add up: nothing, unless there is a bug.
    pub rests: Vec<Rest>,
}

impl Ledger {
    /// The books, closed: what does not add up is written into them.
    pub fn closed(accounts: Vec<Account>, warnings: Vec<Finding>) -> Ledger {
        let rests = rests(&accounts);
        Ledger {
            accounts,
            warnings,
            rests,
        }
    }

    /// The first line of that key.
    pub fn line(&self, key: &str) -> Option<&Line> {
        let lines = self
            .accounts
            .iter()
            .flat_map(|account| account.incoming.iter().chain(&account.outgoing));
        lines
            .into_iter()
            .find(|line| line.key.as_deref() == Some(key))
    }
}

/// Checks the books: both sides of each account, and lines that one account passes on to another.
pub fn rests(accounts: &[Account]) -> Vec<Rest> {
    let mut rests = Vec::new();
    let mut keyed: Vec<(&Account, &Line)> = Vec::new();
    for account in accounts {
        for &unit in &account.units {
            let sum = |lines: &[Line]| lines.iter().map(|line| line.amount.get(unit)).sum();
            let (incoming, outgoing) = (sum(&account.incoming), sum(&account.outgoing));
            if incoming != outgoing {
                rests.push(Rest {
                    place: account.title.clone(),
                    unit,
                    incoming,
                    outgoing,
                });
            }
        }
        let lines = account.incoming.iter().chain(&account.outgoing);
        for line in lines.filter(|line| line.key.is_some()) {
            let first = keyed.iter().find(|(_, known)| known.key == line.key);
            let Some((giver, given)) = first else {
                keyed.push((account, line));
                continue;
            };
            for &unit in giver
                .units
                .iter()
                .filter(|unit| account.units.contains(unit))
            {
                let (incoming, outgoing) = (given.amount.get(unit), line.amount.get(unit));
                if incoming != outgoing {
                    let place = format!("{}: {}", account.title, line.name);
                    rests.push(Rest {
                        place,
                        unit,
                        incoming,
                        outgoing,
                    });
                }
            }
        }
    }
    rests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(title: &str, units: &[Unit], incoming: Vec<Line>, outgoing: Vec<Line>) -> Account {
        Account {
            title: title.into(),
            units: units.to_vec(),
            incoming,
            outgoing,
        }
    }

    #[test]
    fn what_is_missing_or_counted_twice_is_named() {
        let line = |items, tokens| Line::new("x", Amount::tokens(items, tokens));
        let both = [Unit::Items, Unit::Tokens];
        let good = account(
            "one",
            &both,
            vec![line(3, 30)],
            vec![line(1, 10), line(2, 20)],
        );
        assert_eq!(rests(std::slice::from_ref(&good)), []);
        let lost = account(
            "two",
            &both,
            vec![line(3, 30)],
            vec![line(1, 10), line(2, 19)],
        );
        let found = rests(&[good, lost]);
        assert_eq!(found.len(), 1);
        let Rest {
            place,
            unit,
            incoming,
            outgoing,
        } = &found[0];
        assert_eq!(
            (place.as_str(), *unit, *incoming, *outgoing),
            ("two", Unit::Tokens, 30, 29)
        );
    }

    #[test]
    fn what_one_account_passes_on_the_next_receives() {
        let line = |tokens| Line::new("x", Amount::tokens(1, tokens)).keyed("k");
        let tokens = [Unit::Tokens];
        let first = account("first", &tokens, vec![line(5)], vec![line(5)]);
        let next = |tokens_in| {
            account(
                "next",
                &tokens,
                vec![line(tokens_in)],
                vec![Line::new("y", Amount::tokens(0, tokens_in))],
            )
        };
        assert_eq!(rests(&[first.clone(), next(5)]), []);
        let found = rests(&[first, next(4)]);
        assert_eq!(
            (
                found[0].place.as_str(),
                found[0].incoming,
                found[0].outgoing
            ),
            ("next: x", 5, 4)
        );
    }
}
