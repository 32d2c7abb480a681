//! Takes chosen files out of a zip (wheel), tar or Debian archive, and matches file patterns. Nothing is
//! ever written outside the target folder, whatever names the archive holds.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::read::GzDecoder;

use crate::error::DataError;

const BROKEN: &str = "the archive is damaged or of another kind; fetch it again";

/// Unpacks the files that match one of `patterns` into `target`; answers their names, sorted.
///
/// # Errors
/// A damaged archive, a name that leads out of `target`, or a full disk.
pub(crate) fn unpack(
    archive: &Path,
    patterns: &[String],
    target: &Path,
) -> Result<Vec<String>, DataError> {
    let file = File::open(archive).map_err(DataError::io("open", archive))?;
    let reader = BufReader::new(file);
    let name = archive.to_string_lossy().to_ascii_lowercase();
    let mut names = if name.ends_with(".whl") || name.ends_with(".zip") {
        unzip(archive, reader, patterns, target)?
    } else if name.ends_with(".tar.gz") || name.ends_with(".tgz") {
        untar(archive, GzDecoder::new(reader), patterns, target)?
    } else if name.ends_with(".tar") {
        untar(archive, reader, patterns, target)?
    } else if name.ends_with(".deb") {
        undeb(archive, patterns, target)?
    } else {
        return Err(DataError::in_file(
            archive,
            "unknown kind of archive",
            "use .whl, .zip, .tar, .tar.gz, .tgz or .deb",
        ));
    };
    names.sort();
    Ok(names)
}

/// Whether a file's name says that it is an archive this module opens.
pub(crate) fn is_archive(path: &Path) -> bool {
    let name = path.to_string_lossy().to_ascii_lowercase();
    [".whl", ".zip", ".tar.gz", ".tgz", ".tar", ".deb"]
        .iter()
        .any(|end| name.ends_with(end))
}

fn unzip(
    archive: &Path,
    reader: BufReader<File>,
    patterns: &[String],
    target: &Path,
) -> Result<Vec<String>, DataError> {
    let broken =
        |error: zip::result::ZipError| DataError::in_file(archive, error.to_string(), BROKEN);
    let mut zip = zip::ZipArchive::new(reader).map_err(broken)?;
    let mut names = Vec::new();
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).map_err(broken)?;
        let name = entry.name().map_err(broken)?.into_owned();
        if entry.is_file() && matches_any(patterns, &name) {
            write_entry(archive, &name, &mut entry, target)?;
            names.push(name);
        }
    }
    Ok(names)
}

fn untar(
    archive: &Path,
    reader: impl Read,
    patterns: &[String],
    target: &Path,
) -> Result<Vec<String>, DataError> {
    let broken = |error: io::Error| DataError::in_file(archive, error.to_string(), BROKEN);
    let mut tar = tar::Archive::new(reader);
    let mut names = Vec::new();
    for entry in tar.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.to_string_lossy().into_owned();
        // Debian's archives write `./usr` for `usr`.
        let name = path.strip_prefix("./").unwrap_or(&path).to_string();
        // Links are never followed or made: only plain files are taken.
        if entry.header().entry_type().is_file() && matches_any(patterns, &name) {
            write_entry(archive, &name, &mut entry, target)?;
            names.push(name);
        }
    }
    Ok(names)
}

/// A Debian package: `dpkg-deb` opens it and knows its compression, and what it prints is a tar
/// archive like any other. Nothing of the package is run.
fn undeb(archive: &Path, patterns: &[String], target: &Path) -> Result<Vec<String>, DataError> {
    let mut child = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(archive)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| {
            let remedy = "Debian's tools open this archive; use a Debian or Ubuntu system";
            DataError::in_file(
                archive,
                format!("`dpkg-deb` does not start: {error}"),
                remedy,
            )
        })?;
    let mut output = BufReader::new(child.stdout.take().expect("its output was piped"));
    let names = untar(archive, &mut output, patterns, target);
    if names.is_ok() {
        // What pads a tar archive's end: unread, it would make the tool fail.
        io::copy(&mut output, &mut io::sink()).map_err(DataError::io("read", archive))?;
    }
    // After an error too the tool must end: it does when nobody reads.
    drop(output);
    let status = child.wait().map_err(DataError::io("read", archive))?;
    let names = names?;
    if !status.success() {
        return Err(DataError::in_file(
            archive,
            "`dpkg-deb` cannot read it",
            BROKEN,
        ));
    }
    Ok(names)
}

