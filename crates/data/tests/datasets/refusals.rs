//! Bad input: each kind is named with its place.

use super::*;

#[test]
fn bad_lines_are_named() {
    let home = Home::new();
    let good = "{\"text\": \"a\"}\n";
    home.write(
        "bad.jsonl",
        format!("{}{{\"text\": oops}}\n{good}", good.repeat(17_341)),
    );
    let message = home.error("bad.jsonl");
    assert!(
        message.starts_with("bad.jsonl:17342: not valid JSON: expected value at column 10: "),
        "{message}"
    );

    home.write(
        "missing.jsonl",
        format!("{}{{\"txet\": \"b\"}}\n", good.repeat(3)),
    );
    assert_eq!(
        home.error("missing.jsonl"),
        "missing.jsonl:4: no field `text`: did you mean `txet`?"
    );

    home.write("list.jsonl", format!("{good}[1]\n"));
    assert!(
        home.error("list.jsonl")
            .starts_with("list.jsonl:2: the line is JSON but not an object")
    );

    home.write(
        "utf8.jsonl",
        [good.as_bytes(), b"{\"text\": \"\x92\"}\n"].concat(),
    );
    assert!(
        home.error("utf8.jsonl")
            .starts_with("utf8.jsonl:2: byte 0x92 at offset 24 is not UTF-8: ")
    );

    home.write("utf8.txt", b"one\ntwo\nth\xffree\n");
    assert!(
        home.error("utf8.txt")
            .starts_with("utf8.txt:3: byte 0xFF at offset 10 is not UTF-8: ")
    );

    home.write("rows.csv", "text,more\na,b\nc\n");
    assert!(
        home.error("rows.csv")
            .starts_with("rows.csv:3: this row has 1 cells and the header 2: "),
        "{}",
        home.error("rows.csv")
    );

    home.write("twice.csv", "text,more, more\na,b,c\n");
    assert_eq!(
        home.error("twice.csv"),
        "twice.csv:1: the columns 2 and 3 are both called `more`: give every column a name of its own, or take one of the two out"
    );
    // Nothing can ask for a column without a name.
    home.write(
        "nameless.csv",
        "text,,\na,b,c\n".to_owned() + &"d,e,f\n".repeat(9),
    );
    home.open("nameless.csv", &LocalOptions::default())
        .and_then(|dataset| dataset.scan())
        .unwrap();

    for cut in ["{\"text\": \"b", "{\"text\": \"b\n\"}"] {
        home.write("cut.jsonl", format!("{good}{cut}\n"));
        let message = home.error("cut.jsonl");
        assert!(
            message.starts_with("cut.jsonl:2: not valid JSON: the line ends inside a string: "),
            "{message}"
        );
    }

    home.write("broken.json", "[{\"text\": \"a\"},\n {\"text\": }]");
    assert!(
        home.error("broken.json")
            .starts_with("broken.json:2: not valid JSON: "),
        "{}",
        home.error("broken.json")
    );

    home.write("items.json", "[{\"text\": \"a\"}, 3]");
    assert!(
        home.error("items.json")
            .contains("record 2 is not an object"),
        "{}",
        home.error("items.json")
    );
}

#[test]
fn empty_and_unusable_data_is_named() {
    let home = Home::new();
    home.write("empty.txt", "");
    assert_eq!(
        home.error("empty.txt"),
        "empty.txt: nothing is left of it: 1 with empty text: change the data or `filter`"
    );
    home.write("empty.jsonl", "\n\n");
    assert!(
        home.error("empty.jsonl")
            .contains("there is no record in it")
    );
    home.write("d/x.log", "x");
    assert!(
        home.error("d").contains("no file to read"),
        "{}",
        home.error("d")
    );
    home.write("m/a.txt", "x");
    home.write("m/b.csv", "text\nx\n");
    assert!(
        home.error("m")
            .contains("mixes formats: `a.txt` and `b.csv`")
    );
    home.write("x.docx", "x");
    assert!(home.error("x.docx").contains("unknown kind of file"));
    assert!(
        home.error("nowhere.txt")
            .contains("no data set and no file is called")
    );
    home.write("f.jsonl", "{\"input\": \"a\", \"output\": \"b\"}\n");
    assert!(
        home.error("f.jsonl")
            .contains("f.jsonl:1: the record has the fields `input`, `output`; expected")
    );
}

