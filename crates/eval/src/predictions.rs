//! Predictions files: one item a line, JSON, so that scores can be made again and compared later.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::task::TaskItem;

/// Writes the items to `path`, replacing what it held when all of them are written.
///
/// # Errors
/// A file that cannot be written.
pub fn write_predictions(path: &Path, items: &[TaskItem]) -> Result<()> {
    let written = etude_files::write(path, |file| {
        for item in items {
            serde_json::to_writer(&mut *file, item)?;
            file.write_all(b"\n")?;
        }
        Ok(())
    });
    written.with_context(|| format!("{}: predictions cannot be written", path.display()))
}

/// Reads what [`write_predictions`] wrote.
///
/// # Errors
/// A file that cannot be read or has no item, or a line that is no item, by number.
pub fn read_predictions(path: &Path) -> Result<Vec<TaskItem>> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("{}: predictions cannot be read", path.display()))?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    let item = |(number, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| {
            format!(
                "{}:{}: not an item of a predictions file",
                path.display(),
                number + 1
            )
        })
    };
    let items: Vec<TaskItem> = lines.map(item).collect::<Result<_>>()?;
    ensure!(
        !items.is_empty(),
        "{}: holds no item; was the evaluation cut off?",
        path.display()
    );
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::testing::item;

    #[test]
    fn items_come_back_and_a_bad_line_is_named() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("predictions.jsonl");
        let items = [item("a", "one\ntwo", "é"), item("b", "", "\u{2028}\"")];
        write_predictions(&path, &items)?;
        assert_eq!(read_predictions(&path)?, items);
        let text = fs::read_to_string(&path)?;
        assert!(text.starts_with(r#"{"id":"a","prompt":"#), "{text}");
        fs::write(&path, format!("{text}{{\"id\": 3}}\n"))?;
        let error = format!("{:#}", read_predictions(&path).expect_err("a bad line"));
        assert!(error.contains("predictions.jsonl:3"), "{error}");
        fs::write(&path, "\n")?;
        assert!(read_predictions(&path).is_err());
        Ok(())
    }
}
