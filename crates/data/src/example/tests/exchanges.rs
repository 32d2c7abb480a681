//! Long conversations: of the oldest exchanges as few are left out as make the rest fit.

use super::*;

const EXCHANGES: usize = 9;

/// A system turn, then exchanges from `first` on, of unlike lengths.
fn long_talk(first: usize) -> TaskExample {
    let mut turns = vec![(Role::System, "Be brief.".to_owned())];
    for number in first..EXCHANGES {
        let sea = "the sea ".repeat(1 + number % 4);
        turns.push((Role::User, format!("Question {number}: {sea}?")));
        turns.push((Role::Assistant, format!("Answer {number}.")));
    }
    let turns: Vec<(Role, &str)> = turns
        .iter()
        .map(|(role, text)| (*role, &text[..]))
        .collect();
    chat(&turns)
}

#[test]
fn as_few_as_make_the_rest_fit() {
    let whole = renderer(ExampleFormat::chat(), 1000, Truncation::Drop);
    let lengths: Vec<usize> = (0..EXCHANGES)
        .map(|first| kept(whole.render_prompt(&long_talk(first))).ids.len())
        .collect();
    assert!(lengths.is_sorted_by(|a, b| a > b), "{lengths:?}");
    for (first, &length) in lengths.iter().enumerate() {
        // Room for exactly this many, and for a token less: then one more must go.
        for (room, expected) in [(length, first), (length - 1, first + 1)] {
            if expected == EXCHANGES {
                continue; // the last question itself is cut
            }
            let cutting = renderer(ExampleFormat::chat(), 1000, Truncation::TruncatePrompt);
            let settings = ExampleSettings {
                context: 1000 - cutting.settings().most_prompt_ids() + room,
                ..cutting.settings().clone()
            };
            let renderer = Renderer::new(&tokenizer(), settings).expect("a renderer");
            let prompt = kept(renderer.render_prompt(&long_talk(0)));
            let alone = kept(whole.render_prompt(&long_talk(expected)));
            assert_eq!(prompt.ids, alone.ids, "room for {room}");
            assert_eq!(prompt.truncated, expected > 0, "room for {room}");
        }
    }
}
