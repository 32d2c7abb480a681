//! Runs `apt-get` for Debian's packages and lists. The user's own sources, keys and proxies are used;
//! what apt writes goes to the staging folder, so that no right of root's is needed and the system's
//! own state stays as it is. Trust comes from apt, which checks the signatures of what it fetches.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use super::tools::{disk_full, failure, find, last_lines, run};
use crate::cache::file_sha256;
use crate::debian::ListFile;
use crate::error::DataError;
use crate::manifest::{Archive, Manifest};
use crate::progress::Progress;

/// Fetches one package's archive into `staging`, by the lists that the system has, or else by fresh
/// ones.
pub(super) fn download(
    manifest: &Manifest,
    archive: &Archive,
    staging: &Path,
    progress: Progress,
) -> Result<PathBuf, DataError> {
    must_have(manifest, "dpkg-deb")?;
    must_have(manifest, "apt-get")?;
    let wanted = format!("{}={}", archive.package, archive.version);
    let size = archive.bytes as f64 / 1e6;
    let what = format!("fetching {wanted} ({size:.1} MB) with apt-get");
    let task = progress.bytes(&what, archive.bytes);
    let attempt = |mut command: Command| {
        command.arg("download").arg(&wanted).current_dir(staging);
        run(manifest, command, "apt-get", staging, archive.bytes, &task)
    };
    let mut outcome = attempt(apt_get())?;
    if let Err(first) = outcome {
        // No lists here, or old ones.
        let settings = Settings::write(manifest, staging, &[])?;
        let mut update = settings.apt_get();
        update.arg("update");
        outcome = run(manifest, update, "apt-get", staging, u64::MAX, &task)?;
        if let Ok(update) = outcome {
            // An update that reaches no source is no failure of apt's, but the reason of the next one.
            let before = first + &update;
            outcome = attempt(settings.apt_get())?.map_err(|log| before + &log);
        }
    }
    match outcome {
        Ok(_) => find(manifest, staging, "apt-get"),
        Err(log) => Err(download_failure(manifest, archive, &log)),
    }
}

/// Fetches the lists of package descriptions in the manifest's languages into `staging`.
pub(super) fn lists(
    manifest: &Manifest,
    staging: &Path,
    progress: Progress,
) -> Result<Vec<ListFile>, DataError> {
    must_have(manifest, "apt-get")?;
    let languages = &manifest.source.languages;
    let settings = Settings::write(manifest, staging, languages)?;
    let what = format!(
        "fetching Debian's package descriptions ({}) with apt-get",
        languages.join(", ")
    );
    let task = progress.bytes(&what, 0);
    let mut update = settings.apt_get();
    update.arg("update");
    // A source that cannot be reached is not a failure of apt's; whether the lists came is seen below.
    let outcome = run(manifest, update, "apt-get", staging, u64::MAX, &task)?;
    let log = outcome.map_err(|log| lists_failure(manifest, &log))?;

    let output = settings
        .apt_get()
        .args(["indextargets", "--format", "$(LANGUAGE) $(FILENAME)"])
        .args([
            "Created-By: Translations",
            "Origin: Debian",
            "Component: main",
        ])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failure(manifest, format!("apt-get: {error}"), "try again"))?;
    let mut found: Vec<ListFile> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(language, path)| ListFile {
            language: language.to_string(),
            path: PathBuf::from(path),
        })
        .filter(|list| list.path.is_file() && languages.contains(&list.language))
        .collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found.dedup_by(|a, b| a.path == b.path);
    for language in languages {
        if !found.iter().any(|list| list.language == *language) {
            if log.contains("Failed to fetch") || log.contains("Could not resolve") {
                return Err(lists_failure(manifest, &log));
            }
            return Err(failure(
                manifest,
                format!(
                    "apt's sources hold no descriptions of Debian's main packages in `{language}`"
                ),
                "it needs a Debian system whose sources name `main`; the data sets of other \
                 registries go on without it",
            ));
        }
    }
    Ok(found)
}

/// Writes beside the records what they were made of: each list's name, size and hash, and their own.
pub(super) fn record_origin(
    lists: &[ListFile],
    records: &Path,
    to: &Path,
) -> Result<(), DataError> {
    let mut entries = Vec::new();
    for list in lists {
        let name = list.path.file_name().unwrap_or_default().to_string_lossy();
        let size = fs::metadata(&list.path).map_err(DataError::io("read", &list.path))?;
        let sha256 = file_sha256(&list.path)?;
        entries.push(json!({"list": name, "bytes": size.len(), "sha256": sha256}));
    }
    let origin = json!({"records": {"sha256": file_sha256(records)?}, "lists": entries});
    fs::write(to, format!("{origin:#}\n")).map_err(DataError::io("write", to))
}

/// Settings of apt's that add to the user's: they are read last.
struct Settings {
    file: PathBuf,
}

