//! The data sets that are known by name: the manifests of `datasets/`, compiled in, and those in
//! folders of the user's own, which win. Anything else is a path.

use std::path::Path;

use crate::error::DataError;
use crate::local::LocalOptions;
use crate::manifest::Manifest;
use crate::settings::nearest;

macro_rules! shipped {
    ($($name:literal),+ $(,)?) => {
        &[$((concat!("datasets/", $name, ".toml"), include_str!(concat!("../../../datasets/", $name, ".toml")))),+]
    };
}

/// File names and texts of the manifests in `datasets/`, in the order they are listed in.
const SHIPPED: &[(&str, &str)] = shipped![
    "sotu",
    "shakespeare",
    "shakespeare-bytes",
    "wiki-leads",
    "grimm-tales",
    "chitchat",
    "movie-reviews",
    "wiki-description",
    "wiki-question",
    "factbook-questions",
    "recipe-steps",
    "grimm-stories",
    "chitchat-replies",
    "movie-sentiment",
    "spam-mail",
    "debian-synopsis",
    "debian-en-de",
    "debian-en-fr",
    "wesnoth-en-de",
];

/// The data sets known by name.
#[derive(Clone, Debug)]
pub struct Catalog {
    manifests: Vec<Manifest>,
}

impl Catalog {
    /// The shipped manifests, and those (`*.toml`) in `extra_dirs`; a later one of the same name
    /// replaces an earlier.
    ///
    /// # Errors
    /// The first manifest that is wrong, with file and line.
    pub fn load(extra_dirs: &[impl AsRef<Path>]) -> Result<Self, DataError> {
        let mut catalog = Self {
            manifests: Vec::with_capacity(SHIPPED.len()),
        };
        for (file, text) in SHIPPED {
            catalog.add(Manifest::parse(text, Path::new(file))?);
        }
        for dir in extra_dirs {
            let dir = dir.as_ref();
            let entries = std::fs::read_dir(dir).map_err(DataError::io("read", dir))?;
            let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            files.retain(|file| file.extension().is_some_and(|ending| ending == "toml"));
            files.sort();
            for file in files {
                catalog.add(Manifest::load(&file)?);
            }
        }
        Ok(catalog)
    }

    /// All manifests, in listing order.
    pub fn list(&self) -> &[Manifest] {
        &self.manifests
    }

    /// The manifest of that name, of that file (`.toml`), or made for that path of the user's data.
    ///
    /// # Errors
    /// Neither a name nor a path: the nearest name is offered.
    pub fn get(&self, name_or_path: &str) -> Result<Manifest, DataError> {
        self.get_with(name_or_path, &LocalOptions::default())
    }

    /// As `get`; `options` say how data without a manifest is read.
    ///
    /// # Errors
    /// As `get`.
    pub fn get_with(
        &self,
        name_or_path: &str,
        options: &LocalOptions,
    ) -> Result<Manifest, DataError> {
        if let Some(manifest) = self
            .manifests
            .iter()
            .find(|manifest| manifest.name == name_or_path)
        {
            return Ok(manifest.clone());
        }
        let path = Path::new(name_or_path);
        if path.exists() {
            let is_manifest = path.extension().is_some_and(|ending| ending == "toml");
            return if is_manifest {
                Manifest::load(path)
            } else {
                Manifest::for_path(path, options)
            };
        }
        let names = self.manifests.iter().map(|manifest| manifest.name.as_str());
        let remedy = match nearest(name_or_path, names) {
            Some(close) => format!("did you mean `{close}`? `etude data list` shows all"),
            None => "check the path, or choose one of `etude data list`".to_string(),
        };
        Err(DataError::input(
            format!("no data set and no file is called `{name_or_path}`"),
            remedy,
        ))
    }

    fn add(&mut self, manifest: Manifest) {
        match self
            .manifests
            .iter_mut()
            .find(|known| known.name == manifest.name)
        {
            Some(known) => *known = manifest,
            None => self.manifests.push(manifest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Counts, Kind, Registry};

    fn shipped() -> Catalog {
        Catalog::load(&[] as &[&Path]).unwrap()
    }

    #[test]
    fn every_manifest_in_datasets_is_shipped_and_parses() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets");
        let mut files: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".toml"))
            .collect();
        files.sort();
        let mut names: Vec<String> = shipped()
            .list()
            .iter()
            .map(|m| format!("{}.toml", m.name))
            .collect();
        names.sort();
        assert_eq!(files, names);
    }

    #[test]
    fn every_shipped_manifest_is_pinned_counted_and_licensed() {
        for manifest in shipped().list() {
            let name = &manifest.name;
            assert_ne!(manifest.source.registry, Registry::Local, "{name}");
            // Lists change with Debian's releases: apt vouches for them, and no hash can.
            if manifest.source.registry != Registry::AptLists {
                for archive in manifest.source.archives() {
                    assert_eq!(archive.sha256.len(), 64, "{name}");
                    assert!(archive.bytes > 0, "{name}");
                }
            }
            assert!(!manifest.licence.is_empty(), "{name}");
            let counts = manifest.counts.clone().unwrap_or_default();
            assert_eq!(
                counts.documents,
                counts.train + counts.validation + counts.test,
                "{name}"
            );
            assert!(
                counts.train > 0 && counts.validation > 0,
                "{name}: {counts:?}"
            );
            assert!(counts.test > 0 || manifest.kind == Kind::Text, "{name}");
            assert_ne!(counts, Counts::default(), "{name}");
        }
    }

    #[test]
    fn sets_made_of_the_same_records_share_their_split() {
        for group in [
            &["wiki-leads", "wiki-description", "wiki-question"][..],
            &["grimm-tales", "grimm-stories"],
            &["movie-reviews", "movie-sentiment"],
            &["chitchat", "chitchat-replies"],
            &["debian-synopsis", "debian-en-de", "debian-en-fr"],
        ] {
            let manifests: Vec<Manifest> = group
                .iter()
                .map(|name| shipped().get(name).unwrap())
                .collect();
            for other in &manifests[1..] {
                assert_eq!(manifests[0].split, other.split, "{group:?}");
                assert_eq!(manifests[0].map.key, other.map.key, "{group:?}");
                assert_eq!(manifests[0].source.sha256, other.source.sha256, "{group:?}");
            }
            assert!(
                manifests[0].map.key.is_some() && manifests[0].split.test > 0,
                "{group:?}"
            );
        }
    }

    #[test]
    fn a_misspelt_name_gets_the_nearest_one() {
        let message = shipped().get("wiki-lead").unwrap_err().to_string();
        assert!(message.contains("did you mean `wiki-leads`?"), "{message}");
    }

    #[test]
    fn a_folder_of_the_users_own_wins() {
        let dir = tempfile::tempdir().unwrap();
        let text = "name = \"sotu\"\ntitle = \"Mine\"\ndescription = \"d\"\nkind = \"text\"\nlicence = \"MIT\"\n\
                    [source]\npath = \"mine.txt\"\n";
        std::fs::write(dir.path().join("sotu.toml"), text).unwrap();
        let catalog = Catalog::load(&[dir.path()]).unwrap();
        assert_eq!(catalog.get("sotu").unwrap().title, "Mine");
        assert_eq!(catalog.list().len(), shipped().list().len());
    }
}