#[test]
fn bad_conversations_are_named() {
    let home = Home::new();
    let good = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}\n";
    for (bad, expected) in [
        (
            "[{\"role\": \"usr\", \"content\": \"a\"}]",
            "turn 1 has the role `usr`",
        ),
        ("[{\"content\": \"a\"}]", "turn 1 has no role"),
        ("[{\"role\": \"user\"}]", "turn 1 has no `content`"),
        (
            "[{\"role\": \"user\", \"content\": \"a\"}]",
            "no assistant turn",
        ),
        ("\"hello\"", "not a list of turns"),
    ] {
        home.write("c.jsonl", format!("{good}{{\"messages\": {bad}}}\n"));
        let message = home.error("c.jsonl");
        assert!(
            message.starts_with("c.jsonl:2: ") && message.contains(expected),
            "{message}"
        );
    }
}

#[test]
fn what_the_first_record_or_a_setting_has_wrong_is_named() {
    let home = Home::new();
    home.write("m.jsonl", "{\"messages\": \"not a list\"}\n");
    assert_eq!(
        home.error("m.jsonl"),
        "m.jsonl:1: `messages` is not a list of turns: write [{\"role\": \"user\", \"content\": \"…\"}, …]"
    );
    let line = |answer: &str| format!("{{\"prompt\": \"p\", {answer}}}\n");
    let (one, many) = (line("\"completion\": \"c\""), line("\"answers\": [\"a\"]"));
    home.write("a.jsonl", format!("{one}{many}"));
    assert_eq!(
        home.error("a.jsonl"),
        "a.jsonl:2: no field `completion`: the records of this file are read by their `completion`: give this one a `completion` in place of `answers`, or keep the two kinds in two files"
    );
    home.write("a.jsonl", format!("{many}{one}"));
    let error = home.error("a.jsonl");
    assert!(
        error.contains("a.jsonl:2: no field `answers`: the records of this file"),
        "{error}"
    );

    home.write("p.jsonl", one.repeat(3));
    home.write("t.txt", "text\n".repeat(30));
    let refused = |name: &str, validation: u8, test: Option<u8>| {
        let options = LocalOptions {
            validation: Some(validation),
            test,
            ..LocalOptions::default()
        };
        let error = home.open(name, &options).unwrap_err().to_string();
        error.replace(&format!("{}/", home.dir.path().display()), "")
    };
    assert_eq!(
        refused("p.jsonl", 100, None),
        "p.jsonl: task.local.validation = 100 and task.local.test = 10 (where nothing is said) hold out 110 percent, which leaves nothing to learn from: give less than 100 together"
    );
    let error = refused("p.jsonl", 60, Some(40));
    assert!(
        error.contains("validation = 60 and task.local.test = 40 hold out 100 percent"),
        "{error}"
    );
    assert_eq!(
        refused("t.txt", 100, None),
        "t.txt: data.local.validation = 100 leaves nothing to learn from: give less than 100"
    );
}

#[test]
fn text_is_not_a_task_and_a_task_is_not_text() {
    let home = Home::new();
    home.write("mine.txt", "text\n".repeat(30));
    let dataset = home.open("mine.txt", &LocalOptions::default()).unwrap();
    assert!(
        dataset
            .examples(&Split::ALL)
            .err()
            .unwrap()
            .to_string()
            .contains("a task was wanted")
    );
    home.write("t.jsonl", "{\"prompt\": \"p\", \"completion\": \"c\"}\n");
    let dataset = home.open("t.jsonl", &LocalOptions::default()).unwrap();
    assert!(
        dataset
            .documents(&Split::ALL)
            .err()
            .unwrap()
            .to_string()
            .contains("text was wanted")
    );
}
