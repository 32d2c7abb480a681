//! What stands in the files is what is learnt: numbers to the digit, each row and each key.

use etude_data::{LocalOptions, Manifest, Progress, Split};

use super::{Home, examples, manifest, texts};

fn prompts(home: &Home, name: &str, prompt: &str) -> Vec<String> {
    let options = LocalOptions {
        prompt: Some(prompt.to_owned()),
        ..LocalOptions::default()
    };
    let mut all = examples(&home.open(name, &options).unwrap(), &Split::ALL);
    all.sort_by_key(|example| example.source.line);
    all.iter().map(|example| example.prompt_text()).collect()
}

#[test]
fn numbers_are_learnt_as_they_are_written() {
    let home = Home::new();
    let records = [
        r#"{"n": 1e5, "l": [0.1000, 7, "x 1.50"], "o": {"v": 100000000000000000000}, "completion": 2.50}"#,
        r#"{"n": 12, "l": [1], "o": {"v": -3}, "completion": "no float"}"#,
        r#"{"n": 12345678901234567890123, "l": ["\"9.90", 1.0E+2], "o": {"v": -0}, "completion": "c"}"#,
    ];
    let expected = [
        "1e5 0.1000,7,x 1.50 100000000000000000000",
        "12 1 -3",
        "12345678901234567890123 \"9.90,1.0E+2 -0",
    ];
    let template = "{n} {l|,} {o.v}";
    home.write("n.jsonl", records.join("\n"));
    assert_eq!(prompts(&home, "n.jsonl", template), expected);
    let list = format!("[{}]", records.join(",\n "));
    home.write("n.json", &list);
    assert_eq!(prompts(&home, "n.json", template), expected);
    let map = format!(
        "{{\"a\": {}, \"b 1.0\": {}, \"c\": {}}}",
        records[0], records[1], records[2]
    );
    home.write("map.json", map);
    assert_eq!(prompts(&home, "map.json", template), expected);
    home.write("one.json", records[2]);
    assert_eq!(prompts(&home, "one.json", template), expected[2..]);
    let all = examples(
        &home
            .open(
                "n.jsonl",
                &LocalOptions {
                    prompt: Some(template.to_owned()),
                    ..LocalOptions::default()
                },
            )
            .unwrap(),
        &Split::ALL,
    );
    assert!(all.iter().any(|example| example.reference_text() == "2.50"));

    // Below a path of the file's tree.
    home.write("deep.json", format!("{{\"x\": 1.0, \"all\": {list}}}"));
    let rest = "[read]\nformat = \"json\"\nrecords = \"all\"\n[map]\ntext = \"{n} {l|,} {o.v}\"";
    let file = home.write("m.toml", manifest("text", "path = \"deep.json\"", rest));
    let dataset = Manifest::load(&file)
        .unwrap()
        .fetch(&home.cache(), &Progress::Silent)
        .unwrap();
    assert_eq!(texts(&dataset, Split::Train), expected);
}

#[test]
fn a_key_that_stands_twice_is_refused() {
    let home = Home::new();
    let good = "{\"prompt\": \"p\", \"completion\": \"c\"}";
    let twice = "{\"prompt\": \"p1\", \"completion\": \"c\", \"prompt\": \"again\"}";
    home.write("k.jsonl", format!("{good}\n{twice}\n"));
    let expected = "the key `prompt` stands twice in one object: give each its own name, or take one of the two out";
    assert_eq!(home.error("k.jsonl"), format!("k.jsonl:2: {expected}"));
    home.write("k.json", format!("[{good},\n\n {twice}]"));
    assert_eq!(home.error("k.json"), format!("k.json:3: {expected}"));
    home.write("one.json", twice);
    assert_eq!(home.error("one.json"), format!("one.json:1: {expected}"));
    let nested = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\", \"content\": \"b\"}]}";
    home.write("n.jsonl", nested);
    let error = home.error("n.jsonl");
    assert!(
        error.starts_with("n.jsonl:1: the key `content` stands twice"),
        "{error}"
    );
}

