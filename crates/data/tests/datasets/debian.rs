//! Data sets out of Debian's packages and lists, through tools that the tests make: shell scripts
//! called `apt-get` and `dpkg-deb` in a folder that is the whole PATH but for the shell's own tools.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::*;

const SYNOPSIS: &str = "[read]\nformat = \"jsonl\"\n[map]\nprompt = \"{description}\"\n\
                        completion = \"{synopsis}\"\nkey = \"{family}\"";
const PAIRS: &str = "[read]\nformat = \"jsonl\"\n[map]\nprompt = \"Translate: {en}\"\ncompletion = \"{de}\"\n\
                     key = \"{family}\"\n[filter]\nrequire = [\"en\", \"de\"]\nunique = [\"shape\"]\n\
                     pair = { text = \"en\", translation = \"de\", max_ratio = 2 }";

/// A stanza of a list.
fn stanza(language: &str, package: &str, number: u32, text: &str) -> String {
    let lines = text.replace('\n', "\n ");
    format!(
        "Package: {package}\nDescription-md5: {number:032x}\nDescription-{language}: {lines}\n\n"
    )
}

/// Runs the test of that name below in a process of its own, whose PATH has only the tools of `home`
/// and the shell's. The environment of this process is other tests' too.
fn with_tools(home: &Home, test: &str) {
    let tools = home.path("tools");
    fs::create_dir_all(&tools).unwrap();
    for name in ["cat", "cp", "mkdir", "false", "sh"] {
        let found = ["/bin", "/usr/bin"]
            .iter()
            .map(|dir| Path::new(dir).join(name))
            .find(|path| path.exists())
            .unwrap();
        std::os::unix::fs::symlink(found, tools.join(name)).unwrap();
    }
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("debian::{test}"), "--nocapture"])
        .env("PATH", &tools)
        .env("ETUDE_TEST_HOME", home.dir.path())
        .output()
        .unwrap();
    let (out, errors) = (
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr),
    );
    assert!(
        done.status.success() && out.contains("1 passed"),
        "{out}{errors}"
    );
}

