//! What was verified of a model, written down beside it so that it can be verified again.
//!
//! `certificate.json` lies in every model folder, adapter folder and beside every GGUF file that Etude
//! finishes. It holds the size and SHA-256 of each file, what was checked on the way, and transcripts: what
//! the model says, greedily, to a few prompts. `reference.json`, where there is one, holds what another
//! program makes of the same weights ([`Reference`]). [`certify`] writes down, [`recheck`] compares.
//!
//! Models are read back from what was written, in float32 on the CPU, whatever they were trained on. Both
//! files come from outside as often as not: nothing in them is used before it was checked.

mod check;
mod files;
mod reading;
mod reference;
mod subject;
mod transcript;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::hf::{FolderError, fingerprint, peft};
use crate::text::Prompt;
pub use check::{Check, Outcome};
pub use files::FileRecord;
pub use reference::Reference;
pub use subject::Subject;
pub use transcript::Transcript;

/// The certificate's name in a model folder.
pub const CERTIFICATE: &str = "certificate.json";
/// The reference's name in a model folder.
pub const REFERENCE: &str = "reference.json";

/// The format that is written here.
const FORMAT: u32 = 1;
/// The name of the check of what the model says.
const TRANSCRIPTS: &str = "transcripts";
/// A larger certificate or reference is none.
const MAX_BYTES: u64 = 16 << 20;

/// What was verified of a model, and what it says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// 1.
    pub format: u32,
    /// The version of Etude that wrote it.
    pub etude: String,
    /// The day, `YYYY-MM-DD`, in UTC.
    pub date: String,
    /// Which program and number format the reference is from; none where nothing external was compared.
    pub reference: Option<String>,
    /// What was checked, and how it came out.
    pub checks: Vec<Check>,
    /// Of an adapter: which model it is for ([`crate::hf::fingerprint`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// The files by name.
    pub files: BTreeMap<String, FileRecord>,
    /// The number format in which the transcripts were computed.
    pub computed_in: String,
    /// What the model says.
    pub transcripts: Vec<Transcript>,
}

impl Certificate {
    /// The certificate in a folder, if there is one.
    ///
    /// # Errors
    /// When it cannot be read or is no certificate.
    pub fn load(folder: &Path) -> Result<Option<Self>, FolderError> {
        read(&folder.join(CERTIFICATE))
    }

    /// The certificate beside a GGUF file, if there is one.
    ///
    /// # Errors
    /// As [`Certificate::load`].
    pub fn load_beside(file: &Path) -> Result<Option<Self>, FolderError> {
        read(&beside(file))
    }

    /// Writes it to `path`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), FolderError> {
        let json = serde_json::to_value(self).expect("plain data");
        crate::hf::write_json(path.to_owned(), &json).map(drop)
    }

    /// A certificate of today, without a reference.
    fn of(
        files: BTreeMap<String, FileRecord>,
        checks: Vec<Check>,
        transcripts: Vec<Transcript>,
    ) -> Self {
        Self {
            format: FORMAT,
            etude: env!("CARGO_PKG_VERSION").to_owned(),
            date: chrono::Utc::now().format("%Y-%m-%d").to_string(),
            reference: None,
            checks,
            base: None,
            files,
            computed_in: "float32".to_owned(),
            transcripts,
        }
    }

    /// The checks that did not pass.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.has_failed())
    }

    /// The prompts of its transcripts.
    pub fn prompts(&self) -> Vec<Prompt> {
        let transcripts = self.transcripts.iter();
        transcripts.map(|each| each.prompt.clone()).collect()
    }
}

/// Where the certificate of a GGUF file lies.
pub fn beside(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!("{name}.{CERTIFICATE}"))
}

/// Reads a finished model or adapter folder back, checks it, against a reference too where one is given,
/// and takes transcripts: of `prompts`, or of some that suit any model where there are none.
///
/// The certificate is not yet written. Whether a failed check matters is the caller's to say.
///
/// # Errors
/// A folder that cannot be loaded or read.
pub fn certify(
    folder: &Path,
    prompts: &[Prompt],
    reference: Option<&Reference>,
) -> Result<Certificate> {
    if let Some(lack) = Subject::lack_of_memory(folder)? {
        let files = files::record(folder)?;
        let noted = vec![Check::noted(TRANSCRIPTS, lack)];
        return Ok(Certificate::of(files, noted, Vec::new()));
    }
    let (files, found) = beside_each_other(
        || files::record(folder),
        || {
            let subject = Subject::load(folder)?;
            let mut found = examine(&subject, prompts);
            found.0.extend(
                reference
                    .iter()
                    .flat_map(|reference| reference.check(&subject)),
            );
            anyhow::Ok(found)
        },
    );
    let (checks, transcripts) = found?;
    let mut certificate = Certificate::of(files?, checks, transcripts);
    certificate.reference = reference.map(|reference| reference.made_by().to_owned());
    certificate.base = base(folder)?;
    Ok(certificate)
}

/// The fingerprint of the model that an adapter is for; none where the folder is no adapter.
fn base(folder: &Path) -> Result<Option<String>> {
    let base = peft::is_adapter(folder).then(|| peft::base(folder));
    base.map(|base| fingerprint(&base?)).transpose()
}

/// Hashing takes about as long as computing.
fn beside_each_other<A: Send, B>(
    hash: impl FnOnce() -> A + Send,
    compute: impl FnOnce() -> B,
) -> (A, B) {
    std::thread::scope(|scope| {
        let hashed = scope.spawn(hash);
        let computed = compute();
        (hashed.join().expect("hashing does not panic"), computed)
    })
}

