//! How the program ends when stdout, a device or a folder does not play along.

use std::process::{Command, Stdio};

use crate::support::{command, good, model, run, scratch, text, tokenizer, write, wrong};

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let long = write("long.txt", "To be, or not to be. ".repeat(20_000));
    let mut child = Command::new(env!("CARGO_BIN_EXE_etude"))
        .args(["tokenizer", "encode", tokenizer(), "--file", &long])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(0));
    assert!(
        done.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_stdout_is_a_failure() {
    for arguments in [&["data", "list"][..], &["--help"], &["--version"]] {
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_etude"))
            .args(arguments)
            .stdout(full)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("standard output cannot be written"), "{told}");
    }
}

#[test]
fn arguments_that_are_not_utf8_are_refused() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let bad = OsStr::from_bytes(b"caf\xe9");
    let arguments = [
        OsStr::new("generate"),
        OsStr::new(model()),
        OsStr::new("--prompt"),
        bad,
    ];
    let output = command(&arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("UTF-8"));
}

#[test]
fn devices_that_are_not_there_are_named() {
    wrong(
        &["generate", model(), "--prompt", "x", "--device", "gpu"],
        &["`gpu`", "`cuda:N`"],
    );
    wrong(
        &["generate", model(), "--prompt", "x", "--device", "cuda:99"],
        &["`cuda:99`", "etude doctor"],
    );
    wrong(
        &["generate", model(), "--prompt", "x", "--threads", "-1"],
        &["-1"],
    );
}

#[test]
fn the_doctor_says_what_is_there_and_what_is_missing() {
    let told = crate::support::json(&["doctor", "--json"]);
    for key in [
        "etude", "rustc", "libtorch", "cpu", "devices", "memory", "tools", "cache", "here",
        "missing",
    ] {
        assert!(told.get(key).is_some(), "{key}: {told}");
    }
    assert_eq!(told["devices"][0]["name"], "cpu");
    assert!(told["devices"][0]["matmul_flops"].as_f64().unwrap() > 1e8);
    assert!(told["rustc"].as_str().unwrap().starts_with("rustc "));
    assert_eq!(told["tools"].as_array().unwrap().len(), 3);
    let page = good(&["doctor"]);
    assert!(
        page.contains("libtorch") && page.contains("GFLOP/s"),
        "{page}"
    );

    // Without any program to fetch with, each is missing with its remedy, and all else still works.
    let output = command(&["doctor", "--json"])
        .env("PATH", "")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let missing = told["missing"].as_array().unwrap();
    for name in ["python3", "pip", "npm"] {
        let found = missing
            .iter()
            .find(|missing| missing["what"].as_str().unwrap().starts_with(name));
        assert!(
            found.unwrap()["remedy"]
                .as_str()
                .unwrap()
                .contains("install"),
            "{name}"
        );
    }
}

#[test]
fn reports_are_of_run_folders() {
    let folder = scratch("run-to-report");
    write(
        "run-to-report/metrics.jsonl",
        "{\"kind\":\"train\",\"step\":1,\"loss\":3.5,\"lr\":0.001,\"grad_norm\":1.0,\"tokens\":10,\"supervised\":10,\
         \"tokens_per_second\":5.0,\"seconds\":2.0,\"mfu\":0.1}\n",
    );
    let told = crate::support::json(&["report", text(&folder), "--json"]);
    let page = std::fs::read_to_string(told["report"].as_str().unwrap()).unwrap();
    assert!(
        page.starts_with("<!") || page.starts_with("<html"),
        "{}",
        &page[..40]
    );
    let both = scratch("both.html");
    good(&["report", text(&folder), text(&folder), "--out", text(&both)]);
    assert!(both.is_file());

    wrong(
        &["report", "no-such-run"],
        &["no-such-run", "does not exist"],
    );
    wrong(&["report", text(&folder), text(&folder)], &["--out"]);
    std::fs::create_dir_all(scratch("not-a-run")).unwrap();
    wrong(
        &["report", text(&scratch("not-a-run"))],
        &["not-a-run", "not a run folder"],
    );
    assert_eq!(run(&["report"]).status, 2);
}
