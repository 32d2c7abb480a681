//! The tokenizer's four commands.

use crate::support::{
    check_wrong, corpus, good, json, keys, run, run_in, scratch, text, tokenizer, write, wrong,
};

const TEXT: &str = "A rose, naïve 🌹 rose.\n\n  <|endoftext|> is text here\n";

#[test]
fn training_writes_a_folder_that_every_other_command_takes() {
    let corpus = write("train/corpus.txt", corpus());
    let out = scratch("train/tok");
    let told = json(&[
        "tokenizer",
        "train",
        &corpus,
        "--vocab",
        "300",
        "--out",
        text(&out),
        "--json",
    ]);
    assert_eq!(
        keys(&told),
        ["fingerprint", "folder", "report", "vocab_size"]
    );
    assert_eq!(told["vocab_size"], 300);
    assert!(out.join("tokenizer.json").is_file() && out.join("tokenizer_config.json").is_file());
    let shown = json(&["tokenizer", "show", text(&out), "--json"]);
    assert_eq!(shown["vocab_size"], 300);
    assert_eq!(shown["fingerprint"], told["fingerprint"]);
    assert_eq!(shown["special_tokens"][0]["token"], "<|endoftext|>");

    let arguments = [
        "tokenizer",
        "train",
        &corpus,
        "--vocab",
        "310",
        "--out",
        text(&out),
    ];
    wrong(&arguments, &["already holds a tokenizer", "--force"]);
    good(&[&arguments[..], &["--force"]].concat());
    assert_eq!(
        json(&["tokenizer", "show", text(&out), "--json"])["vocab_size"],
        310
    );
}

#[test]
fn decoding_is_the_inverse_of_encoding_byte_for_byte() {
    let file = write("inverse.txt", TEXT);
    let encoded = json(&[
        "tokenizer",
        "encode",
        tokenizer(),
        "--file",
        &file,
        "--json",
    ]);
    assert_eq!(keys(&encoded), ["ids"]);
    let ids = write("inverse.json", encoded.to_string());
    assert_eq!(
        good(&["tokenizer", "decode", tokenizer(), "--file", &ids]),
        TEXT
    );
    assert_eq!(
        json(&["tokenizer", "decode", tokenizer(), "--file", &ids, "--json"])["text"],
        TEXT
    );

    let plain = good(&["tokenizer", "encode", tokenizer(), "--text", TEXT]);
    assert_eq!(
        good(&["tokenizer", "decode", tokenizer(), "--ids", plain.trim()]),
        TEXT
    );
    let piped = run_in(
        &scratch("."),
        &["tokenizer", "decode", tokenizer(), "--file", "-"],
        plain.as_bytes(),
    );
    assert_eq!((piped.status, piped.out.as_str()), (0, TEXT));
}

#[test]
fn special_tokens_in_text_are_text_unless_asked_for() {
    let ids = |arguments: &[&str]| {
        let all = [
            &[
                "tokenizer",
                "encode",
                tokenizer(),
                "--text",
                "<|end|>",
                "--json",
            ],
            arguments,
        ]
        .concat();
        json(&all)["ids"].as_array().unwrap().len()
    };
    assert!(ids(&[]) > 1);
    assert_eq!(ids(&["--special"]), 1);
}

#[test]
fn tokens_and_templates_are_shown() {
    let table = good(&[
        "tokenizer",
        "encode",
        tokenizer(),
        "--text",
        "A rose",
        "--tokens",
    ]);
    assert!(
        table.lines().count() >= 2 && table.contains("rose"),
        "{table}"
    );
    assert!(good(&["tokenizer", "show", tokenizer()]).contains("<|endoftext|> (0)"));
    assert!(good(&["tokenizer", "show", tokenizer(), "--template"]).contains("<|assistant|>"));
}

#[test]
fn bad_input_is_refused_and_harms_nothing() {
    let out = scratch("refused");
    let train = |file: &str, vocab: &str, expected: &[&str]| {
        wrong(
            &[
                "tokenizer",
                "train",
                file,
                "--vocab",
                vocab,
                "--out",
                text(&out),
            ],
            expected,
        );
        assert!(!out.exists(), "nothing is written");
    };
    let corpus = write("bad/corpus.txt", corpus());
    train(&corpus, "27", &["vocab_size", "27", "262"]);
    train(&corpus, "many", &["many", "--vocab"]);
    train("no-such-file.txt", "300", &["no-such-file.txt"]);
    train(&write("bad/empty.txt", ""), "300", &["no text"]);
    train(
        &write("bad/latin1.txt", b"fine\ncaf\xe9 noir"),
        "300",
        &["latin1.txt:2", "UTF-8"],
    );

    let broken = write("bad/broken.txt", b"fine\nnot \xff fine");
    wrong(
        &["tokenizer", "encode", tokenizer(), "--file", &broken],
        &["broken.txt:2", "UTF-8"],
    );
    let arguments = ["tokenizer", "encode", tokenizer(), "--file", "-"];
    let done = run_in(&scratch("."), &arguments, b"\xff");
    check_wrong(&done, &arguments, &["standard input:1", "UTF-8"]);
    wrong(&["tokenizer", "encode", tokenizer()], &["--file", "--text"]);
    wrong(
        &["tokenizer", "encode", "nowhere", "--text", "x"],
        &["nowhere"],
    );
    wrong(
        &["tokenizer", "decode", tokenizer(), "--ids", "1 two"],
        &["line 1", "`two`"],
    );
    wrong(
        &["tokenizer", "decode", tokenizer(), "--ids", "99999"],
        &["99999", "vocabulary"],
    );
    let list = write("bad/ids.json", "{\"id\": [1]}");
    wrong(
        &["tokenizer", "decode", tokenizer(), "--file", &list],
        &["ids.json", "{\"ids\": […]}"],
    );
    let cut = write("bad/cut/tokenizer.json", "{\"version\": \"1.0\", ");
    wrong(&["tokenizer", "show", &cut], &["tokenizer.json"]);
    assert_eq!(run(&["tokenizer", "show", text(&scratch("bad"))]).status, 2);
}
