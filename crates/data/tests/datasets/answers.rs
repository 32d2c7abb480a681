//! Several right answers to one question.

use etude_data::{LocalOptions, Manifest, Progress, Split, TaskBody};

use super::{Home, examples, manifest};

const ALL: [Split; 3] = [Split::Train, Split::Validation, Split::Test];

/// Each example's completion, with the other right answers.
fn answers(home: &Home, name: &str, options: &LocalOptions) -> Vec<(String, Vec<String>)> {
    let mut all = examples(&home.open(name, options).unwrap(), &ALL);
    all.sort_by_key(|example| example.source.line);
    all.into_iter()
        .map(|example| match example.body {
            TaskBody::Completion { completion, .. } => (completion, example.also),
            TaskBody::Chat { .. } => panic!("no conversation"),
        })
        .collect()
}

fn pair(completion: &str, also: &[&str]) -> (String, Vec<String>) {
    let also = also.iter().map(|&answer| answer.to_owned()).collect();
    (completion.to_owned(), also)
}

#[test]
fn the_first_of_several_answers_is_learnt_and_all_count() {
    let home = Home::new();
    home.write(
        "q.jsonl",
        concat!(
            "{\"prompt\": \"a\", \"answers\": [\"in 1066\", \"1066\", \"\", \"in 1066\"]}\n",
            "{\"prompt\": \"b\", \"answers\": \"one\"}\n",
            "{\"prompt\": \"c\", \"answers\": [7, 8.5]}\n",
            "{\"prompt\": \"d\", \"answers\": []}\n",
        ),
    );
    // The last has nothing to learn.
    assert_eq!(
        answers(&home, "q.jsonl", &LocalOptions::default()),
        [
            pair("in 1066", &["1066"]),
            pair("one", &[]),
            pair("7", &["8.5"])
        ]
    );
}

#[test]
fn what_lies_beside_a_completion_counts_where_that_is_said() {
    let home = Home::new();
    let line = |n: u32| {
        format!(
            "{{\"question\": \"q{n}\", \"completion\": \"C\", \"answers\": {{\"text\": [\"A\", \"B\"], \"answer_start\": [1, 2]}}}}\n"
        )
    };
    home.write("q.jsonl", &(line(1) + &line(2)));
    let prompt = Some("{question}".to_owned());
    let plain = LocalOptions {
        prompt,
        ..LocalOptions::default()
    };
    assert_eq!(answers(&home, "q.jsonl", &plain)[0], pair("C", &[]));
    let all = LocalOptions {
        answers: Some("answers.text".to_owned()),
        ..plain
    };
    assert_eq!(answers(&home, "q.jsonl", &all)[0], pair("C", &["A", "B"]));
    let first = LocalOptions {
        completion: Some("{answers.text|, }".to_owned()),
        ..all.clone()
    };
    assert_eq!(
        answers(&home, "q.jsonl", &first)[0],
        pair("A, B", &["A", "B"])
    );
    // Told by file, line and field.
    for (path, expected) in [
        ("answers", "`answers` is no list of texts"),
        ("answrs", "answrs"),
    ] {
        let wrong = LocalOptions {
            answers: Some(path.to_owned()),
            ..all.clone()
        };
        let outcome = home
            .open("q.jsonl", &wrong)
            .and_then(|dataset| dataset.scan());
        let error = outcome.expect_err("refused").to_string();
        assert!(
            error.contains(expected) && error.contains("q.jsonl:1"),
            "{error}"
        );
    }
}

#[test]
fn answers_are_written_as_a_field_of_a_template_is() {
    let home = Home::new();
    home.write(
        "q.jsonl",
        "{\"q\": \"a\", \"label\": [1, 0, 1]}\n{\"q\": \"b\", \"label\": [\"none\", 0]}\n",
    );
    let of = |map: &str| {
        let rest = format!(
            "[read]\nformat = \"jsonl\"\n[map]\nprompt = \"{{q}}\"\nanswers = \"label\"\n{map}[filter]\nempty = [\"none\"]"
        );
        let path = home.write("q.toml", manifest("task", "path = \"q.jsonl\"", &rest));
        let manifest = Manifest::load(&path).unwrap();
        let dataset = manifest.fetch(&home.cache(), &Progress::Silent)?;
        dataset.examples(&ALL)?.collect::<Result<Vec<_>, _>>()
    };
    let found = of("values.label = { 0 = \"negative\", 1 = \"positive\" }\n").unwrap();
    let right = |number: usize| {
        (
            found[number].reference_text().to_owned(),
            found[number].also.clone(),
        )
    };
    assert_eq!(right(0), pair("positive", &["negative"]));
    assert_eq!(right(1), pair("negative", &[]));
    let error = of("values.label = { 1 = \"positive\" }\n")
        .unwrap_err()
        .to_string();
    assert!(error.contains("`label` is `0`"), "{error}");
}
