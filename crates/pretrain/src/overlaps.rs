//! What should be looked at in the text of the sources: documents that stand there twice, or nearly, and files that
//! belong to two sources.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;
use etude_data::ledger::{Finding, counted};
use etude_data::{DataError, Manifest};

use crate::prepare::Read;

/// Files that a finding names.
const PLACES: usize = 3;

/// Documents that stand in the files twice, or nearly so, within the training split and between it and what is held
/// out; and files that belong to two sources.
pub(crate) fn overlaps(sources: &[Read]) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for source in sources {
        let (name, read) = (&source.dataset.manifest().name, &source.read);
        let (near, near_held_out) = (&read.nearly_repeated, &read.held_out_nearly_repeated);
        let mut tell = |kind: &str, count: u64, places: &[String], [one, many]: [&str; 2]| {
            if count > 0 {
                found.push(Finding {
                    kind: kind.into(),
                    text: format!("{name}: {count} {}", if count == 1 { one } else { many }),
                    count,
                    places: places.to_vec(),
                });
            }
        };
        tell(
            "duplicate",
            read.repeated.amount.items,
            &read.repeated.places,
            [
                "training document repeats an earlier one",
                "training documents repeat an earlier one",
            ],
        );
        tell(
            "near-duplicate",
            near.documents,
            &near.places,
            [
                "training document is nearly an earlier one",
                "training documents are nearly an earlier one",
            ],
        );
        tell(
            "overlap",
            read.held_out_repeated.amount.items,
            &read.held_out_repeated.places,
            [
                "held-out document stands among the training documents too, so the validation loss is too low",
                "held-out documents stand among the training documents too, so the validation loss is too low",
            ],
        );
        tell(
            "near-overlap",
            near_held_out.documents,
            &near_held_out.places,
            [
                "held-out document is nearly a training document, so the validation loss is too low",
                "held-out documents are nearly a training document, so the validation loss is too low",
            ],
        );
        tell(
            "not-compared",
            read.not_compared,
            &[],
            [
                "document was not compared with the others, as there are too many",
                "documents were not compared with the others, as there are too many",
            ],
        );
    }
    shared(sources, &mut found)?;
    Ok(found)
}

/// Files that two sources read, where each holds out a part of its own.
fn shared(sources: &[Read], found: &mut Vec<Finding>) -> Result<()> {
    let files: Vec<BTreeSet<PathBuf>> = sources.iter().map(files).collect::<Result<_>>()?;
    for (number, (one, its)) in sources.iter().zip(&files).enumerate() {
        for (other, theirs) in sources.iter().zip(&files).skip(number + 1) {
            let both: Vec<&PathBuf> = its.intersection(theirs).collect();
            let [one, other] = [one, other].map(|source| source.dataset.manifest());
            if both.is_empty() || agree(one, other) {
                continue;
            }
            let (one, other) = (&one.name, &other.name);
            let count = both.len() as u64;
            found.push(Finding {
                kind: "overlap".into(),
                text: format!(
                    "{} to both {one} and {other}, so text that the one holds out may be learnt from the other, and the validation loss is too low; let one source name each file",
                    counted(count, "file belongs", "files belong")
                ),
                count,
                places: both
                    .iter()
                    .take(PLACES)
                    .map(|file| file.display().to_string())
                    .collect(),
            });
        }
    }
    Ok(())
}

/// Whether two data sets split the same records alike.
fn agree(one: &Manifest, other: &Manifest) -> bool {
    let by_hash = !one.split.salt.is_empty();
    by_hash && (&one.split, &one.map, &one.filter) == (&other.split, &other.map, &other.filter)
}

/// The files of a source, under one name each.
fn files(source: &Read) -> Result<BTreeSet<PathBuf>> {
    let file = |path: PathBuf| {
        let found = path.canonicalize();
        found.map_err(|error| DataError::io("read", &path)(error).into())
    };
    source.dataset.files().map(file).collect()
}
