//! Certificates at the command line: an import that is checked, an export that carries its transcripts.

use std::path::Path;

use anyhow::Result;
use etude_data::KnownModel;
use etude_model::certificate::{
    self, CERTIFICATE, Certificate, Check, Outcome, REFERENCE, Reference,
};

use crate::error::Misuse;
use crate::output;

/// The reference that Etude carries for a published model.
///
/// # Errors
/// None but for a fault in this program.
pub(crate) fn of_known(known: &KnownModel) -> Result<Option<Reference>> {
    let name = format!("{}.{REFERENCE}", known.name);
    let text = known.reference();
    Ok(text
        .map(|text| Reference::from_text(text, Path::new(&name)))
        .transpose()?)
}

/// Reads an imported folder back, checks it, and writes what was verified into it, with the reference.
///
/// # Errors
/// A folder that cannot be read or written.
pub(crate) fn of_import(folder: &Path, reference: Option<&Reference>) -> Result<Certificate> {
    let certificate = certificate::certify(folder, &[], reference)?;
    if let Some(reference) = reference {
        reference.write(&folder.join(REFERENCE))?;
    }
    certificate.write(&folder.join(CERTIFICATE))?;
    Ok(certificate)
}

/// The same for numbers that were rounded after they were compared with a reference: `before` is what came of
/// that. The reference is not of the rounded numbers, so it does not go with them.
///
/// # Errors
/// As [`of_import`].
pub(crate) fn of_rounded(
    folder: &Path,
    reference: &Reference,
    before: Vec<Check>,
) -> Result<Certificate> {
    let mut certificate = certificate::certify(folder, &[], None)?;
    certificate.reference = Some(format!("{}, before rounding", reference.made_by()));
    certificate.checks.extend(before);
    certificate.write(&folder.join(CERTIFICATE))?;
    Ok(certificate)
}

/// Refuses a model of which a check failed.
///
/// # Errors
/// The check, and what it was checked against.
pub(crate) fn demand(certificate: &Certificate, source: &str) -> Result<()> {
    let Some(failed) = certificate.failures().next() else {
        return Ok(());
    };
    let against = match &certificate.reference {
        Some(made_by) => format!(" (reference made by {})", output::plain(made_by)),
        None => String::new(),
    };
    let remedy = match &certificate.reference {
        Some(_) => {
            "check that the reference is of this model and that its files are whole; --allow-mismatch keeps the \
             model and records the difference"
        }
        None => {
            "check that the model's files are whole; --allow-mismatch keeps the model and records what is wrong"
        }
    };
    Err(Misuse::error(
        format!("{source}: {}: {}{against}", failed.what, failed.detail),
        remedy,
    ))
}

/// What was checked, in a line.
pub(crate) fn told(certificate: &Certificate) -> String {
    let failed = certificate.failures().count();
    let mut checks = certificate.checks.iter();
    let passed = checks.any(|check| check.outcome == Outcome::Passed);
    let ours = match failed {
        0 if passed => "weights, tokenizer and template are sound".to_owned(),
        0 => "the hashes of its files are recorded".to_owned(),
        1 => format!("1 check FAILED (see {CERTIFICATE})"),
        failed => format!("{failed} checks FAILED (see {CERTIFICATE})"),
    };
    match &certificate.reference {
        Some(made_by) => {
            let compared = certificate.checks.iter().filter_map(|check| check.largest);
            let logits = match compared.reduce(f64::max) {
                Some(largest) => format!("logits within {largest:.1e}"),
                None => "no logits were compared".to_owned(),
            };
            format!(
                "checked against {}: {logits}; {ours}",
                output::plain(made_by)
            )
        }
        None => {
            let noted = |check: &&Check| check.outcome == Outcome::Noted;
            let why = certificate.checks.iter().find(noted);
            let why = why.map_or(
                "no reference is known for this model (--reference takes one)",
                |check| check.detail.as_str(),
            );
            format!("nothing external was verified: {why}; {ours}")
        }
    }
}
