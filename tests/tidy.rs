//! Holds the repository to its own rules: what may depend on what, what a file must say, and what
//! must never be in one. It reads files and asks Cargo and git; it builds nothing.
//!
//! What rustfmt, clippy or the compiler can check is left to them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "tidy/arrows.rs"]
mod arrows;
#[path = "tidy/lesson.rs"]
mod lesson;

/// A longer file must stand in [`LONG_FILES`].
const MAX_LINES: usize = 450;

/// Files over [`MAX_LINES`], each with the reason why it reads better whole.
const LONG_FILES: &[(&str, &str)] = &[];

/// Where `unsafe` may stand: a path, or the beginning of one, and what for.
const UNSAFE_FILES: &[(&str, &str)] = &[
    (
        "crates/tensor/src/native",
        "the C++ module and its declarations",
    ),
    (
        "crates/tensor/src/memory.rs",
        "sets variables of the environment before anything reads them",
    ),
    (
        "crates/cli/src/allocator.rs",
        "sets an option of the allocator",
    ),
    ("crates/tensor/src/map.rs", "maps weight files"),
    ("crates/data/src/shard", "maps token shards"),
];

fn root() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    folder
        .canonicalize()
        .expect("the crate that holds this test lies two folders down")
}

/// What a program prints; the test fails when the program does.
fn output(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .output();
    let done = done.unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success(),
        "{program} {} failed: {errors}",
        arguments.join(" ")
    );
    String::from_utf8(done.stdout).expect("cargo and git print UTF-8")
}

fn cargo(arguments: &[&str]) -> String {
    output(
        &std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()),
        arguments,
    )
}

/// The repository's files, those not yet committed too, relative to its root. Links are left out.
fn files() -> Vec<String> {
    let listed = output(
        "git",
        &[
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
    );
    let root = root();
    let is_file =
        |name: &&str| fs::symlink_metadata(root.join(name)).is_ok_and(|found| found.is_file());
    let names: BTreeSet<String> = listed
        .split('\0')
        .filter(is_file)
        .map(str::to_owned)
        .collect();
    assert!(
        names.contains("Cargo.toml"),
        "git lists no files in {}",
        root.display()
    );
    names.into_iter().collect()
}

/// The text of each file that is text and that `wanted` accepts.
fn texts(wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let read = |name: String| {
        let bytes = fs::read(root().join(&name)).expect("git lists files that can be read");
        String::from_utf8(bytes).ok().map(|text| (name, text))
    };
    files()
        .into_iter()
        .filter(|name| wanted(name))
        .filter_map(read)
        .collect()
}

fn rust_files() -> Vec<(String, String)> {
    texts(|name| name.ends_with(".rs"))
}

/// Fails with all violations at once, so that one run shows everything to mend.
#[track_caller]
fn demand_none(violations: Vec<String>, rule: &str) {
    assert!(
        violations.is_empty(),
        "{rule}\n  {}\n",
        violations.join("\n  ")
    );
}

/// The lines of all `texts` that `breaks` objects to, as `file:line: reason`.
fn offending_lines(
    texts: &[(String, String)],
    breaks: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let mut found = Vec::new();
    for (name, text) in texts {
        for (index, line) in text.lines().enumerate() {
            if let Some(reason) = breaks(line) {
                found.push(format!("{name}:{}: {reason}", index + 1));
            }
        }
    }
    found
}

/// Whether `line` has `word` with no letter, digit or underscore beside it.
fn has_word(line: &str, word: &str) -> bool {
    let part_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(part_of_a_word)
            && !line[at + word.len()..].starts_with(part_of_a_word)
    })
}

#[test]
fn every_rust_file_opens_with_its_purpose() {
    let mut faults = Vec::new();
    for (name, text) in rust_files() {
        let first = text.lines().next().unwrap_or_default();
        if !first.starts_with("//! ") || first.contains("Placeholder") {
            faults.push(name);
        }
    }
    demand_none(
        faults,
        "the first line of a Rust file is `//! ` and what the file is for:",
    );
}

#[test]
fn long_files_say_why() {
    let mut faults = Vec::new();
    for (name, text) in rust_files() {
        let lines = text.lines().count();
        let excused = LONG_FILES
            .iter()
            .any(|(file, why)| *file == name && why.len() > 20);
        if lines > MAX_LINES && !excused {
            faults.push(format!(
                "{name} has {lines} lines: split it, or add it with a reason"
            ));
        } else if lines <= MAX_LINES && excused {
            faults.push(format!(
                "{name} is short enough by now: take it off the list"
            ));
        }
    }
    let all = files();
    let gone = LONG_FILES
        .iter()
        .filter(|(file, _)| all.iter().all(|name| name != file));
    faults.extend(gone.map(|(file, _)| format!("{file} is no more: take it off the list")));
    demand_none(faults, "LONG_FILES in tests/tidy.rs:");
}

#[test]
fn the_lesson_says_what_its_runs_said() {
    demand_none(lesson::faults(&root()), "docs/lesson.md:");
}

#[test]
fn nothing_is_unfinished() {
    // In two halves, so that this file passes its own test.
    let marks = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("db", "g!("),
        concat!("#[ig", "nore"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ];
    let faults = offending_lines(&rust_files(), |line| {
        marks
            .iter()
            .find(|mark| line.contains(**mark))
            .map(|mark| format!("has {mark}"))
    });
    demand_none(
        faults,
        "no stubs, no leftovers, no test that is switched off:",
    );
}

