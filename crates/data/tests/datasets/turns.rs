//! What turns may hold besides plain text, and what fields of a template may not.

use etude_data::{LocalOptions, Role, Split, TaskBody};

use super::{Home, examples};

/// A conversation of a question and this answering turn, as a line.
fn line(answer: &str) -> String {
    format!(
        "{{\"messages\": [{{\"role\": \"user\", \"content\": [{{\"type\": \"text\", \"text\": \"How \"}}, \
         {{\"type\": \"text\", \"text\": \"so?\"}}]}}, {answer}]}}\n"
    )
}

#[test]
fn parts_of_text_are_one_text() {
    let home = Home::new();
    let answer =
        "{\"role\": \"assistant\", \"content\": [{\"type\": \"text\", \"text\": \"Because.\"}]}";
    home.write("parts.jsonl", line(answer).repeat(2));
    let dataset = home.open("parts.jsonl", &LocalOptions::default()).unwrap();
    let example = &examples(&dataset, &Split::ALL)[0];
    assert!(
        example.prompt_text().contains("How so?"),
        "{}",
        example.prompt_text()
    );
    assert_eq!(example.reference_text(), "Because.");
}

#[test]
fn a_conversation_in_two_parts_is_one() {
    let home = Home::new();
    let turn =
        |role: &str, content: &str| format!("{{\"role\": \"{role}\", \"content\": \"{content}\"}}");
    let record = |completion: &str| {
        let (system, user) = (turn("system", "Be brief."), turn("user", "Why?"));
        format!("{{\"prompt\": [{system}, {user}], \"completion\": {completion}}}\n")
    };
    let answer = format!("[{}]", turn("assistant", "Because."));
    home.write("trl.jsonl", record(&answer));
    let dataset = home.open("trl.jsonl", &LocalOptions::default()).unwrap();
    let example = &examples(&dataset, &Split::ALL)[0];
    let TaskBody::Chat { messages } = &example.body else {
        panic!("a conversation");
    };
    let roles: Vec<Role> = messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::Assistant]);
    assert_eq!(example.reference_text(), "Because.");

    home.write("trl.jsonl", record(&answer) + &record("\"Because.\""));
    let error = home.error("trl.jsonl");
    assert!(
        error.starts_with("trl.jsonl:2: `completion` is not a list"),
        "{error}"
    );
}

#[test]
fn what_is_no_text_is_refused_by_line_and_turn() {
    let home = Home::new();
    let fine = line("{\"role\": \"assistant\", \"content\": \"Yes.\"}");
    for (content, found) in [
        (
            "[{\"type\": \"image_url\", \"image_url\": \"x.png\"}]",
            "image_url",
        ),
        ("{\"parts\": [\"a\"]}", "parts"),
    ] {
        let odd = line(&format!(
            "{{\"role\": \"assistant\", \"content\": {content}}}"
        ));
        home.write("odd.jsonl", fine.clone() + &odd);
        let error = home.error("odd.jsonl");
        let expected = error.starts_with("odd.jsonl:2: turn 2 holds ") && error.contains(found);
        assert!(expected, "{error}");
    }
    let turns = "[{\"role\": \"user\", \"content\": \"Q\"}]";
    home.write(
        "nested.jsonl",
        format!("{{\"prompt\": {turns}, \"completion\": \"A\"}}\n"),
    );
    let error = home.error("nested.jsonl");
    let expected =
        error.starts_with("nested.jsonl:1: `prompt` holds ") && error.contains("messages");
    assert!(expected, "{error}");
}

#[test]
fn calls_of_tools_and_silent_turns_are_left_out() {
    let home = Home::new();
    let said = |content: &str| format!("{{\"role\": \"assistant\", \"content\": {content}}}");
    let call = "{\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"id\": 1}]}, \
                {\"role\": \"tool\", \"content\": \"4\"}";
    let lines = [
        line(&said("\"Yes.\"")),
        line(&format!("{call}, {}", said("\"Four.\""))),
        line(&format!(
            "{}, {{\"role\": \"user\", \"content\": \"And?\"}}, {}",
            said("\"No.\""),
            said("\"\"")
        )),
        line("{\"role\": \"assistant\", \"content\": \"Well.\", \"tool_calls\": []}"),
        // The only answer says nothing.
        line(&said("\" \"")),
        line(&said("null")),
    ];
    home.write("talk.jsonl", lines.concat());
    let scan = home
        .open("talk.jsonl", &LocalOptions::default())
        .unwrap()
        .scan()
        .unwrap();
    let dropped: Vec<(String, u64)> = scan.dropped.clone().into_iter().collect();
    let expected = [
        ("a turn that calls tools", 1),
        ("an assistant turn without text", 3),
    ];
    assert_eq!(
        dropped,
        expected.map(|(reason, count)| (reason.to_owned(), count))
    );
    assert_eq!(scan.total().documents, 2);

    home.write("silent.jsonl", line(&said("\"\"")));
    let error = home.error("silent.jsonl");
    assert!(
        error.contains("nothing is left of it: 1 with an assistant turn without text"),
        "{error}"
    );
}

#[test]
fn a_weight_of_0_makes_an_answer_context_alone() {
    let home = Home::new();
    let question = "{\"role\": \"user\", \"content\": \"q\", \"weight\": 0.5}";
    let answer = |weight: &str| {
        format!("{{\"role\": \"assistant\", \"content\": \"a\", \"weight\": {weight}}}")
    };
    let talk = |weights: &[&str]| {
        let turns: Vec<String> = weights
            .iter()
            .map(|weight| format!("{question}, {}", answer(weight)))
            .collect();
        format!("{{\"messages\": [{}]}}\n", turns.join(", "))
    };
    let read = || {
        let dataset = home.open("w.jsonl", &LocalOptions::default()).unwrap();
        let mut all = examples(&dataset, &Split::ALL);
        all.sort_by_key(|example| example.source.line);
        let turns = all
            .iter()
            .map(|example| (example.messages().len(), example.unlearnt.clone()));
        (turns.collect::<Vec<_>>(), dataset.scan().unwrap().dropped)
    };
    let none = talk(&["0"]);
    let lines = [
        talk(&["0", "1"]),
        // What follows the last answer that is learnt goes.
        talk(&["0.0", "1.0", "null", "0", "0"]),
        talk(&["1", "1"]),
        none.clone(),
    ];
    home.write("w.jsonl", lines.concat());
    let (turns, dropped) = read();
    assert_eq!(turns, [(4, vec![1]), (6, vec![1]), (4, vec![])]);
    let dropped: Vec<_> = dropped.into_iter().collect();
    assert_eq!(dropped, [("no answer to learn (`weight` 0)".to_owned(), 1)]);

    home.write("none.jsonl", none);
    let error = home.error("none.jsonl");
    assert!(
        error.contains("nothing is left of it: 1 with no answer to learn (`weight` 0)"),
        "{error}"
    );
    for (weight, shown) in [
        ("0.5", "0.5"),
        ("2", "2"),
        ("true", "true"),
        ("\"no\"", "no"),
    ] {
        home.write("bad.jsonl", talk(&["1"]) + &talk(&["1", weight]));
        let error = home.error("bad.jsonl");
        let expected = format!(
            "bad.jsonl:2: turn 4 has the `weight` `{shown}`: write 1 for an answer that is learnt, 0 for one that is context alone"
        );
        assert_eq!(error, expected);
    }
}
