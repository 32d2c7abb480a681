//! Fetches data sets, reads them whole, and compares what is found with the counts in their manifests.
//!
//! `cargo run -p etude-data --example check_datasets [-- NAME…]`; without names, all that are shipped.
//! Prints each `[counts]` table as measured; fails when a manifest says otherwise.

use std::path::Path;
use std::process::ExitCode;

use etude_data::{Cache, Catalog, Counts, DataError, Manifest, Progress, Registry};

fn main() -> ExitCode {
    match check() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Checks the sets named on the command line; answers how many disagree with their manifests.
fn check() -> Result<usize, DataError> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let catalog = Catalog::load(&[] as &[&Path])?;
    let cache = Cache::user()?;
    let chosen: Vec<Manifest> = match names.is_empty() {
        true => catalog.list().to_vec(),
        false => names
            .iter()
            .map(|name| catalog.get(name))
            .collect::<Result<_, _>>()?,
    };
    let mut wrong = 0;
    for manifest in chosen {
        let dataset = manifest.fetch(&cache, &Progress::Shown)?;
        say(&dataset.show(1)?.to_string());
        let scan = dataset.scan()?;
        let found = Counts {
            documents: scan.total().documents,
            bytes: scan.total().bytes,
            train: scan.train.documents,
            validation: scan.validation.documents,
            test: scan.test.documents,
        };
        say(&format!(
            "[counts]\ndocuments = {}\nbytes = {}\ntrain = {}\nvalidation = {}\ntest = {}\n",
            found.documents, found.bytes, found.train, found.validation, found.test
        ));
        if manifest.counts.as_ref() != Some(&found) {
            say(&format!(
                "{}: the manifest says {:?}\n",
                manifest.name, manifest.counts
            ));
            // Lists of descriptions change with the system's release.
            wrong += usize::from(manifest.source.registry != Registry::AptLists);
        }
    }
    Ok(wrong)
}

/// Prints to stdout; a closed one is no reason to panic.
fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}