impl Settings {
    /// Writes them below `staging`. With no language, apt fetches lists of packages; else lists of
    /// descriptions, and nothing more.
    fn write(manifest: &Manifest, staging: &Path, languages: &[String]) -> Result<Self, DataError> {
        let home = std::path::absolute(staging).map_err(DataError::io("find", staging))?;
        let home = home.join("apt");
        let shown = home.to_string_lossy().into_owned();
        if shown.contains(['"', '\n']) {
            return Err(failure(
                manifest,
                format!("apt cannot be told of the folder {shown}"),
                "name one without quotes in ETUDE_CACHE",
            ));
        }
        for folder in ["lists/partial", "cache/archives/partial"] {
            let path = home.join(folder);
            fs::create_dir_all(&path).map_err(DataError::io("create", &path))?;
        }
        // Hooks of the user's `update` are for the system's lists, and the packages' catalogues are
        // not needed.
        let mut text = String::from(
            "#clear Acquire::Languages;\n\
             #clear APT::Update::Pre-Invoke;\n\
             #clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n\
             Acquire::GzipIndexes \"false\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n",
        );
        let quoted: Vec<String> = match languages {
            [] => vec!["\"none\"; ".to_string()],
            _ => languages
                .iter()
                .map(|language| format!("\"{language}\"; "))
                .collect(),
        };
        text.push_str(&format!("Acquire::Languages {{ {}}};\n", quoted.concat()));
        if !languages.is_empty() {
            text.push_str("Acquire::IndexTargets::deb::Packages::DefaultEnabled \"false\";\n");
        }
        for (key, folder) in [
            ("Dir::State", ""),
            ("Dir::State::lists", "lists/"),
            ("Dir::Cache", "cache/"),
        ] {
            text.push_str(&format!("{key} \"{shown}/{folder}\";\n"));
        }
        let file = home.join("apt.conf");
        fs::write(&file, text).map_err(DataError::io("write", &file))?;
        Ok(Self { file })
    }

    fn apt_get(&self) -> Command {
        let mut command = apt_get();
        command.arg("--config-file").arg(&self.file);
        command
    }
}

/// `apt-get`, with messages that can be recognised.
fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("LC_ALL", "C").arg("--quiet");
    command
}

/// Whether one of Debian's tools is there.
fn must_have(manifest: &Manifest, tool: &str) -> Result<(), DataError> {
    let starts = Command::new(tool)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match starts {
        Ok(status) if status.success() => Ok(()),
        _ => Err(failure(
            manifest,
            format!("it comes through Debian's tools, and `{tool}` was not found"),
            "use it on a Debian system; the data sets of other registries go on without it",
        )),
    }
}

const UNREACHABLE: &[&str] = &[
    "Could not resolve",
    "Temporary failure",
    "Could not connect",
    "Unable to connect",
    "Connection timed out",
    "Network is unreachable",
];

fn download_failure(manifest: &Manifest, archive: &Archive, log: &str) -> DataError {
    let has = |signs: &[&str]| signs.iter().any(|sign| log.contains(sign));
    let Archive {
        package, version, ..
    } = archive;
    if let Some(full) = disk_full(manifest, log) {
        return full;
    }
    if has(UNREACHABLE) {
        return failure(
            manifest,
            "apt cannot reach its sources",
            "check the network, and apt's sources and proxy settings",
        );
    }
    if has(&[
        "was not found",
        "Unable to locate package",
        "404  Not Found",
    ]) {
        return failure(
            manifest,
            format!("apt's sources have no {package} {version}"),
            format!(
                "the data set is made of this version, which is Debian 12's; \
                 `apt-cache policy {package}` says which ones there are"
            ),
        );
    }
    failure(
        manifest,
        format!("apt-get failed: {}", last_lines(log)),
        "see its message",
    )
}

fn lists_failure(manifest: &Manifest, log: &str) -> DataError {
    if let Some(full) = disk_full(manifest, log) {
        return full;
    }
    let has = |signs: &[&str]| signs.iter().any(|sign| log.contains(sign));
    if has(UNREACHABLE) {
        return failure(
            manifest,
            "apt cannot reach its sources",
            "check the network, and apt's sources and proxy settings",
        );
    }
    failure(
        manifest,
        format!("apt-get update failed: {}", last_lines(log)),
        "see its message; `apt-get update` should work for you",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let text = "name = \"x\"\ntitle = \"X\"\ndescription = \"d\"\nkind = \"text\"\nlicence = \"MIT\"\n\
                    [source]\npath = \"x.txt\"\n";
        Manifest::parse(text, Path::new("x.toml")).unwrap()
    }

    #[test]
    fn apts_failures_carry_their_remedies() {
        let archive = Archive {
            package: "pkg".into(),
            version: "1:2".into(),
            ..Archive::default()
        };
        for (log, expected) in [
            ("E: Unable to locate package pkg", "no pkg 1:2"),
            (
                "E: Version '1:2' for 'pkg' was not found",
                "apt-cache policy pkg",
            ),
            ("Err: Could not resolve 'mirror'", "check the network"),
            ("E: something", "apt-get failed: E: something"),
        ] {
            let message = download_failure(&manifest(), &archive, log).to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn the_settings_keep_to_the_staging_folder() {
        let dir = tempfile::tempdir().unwrap();
        let languages = ["en".to_string(), "de".to_string()];
        let settings = Settings::write(&manifest(), dir.path(), &languages).unwrap();
        let text = fs::read_to_string(settings.file).unwrap();
        assert!(
            text.contains("Acquire::Languages { \"en\"; \"de\"; };"),
            "{text}"
        );
        let own = dir.path().display().to_string();
        for key in ["Dir::State ", "Dir::State::lists ", "Dir::Cache "] {
            let line = text.lines().find(|line| line.starts_with(key)).unwrap();
            assert!(line.contains(&own), "{line}");
        }
        let odd = dir.path().join("a\"b");
        assert!(Settings::write(&manifest(), &odd, &languages).is_err());
    }
}
