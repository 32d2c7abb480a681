//! What decides the split of a record.

use etude_data::{Manifest, Progress, Split, TaskExample};

use super::{Home, examples, manifest, texts};

#[test]
fn text_and_task_of_the_same_records_agree_on_the_split() {
    let home = Home::new();
    let lines: String = (0..300)
        .map(|i| format!("{{\"title\": \"T{i}\", \"lead\": \"L{i}\", \"short\": \"S{i}\"}}\n"))
        .collect();
    home.write("w.jsonl", lines);
    let split = "[split]\nsalt = \"s\"\nvalidation = 10\ntest = 10";
    let open = |kind: &str, map: &str| {
        let text = manifest(
            kind,
            "path = \"w.jsonl\"",
            &format!("[read]\nformat = \"jsonl\"\n[map]\nkey = \"{{title}}\"\n{map}\n{split}"),
        );
        let path = home.write(&format!("{kind}.toml"), text);
        Manifest::load(&path)
            .unwrap()
            .fetch(&home.cache(), &Progress::Silent)
            .unwrap()
    };
    let text = open("text", "text = \"{lead}\"");
    // A cut prompt or a word for a value must not change the key.
    let task = open(
        "task",
        "prompt = \"{lead}\"\ncompletion = \"{short}\"\ncut = { title = 1 }",
    );
    for split in Split::ALL {
        let prompts: Vec<String> = examples(&task, &[split])
            .iter()
            .map(TaskExample::prompt_text)
            .collect();
        assert_eq!(texts(&text, split), prompts);
        assert!(prompts.len() > 15, "{}", prompts.len());
    }
}

#[test]
fn without_a_key_cuts_and_words_leave_the_split_as_it_is() {
    let home = Home::new();
    let lines: String = (0..300)
        .map(|i| {
            format!(
                "{{\"a\": \"the same beginning {i}\", \"n\": \"{}\"}}\n",
                i % 2
            )
        })
        .collect();
    home.write("w.jsonl", lines);
    let split = "[split]\nsalt = \"s\"\nvalidation = 10\ntest = 10";
    let tested = |name: &str, more: &str| {
        let map = format!("[map]\nprompt = \"{{a}} {{n}}\"\ncompletion = \"{{@index}}\"\n{more}");
        let rest = format!("[read]\nformat = \"jsonl\"\n{map}\n{split}");
        let path = home.write(name, manifest("task", "path = \"w.jsonl\"", &rest));
        let dataset = Manifest::load(&path)
            .unwrap()
            .fetch(&home.cache(), &Progress::Silent)
            .unwrap();
        let tested = examples(&dataset, &[Split::Test]);
        let prompts: Vec<String> = tested.iter().map(TaskExample::prompt_text).collect();
        let answers = tested.iter().map(|e| e.reference_text().to_owned());
        (prompts, answers.collect::<Vec<_>>())
    };
    let (whole, expected) = tested("whole.toml", "");
    assert!(expected.len() > 15);
    for (name, more) in [
        ("chars.toml", "prompt_chars = 9"),
        ("cut.toml", "cut = { a = 5 }"),
        (
            "words.toml",
            "values = { n = { 0 = \"even\", 1 = \"odd\" } }",
        ),
    ] {
        let (prompts, answers) = tested(name, more);
        assert_ne!(prompts, whole, "{more}");
        assert_eq!(answers, expected, "{more}");
    }
    // As in a recipe, no characters to keep means all of them.
    for (name, more) in [
        ("all.toml", "prompt_chars = 0"),
        ("all-cut.toml", "cut = { a = 0 }"),
    ] {
        assert_eq!(tested(name, more), (whole.clone(), expected.clone()));
    }
}
