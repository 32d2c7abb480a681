//! Finding stop strings in text that comes in pieces, holding back what may still become one.

/// Text goes in piece by piece, and comes out when no stop string can reach it any more.
///
/// Of several stop strings, the one that is complete first counts (of two complete at once, the
/// longer), so the cut does not depend on how the text came in pieces.
#[derive(Debug)]
pub(super) struct StopScanner<'a> {
    stops: &'a [String],
    held: String,
    stopped: bool,
}

impl<'a> StopScanner<'a> {
    /// For stop strings that are not empty.
    pub(super) fn new(stops: &'a [String]) -> Self {
        Self {
            stops,
            held: String::new(),
            stopped: false,
        }
    }

    /// Whether a stop string was found; what follows it is swallowed.
    pub(super) fn stopped(&self) -> bool {
        self.stopped
    }

    /// Takes a piece and gives what is certain to stay.
    pub(super) fn push(&mut self, piece: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held.push_str(piece);
        let found = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        let certain = match found.min() {
            Some((_, start)) => {
                self.stopped = true;
                start
            }
            None => self.held.len() - self.held_back(),
        };
        let rest = self.held.split_off(certain);
        let certain = std::mem::replace(&mut self.held, rest);
        if self.stopped {
            self.held.clear();
        }
        certain
    }

    /// Ends the text and gives what was held back.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The bytes of the longest end of the text that begins a stop string.
    fn held_back(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let text = self.held.as_str();
        let mut starts = text
            .char_indices()
            .rev()
            .map(|(start, _)| start)
            .take_while(|start| text.len() - start < longest)
            .collect::<Vec<_>>();
        starts.reverse();
        let begins = |start: &usize| {
            let end = &text[*start..];
            self.stops.iter().any(|stop| stop.starts_with(end))
        };
        starts
            .into_iter()
            .find(begins)
            .map_or(0, |start| text.len() - start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out, and whether it stopped, for a text in pieces of `size` characters.
    fn run(stops: &[&str], text: &str, size: usize) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| stop.to_string()).collect();
        let mut scanner = StopScanner::new(&stops);
        let characters: Vec<char> = text.chars().collect();
        let mut out = String::new();
        for piece in characters.chunks(size) {
            out += &scanner.push(&piece.iter().collect::<String>());
        }
        out += &scanner.finish();
        (out, scanner.stopped())
    }

    #[test]
    fn the_cut_is_the_same_however_the_pieces_fall() {
        let cases: [(&[&str], &str, &str, bool); 9] = [
            (&["\n\n"], "one\ntwo\n\nthree", "one\ntwo", true),
            (&["</s>"], "a < b </ c </s> d", "a < b </ c ", true),
            (&["aab"], "aaaab", "aa", true),
            (&["abc", "b"], "xabc", "xa", true),
            (&["bc", "abc"], "xabc", "x", true),
            (&["é!"], "café? café!", "café? caf", true),
            (&["END"], "the EN", "the EN", false),
            (&[], "anything", "anything", false),
            (&["x"], "x", "", true),
        ];
        for (stops, text, expected, stopped) in cases {
            for size in 1..=text.chars().count() {
                let found = run(stops, text, size);
                assert_eq!(
                    found,
                    (expected.to_owned(), stopped),
                    "{stops:?} {text:?} {size}"
                );
            }
        }
    }

    #[test]
    fn only_what_may_become_a_stop_string_is_held() {
        let stops = ["\n\nQ:".to_owned()];
        let mut scanner = StopScanner::new(&stops);
        assert_eq!(scanner.push("yes"), "yes");
        assert_eq!(scanner.push("\n"), "");
        assert_eq!(scanner.push("no\n\n"), "\nno");
        assert_eq!(scanner.push("Q"), "");
        assert_eq!(scanner.push(": who?"), "");
        assert!(scanner.stopped());
        assert_eq!(scanner.push("more"), "");
        assert_eq!(scanner.finish(), "");
    }
}
