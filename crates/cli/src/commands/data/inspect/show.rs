//! An inspection as text: the accounts as tables, examples as flowing text (what is supervised in colour, or on
//! lines of its own with a mark) or a token a line.

use std::io::IsTerminal;

use etude_data::ledger::{
    Account, ExampleView, Inspection, Ledger, Line, SegmentView, TokenView, counted,
};

use crate::output::{self, count, plain};

/// All that was asked for.
pub(super) fn text(inspection: &Inspection, tokens: bool) -> String {
    let colour = std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let body = |views: &[TokenView]| match (tokens, colour) {
        (true, _) => table(views),
        (false, true) => coloured(views),
        (false, false) => marked(views),
    };
    let mut text = ledger(&inspection.ledger);
    if !tokens {
        text.push_str(match colour {
            true => "\nBelow, what is \x1b[1;32msupervised\x1b[0m is green, what the \x1b[2mtemplate\x1b[0m writes pale.\n",
            false => "\nBelow, lines that begin with + are supervised, the others context; \u{23ce} is a line break.\n",
        });
    }
    for example in &inspection.examples {
        text.push_str(&format!("\n{}\n", heading(example)));
        for answer in &example.also {
            text.push_str(&format!("right as well: {}\n", plain(answer)));
        }
        text.push_str(&body(&example.tokens));
    }
    if let Some(batch) = &inspection.batch {
        let shown = counted(batch.rows.len() as u64, "row", "rows");
        text.push_str(&format!(
            "\nbatch of step {}: {} places, {} of them padding, {} supervised; {shown} shown\n",
            batch.step,
            count(batch.places),
            count(batch.padding),
            count(batch.supervised),
        ));
        for (number, row) in batch.rows.iter().enumerate() {
            for segment in &row.segments {
                text.push_str(&format!("\nrow {}, {}\n", number + 1, origin(segment)));
                text.push_str(&body(&segment.tokens));
            }
            if row.padding > 0 {
                text.push_str(&format!("~ padding: {}\n", count(row.padding)));
            }
        }
    }
    text
}

fn heading(example: &ExampleView) -> String {
    let mut heading = format!("example {}, {}", example.number, plain(&example.source));
    if !example.source.ends_with(&example.id) {
        heading.push_str(&format!(", {}", plain(&example.id)));
    }
    if let Some(reason) = &example.left_out {
        heading.push_str(&format!(": left out: {reason}"));
    }
    let [prompt, answer] = example.cut;
    if prompt + answer > 0 {
        heading.push_str(&format!(
            "; cut: {} of the prompt, {answer} of the answer",
            counted(prompt, "token", "tokens")
        ));
    }
    heading
}

fn origin(segment: &SegmentView) -> String {
    format!("document {}, {}", segment.document, plain(&segment.source))
}

/// The books.
fn ledger(ledger: &Ledger) -> String {
    let mut text = String::new();
    for account in &ledger.accounts {
        text.push_str(&table_of(account));
        text.push('\n');
    }
    if ledger.rests.is_empty() {
        text.push_str("The books balance: every line above is accounted for.\n");
    }
    for rest in &ledger.rests {
        text.push_str(&format!(
            "UNEXPLAINED: {}: {} {} came in, {} are accounted for. This is a bug.\n",
            rest.place,
            count(rest.incoming),
            rest.unit.name(),
            count(rest.outgoing)
        ));
    }
    for finding in &ledger.warnings {
        text.push_str(&format!("warning: {}\n", plain(&finding.to_string())));
    }
    text
}

fn table_of(account: &Account) -> String {
    let cells = |line: &Line, side: &str| {
        let mut row = vec![format!("  {side:<4}{}", plain(&line.name))];
        row.extend(
            account
                .units
                .iter()
                .map(|&unit| count(line.amount.get(unit))),
        );
        row
    };
    let mut rows = vec![vec![account.title.clone()]];
    rows[0].extend(account.units.iter().map(|unit| unit.name().to_owned()));
    let mut side = "in";
    for line in &account.incoming {
        rows.push(cells(line, side));
        side = "";
    }
    side = "out";
    for line in &account.outgoing {
        rows.push(cells(line, side));
        side = "";
    }
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..=account.units.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            line.push_str(&format!("  {cell:>width$}"));
        }
        text.push_str(&format!("{}\n", line.trim_end()));
    }
    let places = account
        .outgoing
        .iter()
        .filter(|line| !line.places.is_empty());
    for line in places {
        text.push_str(&format!(
            "      {}: {}\n",
            plain(&line.name),
            plain(&line.places.join(", "))
        ));
    }
    text
}

/// A token a line.
fn table(tokens: &[TokenView]) -> String {
    let mut rows = vec![
        ["POSITION", "ID", "ROLE", "SUPERVISED", "TEXT"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(tokens.iter().map(|token| {
        let supervised = if token.supervised { "yes" } else { "no" };
        vec![
            token.position.to_string(),
            token.id.to_string(),
            token.role.to_owned(),
            supervised.to_owned(),
            format!("{:?}", token.text),
        ]
    }));
    output::columns(&rows)
}

/// Text with what would move the cursor made visible, line breaks kept.
fn visible(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

fn coloured(tokens: &[TokenView]) -> String {
    let mut text = String::new();
    for run in tokens.chunk_by(|a, b| (a.supervised, a.role) == (b.supervised, b.role)) {
        let said: String = run.iter().map(|token| token.text.as_str()).collect();
        let code = match (run[0].supervised, run[0].role) {
            (true, _) => "1;32",
            (false, "template") => "2",
            (false, "system") => "35",
            _ => "0",
        };
        text.push_str(&format!("\x1b[{code}m{}\x1b[0m", visible(&said)));
    }
    text.push('\n');
    text
}

fn marked(tokens: &[TokenView]) -> String {
    let mut text = String::new();
    for run in tokens.chunk_by(|a, b| a.supervised == b.supervised) {
        let said: String = run.iter().map(|token| token.text.as_str()).collect();
        let mark = if run[0].supervised { '+' } else { ' ' };
        for line in visible(&said).split_inclusive('\n') {
            text.push_str(&format!("{mark} {}\n", line.replace('\n', "\u{23ce}")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use etude_data::ledger::{Amount, Unit};

    #[test]
    fn marks_are_unambiguous_without_colour() {
        let token = |text: &str, supervised| TokenView {
            text: text.into(),
            id: 0,
            role: "user",
            position: 0,
            supervised,
        };
        let tokens = [
            token("a\n", false),
            token("+ b\u{1b}", false),
            token("c\nd", true),
        ];
        assert_eq!(
            marked(&tokens),
            "  a\u{23ce}\n  + b\u{fffd}\n+ c\u{23ce}\n+ d\n"
        );
    }

    #[test]
    fn columns_are_those_of_the_accounts_units() {
        let account = Account {
            title: "t".into(),
            units: vec![Unit::Tokens],
            incoming: vec![Line::new("all", Amount::tokens(9, 1234))],
            outgoing: vec![Line::new("some", Amount::tokens(9, 1234))],
        };
        assert_eq!(
            table_of(&account),
            "t           tokens\n  in  all    1,234\n  out some   1,234\n"
        );
    }
}
