//! Data sets out of archives: verified, unpacked once, joined.

use std::fs::File;
use std::io::Write;

use super::*;

fn zip(path: &Path, files: &[(&str, &str)]) {
    let mut zip = zip::ZipWriter::new(File::create(path).expect("a file"));
    for (name, content) in files {
        zip.start_file(*name, zip::write::SimpleFileOptions::default())
            .expect("an entry");
        zip.write_all(content.as_bytes()).expect("its content");
    }
    zip.finish().expect("a zip");
}

#[test]
fn an_archive_is_verified_unpacked_once_and_read() {
    let home = Home::new();
    zip(
        &home.path("x.whl"),
        &[
            ("p/b.txt", "second"),
            ("p/a.txt", "first"),
            ("p/a_f.txt", "not this"),
            ("q/a.txt", "nor this"),
        ],
    );
    let text = manifest(
        "text",
        "path = \"x.whl\"\nfiles = [\"p/a.txt\", \"p/b*.txt\"]",
        "",
    );
    let path = home.write("mine.toml", text);
    let dataset = Manifest::load(&path)
        .unwrap()
        .fetch(&home.cache(), &Progress::Silent)
        .unwrap();
    let found = documents(&dataset, &Split::ALL);
    assert_eq!(
        found
            .iter()
            .map(|d| (d.key.as_str(), d.text.as_str()))
            .collect::<Vec<_>>(),
        [("p/a.txt", "first"), ("p/b.txt", "second")]
    );
    // A torn unpacked file is noticed and unpacked again.
    fs::write(dataset.files().next().unwrap(), "fi").unwrap();
    let again = Manifest::load(&path)
        .unwrap()
        .fetch(&home.cache(), &Progress::Silent)
        .unwrap();
    assert_eq!(texts(&again, Split::Train), ["first", "second"]);
}

#[test]
fn a_wrong_hash_is_refused_and_nothing_is_unpacked() {
    let home = Home::new();
    zip(&home.path("x.whl"), &[("a.txt", "first")]);
    let source = format!(
        "path = \"x.whl\"\nfiles = [\"a.txt\"]\nsha256 = \"{}\"",
        "0".repeat(64)
    );
    let path = home.write("mine.toml", manifest("text", &source, ""));
    let error = Manifest::load(&path)
        .unwrap()
        .fetch(&home.cache(), &Progress::Silent)
        .unwrap_err();
    assert!(
        !error.is_input() && error.to_string().contains("nothing of it was used"),
        "{error}"
    );
    assert!(!home.path("cache").exists());
}

#[test]
fn a_pattern_that_matches_nothing_is_named() {
    let home = Home::new();
    zip(&home.path("x.zip"), &[("a.txt", "first")]);
    let path = home.write(
        "mine.toml",
        manifest(
            "text",
            "path = \"x.zip\"\nfiles = [\"a.txt\", \"b*.txt\"]",
            "",
        ),
    );
    let error = Manifest::load(&path)
        .unwrap()
        .fetch(&home.cache(), &Progress::Silent)
        .unwrap_err()
        .to_string();
    assert!(error.contains("matches `b*.txt`"), "{error}");
}

#[test]
fn processes_that_unpack_at_once_do_not_disturb_each_other() {
    let home = Home::new();
    let content = "word ".repeat(50_000);
    zip(
        &home.path("x.zip"),
        &[("a.txt", &content), ("b.txt", &content)],
    );
    let path = home.write(
        "mine.toml",
        manifest("text", "path = \"x.zip\"\nfiles = [\"*.txt\"]", ""),
    );
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let dataset = Manifest::load(&path)
                        .unwrap()
                        .fetch(&home.cache(), &Progress::Silent)
                        .unwrap();
                    documents(&dataset, &Split::ALL).len()
                })
            })
            .collect();
        for run in runs {
            assert_eq!(run.join().unwrap(), 2);
        }
    });
    assert!(
        !fs::read_dir(home.path("cache/datasets"))
            .unwrap()
            .flatten()
            .any(|slot| slot.path().join("staging").exists())
    );
}

#[test]
fn joined_files_are_cut_at_the_byte() {
    let home = Home::new();
    home.write("f/b.txt", "\u{feff}two\r\n");
    home.write("f/a.txt", "one\n\n");
    let text = manifest(
        "text",
        "path = \"f\"",
        "[read]\ndocuments = \"joined\"\n[split]\ntail_bytes = 4",
    );
    let path = home.write("mine.toml", text);
    let dataset = Manifest::load(&path)
        .unwrap()
        .fetch(&home.cache(), &Progress::Silent)
        .unwrap();
    assert_eq!(texts(&dataset, Split::Train), ["one\n\n\u{feff}t"]);
    assert_eq!(texts(&dataset, Split::Validation), ["wo\r\n"]);
    let scan = dataset.scan().unwrap();
    assert_eq!((scan.train.bytes, scan.validation.bytes), (9, 4));
    // Two bytes earlier the cut would fall into the byte-order mark.
    home.write(
        "mine.toml",
        fs::read_to_string(&path).unwrap().replace("= 4", "= 6"),
    );
    let dataset = Manifest::load(&path)
        .unwrap()
        .fetch(&home.cache(), &Progress::Silent)
        .unwrap();
    let error = dataset.scan().unwrap_err().to_string();
    assert!(
        error.contains("cuts a character in two at byte 7"),
        "{error}"
    );
}