/// The certificate of a GGUF file at `path`, which is to be called `name`. `before` is what the model said
/// that was exported: how much of it the file's numbers still say is noted, not judged.
///
/// # Errors
/// A file that cannot be loaded or read.
pub fn certify_gguf(path: &Path, name: &str, before: &[Transcript]) -> Result<Certificate> {
    let subject = Subject::load_gguf(path)?;
    let prompts: Vec<Prompt> = before.iter().map(|each| each.prompt.clone()).collect();
    let files = BTreeMap::from([(name.to_owned(), FileRecord::of(path)?)]);
    let (mut checks, transcripts) = examine(&subject, &prompts);
    checks.push(transcript::fidelity(before, &transcripts));
    Ok(Certificate::of(files, checks, transcripts))
}

/// Compares a folder with its certificate and, where it has one, its reference. Its files are compared even
/// if it cannot be loaded: `load` is what to do to load it.
///
/// # Errors
/// What `load` refuses, with the files that changed; a certificate or reference that cannot be read.
pub fn recheck(
    folder: &Path,
    load: impl FnOnce() -> Result<Subject>,
) -> Result<(Subject, Vec<Check>)> {
    let certificate = Certificate::load(folder)?;
    let (subject, mut checks) = compare(certificate.as_ref(), folder, load)?;
    if peft::is_adapter(folder) {
        let says = |check: &&mut Check| check.what == TRANSCRIPTS && check.has_failed();
        for check in checks.iter_mut().filter(says) {
            check.detail += "; the adapter or its base is another one";
        }
    }
    let path = folder.join(REFERENCE);
    if path.is_file() {
        checks.extend(Reference::load(&path)?.check(&subject));
    }
    Ok((subject, checks))
}

/// Compares a GGUF file with the certificate beside it.
///
/// # Errors
/// As [`recheck`].
pub fn recheck_gguf(file: &Path) -> Result<(Subject, Vec<Check>)> {
    let mut certificate = Certificate::load_beside(file)?;
    // Who renames the file and its certificate changes nothing in either.
    let name = file.file_name().and_then(|name| name.to_str());
    if let (Some(certificate), Some(name)) = (&mut certificate, name)
        && certificate.files.len() == 1
        && let Some((_, record)) = certificate.files.pop_first()
    {
        certificate.files.insert(name.to_owned(), record);
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    compare(certificate.as_ref(), folder, || Subject::load_gguf(file))
}

fn compare(
    certificate: Option<&Certificate>,
    folder: &Path,
    load: impl FnOnce() -> Result<Subject>,
) -> Result<(Subject, Vec<Check>)> {
    let Some(certificate) = certificate else {
        let subject = load()?;
        let detail = "none: there is nothing that this model could be compared with";
        let mut checks = subject.soundness();
        checks.push(match transcript::take(&subject, &[]) {
            Ok(made) => Check::passed(
                TRANSCRIPTS,
                format!("{} prompts were continued", made.len()),
            ),
            Err(error) => Check::failed(TRANSCRIPTS, error.to_string()),
        });
        checks.push(Check::noted("certificate", detail));
        return Ok((subject, checks));
    };
    let hash = || {
        let mut files = files::compare(folder, &certificate.files);
        if !files.has_failed() {
            let (date, etude) = (&certificate.date, &certificate.etude);
            files.detail += &format!(" on {date} by Etude {etude}");
        }
        files
    };
    let (files, found) = beside_each_other(hash, || {
        let subject = load()?;
        let mut checks = subject.soundness();
        checks.extend(transcript::recheck(&subject, &certificate.transcripts));
        anyhow::Ok((subject, checks))
    });
    match found {
        Ok((subject, checks)) => Ok((subject, [vec![files], checks].concat())),
        Err(error) if files.has_failed() => Err(error.context(files.detail)),
        Err(error) => Err(error),
    }
}

/// What a model is by itself, and what it says.
fn examine(subject: &Subject, prompts: &[Prompt]) -> (Vec<Check>, Vec<Transcript>) {
    let mut checks = subject.soundness();
    let transcripts = transcript::take(subject, prompts).unwrap_or_else(|error| {
        checks.push(Check::failed(TRANSCRIPTS, error.to_string()));
        Vec::new()
    });
    (checks, transcripts)
}

fn read(path: &Path) -> Result<Option<Certificate>, FolderError> {
    if !path.is_file() {
        return Ok(None);
    }
    from_text(&text_of(path)?, path).map(Some)
}

/// The text of a certificate or reference of sensible size.
fn text_of(path: &Path) -> Result<String, FolderError> {
    let io = |source| FolderError::Io {
        path: path.to_owned(),
        source,
    };
    let bytes = path.metadata().map_err(io)?.len();
    if bytes > MAX_BYTES {
        return Err(FolderError::Json {
            path: path.to_owned(),
            reason: format!("{bytes} bytes are more than such a file has"),
        });
    }
    std::fs::read_to_string(path).map_err(io)
}

/// A certificate or reference of this format.
fn from_text<T: serde::de::DeserializeOwned>(text: &str, path: &Path) -> Result<T, FolderError> {
    let json = |error: serde_json::Error| FolderError::Json {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let value: serde_json::Value = serde_json::from_str(text).map_err(json)?;
    if value.get("format") != Some(&FORMAT.into()) {
        return Err(FolderError::Field {
            path: path.to_owned(),
            field: "format".to_owned(),
            reason: format!(
                "must be {FORMAT}; the file is of another kind, or of a later version of Etude"
            ),
        });
    }
    serde_json::from_value(value).map_err(json)
}
