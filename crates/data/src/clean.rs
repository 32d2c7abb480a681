//! Clean-up of raw text: small pure functions from text to text, named in manifests.

use serde::{Deserialize, Serialize};

/// One clean-up step; a manifest lists the ones it wants, applied in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clean {
    /// A leading byte-order mark goes; `\r\n` and `\r` become `\n`.
    LineEnds,
    /// Project Gutenberg's licence before and after a text goes.
    Gutenberg,
    /// `<br />` becomes a new line, `<p>` a blank one, other tags go, entities become characters.
    Html,
    /// Runs of blanks become one, blanks at the ends of lines go, at most one empty line in a row.
    Spaces,
    /// An e-mail becomes its subject and its body; the other header lines go.
    Mail,
}

impl Clean {
    /// Applies the step.
    pub fn apply(self, text: &str) -> String {
        match self {
            Self::LineEnds => line_ends(text),
            Self::Gutenberg => gutenberg(text).to_string(),
            Self::Html => html(text),
            Self::Spaces => spaces(text),
            Self::Mail => mail(text),
        }
    }
}

fn line_ends(text: &str) -> String {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// The text between Gutenberg's `*** START OF` and `*** END OF` lines; a missing one means the file's end.
fn gutenberg(text: &str) -> &str {
    let marker = |word: &str| {
        let mut offset = 0;
        text.split_inclusive('\n').find_map(|line| {
            let start = offset;
            offset += line.len();
            let upper = line.trim_start().to_ascii_uppercase();
            let bare = upper.trim_start_matches('*').trim_start();
            let marked =
                upper.starts_with("***") && bare.starts_with(word) && bare.contains("GUTENBERG");
            marked.then_some((start, offset))
        })
    };
    let from = marker("START").map_or(0, |(_, after)| after);
    let to = marker("END").map_or(text.len(), |(start, _)| start);
    if from <= to {
        text[from..to].trim_matches(['\n', '\r', ' '])
    } else {
        text
    }
}

fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['<', '&']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (piece, length) = if rest.starts_with('<') {
            tag(rest)
        } else {
            entity(rest)
        };
        match piece {
            Some(piece) => out.push_str(&piece),
            // Not a tag or an entity after all: a lone `<` or `&` stays.
            None => out.push_str(&rest[..length]),
        }
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

/// What the tag at the start of `rest` becomes, and its length.
fn tag(rest: &str) -> (Option<String>, usize) {
    let named = rest[1..].starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '!');
    let Some(end) = rest.find('>').filter(|_| named) else {
        return (None, 1);
    };
    let name: String = rest[1..end]
        .trim_start_matches('/')
        .chars()
        .take_while(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase();
    let closing = rest[1..].starts_with('/');
    let becomes = match name.as_str() {
        "br" | "li" | "tr" => "\n",
        "p" | "div" if closing => "\n\n",
        _ => "",
    };
    (Some(becomes.to_string()), end + 1)
}

/// What the entity at the start of `rest` becomes, and its length.
fn entity(rest: &str) -> (Option<String>, usize) {
    let Some(end) = rest
        .char_indices()
        .take(12)
        .find(|(_, c)| *c == ';')
        .map(|(i, _)| i)
    else {
        return (None, 1);
    };
    let name = &rest[1..end];
    let character = match name.strip_prefix('#') {
        Some(number) => match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => number.parse().ok(),
        }
        .and_then(char::from_u32),
        None => named_entity(name),
    };
    character.map_or((None, 1), |c| (Some(c.to_string()), end + 1))
}

/// The Latin-1 letters' entities in code-point order from U+00C0, as HTML 4 names them.
const LATIN_1: &str = "Agrave Aacute Acirc Atilde Auml Aring AElig Ccedil Egrave Eacute Ecirc Euml \
    Igrave Iacute Icirc Iuml ETH Ntilde Ograve Oacute Ocirc Otilde Ouml times Oslash Ugrave Uacute \
    Ucirc Uuml Yacute THORN szlig agrave aacute acirc atilde auml aring aelig ccedil egrave eacute \
    ecirc euml igrave iacute icirc iuml eth ntilde ograve oacute ocirc otilde ouml divide oslash \
    ugrave uacute ucirc uuml yacute thorn yuml";