fn tool(home: &Home, name: &str, script: &str) {
    let path = home.write(&format!("tools/{name}"), format!("#!/bin/sh\n{script}"));
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// An `apt-get` that has the lists `list-LANGUAGE` of its home, and counts its updates.
fn apt_get_with_lists(home: &Home) {
    let dir = home.dir.path().display();
    tool(
        home,
        "apt-get",
        &format!(
            "for a in \"$@\"; do case \"$a\" in\n\
             update) echo update >> {dir}/updates;;\n\
             indextargets) for l in en de; do\n\
             [ -f {dir}/list-$l ] && echo \"$l {dir}/list-$l\"; done;;\n\
             esac; done; exit 0\n"
        ),
    );
}

/// Whether this process was started by `with_tools`. In any other the tests called `inside_…` have nothing
/// to do: each is the second half of the test before it.
fn is_inside() -> bool {
    std::env::var_os("ETUDE_TEST_HOME").is_some()
}

/// What the process inside works on: the data set of the manifest `mine.toml`.
fn fetch_inside() -> (PathBuf, Result<Dataset, DataError>) {
    let home = PathBuf::from(std::env::var_os("ETUDE_TEST_HOME").expect("run by another test"));
    let dataset = Manifest::load(&home.join("mine.toml"))
        .and_then(|manifest| manifest.fetch(&Cache::at(home.join("cache")), &Progress::Silent));
    (home, dataset)
}

#[test]
fn lists_are_joined_filtered_and_kept() {
    let home = Home::new();
    apt_get_with_lists(&home);
    let long =
        "Ein sehr, sehr langer Text, der mit dem Original wenig gemein haben kann und zu viel sagt";
    let english = [
        stanza(
            "en",
            "libfoo1",
            1,
            "library for foo\nA thing\nof beauty.\n.\nThese are the documents of foo.",
        ),
        stanza(
            "en",
            "libbar-doc",
            2,
            "library for bar\nSame.\n.\nThese are the documents of bar.",
        ),
        stanza("en", "baz", 3, "a baz\nShort.\n.\nTwo."),
    ];
    let german = [
        stanza(
            "de",
            "libfoo1",
            1,
            "Bibliothek für foo\nEine Schönheit.\n.\nDies ist die Doku.",
        ),
        stanza(
            "de",
            "libbar-doc",
            2,
            "Bibliothek für bar\nSame.\n.\nDies ist die Doku.",
        ),
        stanza(
            "de",
            "baz",
            3,
            &format!("{long}\nKurz, ohne zweiten Absatz."),
        ),
    ];
    home.write("list-en", english.concat());
    home.write("list-de", german.concat());
    let source = "registry = \"apt-lists\"\nlanguages = [\"en\", \"de\"]";
    home.write("mine.toml", manifest("task", source, PAIRS));
    with_tools(&home, "inside_lists");
}

#[test]
fn inside_lists() {
    if !is_inside() {
        return;
    }
    let (home, dataset) = fetch_inside();
    let dataset = dataset.unwrap();
    let found: Vec<(String, String)> = examples(&dataset, &Split::ALL)
        .iter()
        .map(|e| (e.prompt_text(), e.reference_text().to_string()))
        .collect();
    let expected = [
        ("Translate: library for bar", "Bibliothek für bar"),
        (
            "Translate: These are the documents of bar.",
            "Dies ist die Doku.",
        ),
        ("Translate: A thing of beauty.", "Eine Schönheit."),
    ];
    assert_eq!(found, expected.map(|(a, b)| (a.to_string(), b.to_string())));
    let dropped: Vec<(String, u64)> = dataset.scan().unwrap().dropped.into_iter().collect();
    let expected = [
        ("`de` and `en` differ too much in length", 1),
        ("`de` repeats `en`", 1),
        ("`shape` seen before", 2),
        ("no `de`", 2),
    ];
    assert_eq!(dropped, expected.map(|(reason, n)| (reason.to_string(), n)));

    // Fetched once, and a fingerprint that stays: the lists may change meanwhile.
    let before = dataset.fingerprint().unwrap();
    fs::write(home.join("list-en"), "Package: new\n").unwrap();
    let (_, again) = fetch_inside();
    assert_eq!(again.unwrap().fingerprint().unwrap(), before);
    assert_eq!(
        fs::read_to_string(home.join("updates")).unwrap(),
        "update\n"
    );
    let slot = fs::read_dir(home.join("cache/datasets"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    assert!(!slot.path().join("staging").exists());
    let origin = fs::read_to_string(slot.path().join("lists.json")).unwrap();
    assert!(origin.contains("\"list\": \"list-de\""), "{origin}");
}

#[test]
fn a_hostile_list_is_named_with_its_line_and_nothing_is_kept() {
    let home = Home::new();
    apt_get_with_lists(&home);
    home.write(
        "list-en",
        stanza("en", "a", 1, "x\nlong") + "Package: b\n\u{1}oops\n",
    );
    let source = "registry = \"apt-lists\"\nlanguages = [\"en\"]";
    home.write("mine.toml", manifest("task", source, SYNOPSIS));
    with_tools(&home, "inside_hostile");
}

#[test]
fn inside_hostile() {
    if !is_inside() {
        return;
    }
    let (home, dataset) = fetch_inside();
    let message = dataset.unwrap_err().to_string();
    assert!(message.contains("list-en:7: neither a field"), "{message}");
    // The next attempt starts over.
    fs::write(home.join("list-en"), stanza("en", "a", 1, "x\nlong")).unwrap();
    assert_eq!(examples(&fetch_inside().1.unwrap(), &Split::ALL).len(), 1);
}

#[test]
fn where_debians_tools_or_a_language_are_missing_it_is_said() {
    let home = Home::new();
    let source = "registry = \"apt-lists\"\nlanguages = [\"en\", \"de\"]";
    home.write("mine.toml", manifest("task", source, PAIRS));
    with_tools(&home, "inside_missing");
}

#[test]
fn inside_missing() {
    if !is_inside() {
        return;
    }
    let message = fetch_inside().1.unwrap_err().to_string();
    assert!(
        message.starts_with(
            "cannot fetch mine: it comes through Debian's tools, and `apt-get` was not found"
        ),
        "{message}"
    );
    assert!(
        message.contains("the data sets of other registries go on"),
        "{message}"
    );
    let home = Home::new();
    apt_get_with_lists(&home);
    let tools = std::env::var("PATH").unwrap();
    fs::copy(
        home.path("tools/apt-get"),
        Path::new(&tools).join("apt-get"),
    )
    .unwrap();
    home.write("list-en", stanza("en", "a", 1, "x\nlong"));
    let message = fetch_inside().1.unwrap_err().to_string();
    assert!(
        message.contains("no descriptions of Debian's main packages in `de`"),
        "{message}"
    );
}

/// A tar archive as packages have it, with one catalogue.
fn tar_with(name: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    tar.append(&header, content).unwrap();
    tar.into_inner().unwrap()
}

fn hash_of(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Two packages in one manifest. Their "archives" are tar files that a `dpkg-deb` prints as they are.
fn packages(home: &Home, names: [&str; 2]) {
    let dir = home.dir.path().display().to_string();
    tool(
        home,
        "apt-get",
        &format!(
            "case \"$*\" in *p1=1*) cp {dir}/p1 p1_1.deb;; *p2=1*) cp {dir}/p2 p2_1.deb;; esac"
        ),
    );
    tool(home, "dpkg-deb", "[ \"$1\" = --version ] || cat \"$2\"");
    let mut hashes = Vec::new();
    for (package, name) in ["p1", "p2"].iter().zip(names) {
        let bytes = tar_with(name, format!("Text of {package}.\n").as_bytes());
        hashes.push(hash_of(&bytes));
        home.write(package, bytes);
    }
    let archive = |n: usize| {
        let hash = &hashes[n - 1];
        format!(
            "package = \"p{n}\"\nversion = \"1\"\narchive = \"p{n}.deb\"\nsha256 = \"{hash}\"\nbytes = 1"
        )
    };
    // What is taken out: what the archives hold, under the name that the manifest would give it.
    let files: Vec<String> = names
        .iter()
        .map(|name| format!("\"{}\"", name.trim_start_matches("./")))
        .collect();
    let source = format!(
        "registry = \"apt\"\nfiles = [{}]\n{}\n[[source.more]]\n{}",
        files.join(", "),
        archive(1),
        archive(2)
    );
    home.write("mine.toml", manifest("text", &source, ""));
}

#[test]
fn packages_are_fetched_verified_and_read_together() {
    let home = Home::new();
    packages(&home, ["./usr/share/a.txt", "./usr/share/b.txt"]);
    with_tools(&home, "inside_packages");
}

#[test]
fn inside_packages() {
    if !is_inside() {
        return;
    }
    let (home, dataset) = fetch_inside();
    let dataset = dataset.unwrap();
    assert_eq!(
        texts(&dataset, Split::Train),
        ["Text of p1.\n", "Text of p2.\n"]
    );
    // Another archive than the manifest's is not used, however it is called.
    fs::remove_dir_all(home.join("cache")).unwrap();
    fs::write(home.join("p2"), "other").unwrap();
    let message = fetch_inside().1.unwrap_err().to_string();
    assert!(message.contains("has the SHA-256"), "{message}");
    // A tool that fails without a word about a version that is gone.
    let path = std::env::var("PATH").unwrap();
    let gone =
        "#!/bin/sh\necho \"E: Version '1' for 'p1' was not found\" >&2\n[ \"$1\" = --version ]\n";
    fs::remove_dir_all(home.join("cache")).unwrap();
    fs::write(Path::new(&path).join("apt-get"), gone).unwrap();
    let message = fetch_inside().1.unwrap_err().to_string();
    assert!(message.contains("apt's sources have no p1 1"), "{message}");
}

#[test]
fn a_package_cannot_write_outside() {
    let home = Home::new();
    packages(&home, ["./usr/share/a.txt", "../evil.txt"]);
    with_tools(&home, "inside_evil");
}

#[test]
fn inside_evil() {
    if !is_inside() {
        return;
    }
    let message = fetch_inside().1.unwrap_err().to_string();
    assert!(message.contains("leads out of the archive"), "{message}");
}
