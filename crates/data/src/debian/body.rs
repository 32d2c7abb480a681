//! The lines of a description as paragraphs (Debian Policy, 5.6.13): a line that starts flush belongs to
//! a paragraph that is filled anew, a lone dot is an empty line, deeper lines stay as they are. Items of
//! lists, which authors write both ways, are told by their bullets.

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Lines to be filled.
    Flow,
    /// An item of a list, without its bullet.
    Item,
    /// Lines that stay as they are.
    Verbatim,
}

/// Lines that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// What it is.
    pub(super) kind: Kind,
    /// Its text; lines are joined unless it is verbatim.
    pub(super) text: String,
}

/// The blocks between empty lines. No chunk is empty.
pub(super) fn chunks(body: &[String]) -> Vec<Vec<Block>> {
    let mut chunks = Vec::new();
    let mut open: Vec<Block> = Vec::new();
    // How deep the item that is open begins.
    let mut depth = 0;
    for line in body {
        let text = line.trim();
        if text.is_empty() || text == "." {
            if !open.is_empty() {
                chunks.push(std::mem::take(&mut open));
            }
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        if let Some(item) = item(text) {
            depth = indent;
            open.push(Block {
                kind: Kind::Item,
                text: item.to_string(),
            });
            continue;
        }
        let goes_on = |block: &Block| match block.kind {
            Kind::Flow => indent == 0,
            Kind::Item => indent > depth || (indent == 0 && depth == 0),
            Kind::Verbatim => indent > 0,
        };
        match open.last_mut().filter(|block| goes_on(block)) {
            Some(block) => {
                match block.kind {
                    Kind::Verbatim => block.text.push('\n'),
                    _ if hyphenated(&block.text, text) => {}
                    _ => block.text.push(' '),
                }
                block.text.push_str(text);
            }
            None => open.push(Block {
                kind: if indent == 0 {
                    Kind::Flow
                } else {
                    Kind::Verbatim
                },
                text: text.to_string(),
            }),
        }
    }
    if !open.is_empty() {
        chunks.push(open);
    }
    for block in chunks.iter_mut().flatten() {
        if block.kind != Kind::Verbatim {
            block.text = block.text.split_whitespace().collect::<Vec<_>>().join(" ");
        }
    }
    chunks
}

/// Whether the line's end is inside of a word: after `Monopoly-` before `like`, but not in `input- and
/// output`, where the blank belongs.
fn hyphenated(before: &str, after: &str) -> bool {
    let word = before
        .strip_suffix('-')
        .is_some_and(|rest| rest.ends_with(char::is_alphanumeric));
    let next = after.split(' ').next().unwrap_or_default();
    let joins = [
        "and", "or", "und", "oder", "bzw.", "et", "ou", "e", "o", "y",
    ]
    .contains(&next);
    word && !joins && next.starts_with(char::is_alphanumeric)
}

/// What follows the bullet or number, if the line begins an item.
fn item(text: &str) -> Option<&str> {
    let (mark, rest) = text.split_once([' ', '\t', '\u{a0}'])?;
    let number = mark
        .strip_suffix(['.', ')'])
        .is_some_and(|n| (1..=2).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit()));
    let bullet = matches!(mark, "*" | "-" | "+" | "o" | "•" | "·" | "–" | "--" | "**");
    let rest = rest.trim_start();
    ((bullet || number) && !rest.is_empty()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(body: &str) -> Vec<Vec<String>> {
        let lines: Vec<String> = body.lines().map(str::to_string).collect();
        let show = |block: &Block| format!("{:?}: {}", block.kind, block.text);
        chunks(&lines)
            .iter()
            .map(|chunk| chunk.iter().map(show).collect())
            .collect()
    }

    #[test]
    fn paragraphs_are_filled_and_deeper_lines_stay() {
        assert_eq!(
            shown("one\ntwo\n.\n.\n  verse one\n  verse two\nthree"),
            vec![
                vec!["Flow: one two"],
                vec!["Verbatim: verse one\nverse two", "Flow: three"]
            ]
        );
        assert!(chunks(&[]).is_empty());
        assert_eq!(
            shown("a Monopoly-\nlike game, input-\nand output -\nx"),
            vec![vec!["Flow: a Monopoly-like game, input- and output - x"]]
        );
    }

    #[test]
    fn items_are_told_by_their_bullets_at_any_depth() {
        assert_eq!(
            shown("List:\n * one\n   more\n * two\nAfter."),
            vec![vec![
                "Flow: List:",
                "Item: one more",
                "Item: two",
                "Flow: After."
            ]]
        );
        assert_eq!(
            shown("- one\n  more\n- two\nmore\n.\n 1. first\n 2) second"),
            vec![
                vec!["Item: one more", "Item: two more"],
                vec!["Item: first", "Item: second"]
            ]
        );
        assert_eq!(shown("-flag\n3 items"), vec![vec!["Flow: -flag 3 items"]]);
    }
}
