//! Solved examples before the prompt: where they stand, and that only the example's own answer counts.

use super::*;

fn shots() -> [TaskExample; 3] {
    [
        completion("One sea.", "One."),
        completion(&"A very long sea. ".repeat(60), "Long."),
        completion("Two seas.", "Two."),
    ]
}

#[test]
fn plain_text_has_them_before_the_prompt_with_empty_lines_between() {
    let alone = renderer(plain(), 200, Truncation::Drop);
    let renderer = alone.clone().with_shots(&shots(), 2, 1000);
    let renderer = renderer.expect("two of them fit");
    let example = completion("The sea.", "A man.");
    let whole = kept(renderer.render(&example));
    let (learnt, other) = texts(&whole);
    assert_eq!(learnt, " A man.<|endoftext|>");
    assert_eq!(
        other,
        "<|endoftext|>One sea.\n\nSummary: One.\n\nTwo seas.\n\nSummary: Two.\n\nThe sea.\n\nSummary:"
    );
    let own = kept(alone.render(&example));
    assert_eq!(whole.target_bytes, own.target_bytes);
    let added = whole.ids.len() - own.ids.len();
    assert_eq!(renderer.settings().context, 200 + added);
    let prompt = kept(renderer.render_prompt(&example));
    assert!(whole.ids.starts_with(&prompt.ids));
    assert_eq!(renderer.ends_of_answers(), ["\n\n"]);
    assert!(alone.ends_of_answers().is_empty());
}

#[test]
fn a_conversation_has_them_as_earlier_turns_after_the_instructions() {
    let format = ExampleFormat::Chat(ChatFormat {
        prompt: "Sum up: {prompt}".into(),
    });
    let alone = renderer(format, 200, Truncation::Drop);
    let renderer = alone.clone().with_shots(&shots(), 2, 2000);
    let renderer = renderer.expect("two of them fit");
    assert!(renderer.ends_of_answers().is_empty());
    let asked = chat(&[
        (Role::User, "Sum up: One sea."),
        (Role::Assistant, "One."),
        (Role::User, "Sum up: Two seas."),
        (Role::Assistant, "Two."),
        (Role::User, "Sum up: The sea."),
        (Role::Assistant, "A man."),
    ]);
    let example = completion("The sea.", "A man.");
    let whole = kept(renderer.render(&example));
    let wide = self::renderer(ExampleFormat::chat(), 2000, Truncation::Drop);
    assert_eq!(whole.ids, kept(wide.render(&asked)).ids);
    let own = kept(alone.render(&example));
    assert_eq!(texts(&whole).0, texts(&own).0);
    assert_eq!(whole.target_bytes, own.target_bytes);

    // Every answer of the example's own conversation counts, no other, and its instructions stay first.
    let whole = kept(renderer.render(&talk()));
    assert_eq!(texts(&whole).0, texts(&kept(alone.render(&talk()))).0);
    let (_, other) = texts(&whole);
    let place = |text: &str| other.find(text).expect(text);
    assert!(place("Be brief.") < place("One sea."));
    assert!(place("Two seas.") < place("Where is the man?"));
}

#[test]
fn what_does_not_fit_is_passed_over_or_refused() {
    let alone = || renderer(plain(), 200, Truncation::Drop);
    let error = alone().with_shots(&shots(), 3, 1000);
    let error = error.expect_err("one is too long").to_string();
    assert!(
        error.contains("2 of 3 solved examples fit a context of 200 tokens"),
        "{error}"
    );
    let error = alone().with_shots(&shots(), 2, 50);
    let error = error.expect_err("no room").to_string();
    assert!(error.contains("no room for a question"), "{error}");
}
