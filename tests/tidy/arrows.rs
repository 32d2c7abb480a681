//! The arrows between crates: those of the manifests are those of the table in
//! docs/architecture.md, and none leads to libtorch from a crate that does without.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::{cargo, demand_none, root};

/// Crates that build and are tested on a machine without libtorch.
const WITHOUT_LIBTORCH: [&str; 5] = ["files", "tokenizer", "data", "scores", "report"];

/// One row of the table of crates in docs/architecture.md.
struct Row {
    depends_on: BTreeSet<String>,
    any_crate: bool,
    /// Names in the text on the right, where an optional dependency is announced.
    mentioned: BTreeSet<String>,
}

/// The `names` in backticks, without the prefix that packages have.
fn backticked(cell: &str) -> BTreeSet<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(|name| short(name).to_owned())
        .collect()
}

fn short(package: &str) -> &str {
    package.strip_prefix("etude-").unwrap_or(package)
}

/// The table whose header begins with `| crate |`. Rows of crates to come begin with "later".
fn architecture_table() -> BTreeMap<String, Row> {
    let page = root().join("docs/architecture.md");
    let text = fs::read_to_string(&page).expect("docs/architecture.md holds the table of crates");
    let cells = |line: &str| -> Vec<String> {
        line.trim()
            .trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect()
    };
    let mut rows = BTreeMap::new();
    let table = text
        .lines()
        .skip_while(|line| !line.starts_with("| crate |"));
    for line in table.skip(2).take_while(|line| line.starts_with('|')) {
        let cells = cells(line);
        assert!(
            cells.len() >= 3,
            "docs/architecture.md: a row of crates has three cells: {line}"
        );
        if cells[0].starts_with("later") {
            continue;
        }
        let row = Row {
            depends_on: backticked(&cells[1]),
            any_crate: cells[1] == "all",
            mentioned: backticked(&cells[2]),
        };
        let name = short(cells[0].trim_matches('`')).to_owned();
        assert!(
            rows.insert(name, row).is_none(),
            "docs/architecture.md: two rows for {}",
            cells[0]
        );
    }
    assert!(
        !rows.is_empty(),
        "docs/architecture.md has no table with the header `| crate |`"
    );
    rows
}

/// A dependency that a crate's manifest declares, tests' own left out.
struct Arrow {
    name: String,
    optional: bool,
}

/// Each workspace crate with what its manifest declares.
fn declared_arrows() -> BTreeMap<String, Vec<Arrow>> {
    let metadata = cargo(&[
        "metadata",
        "--offline",
        "--no-deps",
        "--format-version",
        "1",
    ]);
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo metadata prints JSON");
    let text = |value: &Value| {
        value
            .as_str()
            .map(str::to_owned)
            .expect("cargo's names are texts")
    };
    let mut arrows = BTreeMap::new();
    for package in metadata["packages"]
        .as_array()
        .expect("cargo lists packages")
    {
        let declared = package["dependencies"]
            .as_array()
            .expect("cargo lists dependencies");
        let declared = declared
            .iter()
            .filter(|dependency| dependency["kind"] != "dev");
        let declared = declared.map(|dependency| Arrow {
            name: text(&dependency["name"]),
            optional: dependency["optional"] == true,
        });
        arrows.insert(
            short(&text(&package["name"])).to_owned(),
            declared.collect(),
        );
    }
    arrows
}

/// What is wrong with one crate's arrows, given its row in the table.
fn arrow_faults(name: &str, arrows: &[Arrow], row: &Row) -> Vec<String> {
    let mut faults = Vec::new();
    for arrow in arrows {
        let target = short(&arrow.name);
        // Other libraries are free; a binding to libtorch is an arrow like one between crates.
        let is_held = arrow.name.starts_with("etude-") || target == "tch";
        let is_listed = row.depends_on.contains(target)
            || (row.any_crate && arrow.name.starts_with("etude-"))
            || (arrow.optional && row.mentioned.contains(target));
        if is_held && !is_listed {
            faults.push(format!(
                "`{name}` depends on `{target}`, which its row does not list"
            ));
        }
    }
    for listed in &row.depends_on {
        if !arrows.iter().any(|arrow| short(&arrow.name) == listed) {
            faults.push(format!(
                "the row of `{name}` lists `{listed}`, which it does not use"
            ));
        }
    }
    faults
}

#[test]
fn arrows_are_those_of_the_architecture_page() {
    let table = architecture_table();
    let arrows = declared_arrows();
    let mut faults = Vec::new();
    for (name, declared) in &arrows {
        match table.get(name) {
            Some(row) => faults.extend(arrow_faults(name, declared, row)),
            None => faults.push(format!("`{name}` has no row")),
        }
    }
    for name in table.keys().filter(|name| !arrows.contains_key(*name)) {
        faults.push(format!(
            "the row of `{name}` belongs to no crate (to come? begin it \"later\")"
        ));
    }
    demand_none(faults, "docs/architecture.md and the manifests disagree:");
}

#[test]
fn arrow_faults_are_found() {
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
    let arrow = |name: &str, optional| Arrow {
        name: name.to_owned(),
        optional,
    };
    let row = Row {
        depends_on: names(&["data", "rayon"]),
        any_crate: false,
        mentioned: names(&["tensor"]),
    };
    let good = [
        arrow("etude-data", false),
        arrow("rayon", false),
        arrow("etude-tensor", true),
    ];
    assert!(arrow_faults("x", &good, &row).is_empty());
    for bad in ["etude-model", "etude-tensor", "tch"] {
        let declared = [
            arrow("etude-data", false),
            arrow("rayon", false),
            arrow(bad, false),
        ];
        assert_eq!(arrow_faults("x", &declared, &row).len(), 1, "{bad}");
    }
    assert_eq!(
        arrow_faults("x", &[arrow("etude-data", false)], &row).len(),
        1
    );
}

#[test]
fn crates_for_any_machine_never_reach_libtorch() {
    let mut faults = Vec::new();
    for name in WITHOUT_LIBTORCH {
        let package = format!("etude-{name}");
        let edges = [
            "-e",
            "normal,build,dev",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ];
        let tree = cargo(&[&["tree", "--offline", "-p", &package][..], &edges[..]].concat());
        assert!(
            tree.starts_with(&package),
            "cargo tree speaks of something else: {tree}"
        );
        for line in tree.lines() {
            let reached = line.split(' ').next().unwrap_or_default();
            if ["tch", "torch-sys", "etude-tensor"].contains(&reached) {
                faults.push(format!("{package} reaches {reached}"));
            }
        }
    }
    demand_none(
        faults,
        "these crates build without libtorch (cargo tree -i shows the way):",
    );
}
