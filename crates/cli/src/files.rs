//! Files that a command writes: refused before the work where one would take the place of what the command reads,
//! or of a file of the user's that is no page.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::Result;

use crate::error::Misuse;

/// How pages begin, in small letters.
const PAGES: [&str; 2] = ["<!doctype html", "<html"];

/// Refuses to write `out` over one of `inputs`; `option` is what names another place.
pub(crate) fn spare_inputs<P: AsRef<Path>>(
    out: &Path,
    option: &str,
    inputs: impl IntoIterator<Item = P>,
) -> Result<()> {
    let Ok(place) = fs::canonicalize(out) else {
        return Ok(()); // not there yet
    };
    let is_place = |input: P| fs::canonicalize(input).is_ok_and(|input| input == place);
    if !inputs.into_iter().any(is_place) {
        return Ok(());
    }
    Err(Misuse::error(
        format!("{}: is what this command reads", out.display()),
        format!("name another file with {option}, or this one would be overwritten"),
    ))
}

/// Refuses to write a page over a file that is none; `option` is what names another place.
pub(crate) fn replace_pages_only(out: &Path, option: &str) -> Result<()> {
    // Reading from a pipe would wait.
    if !out.is_file() {
        return Ok(());
    }
    let mut start = Vec::new();
    let opened = File::open(out).and_then(|file| file.take(64).read_to_end(&mut start));
    let text = String::from_utf8_lossy(&start).to_lowercase();
    let text = text.trim_start_matches('\u{feff}').trim_start();
    // What cannot be read is the writing's own concern.
    if opened.is_err() || text.is_empty() || PAGES.iter().any(|page| text.starts_with(page)) {
        return Ok(());
    }
    Err(Misuse::error(
        format!("{}: is there and no HTML page", out.display()),
        format!("name another file with {option}, or remove this one first"),
    ))
}