/// What in `line` belongs to one machine or one registry, if anything does.
fn machine_or_registry(line: &str, roots: &[String]) -> Option<String> {
    let begins_here = |at: usize| {
        let within_a_path = |c: char| c.is_alphanumeric() || "._-~/}".contains(c);
        !line[..at].ends_with(within_a_path)
    };
    let homes = [
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/wo", "rk/"),
        concat!("/Us", "ers/"),
    ];
    let paths = homes.into_iter().chain(roots.iter().map(String::as_str));
    for path in paths {
        if line.match_indices(path).any(|(at, _)| begins_here(at)) {
            return Some(format!("names the path {path}"));
        }
    }
    let hosts = [
        concat!("py", "pi.org"),
        concat!("python", "hosted.org"),
        concat!("static.", "crates.io"),
        concat!("index.", "crates.io"),
        concat!("registry.", "npmjs.org"),
        concat!("deb.", "debian.org"),
        concat!("download.", "pytorch.org"),
    ];
    hosts
        .iter()
        .find(|host| line.contains(**host))
        .map(|host| format!("names the host {host}"))
}

#[test]
fn nothing_names_a_machine_or_a_registry() {
    let folders = [
        root().display().to_string(),
        std::env::var("HOME").unwrap_or_default(),
    ];
    // A folder straight under `/`, as in containers, may well be an ordinary word.
    let roots = folders
        .iter()
        .filter(|folder| folder.matches('/').count() > 1);
    let roots: Vec<String> = roots.map(|folder| format!("{folder}/")).collect();
    let faults = offending_lines(&texts(|name| name != "Cargo.lock"), |line| {
        machine_or_registry(line, &roots)
    });
    demand_none(
        faults,
        "say where things are by a variable, a package's name, or relative to here:",
    );
}

#[test]
fn machines_and_registries_are_found() {
    let roots = ["/opt/one/clone/".to_owned()];
    let bad = [
        concat!("see /ro", "ot/x"),
        concat!("(\"/ho", "me/me/x\")"),
        "in /opt/one/clone/crates",
        concat!("https://py", "pi.org/simple"),
    ];
    for line in bad {
        assert!(machine_or_registry(line, &roots).is_some(), "{line}");
    }
    for line in [
        concat!("https://example.org/wo", "rk/x"),
        concat!("my/ho", "me/x"),
        "/usr/lib/x",
    ] {
        assert!(machine_or_registry(line, &roots).is_none(), "{line}");
    }
}

#[test]
fn lines_end_where_their_text_ends() {
    let kinds = [
        ".rs", ".toml", ".md", ".sh", ".py", ".cpp", ".h", ".html", ".css", ".js", ".ci/run",
    ];
    let wanted = |name: &str| {
        kinds.iter().any(|kind| name.ends_with(kind)) && !name.contains("/tests/goldens/")
    };
    let texts = texts(wanted);
    let mut faults = offending_lines(&texts, |line| {
        line.ends_with([' ', '\t', '\r'])
            .then(|| "space at the end of the line".to_owned())
    });
    for (name, text) in &texts {
        if !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")) {
            faults.push(format!("{name} does not end in exactly one line break"));
        }
    }
    demand_none(faults, "whitespace:");
}

#[test]
fn unsafe_code_is_where_it_belongs() {
    let word = concat!("un", "safe");
    let is_code = |line: &str| has_word(line.split("//").next().unwrap_or_default(), word);
    let allowed = |name: &str| {
        UNSAFE_FILES
            .iter()
            .any(|(prefix, _)| name.starts_with(prefix))
    };
    let sources = rust_files();
    let strangers: Vec<_> = sources
        .iter()
        .filter(|(name, _)| !allowed(name))
        .cloned()
        .collect();
    let mut faults = offending_lines(&strangers, |line| {
        is_code(line).then(|| format!("has {word} code"))
    });
    for (prefix, _) in UNSAFE_FILES {
        let needed = sources
            .iter()
            .any(|(name, text)| name.starts_with(prefix) && text.lines().any(is_code));
        if !needed {
            faults.push(format!("{prefix} has none any more: take it off the list"));
        }
    }
    demand_none(faults, "UNSAFE_FILES in tests/tidy.rs:");
}

#[test]
fn every_golden_has_its_generator() {
    let scripts = texts(|name| name.starts_with("scripts/goldens/"));
    let mut faults = Vec::new();
    for name in files() {
        let Some((package, inside)) = name.split_once("/tests/goldens/") else {
            continue;
        };
        let Some(package) = package.strip_prefix("crates/") else {
            continue;
        };
        // A folder of goldens is made as one thing, so its name is enough.
        let entry = inside.split(['/', '.']).next().unwrap_or_default();
        let folder = format!("{package}/tests/goldens");
        let made_by =
            |text: &str| text.contains(&folder) && text.lines().any(|line| has_word(line, entry));
        if !scripts.iter().any(|(_, text)| made_by(text)) {
            faults.push(format!("{name}: no script names both {folder} and {entry}"));
        }
    }
    demand_none(
        faults,
        "each golden is written by a script in scripts/goldens/:",
    );
}
