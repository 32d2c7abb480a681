//! Model folders from a hub that speaks Hugging Face's HTTP interface, kept where its own programs keep
//! them, so that neither fetches what the other has:
//!
//! ```text
//! HF_HOME/hub/models--ORG--NAME/
//!     blobs/HASH              a file under its hash; HASH.incomplete while it comes
//!     refs/main               the revision that was last asked for
//!     snapshots/REVISION/     the files by name, links to the blobs
//! ```
//!
//! Only configuration, tokenizer and safetensors are fetched, never a pickle. What the hub says is
//! untrusted: names are plain, hashes hexadecimal, and a large file must have the SHA-256 that was listed.

mod download;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use ureq::Agent;
use ureq::config::RedirectAuthHeaders;
use ureq::tls::{RootCerts, TlsConfig};

use crate::error::DataError;
use crate::progress::Progress;

/// The endpoint unless `HF_ENDPOINT` names another.
const ENDPOINT: &str = "https://huggingface.co";
/// A listing of files is never longer than this.
const MAX_LISTING: u64 = 64 << 20;

/// The files of a model folder besides its weights.
const WANTED: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "model.safetensors",
    "model.safetensors.index.json",
];

/// A hub, and the folder that keeps what came from it.
#[derive(Clone)]
pub struct Hub {
    endpoint: String,
    home: PathBuf,
    token: Option<String>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the token.
        f.debug_struct("Hub")
            .field("endpoint", &self.endpoint)
            .field("home", &self.home)
            .finish_non_exhaustive()
    }
}

/// A file as the hub lists it.
#[derive(Debug, Deserialize)]
struct Listed {
    rfilename: String,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

/// What is listed of a large file.
#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

#[derive(Debug, Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Listed>,
}

/// A file that is to be here.
struct Wanted {
    name: String,
    /// The name of its blob.
    hash: String,
    /// Whether that is its SHA-256; small files have git's hash.
    is_sha256: bool,
    size: u64,
}

impl Hub {
    /// As the variables say: `HF_ENDPOINT`; `HF_HOME`, else `~/.cache/huggingface`; `HF_TOKEN`, else the file
    /// `token` in that folder.
    ///
    /// # Errors
    /// When no folder is named and there is no home.
    pub fn from_env() -> Result<Self, DataError> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = match set("HF_HOME") {
            Some(home) => PathBuf::from(home),
            None => set("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".cache")))
                .map(|cache| cache.join("huggingface"))
                .ok_or_else(|| {
                    DataError::input(
                        "no cache folder: HOME is not set",
                        "set HF_HOME to a folder",
                    )
                })?,
        };
        let token = set("HF_TOKEN").or_else(|| {
            let kept = fs::read_to_string(home.join("token")).ok()?;
            Some(kept.trim().to_owned()).filter(|token| !token.is_empty())
        });
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Ok(Self::new(&endpoint, home, token))
    }

