//! What becomes of files, links and pipes that results are written to, and of what was there when that fails.

#![cfg(unix)]

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use etude_files::{NewFolders, append, check, forget_unfinished, replace, write};

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("reads");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("reads")
                .file_name()
                .into_string()
                .expect("ours")
        })
        .collect();
    names.sort();
    names
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).expect("reads")
}

#[test]
fn a_file_is_whole_or_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    write(&out, |file| file.write_all(b"one")).expect("writes");
    fs::set_permissions(&out, fs::Permissions::from_mode(0o640)).expect("is ours");
    let fails = |file: &mut dyn Write| {
        file.write_all(&[b'x'; 100_000])?;
        Err(io::Error::other("the disk is full"))
    };
    write(&out, fails).expect_err("fails");
    assert_eq!(text(&out), "one");
    write(&folder.path().join("new"), fails).expect_err("fails");
    assert_eq!(names(folder.path()), ["out"]);
    write(&out, |file| file.write_all(b"two")).expect("writes");
    assert_eq!(text(&out), "two");
    let mode = fs::metadata(&out).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    write(folder.path(), |_| Ok(())).expect_err("is a folder");
}

#[test]
fn a_link_stays_and_what_it_leads_to_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let [target, link, dangling] =
        ["target", "link", "dangling"].map(|name| folder.path().join(name));
    fs::write(&target, "old").expect("writes");
    symlink("target", &link).expect("links");
    symlink("later", &dangling).expect("links");
    write(&link, |file| file.write_all(b"new")).expect("writes");
    write(&dangling, |file| file.write_all(b"there")).expect("writes");
    assert_eq!(text(&target), "new");
    assert_eq!(text(&folder.path().join("later")), "there");
    assert!(link.is_symlink() && dangling.is_symlink());
    symlink("round", folder.path().join("round")).expect("links");
    write(&folder.path().join("round"), |_| Ok(())).expect_err("leads nowhere");
}

#[test]
fn a_pipe_is_written_to_and_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("runs");
    assert!(made.success());
    check(&pipe).expect("can be written");
    let reader = {
        let pipe = pipe.clone();
        std::thread::spawn(move || {
            let mut read = String::new();
            let opened = fs::File::open(pipe);
            opened
                .and_then(|mut pipe| pipe.read_to_string(&mut read))
                .map(|_| read)
        })
    };
    write(&pipe, |file| file.write_all(b"through")).expect("writes");
    assert_eq!(reader.join().expect("reads").expect("reads"), "through");
    let kind = fs::metadata(&pipe).expect("is there").file_type();
    assert!(kind.is_fifo());
    assert_eq!(names(folder.path()), ["pipe"]);
}

#[test]
fn a_new_file_is_as_readable_as_others_and_a_link_in_its_place_goes() {
    let folder = tempfile::tempdir().expect("a folder");
    let [ours, plain, link] = ["ours", "plain", "link"].map(|name| folder.path().join(name));
    fs::write(&plain, "x").expect("writes");
    symlink("plain", &link).expect("links");
    for place in [&ours, &link] {
        replace(place, |file| file.write_all(b"y")).expect("writes");
    }
    let mode = |path: &Path| {
        let found = fs::metadata(path).expect("is there");
        found.permissions().mode()
    };
    assert_eq!(mode(&ours), mode(&plain));
    assert!(!link.is_symlink() && text(&link) == "y" && text(&plain) == "x");
    let refused = replace(&folder.path().join("no/file"), |_| Ok(())).expect_err("no folder");
    assert!(!refused.to_string().contains(".tmp-"), "{refused}");
}

#[test]
fn what_a_kill_left_is_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in [".tmp-a1B2c3", "metrics.jsonl", "tmp-mine"] {
        fs::write(folder.path().join(name), "x").expect("writes");
    }
    forget_unfinished(folder.path());
    assert_eq!(names(folder.path()), ["metrics.jsonl", "tmp-mine"]);
}

#[test]
fn what_is_added_follows_what_was_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    check(&out).expect("can be written");
    assert!(!out.exists());
    append(&out, "one\n").expect("writes");
    append(&out, "two\n").expect("writes");
    check(&out).expect("can be written");
    assert_eq!(text(&out), "one\ntwo\n");
    append(folder.path(), "x").expect_err("is a folder");
    check(&folder.path().join("no/file")).expect_err("its folder is not there");
}

#[test]
fn folders_that_stay_empty_go_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let deep = folder.path().join("a/b/c");
    drop(NewFolders::make(&deep).expect("makes"));
    assert!(names(folder.path()).is_empty());
    fs::create_dir(folder.path().join("a")).expect("makes");
    let made = NewFolders::above(&deep.join("file")).expect("makes");
    fs::write(folder.path().join("a/b/kept"), "").expect("writes");
    drop(made);
    assert!(folder.path().join("a/b/kept").exists() && !deep.exists());
    drop(NewFolders::make(&folder.path().join("a")).expect("is there"));
    assert!(folder.path().join("a").exists());
}