fn named_entity(name: &str) -> Option<char> {
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" | "ensp" | "emsp" | "thinsp" => ' ',
        "ndash" => '–',
        "mdash" => '—',
        "lsquo" => '‘',
        "rsquo" => '’',
        "ldquo" => '“',
        "rdquo" => '”',
        "hellip" => '…',
        "bull" => '•',
        "deg" => '°',
        "pound" => '£',
        "euro" => '€',
        "yen" => '¥',
        "sect" => '§',
        "middot" => '·',
        "plusmn" => '±',
        "frac12" => '½',
        "frac14" => '¼',
        "frac34" => '¾',
        "laquo" => '«',
        "raquo" => '»',
        "copy" => '©',
        "reg" => '®',
        "trade" => '™',
        "acute" => '´',
        "ordm" => 'º',
        "ordf" => 'ª',
        "sup2" => '²',
        "sup3" => '³',
        "scaron" => 'š',
        "Scaron" => 'Š',
        "oelig" => 'œ',
        "OElig" => 'Œ',
        "minus" => '−',
        _ => {
            let place = LATIN_1.split_whitespace().position(|known| known == name)?;
            return char::from_u32(0xC0 + u32::try_from(place).ok()?);
        }
    })
}

fn spaces(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut empty_lines = 0;
    for line in text.lines() {
        let mut words = line.split_whitespace().peekable();
        if words.peek().is_none() {
            empty_lines += 1;
            continue;
        }
        if !out.is_empty() {
            out.push_str(if empty_lines > 0 { "\n\n" } else { "\n" });
        }
        empty_lines = 0;
        let mut first = true;
        for word in words {
            if !first {
                out.push(' ');
            }
            first = false;
            out.push_str(word);
        }
    }
    out
}

fn mail(text: &str) -> String {
    let text = line_ends(text);
    let (head, body) = text.split_once("\n\n").unwrap_or(("", &text));
    let mut subject = String::new();
    let mut inside = false;
    for line in head.lines() {
        if inside && line.starts_with([' ', '\t']) {
            subject.push(' ');
            subject.push_str(line.trim());
            continue;
        }
        inside = line
            .get(..8)
            .is_some_and(|name| name.eq_ignore_ascii_case("subject:"));
        if inside {
            subject.push_str(line[8..].trim());
        }
    }
    if subject.is_empty() {
        body.to_string()
    } else {
        format!("Subject: {subject}\n\n{body}")
    }
}

/// Cuts `text` to at most `limit` characters, at the end of a word where there is one.
pub fn cut_at_word(text: &str, limit: usize) -> &str {
    let Some((end, next)) = text.char_indices().nth(limit) else {
        return text;
    };
    let head = &text[..end];
    if next.is_whitespace() {
        return head.trim_end();
    }
    match head.rfind(char::is_whitespace) {
        Some(space) if !head[..space].trim_end().is_empty() => head[..space].trim_end(),
        _ => head,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_becomes_text() {
        assert_eq!(
            Clean::Html.apply("a<br /><br />b <i>c</i> &amp; d"),
            "a\n\nb c & d"
        );
        assert_eq!(
            Clean::Html.apply("R&eacute;publique &#8217;&#x41; 1 < 2 & AT&T;"),
            "République ’A 1 < 2 & AT&T;"
        );
        assert_eq!(Clean::Html.apply("<p>one</p><p>two</p>"), "one\n\ntwo\n\n");
        assert_eq!(named_entity("yuml"), Some('ÿ'));
        assert_eq!(named_entity("szlig"), Some('ß'));
    }

    #[test]
    fn gutenberg_boilerplate_goes_and_its_absence_is_harmless() {
        let text = "Licence\n*** START OF THE PROJECT GUTENBERG EBOOK X ***\n\nBody.\nMore.\n\n\
                    *** END OF THE PROJECT GUTENBERG EBOOK X ***\nLegal\n";
        assert_eq!(Clean::Gutenberg.apply(text), "Body.\nMore.");
        assert_eq!(
            Clean::Gutenberg.apply("Body *** START here\n"),
            "Body *** START here"
        );
    }

    #[test]
    fn spaces_and_line_ends() {
        assert_eq!(Clean::Spaces.apply("  a \t b \n\n\n\n c\n"), "a b\n\nc");
        assert_eq!(Clean::LineEnds.apply("\u{feff}a\r\nb\rc"), "a\nb\nc");
    }

    #[test]
    fn mails_keep_subject_and_body() {
        let text = "From: x\r\nSubject: Good\r\n news\r\nTo: y\r\n\r\nHello,\r\n\r\nthere\r\n";
        assert_eq!(
            Clean::Mail.apply(text),
            "Subject: Good news\n\nHello,\n\nthere\n"
        );
    }

    #[test]
    fn cuts_fall_between_words() {
        assert_eq!(cut_at_word("one two three", 20), "one two three");
        assert_eq!(cut_at_word("one two three", 7), "one two");
        assert_eq!(cut_at_word("one two three", 9), "one two");
        assert_eq!(cut_at_word("éééééééé", 3), "ééé");
        assert_eq!(cut_at_word("one two ", 4), "one");
    }
}