    /// The hub at `endpoint`, keeping files in `home`.
    pub fn new(endpoint: &str, home: impl Into<PathBuf>, token: Option<String>) -> Self {
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            home: home.into(),
            token,
        }
    }

    /// Whether `text` has the form of a model's name, `ORG/NAME`, with `@REVISION` behind it or not.
    pub fn is_name(text: &str) -> bool {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        name.split('/').count() == 2 && name.split('/').all(plain) && plain(revision)
    }

    /// Brings a model's files here (those that are not yet) and says in which folder they lie. An interrupted
    /// download goes on where it stopped.
    ///
    /// # Errors
    /// A name that the hub does not know, a model that asks for a token, a network or disk that fails, a
    /// file that is not what was listed. Where the network fails and the whole revision is here, that is taken.
    pub fn fetch(&self, model: &str, progress: &Progress) -> Result<PathBuf, DataError> {
        if !Self::is_name(model) {
            return Err(DataError::input(
                format!("`{model}` is no model's name"),
                "write ORG/NAME, such as HuggingFaceTB/SmolLM2-135M-Instruct",
            ));
        }
        let (name, revision) = model.split_once('@').unwrap_or((model, "main"));
        let folder = self
            .home
            .join("hub")
            .join(format!("models--{}", name.replace('/', "--")));
        let agent = self.agent();
        let url = format!(
            "{}/api/models/{name}/revision/{revision}?blobs=true",
            self.endpoint
        );
        let listing = match self.get(&agent, &url).call() {
            Ok(response) => self.listing(name, response)?,
            Err(error) => {
                let kept = kept(&folder, revision);
                if kept.is_some() && *progress == Progress::Shown {
                    let _ = writeln!(
                        io::stderr(),
                        "{} does not answer; what is here of {model} is used",
                        self.endpoint
                    );
                }
                return kept.ok_or_else(|| self.unreachable(name, &error));
            }
        };
        let files = self.wanted(name, &listing)?;
        let snapshot = folder.join("snapshots").join(&listing.sha);
        for place in [folder.join("blobs"), folder.join("refs"), snapshot.clone()] {
            fs::create_dir_all(&place).map_err(DataError::io("create", &place))?;
        }
        for file in &files {
            let blob = folder.join("blobs").join(&file.hash);
            if fs::metadata(&blob).map_or(0, |found| found.len()) != file.size {
                let url = format!(
                    "{}/{name}/resolve/{}/{}",
                    self.endpoint, listing.sha, file.name
                );
                self.download(&agent, name, &url, file, &blob, *progress)?;
            }
            link(&blob, &snapshot.join(&file.name), &file.hash)?;
        }
        let reference = folder.join("refs").join(revision);
        fs::write(&reference, &listing.sha).map_err(DataError::io("write", &reference))?;
        Ok(snapshot)
    }

    fn agent(&self) -> Agent {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .build();
        Agent::config_builder()
            .user_agent(concat!("etude/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .tls_config(tls)
            .build()
            .new_agent()
    }

    /// The files of a revision.
    fn listing(
        &self,
        name: &str,
        mut response: ureq::http::Response<ureq::Body>,
    ) -> Result<Listing, DataError> {
        let status = response.status().as_u16();
        if status != 200 {
            return Err(self.refused(name, status));
        }
        let text = response
            .body_mut()
            .with_config()
            .limit(MAX_LISTING)
            .read_to_string()
            .map_err(|error| self.unreachable(name, &error))?;
        let listing: Listing = serde_json::from_str(&text).map_err(|error| {
            let remedy = "check HF_ENDPOINT: it may not be a hub";
            failure(
                name,
                format!("the answer is no list of files ({error})"),
                remedy,
            )
        })?;
        if !is_hash(&listing.sha) {
            let what = format!("the revision `{}` is no hash", listing.sha);
            return Err(failure(
                name,
                what,
                "check HF_ENDPOINT: it may not be a hub",
            ));
        }
        Ok(listing)
    }

    /// Of the files listed, those that a model folder consists of.
    fn wanted(&self, name: &str, listing: &Listing) -> Result<Vec<Wanted>, DataError> {
        let listed: BTreeMap<&str, &Listed> = listing
            .siblings
            .iter()
            .map(|file| (file.rfilename.as_str(), file))
            .collect();
        let sharded = !listed.contains_key("model.safetensors");
        let is_shard = |file: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            file.starts_with("model-") && file.ends_with(".safetensors") && file.chars().all(plain)
        };
        if sharded && !listed.contains_key("model.safetensors.index.json") {
            let gguf = listed.keys().any(|file| file.ends_with(".gguf"));
            let remedy = if gguf {
                "it has GGUF files: download one and import that"
            } else {
                "only safetensors are read; look for a newer revision or a conversion"
            };
            return Err(failure(name, "it has no model.safetensors", remedy));
        }
        let mut files = Vec::new();
        for (file, entry) in listed {
            if !(WANTED.contains(&file) || sharded && is_shard(file)) {
                continue;
            }
            let (hash, size) = match &entry.lfs {
                Some(lfs) => (Some(&lfs.sha256), Some(lfs.size)),
                None => (entry.blob_id.as_ref(), entry.size),
            };
            let sound = hash.filter(|hash| is_hash(hash)).zip(size);
            let Some((hash, size)) = sound else {
                let what = format!("`{file}` is listed without hash or size");
                return Err(failure(
                    name,
                    what,
                    "check HF_ENDPOINT: it may not be a hub",
                ));
            };
            files.push(Wanted {
                name: file.to_owned(),
                hash: hash.clone(),
                is_sha256: entry.lfs.is_some(),
                size,
            });
        }
        Ok(files)
    }

    fn get(&self, agent: &Agent, url: &str) -> ureq::RequestBuilder<ureq::typestate::WithoutBody> {
        let request = agent.get(url);
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn unreachable(&self, name: &str, error: &dyn std::fmt::Display) -> DataError {
        failure(
            name,
            format!("{} does not answer: {error}", self.endpoint),
            "check the network, HTTPS_PROXY, and HF_ENDPOINT if a mirror is meant",
        )
    }

    fn refused(&self, name: &str, status: u16) -> DataError {
        let (what, remedy) = match status {
            401 | 403 => (
                format!("{} asks for permission (status {status})", self.endpoint),
                "accept the model's terms on its page, and put a token that may read it into HF_TOKEN",
            ),
            404 => (
                format!("{} has no such model or revision", self.endpoint),
                "check the spelling of ORG/NAME",
            ),
            429 => (
                "too many requests".to_owned(),
                "wait a while, or set HF_TOKEN",
            ),
            _ => (
                format!("{} answers with status {status}", self.endpoint),
                "try again later",
            ),
        };
        failure(name, what, remedy)
    }
}

fn failure(name: &str, what: impl Into<String>, remedy: &str) -> DataError {
    DataError::Fetch {
        dataset: name.to_owned(),
        what: what.into(),
        remedy: remedy.to_owned(),
    }
}

/// The files of a revision that were all brought here before.
fn kept(folder: &Path, revision: &str) -> Option<PathBuf> {
    let named = fs::read_to_string(folder.join("refs").join(revision));
    let sha = named.map_or_else(|_| revision.to_owned(), |sha| sha.trim().to_owned());
    let snapshot = folder.join("snapshots").join(sha);
    let is_there = |file: &str| snapshot.join(file).is_file();
    let weights = match fs::read(snapshot.join("model.safetensors.index.json")) {
        Err(_) => is_there("model.safetensors"),
        Ok(index) => {
            let index: serde_json::Value = serde_json::from_slice(&index).ok()?;
            let files = index.get("weight_map")?.as_object()?.values();
            let mut files = files.filter_map(serde_json::Value::as_str);
            files.all(is_there)
        }
    };
    (weights && is_there("config.json")).then_some(snapshot)
}

fn is_hash(text: &str) -> bool {
    (40..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// Puts a blob under a file's name: a relative link, or a copy where there are no links.
fn link(blob: &Path, name: &Path, hash: &str) -> Result<(), DataError> {
    if name.exists() {
        return Ok(());
    }
    let _ = fs::remove_file(name); // a link to nowhere, if anything
    #[cfg(unix)]
    let made = {
        let _ = blob;
        std::os::unix::fs::symlink(Path::new("../../blobs").join(hash), name)
    };
    #[cfg(not(unix))]
    let made = {
        let _ = hash;
        fs::copy(blob, name).map(drop)
    };
    made.map_err(DataError::io("link", name))
}
