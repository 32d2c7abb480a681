//! Reads a run folder as it is: missing files are normal (a run in progress has no summary), torn or
//! damaged lines are skipped and named in a note. Only a folder that holds no run at all is an error.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::format;
use crate::run::{EvalPoint, Example, Note, Recipe, Run, Sample, TrainPoint, number, text};

/// Damaged lines named one by one before the rest is only counted.
const NAMED_LINES: usize = 5;

/// The files any of which makes a folder a run folder.
const RUN_FILES: [&str; 4] = [
    "metrics.jsonl",
    "recipe.toml",
    "summary.json",
    "samples.jsonl",
];

/// Whether the folder holds at least one file of a run.
pub(crate) fn is_run(dir: &Path) -> bool {
    RUN_FILES.iter().any(|file| dir.join(file).is_file())
}

/// Fails unless the folder exists.
pub(crate) fn check_folder(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let what = if dir.exists() {
        "is not a folder"
    } else {
        "does not exist"
    };
    bail!(
        "{} {what}; give the run folder that a training command wrote",
        dir.display()
    )
}

/// Reads one run folder.
///
/// # Errors
/// When the folder is missing or holds none of a run's files.
pub(crate) fn run(dir: &Path) -> Result<Run> {
    check_folder(dir)?;
    if !is_run(dir) {
        bail!(
            "{} is not a run folder: it holds none of {}; give the folder that a training command wrote",
            dir.display(),
            RUN_FILES.join(", ")
        );
    }
    let mut notes = Vec::new();
    let mut run = Run {
        name: folder_name(dir),
        ..Run::default()
    };
    metrics(dir, &mut run, &mut notes)?;
    run.samples = samples(dir, &mut notes)?;
    run.data = json(dir, "data.json", &mut notes)?;
    run.summary = json(dir, "summary.json", &mut notes)?;
    run.scores = json(dir, "scores.json", &mut notes)?;
    run.probes = json(dir, "probes.json", &mut notes)?;
    run.environment = json(dir, "environment.json", &mut notes)?;
    run.recipe = recipe(dir, &mut notes)?;
    run.notes = notes;
    Ok(run)
}

/// The folder's own name, also for `.` and paths that end in `..`.
pub(crate) fn folder_name(dir: &Path) -> String {
    let whole = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    whole
        .file_name()
        .map_or_else(|| "run".into(), |name| name.to_string_lossy().into_owned())
}

/// One JSON file; `Null` where it is missing or damaged.
pub(crate) fn json(dir: &Path, file: &str, notes: &mut Vec<Note>) -> Result<Value> {
    let Some(source) = read_text(dir, file)? else {
        return Ok(Value::Null);
    };
    Ok(match serde_json::from_str::<Value>(&source) {
        Ok(value) if value.is_object() => value,
        Ok(_) => {
            notes.push(note(file, None, "does not hold a JSON object; left out"));
            Value::Null
        }
        Err(error) => {
            notes.push(note(
                file,
                Some(error.line()),
                format!("{}; left out", reason(&error)),
            ));
            Value::Null
        }
    })
}

/// The held-out examples of a quickstart folder.
pub(crate) fn examples(dir: &Path, notes: &mut Vec<Note>) -> Result<Vec<Example>> {
    let mut found = Vec::new();
    lines(dir, "examples.jsonl", notes, |value| {
        let field = |name: &str| text(value, name).map(str::to_owned).unwrap_or_default();
        if text(value, "/reference").is_none() {
            return Err("has no \"reference\"".into());
        }
        let id = value
            .get("id")
            .map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned));
        found.push(Example {
            id: id.unwrap_or_default(),
            prompt: field("/prompt"),
            reference: field("/reference"),
            base: field("/base"),
            finetuned: field("/finetuned"),
            scratch: field("/scratch"),
        });
        Ok(())
    })?;
    Ok(found)
}

fn samples(dir: &Path, notes: &mut Vec<Note>) -> Result<Vec<Sample>> {
    let mut found: Vec<Sample> = Vec::new();
    lines(dir, "samples.jsonl", notes, |value| {
        let step = number(value, "/step").ok_or("has no number \"step\"")?;
        let body = text(value, "/text").ok_or("has no \"text\"")?;
        let prompt = text(value, "/prompt").unwrap_or_default();
        // Trainers differ in whether the text repeats its prompt; the page shows the prompt once.
        let body = body.strip_prefix(prompt).unwrap_or(body);
        // A run that resumed from an earlier checkpoint writes some samples again: the later wins.
        found.retain(|sample| {
            sample.step < step || (sample.step == step && sample.prompt != prompt)
        });
        found.push(Sample {
            step,
            prompt: prompt.to_owned(),
            text: body.to_owned(),
        });
        Ok(())
    })?;
    Ok(found)
}

