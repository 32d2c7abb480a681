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

/// A folder's name where it becomes part of a recipe or of what is compared, which are UTF-8.
pub(crate) fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        Misuse::error(
            format!("{}: is not UTF-8, and this name must be", path.display()),
            "rename it, or lead to it by a link whose name is",
        )
    })
}

/// Refuses a pipe or a device where a data set is wanted.
pub(crate) fn demand_files(data: &Path) -> Result<()> {
    match fs::metadata(data) {
        Ok(found) if !found.is_file() && !found.is_dir() => Err(Misuse::error(
            format!(
                "{}: is a pipe or a device, and data is read more than once",
                data.display()
            ),
            "write it into a file with an ending, such as .jsonl, and give that",
        )),
        // What is not there is the reading's own concern.
        _ => Ok(()),
    }
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
