//! Which packages belong together, and which texts differ in nothing but names: both keep what a model
//! was trained on out of the test.

use std::collections::{BTreeMap, BTreeSet};

/// First parts of names that say what kind of package it is, and not what it is about.
const KINDS: &[&str] = &[
    "bioc", "com", "cran", "elpa", "fonts", "haskell", "gir1.2", "github", "go", "golang",
    "libghc", "libjs", "librust", "lua", "module", "node", "php", "pypy", "python", "python3", "r",
    "ruby", "task", "x",
];

/// A paragraph of so many words of shape says what a thing is.
const TELLING_WORDS: usize = 8;
/// One that more families share is what every package of a kind says.
const FEW: usize = 3;

/// The families of all packages, where those that share a telling paragraph are one: `libdrmaa` and
/// `gridengine` are told apart by nothing but their names.
#[derive(Debug, Default)]
pub(super) struct Families {
    /// A family, and an earlier one in the alphabet that it belongs to.
    joined: BTreeMap<String, String>,
}

impl Families {
    /// From the packages' names and paragraphs.
    pub(super) fn of<'a>(paragraphs: impl Iterator<Item = (&'a str, String)>) -> Self {
        let mut sharing: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (package, paragraph) in paragraphs {
            let shape = shape(&paragraph, package);
            if shape.split(' ').count() >= TELLING_WORDS {
                sharing.entry(shape).or_default().insert(family(package));
            }
        }
        let mut families = Self::default();
        for group in sharing.values().filter(|group| group.len() <= FEW) {
            let mut names = group.iter();
            let first = names.next().cloned().unwrap_or_default();
            for other in names {
                families.join(&first, other);
            }
        }
        families
    }

    /// The family that a package belongs to.
    pub(super) fn key(&self, package: &str) -> String {
        self.root(&family(package)).to_string()
    }

    fn root<'a>(&'a self, mut name: &'a str) -> &'a str {
        while let Some(earlier) = self.joined.get(name) {
            name = earlier;
        }
        name
    }

    /// Makes two families one, under the name that comes first: in whatever order they are joined, the
    /// outcome is the same.
    fn join(&mut self, a: &str, b: &str) {
        let (a, b) = (self.root(a).to_string(), self.root(b).to_string());
        if a != b {
            let (early, late) = if a < b { (a, b) } else { (b, a) };
            self.joined.insert(late, early);
        }
    }
}

/// The family of a package by its name: the name's first part that says something, without `lib` before and a
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
    fn a_telling_paragraph_joins_few_families_and_a_common_one_none() {
        let telling = "distributed resource management for clusters of machines and grids of them";
        let common = "this package holds the header files that programs need to be built with it";
        let packages = ["gridengine-x", "libdrmaa1", "foo", "bar"];
        let families = Families::of(
            packages
                .iter()
                .map(|&package| (package, common.to_string()))
                .chain(packages[..2].iter().map(|&p| (p, telling.to_string())))
                .chain([
                    ("foo", "short text".to_string()),
                    ("bar", "short text".to_string()),
                ]),
        );
        let keys = packages.map(|package| families.key(package));
        assert_eq!(keys, ["drmaa", "drmaa", "foo", "bar"]);
    }

    #[test]
    fn a_shape_has_no_names_and_numbers() {
        let one = shape("Documentation for libfoo, version 1.2", "libfoo-doc");
        let other = shape("documentation for libbar version 3", "libbar-doc");
        assert_eq!(one, "documentation for version");
        assert_eq!(other, one);
    }
}