fn metrics(dir: &Path, run: &mut Run, notes: &mut Vec<Note>) -> Result<()> {
    let mut rewound: Vec<(f64, f64)> = Vec::new();
    lines(dir, "metrics.jsonl", notes, |value| {
        let step = number(value, "/step").ok_or("has no number \"step\"")?;
        match text(value, "/kind") {
            Some("train") => {
                if let Some(last) = run.train.last().map(|point| point.step)
                    && step <= last
                {
                    rewound.push((last, step));
                    run.train.retain(|point| point.step < step);
                    run.evals.retain(|point| point.step < step);
                }
                run.train.push(train_point(value, step));
            }
            Some("eval") => {
                run.evals.retain(|point| point.step < step);
                run.evals.push(EvalPoint {
                    step,
                    loss: number(value, "/loss"),
                    part_loss: number(value, "/part_loss"),
                    bits_per_byte: number(value, "/bits_per_byte"),
                    perplexity: number(value, "/perplexity"),
                });
            }
            Some(other) => return Err(format!("has the unknown kind \"{other}\"")),
            None => return Err("has no \"kind\"".into()),
        }
        Ok(())
    })?;
    if let Some((from, to)) = rewound.last() {
        let times = if rewound.len() == 1 {
            "once".into()
        } else {
            format!("{} times", rewound.len())
        };
        let text = format!(
            "the run went back {times} (the last time from step {from} to step {to}), as a resumed run does; \
             the later records count"
        );
        notes.push(note("metrics.jsonl", None, text));
    }
    let lost = run
        .train
        .iter()
        .filter(|point| point.loss.is_none())
        .count();
    if lost > 0 {
        let first = run
            .train
            .iter()
            .find(|point| point.loss.is_none())
            .map_or(0.0, |point| point.step);
        let text = format!(
            "{} of {} training records {} no finite loss (the first at step {}); \
             the curves have gaps there",
            format::count(lost as f64),
            format::count(run.train.len() as f64),
            if lost == 1 { "has" } else { "have" },
            format::count(first)
        );
        notes.push(note("metrics.jsonl", None, text));
    }
    Ok(())
}

fn train_point(value: &Value, step: f64) -> TrainPoint {
    TrainPoint {
        step,
        loss: number(value, "/loss"),
        lr: number(value, "/lr"),
        grad_norm: number(value, "/grad_norm"),
        tokens: number(value, "/tokens"),
        tokens_per_second: number(value, "/tokens_per_second"),
        seconds: number(value, "/seconds"),
        mfu: number(value, "/mfu"),
    }
}

fn recipe(dir: &Path, notes: &mut Vec<Note>) -> Result<Recipe> {
    let Some(source) = read_text(dir, "recipe.toml")? else {
        return Ok(Recipe::Missing);
    };
    Ok(match source.parse::<toml::Table>() {
        Ok(table) => Recipe::Parsed(table),
        Err(error) => {
            let line = error
                .span()
                .map(|span| 1 + source[..span.start].matches('\n').count());
            let text = format!("{}; shown as it stands", error.message());
            notes.push(note("recipe.toml", line, text));
            Recipe::Raw(source)
        }
    })
}

/// A whole text file, broken UTF-8 replaced; `None` where it is missing.
fn read_text(dir: &Path, file: &str) -> Result<Option<String>> {
    let path = dir.join(file);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Calls `each` for every JSON object of a JSONL file, and notes the lines that are none or that
/// `each` refuses.
pub(crate) fn lines(
    dir: &Path,
    file: &str,
    notes: &mut Vec<Note>,
    mut each: impl FnMut(&Value) -> Result<(), String>,
) -> Result<()> {
    let path = dir.join(file);
    let handle = match File::open(&path) {
        Ok(handle) => handle,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut reader = BufReader::new(handle);
    let mut bytes = Vec::new();
    let mut damaged = Vec::new();
    for line in 1.. {
        bytes.clear();
        let read = reader.read_until(b'\n', &mut bytes);
        if read.with_context(|| format!("cannot read {}", path.display()))? == 0 {
            break;
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let torn = bytes.last() != Some(&b'\n');
        let fault = match serde_json::from_str::<Value>(&String::from_utf8_lossy(&bytes)) {
            Ok(value) if value.is_object() => each(&value).err(),
            Ok(_) => Some("is not a JSON object".into()),
            Err(_) if torn => {
                Some("is cut off, as when a run is still writing or was killed".into())
            }
            Err(error) => Some(reason(&error)),
        };
        damaged.extend(fault.map(|fault| (line, fault)));
    }
    let more = damaged.len().saturating_sub(NAMED_LINES);
    for (line, fault) in damaged.into_iter().take(NAMED_LINES) {
        notes.push(note(file, Some(line), format!("{fault}; left out")));
    }
    if more > 0 {
        notes.push(note(
            file,
            None,
            format!("{more} more damaged lines left out"),
        ));
    }
    Ok(())
}

/// The JSON error without its "at line 1 column 7", which the note's own place replaces.
fn reason(error: &serde_json::Error) -> String {
    let whole = error.to_string();
    let what = whole.split(" at line ").next().unwrap_or(&whole);
    format!("is not valid JSON ({what}, column {})", error.column())
}

/// A note on a file, or on one line of it.
pub(crate) fn note(file: &str, line: Option<usize>, text: impl Into<String>) -> Note {
    let place = line.map_or_else(|| file.to_owned(), |line| format!("{file}, line {line}"));
    Note {
        place,
        text: text.into(),
    }
}