fn write_entry(
    archive: &Path,
    name: &str,
    from: &mut impl Read,
    target: &Path,
) -> Result<(), DataError> {
    let relative = safe_path(name).ok_or_else(|| {
        DataError::in_file(
            archive,
            format!("the name `{name}` leads out of the archive"),
            "do not trust this archive",
        )
    })?;
    let path = target.join(relative);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(DataError::io("create", folder))?;
    }
    let mut to = File::create(&path).map_err(DataError::io("create", &path))?;
    io::copy(from, &mut to).map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            DataError::io("write", &path)(error)
        }
        _ => DataError::in_file(archive, format!("`{name}`: {error}"), BROKEN),
    })?;
    Ok(())
}

/// The name as a path of plain parts, or nothing if it is absolute or climbs.
fn safe_path(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    (plain && !name.contains('\\') && !name.is_empty()).then(|| path.to_path_buf())
}

/// Whether `name` matches one of the patterns.
pub(crate) fn matches_any(patterns: &[String], name: &str) -> bool {
    patterns
        .iter()
        .any(|pattern| glob(pattern.as_bytes(), name.as_bytes()))
}

/// `*` matches any run without `/`, `**` any run.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    match pattern {
        [] => name.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=name.len()).any(|i| glob(rest, &name[i..])),
        [b'*', rest @ ..] => {
            let reach = name.iter().position(|&b| b == b'/').unwrap_or(name.len());
            (0..=reach).any(|i| glob(rest, &name[i..]))
        }
        [first, rest @ ..] => name
            .split_first()
            .is_some_and(|(head, tail)| head == first && glob(rest, tail)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn patterns() {
        let matches = |pattern: &str, name: &str| glob(pattern.as_bytes(), name.as_bytes());
        assert!(matches("a/*_gut.txt", "a/lear_gut.txt"));
        assert!(!matches("a/*_gut.txt", "a/lear_gut_f.txt"));
        assert!(!matches("a/*.txt", "a/b/c.txt"));
        assert!(matches("**.txt", "a/b/c.txt"));
        assert!(matches("a/*/*.json", "a/b/c.json"));
    }

    fn zip_with(dir: &Path, name: &str) -> PathBuf {
        let path = dir.join("x.whl");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        zip.start_file(name, zip::write::SimpleFileOptions::default())
            .unwrap();
        zip.write_all(b"hello").unwrap();
        zip.finish().unwrap();
        path
    }

    #[test]
    fn a_zip_is_unpacked_and_cannot_climb_out() {
        let dir = tempfile::tempdir().unwrap();
        let everything = ["**".to_string()];
        let target = dir.path().join("out");
        let names = unpack(&zip_with(dir.path(), "a/b.txt"), &everything, &target).unwrap();
        assert_eq!(names, ["a/b.txt"]);
        assert_eq!(fs::read(target.join("a/b.txt")).unwrap(), b"hello");
        for evil in ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt"] {
            let error = unpack(&zip_with(dir.path(), evil), &everything, &target).unwrap_err();
            assert!(error.to_string().contains("leads out"), "{error}");
        }
        assert!(!dir.path().join("evil.txt").exists());
    }

    #[test]
    fn a_tar_is_unpacked_and_cannot_climb_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tgz");
        let write = |name: &str| {
            let gz = flate2::write::GzEncoder::new(
                File::create(&path).unwrap(),
                flate2::Compression::fast(),
            );
            let mut tar = tar::Builder::new(gz);
            let mut header = tar::Header::new_gnu();
            header.set_size(5);
            header.set_mode(0o644);
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, &b"hello"[..]).unwrap();
            tar.into_inner().unwrap().finish().unwrap();
        };
        write("a/b.txt");
        let target = dir.path().join("out");
        assert_eq!(
            unpack(&path, &["a/*".to_string()], &target).unwrap(),
            ["a/b.txt"]
        );
        write("../evil.txt");
        let error = unpack(&path, &["**".to_string()], &target).unwrap_err();
        assert!(error.to_string().contains("leads out"), "{error}");
        assert!(!dir.path().join("evil.txt").exists());
    }

    #[test]
    fn a_damaged_archive_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["x.whl", "x.tar.gz"] {
            let path = dir.path().join(name);
            fs::write(&path, b"not an archive at all").unwrap();
            let error = unpack(&path, &["**".to_string()], dir.path()).unwrap_err();
            assert!(error.to_string().contains("damaged"), "{error}");
        }
    }
}