#[test]
fn a_quote_that_is_not_closed_is_refused() {
    let home = Home::new();
    let rows = |from: u32, to: u32| -> String {
        (from..to).map(|n| format!("q{n},\"a {n}\"\n")).collect()
    };
    let head = "prompt,completion\n";
    let bad = "q10,\"never closed\nq11,b\n";
    home.write("q.csv", head.to_owned() + &rows(0, 9) + bad);
    assert_eq!(
        home.error("q.csv"),
        "q.csv:11: the quote opened here is never closed: close it, or double quotes that belong to the text; where every quote of the file is text, set `unquoted = true` in [task.local], [data.local] or a manifest's [read]"
    );
    // Far behind what is read at once.
    let rest: String = (0..20_000).map(|n| format!("q{n},b {n}\n")).collect();
    home.write("far.csv", head.to_owned() + &rest + bad + &rest);
    let error = home.error("far.csv");
    assert!(
        error.starts_with("far.csv:20002: the quote opened here is never closed: "),
        "{error}"
    );
    home.write("later.csv", head.to_owned() + bad + &rows(0, 9));
    let error = home.error("later.csv");
    assert!(
        error.starts_with(
            "later.csv:2: the quote opened here is closed in line 4 by one with `a` behind it: close it at"
        ),
        "{error}"
    );
    home.write("text.tsv", "text\tmore\n\"a\tb\nc\td\n");
    let error = home.error("text.tsv");
    assert!(error.starts_with("text.tsv:2: the quote opened"), "{error}");

    // Where quotes are text, so is one at the beginning of a cell.
    home.write("pairs.tsv", "prompt\tcompletion\n\"a\tb\nc \"\"d\t\"e\"\n");
    let options = LocalOptions {
        unquoted: true,
        ..LocalOptions::default()
    };
    home.write("beside.txt", "text\n".repeat(30));
    home.open("beside.txt", &options).unwrap();
    let pairs = home.open("pairs.tsv", &options).unwrap();
    let texts: Vec<(String, String)> = examples(&pairs, &Split::ALL)
        .iter()
        .map(|pair| (pair.prompt_text(), pair.reference_text().to_owned()))
        .collect();
    for (prompt, completion) in [("\"a", "b"), ("c \"\"d", "\"e\"")] {
        let pair = (prompt.to_owned(), completion.to_owned());
        assert!(texts.contains(&pair), "{texts:?}");
    }

    // Cells of several lines, doubled quotes and quotes within a cell are fine.
    let fine = "p,\"two\nlines, \"\"and\"\" more\"\n5\" disk,c\n";
    home.write(
        "fine.csv",
        format!("\u{feff}\"prompt\",completion\r\n{fine}"),
    );
    let dataset = home.open("fine.csv", &LocalOptions::default()).unwrap();
    let all = examples(&dataset, &Split::ALL);
    assert!(
        all.iter()
            .any(|one| one.reference_text() == "two\nlines, \"and\" more")
    );
    assert!(all.iter().any(|one| one.prompt_text() == "5\" disk"));
}

#[test]
fn utf16_is_named() {
    let home = Home::new();
    let wide = |text: &str, big: bool| -> Vec<u8> {
        let units = std::iter::once(0xfeff).chain(text.encode_utf16());
        units
            .flat_map(|unit| {
                if big {
                    unit.to_be_bytes()
                } else {
                    unit.to_le_bytes()
                }
            })
            .collect()
    };
    let remedy =
        "so it is UTF-16: save the file as UTF-8, for example with `iconv -f UTF-16 -t UTF-8`";
    for (name, text) in [
        ("a.jsonl", "{\"text\": \"a\"}\n"),
        ("a.json", "[{\"text\": \"a\"}]"),
        ("a.csv", "text\na\n"),
        ("a.txt", "one\ntwo\n"),
    ] {
        home.write(name, wide(text, false));
        assert_eq!(
            home.error(name),
            format!("{name}:1: the file begins with the bytes 0xFF 0xFE, {remedy}")
        );
        home.write(name, wide(text, true));
        assert_eq!(
            home.error(name),
            format!("{name}:1: the file begins with the bytes 0xFE 0xFF, {remedy}")
        );
    }
}
