//! The entry points: which kind of page a folder gets, and writing it safely.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use etude_files::NewFolders;
use serde::Serialize;
use serde_json::Value;

use crate::canvas::SERIES;
use crate::compare;
use crate::facts::Fact;
use crate::figures::Figure;
use crate::page;
use crate::quickstart;
use crate::read;
use crate::run::{Note, Run};
use crate::sections::{self, Section};
use crate::transfer;

/// A page about one run.
#[derive(Serialize)]
struct RunPage {
    section: Section,
    notes: Vec<Note>,
}

/// A page that compares runs.
#[derive(Serialize)]
struct RunsPage {
    sections: Vec<Section>,
    /// One row a fact, one cell a run.
    rows: Vec<(String, Vec<String>)>,
    figures: Vec<Figure>,
    notes: Vec<Note>,
}

/// Writes `report.html` into a run folder, into a quickstart folder with `base/`, `task/` and `scratch/`, or
/// into the folder of a transfer experiment, and returns its path. An older report is replaced whole or not at all.
///
/// # Errors
/// When the folder is missing or holds no run, or the page cannot be written.
pub fn write(run: &Path) -> Result<PathBuf> {
    read::check_folder(run)?;
    let html = if transfer::is_transfer(run) {
        page::render("transfer.html", &transfer::page(run)?)?
    } else if quickstart::is_quickstart(run) {
        page::render("quickstart.html", &quickstart::story(run)?)?
    } else {
        let mut run = read::run(run)?;
        let notes = std::mem::take(&mut run.notes);
        page::render(
            "run.html",
            &RunPage {
                section: sections::section(&run, "run")?,
                notes,
            },
        )?
    };
    let out = run.join("report.html");
    replace(&out, &html)?;
    Ok(out)
}

/// Writes one page that puts several runs side by side to the file `out`, and returns its path.
///
/// # Errors
/// When there is no run, one of the folders holds none, or the page cannot be written.
pub fn write_many(runs: &[&Path], out: &Path) -> Result<PathBuf> {
    if runs.is_empty() {
        bail!("no run folder was given; give at least one");
    }
    let mut read: Vec<Run> = runs
        .iter()
        .map(|dir| read::run(dir))
        .collect::<Result<_>>()?;
    rename_doubles(&mut read, runs);
    let mut notes = Vec::new();
    for run in &mut read {
        let named = run.notes.drain(..).map(|note| Note {
            place: format!("{}/{}", run.name, note.place),
            ..note
        });
        notes.extend(named);
    }
    if read.len() > SERIES {
        let text = format!(
            "There are {} runs and {SERIES} colours: colours repeat in the charts",
            read.len()
        );
        notes.push(Note {
            place: "charts".into(),
            text,
        });
    }
    notes.extend(other_data(&read));
    let named: Vec<(String, &Run)> = read.iter().map(|run| (run.name.clone(), run)).collect();
    let by_byte = "Comparable between models with different tokenizers; lower is better.";
    let by_token =
        "Comparable only between models with the same tokenizer and data; lower is better.";
    let figures = [
        compare::validation(&named, true, vec![by_byte.into()])?,
        compare::validation(&named, false, vec![by_token.into()])?,
        compare::training(&named, vec![by_token.into()])?,
    ];
    let sections = read
        .iter()
        .enumerate()
        .map(|(index, run)| sections::section(run, &format!("run-{}", index + 1)));
    let sections = sections.collect::<Result<Vec<_>>>()?;
    let page = RunsPage {
        rows: rows(&sections),
        figures: figures.into_iter().flatten().collect(),
        sections,
        notes,
    };
    replace(out, &page::render("runs.html", &page)?)?;
    Ok(out.to_path_buf())
}

/// A word where runs learnt from other sources than the first: their losses are of other texts.
fn other_data(runs: &[Run]) -> Option<Note> {
    let sources = |run: &Run| -> Vec<String> {
        let all = run.data.get("sources").and_then(Value::as_array);
        let name = |source: &Value| source.get("name")?.as_str().map(str::to_owned);
        all.into_iter().flatten().filter_map(name).collect()
    };
    let known = || runs.iter().filter(|run| !sources(run).is_empty());
    let first = sources(known().next()?);
    known().any(|run| sources(run) != first).then(|| {
        let of = |run: &Run| format!("{}: {}", run.name, sources(run).join(", "));
        Note {
            place: "data".into(),
            text: format!(
                "The runs learnt from different data ({}), and each is measured on its own validation text: losses, bits per byte and scores of different data cannot be compared",
                known().map(of).collect::<Vec<_>>().join("; ")
            ),
        }
    })
}

/// Runs of the same name are told apart by their whole paths.
fn rename_doubles(runs: &mut [Run], dirs: &[&Path]) {
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for (run, dir) in runs.iter_mut().zip(dirs) {
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name = dir.display().to_string();
        }
    }
}

/// The final figures of all runs, one row for each that any run has.
fn rows(sections: &[Section]) -> Vec<(String, Vec<String>)> {
    let scores = |section: &Section| {
        let row = |group: &crate::scores::Group| Fact {
            name: group.label.clone(),
            value: group.rows[0].value.clone(),
        };
        section.scores.iter().map(row).collect::<Vec<_>>()
    };
    let facts: Vec<Vec<Fact>> = sections
        .iter()
        .map(|section| [section.finals.clone(), scores(section)].concat())
        .collect();
    let mut names: Vec<&str> = Vec::new();
    for fact in facts.iter().flatten() {
        if !names.contains(&fact.name.as_str()) {
            names.push(&fact.name);
        }
    }
    let value = |facts: &Vec<Fact>, name: &str| {
        facts
            .iter()
            .find(|fact| fact.name == name)
            .map_or_else(|| "–".into(), |fact| fact.value.clone())
    };
    let row = |name: &str| {
        (
            name.to_owned(),
            facts.iter().map(|facts| value(facts, name)).collect(),
        )
    };
    names.into_iter().map(row).collect()
}

/// Writes a page so that a reader never sees half of it, into a folder that is made where there is none.
pub(crate) fn replace(out: &Path, html: &str) -> Result<()> {
    ensure!(
        out.file_name().is_some(),
        "the report needs a file name, such as report.html"
    );
    let written = NewFolders::above(out)
        .and_then(|_new| etude_files::write(out, |file| file.write_all(html.as_bytes())));
    written.with_context(|| format!("cannot write {}", out.display()))
}
