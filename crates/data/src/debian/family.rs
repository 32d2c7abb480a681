//! Which packages belong together, and which texts differ in nothing but names: both keep what a model
//! was trained on out of the test.

/// First parts of names that say what kind of package it is, and not what it is about.
const KINDS: &[&str] = &[
    "bioc", "com", "cran", "elpa", "fonts", "haskell", "gir1.2", "github", "go", "golang",
    "libghc", "libjs", "librust", "lua", "module", "node", "php", "pypy", "python", "python3", "r",
    "ruby", "task", "x",
];

/// The family of a package: its name's first part that says something, without `lib` before and a
/// version behind. `libfoo1`, `libfoo-dev`, `foo-doc` and `python3-foo` are all `foo`.
pub(super) fn family(package: &str) -> String {
    let name = package.to_ascii_lowercase();
    let part = name
        .split('-')
        .find(|part| !part.is_empty() && !KINDS.contains(part))
        .unwrap_or(&name);
    let bare = part
        .strip_prefix("lib")
        .filter(|rest| rest.len() > 1)
        .unwrap_or(part);
    // `foo+bar` is a choice of foo's, while `g++` is a name.
    let bare = match bare.split_once('+') {
        Some((head, tail)) if head.len() > 1 && tail.starts_with(char::is_alphanumeric) => head,
        _ => bare,
    };
    let stem = bare.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    if stem.len() > 1 { stem } else { bare }.to_string()
}

/// A text in lower case, its words alone, without numbers and without the parts of the package's name:
/// texts of one shape say the same of different packages.
pub(super) fn shape(text: &str, package: &str) -> String {
    let family = family(package);
    let named =
        |word: &str| word == family || package.split(['-', '.', '+']).any(|part| part == word);
    text.to_lowercase()
        .split(|c: char| !c.is_alphabetic())
        .filter(|word| !word.is_empty() && !named(word))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relatives_are_one_family() {
        for name in [
            "foo",
            "libfoo1",
            "libfoo-dev",
            "foo-doc",
            "python3-foo",
            "libfoo2.4",
            "golang-github-foo-bar-dev",
            "r-cran-foo",
            "foo-12",
            "librust-foo+std-dev",
        ] {
            assert_eq!(family(name), "foo", "{name}");
        }
        for (name, expected) in [
            ("0ad-data", "0ad"),
            ("lib", "lib"),
            ("python3", "python"),
            ("r-x", "r-x"),
            ("g++-12", "g++"),
            ("c2hs", "c2hs"),
            ("libc6", "c6"),
        ] {
            assert_eq!(family(name), expected, "{name}");
        }
    }

    #[test]
    fn a_shape_has_no_names_and_numbers() {
        let one = shape("Documentation for libfoo, version 1.2", "libfoo-doc");
        let other = shape("documentation for libbar version 3", "libbar-doc");
        assert_eq!(one, "documentation for version");
        assert_eq!(other, one);
    }
}
