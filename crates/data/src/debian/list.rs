//! Reads a list of descriptions as apt keeps it: stanzas between empty lines, each with `Package`,
//! `Description-md5` and `Description-LANGUAGE`, whose further lines begin with a blank (Debian Policy,
//! 5.1 and 5.6.13). The list is read line by line and nothing in it is trusted.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use crate::error::DataError;

/// Most bytes of a line, and of a whole description. Debian's longest has 20,000.
const MAX_LINE: u64 = 1 << 16;
const MAX_BODY: usize = 1 << 18;

/// A description of a package in one language.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Description {
    /// The package's name.
    pub(super) package: String,
    /// The hash of the English text that this is, or is a translation of.
    pub(super) md5: String,
    /// The first line.
    pub(super) synopsis: String,
    /// The other lines, each without its first blank.
    pub(super) body: Vec<String>,
}

/// Hands every description of the list to `sink`.
///
/// # Errors
/// The first line that is not as it should be.
pub(super) fn read(
    path: &Path,
    language: &str,
    sink: &mut dyn FnMut(Description),
) -> Result<(), DataError> {
    let file = File::open(path).map_err(DataError::io("open", path))?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut stanza = Stanza::new(path, language);
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let length = (&mut reader)
            .take(MAX_LINE)
            .read_until(b'\n', &mut bytes)
            .map_err(DataError::io("read", path))?;
        if length == 0 {
            break;
        }
        stanza.line += 1;
        if length as u64 == MAX_LINE {
            return Err(stanza.wrong(format!("the line has over {MAX_LINE} bytes")));
        }
        let text = match std::str::from_utf8(&bytes) {
            // French translators write the blank that must not break as a dot that can be seen.
            Ok(text) => text.trim_end_matches(['\n', '\r']).replace('⋅', "\u{a0}"),
            Err(_) => return Err(stanza.wrong("the line is not UTF-8")),
        };
        if text.is_empty() {
            stanza.finish(sink)?;
        } else {
            stanza.take(&text)?;
        }
    }
    stanza.finish(sink)
}

/// The stanza that is being read.
struct Stanza<'a> {
    path: &'a Path,
    /// The field that holds the text: `Description-de`.
    field: String,
    /// The number of the line that was read last.
    line: u64,
    /// Whether a field of it was read, and whether its further lines are the description's.
    open: bool,
    inside: bool,
    found: Description,
    bytes: usize,
}

impl<'a> Stanza<'a> {
    fn new(path: &'a Path, language: &str) -> Self {
        Self {
            path,
            field: format!("Description-{language}"),
            line: 0,
            open: false,
            inside: false,
            found: Description::default(),
            bytes: 0,
        }
    }

    fn wrong(&self, what: impl Into<String>) -> DataError {
        DataError::at_line(self.path, self.line, what, "fetch the list again")
    }

    /// One line that is not empty.
    fn take(&mut self, text: &str) -> Result<(), DataError> {
        self.bytes += text.len();
        if self.bytes > MAX_BODY {
            return Err(self.wrong(format!("the stanza has over {MAX_BODY} bytes")));
        }
        if let Some(further) = text.strip_prefix([' ', '\t']) {
            if !self.open {
                return Err(self.wrong("a field is continued that never began"));
            }
            if self.inside {
                self.found.body.push(further.trim_end().to_string());
            }
            return Ok(());
        }
        let Some((name, value)) = text.split_once(':') else {
            return Err(self.wrong("neither a field, nor its continuation, nor empty"));
        };
        self.open = true;
        self.inside = false;
        let value = value.trim();
        let field = match name {
            "Package" => &mut self.found.package,
            "Description-md5" => &mut self.found.md5,
            _ if name == self.field => {
                self.inside = true;
                &mut self.found.synopsis
            }
            _ => return Ok(()),
        };
        if !field.is_empty() {
            return Err(self.wrong(format!("a second `{name}` in one stanza")));
        }
        *field = value.to_string();
        Ok(())
    }

    /// The stanza's end: an empty line, or the list's end.
    fn finish(&mut self, sink: &mut dyn FnMut(Description)) -> Result<(), DataError> {
        if !self.open {
            return Ok(());
        }
        let mut found = std::mem::take(&mut self.found);
        let words: Vec<&str> = found.synopsis.split_whitespace().collect();
        found.synopsis = words.join(" ");
        (self.open, self.inside, self.bytes) = (false, false, 0);
        let name = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        if found.package.is_empty() || !found.package.chars().all(name) {
            return Err(self.wrong("the stanza that ends here has no good `Package`"));
        }
        if found.md5.len() != 32 || !found.md5.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(self.wrong("the stanza that ends here has no good `Description-md5`"));
        }
        if found.synopsis.is_empty() && found.body.is_empty() {
            let what = format!("the stanza that ends here has no `{}`", self.field);
            return Err(self.wrong(what));
        }
        sink(found);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<Vec<Description>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        std::fs::write(&path, text).unwrap();
        let mut all = Vec::new();
        match read(&path, "de", &mut |description| all.push(description)) {
            Ok(()) => Ok(all),
            Err(error) => Err(error
                .to_string()
                .replace(&format!("{}/", dir.path().display()), "")),
        }
    }

    const GOOD: &str = "Package: a\nDescription-md5: 0123456789abcdef0123456789abcdef\n\
                        Description-de: kurz\n lang\n .\n  * eins\n";

    #[test]
    fn stanzas_are_read() {
        let all = parse(format!("\n{GOOD}\n\n{GOOD}Other: x\n more\n").as_bytes()).unwrap();
        assert_eq!((all.len(), all[0].synopsis.as_str()), (2, "kurz"));
        assert_eq!(all[1].body, ["lang", ".", " * eins"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let long = format!("Package: a\nX: {}\n", "x".repeat(70_000));
        let huge = format!("{GOOD}{}", format!(" {}\n", "x".repeat(1000)).repeat(300));
        for (text, expected) in [
            (" no field\n", "list:1: a field is continued"),
            ("Package: a\nhello\n", "list:2: neither a field"),
            ("Package: a\nPackage: b\n", "list:2: a second `Package`"),
            (
                "Package: ../a\n",
                "list:1: the stanza that ends here has no good `Package`",
            ),
            (
                "Package: a\n\n",
                "list:2: the stanza that ends here has no good `Description-md5`",
            ),
            (
                "Package: a\nDescription-md5: 0123456789abcdef0123456789abcdef\nDescription-fr: x\n",
                "has no `Description-de`",
            ),
            (&long, "list:2: the line has over 65536 bytes"),
            (&huge, "the stanza has over 262144 bytes"),
        ] {
            let message = parse(text.as_bytes()).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
        let message = parse(b"Package: \xff\n").unwrap_err();
        assert!(
            message.starts_with("list:1: the line is not UTF-8"),
            "{message}"
        );
    }
}
