//! What a manifest must satisfy beyond its types: a complete source, templates that parse, one split
//! rule, and examples or text to make.

use super::{Archive, Format, Kind, Manifest, Registry};
use crate::error::DataError;
use crate::template::Template;

impl Manifest {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// Names the file, the field and the remedy.
    pub fn validate(&self) -> Result<(), DataError> {
        let fail = |what: &str, remedy: &str| Err(DataError::in_file(&self.origin, what, remedy));
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || !self.name.chars().all(plain) {
            return fail(
                &format!("`name` is `{}`", self.name),
                "use lower-case letters, digits and dashes",
            );
        }
        if self.read.unquoted && !matches!(self.read.format, Format::Csv | Format::Tsv) {
            return fail(
                "`unquoted` is set, and the files are no CSV or TSV",
                "leave it out; only there do quotes hold a cell together",
            );
        }
        self.validate_source()?;
        self.validate_split()?;
        let parts = [
            &self.map.text,
            &self.map.prompt,
            &self.map.completion,
            &self.map.key,
            &self.map.id,
        ];
        let content = self.map.chat.as_ref().map(|chat| &chat.content);
        for template in parts.into_iter().flatten().chain(content) {
            if let Err(what) = Template::parse(template) {
                return fail(
                    &format!("in `map`: {what}"),
                    "write `{field}`, and `{{` for a brace",
                );
            }
        }
        let answer = self.map.completion.is_some() || self.map.answers.is_some();
        let completion = self.map.prompt.is_some() && answer;
        match self.kind {
            Kind::Task if self.map.chat.is_none() && !completion => fail(
                "a task has no examples",
                "give `map.prompt` and `map.completion` or `map.answers`, or `map.chat`",
            ),
            Kind::Task if self.map.chat.is_some() && self.map.answers.is_some() => fail(
                "`map.answers` does not go with `map.chat`",
                "leave out one of them; a conversation's last turn is its right answer",
            ),
            Kind::Text if self.map.text.is_none() && self.read.format != Format::Text => fail(
                "a text set has no text",
                "give `map.text`, such as \"{text}\"",
            ),
            _ => Ok(()),
        }
    }

    fn validate_source(&self) -> Result<(), DataError> {
        let source = &self.source;
        let fail = |what: &str, remedy: &str| Err(DataError::in_file(&self.origin, what, remedy));
        if !source.more.is_empty() && source.registry != Registry::Apt {
            return fail(
                "`source.more` is for `registry = \"apt\"` alone",
                "make a manifest for each archive",
            );
        }
        for archive in &source.archives() {
            self.validate_archive(archive)?;
        }
        match source.registry {
            Registry::AptLists => self.validate_languages(),
            Registry::Local if source.path.as_os_str().is_empty() => fail(
                "`source.path` is missing",
                "name the file, folder or archive",
            ),
            Registry::Pypi | Registry::Npm | Registry::Apt if source.files.is_empty() => fail(
                "`source.files` is missing",
                "name the files inside the archive that are needed",
            ),
            _ => Ok(()),
        }
    }

    fn validate_archive(&self, archive: &Archive) -> Result<(), DataError> {
        let fail = |what: &str, remedy: &str| Err(DataError::in_file(&self.origin, what, remedy));
        let given: &[(&str, &str)] = match self.source.registry {
            Registry::Pypi | Registry::Npm | Registry::Apt => &[
                ("package", &archive.package),
                ("version", &archive.version),
                ("archive", &archive.archive),
                ("sha256", &archive.sha256),
            ],
            Registry::AptLists | Registry::Local => &[],
        };
        if let Some((field, _)) = given.iter().find(|(_, value)| value.is_empty()) {
            return fail(
                &format!("`source.{field}` is missing"),
                "a registry's package needs it",
            );
        }
        if archive.archive.contains(['/', '\\']) || archive.archive.starts_with(['.', '-']) {
            return fail(
                "`source.archive` is not a bare file name",
                "write the name without folders",
            );
        }
        if archive.package.starts_with('-') || archive.version.starts_with('-') {
            return fail(
                "`source.package` or `version` starts with a dash",
                "write the name alone",
            );
        }
        let hex =
            archive.sha256.len() == 64 && archive.sha256.bytes().all(|b| b.is_ascii_hexdigit());
        if !archive.sha256.is_empty() && !hex {
            return fail(
                "`source.sha256` is not 64 hexadecimal digits",
                "take it from `sha256sum`",
            );
        }
        Ok(())
    }

    fn validate_languages(&self) -> Result<(), DataError> {
        let fail = |what: &str, remedy: &str| Err(DataError::in_file(&self.origin, what, remedy));
        let code = |language: &String| {
            (2..=8).contains(&language.len())
                && language
                    .bytes()
                    .all(|b| b.is_ascii_alphabetic() || b == b'_')
        };
        match &self.source.languages[..] {
            languages if !languages.iter().all(code) => fail(
                "`source.languages` has something that is no code of a language",
                "write codes such as \"de\" or \"pt_BR\"",
            ),
            [english] if english == "en" => Ok(()),
            [english, other] if english == "en" && other != "en" => Ok(()),
            _ => fail(
                "`source.languages` is not English alone or with one other language",
                "write [\"en\"] or, for example, [\"en\", \"de\"]",
            ),
        }
    }

    fn validate_split(&self) -> Result<(), DataError> {
        let split = &self.split;
        let fail = |what: String, remedy: &str| Err(DataError::in_file(&self.origin, what, remedy));
        let held_out = u32::from(split.validation) + u32::from(split.test);
        if held_out > 99 {
            return fail(
                format!("`split` holds out {held_out} percent"),
                "leave at least one percent for training",
            );
        }
        if let Some(train) = split.train
            && u32::from(train) + held_out != 100
        {
            return fail(
                format!(
                    "the percentages of `split` add up to {}",
                    u32::from(train) + held_out
                ),
                "make train, validation and test 100 together",
            );
        }
        // Beside `by_file` percentages share out what the names leave for training.
        let rules = [
            held_out > 0 || split.by_file,
            split.tail_bytes.is_some(),
            split.tail_percent.is_some(),
        ];
        if rules.iter().filter(|&&rule| rule).count() > 1 {
            return fail(
                "`split` has more than one rule".to_string(),
                "give percentages, `by_file` or both, or `tail_bytes`, or `tail_percent`",
            );
        }
        let tail = split.tail_bytes.is_some() || split.tail_percent.is_some();
        if tail && self.kind == Kind::Task {
            return fail(
                "a tail split cuts text, not examples".to_string(),
                "give percentages",
            );
        }
        if split.tail_percent.is_some_and(|percent| percent > 99) {
            return fail(
                "`split.tail_percent` leaves nothing".to_string(),
                "give 1 to 99",
            );
        }
        Ok(())
    }
}
