//! Where results go: devices, pipes and links that a user names, places that have no room, names that are not plain.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{command, good, model, run, scratch, text, write, wrong};

fn pipe(name: &str) -> PathBuf {
    let path = scratch(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let made = Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    path
}

fn is_pipe(path: &Path) -> bool {
    path.symlink_metadata().unwrap().file_type().is_fifo()
}

/// Examples that any model can be asked.
fn examples(name: &str) -> String {
    let line = |n| format!("{{\"prompt\": \"Say {n}.\", \"completion\": \"A {n}.\"}}\n");
    write(name, (0..40).map(line).collect::<String>())
}

fn asked<'a>(data: &'a str, answers: &'a str) -> Vec<&'a str> {
    let mut line = vec!["eval", model(), "--task", data, "--limit", "2"];
    line.extend(["--max-tokens", "2", "--predictions", answers]);
    line
}

/// With what status the program ends, and what it says, where no file may hold a byte.
fn without_room(arguments: &[&str], input: &str) -> (i32, String) {
    let mut child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_etude"))
        .args(arguments)
        .env("ETUDE_CACHE", scratch("cache"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // What ends without a look at its input closes it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let done = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    (done.status.code().unwrap(), told)
}

#[test]
fn a_pipe_is_written_through_and_a_link_stays() {
    let folder = scratch("outputs-run");
    let line = "{\"kind\":\"train\",\"step\":1,\"loss\":3.5}\n";
    write("outputs-run/metrics.jsonl", line);
    let pipe = pipe("outputs/pipe");
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read_to_string(pipe).unwrap()
    });
    good(&["report", text(&folder), "--out", text(&pipe)]);
    assert!(is_pipe(&pipe)); // a file in its place would leave the reader waiting
    assert!(reader.join().unwrap().starts_with("<!"));

    let link = scratch("outputs/link.html");
    symlink("page.html", &link).unwrap();
    good(&["report", text(&folder), "--out", text(&link)]);
    assert!(link.is_symlink() && !scratch("outputs/page.html").is_symlink());

    let answers = scratch("outputs/answers.jsonl");
    symlink("kept.jsonl", &answers).unwrap();
    good(&asked(&examples("outputs/data.jsonl"), text(&answers)));
    assert!(answers.is_symlink() && scratch("outputs/kept.jsonl").is_file());
}

#[test]
fn a_model_is_a_new_file_with_its_certificate_or_none() {
    let pipe = pipe("gguf/pipe.gguf");
    let why = ["is a device or a pipe", "name a new file"];
    wrong(&["export", model(), text(&pipe)], &why);
    assert!(is_pipe(&pipe));
    let link = scratch("gguf/link.gguf");
    symlink("nowhere.gguf", &link).unwrap();
    wrong(&["export", model(), text(&link)], &["is a link"]);
    assert!(link.is_symlink());

    // Where the certificate cannot be put, no file appears either.
    let out = scratch("gguf-blocked/model.gguf");
    fs::create_dir_all(scratch("gguf-blocked/model.gguf.certificate.json/in")).unwrap();
    let done = run(&["export", model(), text(&out)]);
    assert_eq!(done.status, 1, "{}", done.err);
    let left = fs::read_dir(out.parent().unwrap()).unwrap();
    assert_eq!(left.count(), 1);
}

#[test]
fn without_room_nothing_half_made_stays() {
    let place = scratch("no-room");
    fs::create_dir_all(&place).unwrap();
    let at = |name: &str| text(&place.join(name)).to_owned();
    let [answers, tokenizer, out, talk] =
        ["answers.jsonl", "new/tokenizer", "out", "talk.jsonl"].map(at);
    let data = examples("no-room-data.jsonl");
    let book = write("no-room-book.txt", "To be, or not to be. ".repeat(50));
    let trained = ["tokenizer", "train", &book, "--vocab", "300", "--out"];
    for (arguments, named) in [
        (asked(&data, &answers), &answers),
        ([&trained[..], &[&tokenizer]].concat(), &tokenizer),
        (vec!["export", model(), &out], &out),
    ] {
        let (status, told) = without_room(&arguments, "");
        assert_eq!(status, 1, "{arguments:?}: {told}");
        assert!(told.contains(&format!("error: {named}: ")), "{told}");
        assert!(!told.contains("unfinished"), "{told}");
    }
    let said = format!("hello\n/save {talk}\n");
    let (_, told) = without_room(&["chat", model(), "--max-tokens", "2"], &said);
    assert!(told.contains("[not saved: "), "{told}");
    let left: Vec<_> = fs::read_dir(&place).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn texts_may_begin_with_a_dash() {
    for option in ["--prompt", "-p"] {
        for prompt in ["-x", "--json", "-1"] {
            let made = ["generate", model(), option, prompt, "--max-tokens", "1"];
            let out = good(&[&made[..], &["--echo"]].concat());
            assert!(out.starts_with(prompt), "{out}");
        }
    }
    let made = ["generate", model(), "--prompt", "a", "--max-tokens", "1"];
    good(
        &[
            &made[..],
            &["--stop", "--", "--chat", "--system", "- brief"],
        ]
        .concat(),
    );
    good(&["eval", model(), "--next", "-x"]);
    good(&["chat", model(), "--system", "- be brief"]);
}

#[test]
fn names_that_cannot_be_taken_say_so() {
    let bad = scratch("names").join(OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir_all(&bad).unwrap();
    fs::write(bad.join("recipe.toml"), "").unwrap();
    for (before, after) in [
        (&["replay"][..], &["--step", "1"][..]),
        (&["verify-resume", "pretrain-quickstart", "--run"], &[]),
        (&["import"], &["out"]),
        (&["pretrain"], &[]),
        (&["data", "show"], &[]),
    ] {
        let mut line: Vec<&OsStr> = before.iter().map(OsStr::new).collect();
        line.push(bad.as_os_str());
        line.extend(after.iter().map(OsStr::new));
        let output = command(&line).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(
            told.contains("is not UTF-8") && told.contains("try: "),
            "{told}"
        );
    }
    let pipe = pipe("names/pipe");
    let why = ["is a pipe or a device", "read more than once"];
    for line in [
        &["eval", model(), "--task", "x", "--data"][..],
        &["data", "show"],
        &["data", "fetch"],
    ] {
        wrong(&[line, &[text(&pipe)]].concat(), &why);
    }
}
