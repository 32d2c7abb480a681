//! A strict reader of the report's HTML: every tag closed in order, every attribute quoted, every
//! anchor and label pointing somewhere.

use std::collections::HashSet;
use std::path::Path;

const VOID: [&str; 4] = ["meta", "br", "hr", "doctype"];

/// One tag of the page.
struct Tag {
    name: String,
    attributes: Vec<(String, String)>,
    closing: bool,
    closed: bool,
}

/// A piece of the page: a tag or the text between two.
enum Piece {
    Tag(Tag),
    Text(String),
}

/// Panics at the first thing that is not well formed.
pub(crate) fn check(page: &str) {
    assert!(page.starts_with("<!doctype html>"));
    let mut open: Vec<String> = Vec::new();
    let (mut ids, mut wanted) = (HashSet::new(), Vec::new());
    for piece in pieces(page) {
        let Piece::Tag(tag) = piece else { continue };
        if tag.closing {
            assert_eq!(
                open.pop().as_deref(),
                Some(tag.name.as_str()),
                "closed out of order"
            );
            continue;
        }
        let mut names = HashSet::new();
        for (name, value) in &tag.attributes {
            assert!(names.insert(name), "{} has {name} twice", tag.name);
            match name.as_str() {
                "id" => assert!(ids.insert(value.clone()), "the id {value} stands twice"),
                "aria-labelledby" => wanted.extend(value.split(' ').map(str::to_owned)),
                "href" if value.starts_with('#') => wanted.push(value[1..].to_owned()),
                _ => {}
            }
        }
        if tag.name == "svg" {
            assert!(
                tag.attributes
                    .iter()
                    .any(|(name, _)| name == "aria-labelledby"),
                "a chart without a label"
            );
        }
        if !tag.closed && !VOID.contains(&tag.name.as_str()) {
            open.push(tag.name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
    for id in wanted {
        assert!(ids.contains(&id), "nothing has the id {id}");
    }
    for table in page.split("<table").skip(1) {
        let table = table.split("</table>").next().unwrap_or_default();
        assert!(
            table.contains("<caption>")
                && table.contains("scope=\"col\"")
                && table.contains("scope=\"row\"")
        );
    }
}

/// The headings and table captions, outside of what is folded away.
pub(crate) fn outline(page: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let (mut inside, mut folded) = (false, 0);
    for piece in pieces(page) {
        match piece {
            Piece::Tag(tag) if tag.name == "details" => folded += if tag.closing { -1 } else { 1 },
            Piece::Tag(tag) if ["h1", "h2", "h3", "caption"].contains(&tag.name.as_str()) => {
                inside = !tag.closing && folded == 0;
                if inside {
                    out.push(tag.name);
                }
            }
            Piece::Text(text) if inside => {
                let last = out.last_mut().expect("a heading is open");
                *last = format!("{last} {}", text.trim()).trim().to_owned();
            }
            _ => {}
        }
    }
    out
}

fn pieces(page: &str) -> Vec<Piece> {
    let (mut out, mut rest) = (Vec::new(), page);
    while let Some(start) = rest.find('<') {
        out.push(Piece::Text(rest[..start].to_owned()));
        let (tag, after) = tag(&rest[start + 1..]);
        rest = after;
        // Style and script hold no tags, only their own end.
        if !tag.closing && ["style", "script"].contains(&tag.name.as_str()) {
            rest = &rest[rest
                .find(&format!("</{}>", tag.name))
                .expect("style or script ends")..];
        }
        out.push(Piece::Tag(tag));
    }
    assert!(rest.trim().is_empty(), "text after the page: {rest}");
    out
}

/// Reads one tag after its `<`; returns it and what follows its `>`.
fn tag(source: &str) -> (Tag, &str) {
    let (closing, source) = source
        .strip_prefix('/')
        .map_or((false, source), |rest| (true, rest));
    let source = source.strip_prefix('!').unwrap_or(source);
    let end = source
        .find(|c: char| !c.is_ascii_alphanumeric())
        .expect("a tag ends");
    assert!(
        end > 0,
        "a bare < before {:?}",
        source.chars().take(40).collect::<String>()
    );
    let name = source[..end].to_owned();
    let (mut rest, mut attributes) = (source[end..].trim_start(), Vec::new());
    loop {
        if let Some(after) = rest.strip_prefix('>') {
            return (
                Tag {
                    name,
                    attributes,
                    closing,
                    closed: false,
                },
                after,
            );
        }
        if let Some(after) = rest.strip_prefix("/>") {
            return (
                Tag {
                    name,
                    attributes,
                    closing,
                    closed: true,
                },
                after,
            );
        }
        let end = rest.find(['=', '>', ' ']).expect("an attribute ends");
        let key = rest[..end].to_owned();
        assert!(
            key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'),
            "{name} has the attribute {key:?}"
        );
        rest = &rest[end..];
        let Some(value) = rest.strip_prefix('=') else {
            attributes.push((key, String::new()));
            rest = rest.trim_start();
            continue;
        };
        let quote = value.chars().next().expect("a value follows");
        assert!(quote == '"' || quote == '\'', "{name} {key} is not quoted");
        let end = value[1..].find(quote).expect("a value ends") + 1;
        assert!(!value[1..end].contains('<'), "{name} {key} holds a tag");
        attributes.push((key, value[1..end].to_owned()));
        rest = value[end + 1..].trim_start();
    }
}

/// A report that was written, well formed.
pub(crate) fn page(path: &Path) -> String {
    let page = std::fs::read_to_string(path).expect("report");
    check(&page);
    // Slashes are escaped too; tests read better with slashes.
    page.replace("&#x2f;", "/")
}
