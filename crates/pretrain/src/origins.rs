//! Where the tokens of a stream were read: file and line.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use etude_data::{Document, Format, Shard, SourceRef, Split, TokenStream};
use etude_tokenizer::Tokenizer;
use etude_train::Origin;

use crate::prepare::Read;

/// Finds the origins of a stream's tokens.
#[derive(Clone, Copy)]
pub(crate) struct Origins<'a> {
    /// The sources that the stream was made of.
    pub(crate) sources: &'a [Read],
    /// The stream.
    pub(crate) stream: &'a TokenStream,
    /// The split of the sources that it holds.
    pub(crate) split: Split,
    /// What its tokens are of.
    pub(crate) tokenizer: &'a Tokenizer,
}

impl Origins<'_> {
    /// Document, file and line of each token. The documents of a source are read once for all of them.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub(crate) fn of(&self, tokens: &[u64]) -> Result<Vec<Origin>> {
        let mut places = Vec::with_capacity(tokens.len());
        let mut wanted: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for &token in tokens {
            let place = self.place(token)?;
            if let Some(source) = place.source {
                wanted.entry(source).or_default().push(place.number);
            }
            places.push(place);
        }
        let mut found = BTreeMap::new();
        for (source, numbers) in wanted {
            for (number, document) in self.documents(source, &numbers)? {
                found.insert((source, number), document);
            }
        }
        tokens
            .iter()
            .zip(&places)
            .map(|(&token, place)| self.origin(token, place, &found))
            .collect()
    }

    fn origin(
        &self,
        token: u64,
        place: &Place<'_>,
        found: &BTreeMap<(usize, u64), (String, SourceRef)>,
    ) -> Result<Origin> {
        let known = place.source.and_then(|source| {
            let (key, at) = found.get(&(source, place.number))?;
            Some((source, key.clone(), at.clone()))
        });
        let Some((source, name, SourceRef { file, mut line })) = known else {
            return Ok(Origin {
                file: place.shard.path().to_owned(),
                line: 1,
                name: format!("document {}", place.number + 1),
                truncated: false,
            });
        };
        // Lines of a text are counted on; a record is one line whatever its text.
        if self.sources[source].dataset.manifest().read.format == Format::Text {
            let mut ids = Vec::new();
            self.stream.read(place.start..token, &mut ids);
            line += self.tokenizer.decode(&ids, false)?.matches('\n').count() as u64;
        }
        Ok(Origin {
            file,
            line,
            name,
            truncated: false,
        })
    }

    fn place(&self, token: u64) -> Result<Place<'_>> {
        let start = self.stream.document_of(token).1.tokens.start;
        // The shard of the document, by the tokens before it.
        let mut first = 0;
        for shard in self.stream.shards() {
            if start < first + shard.tokens() {
                return Ok(Place {
                    source: self.sources.iter().position(|source| source.made(shard)),
                    shard,
                    number: shard.document_of(start - first),
                    start,
                });
            }
            first += shard.tokens();
        }
        None.context("a token of the stream lies in one of its shards")
    }

    /// Name and place of some of a source's documents, by number.
    fn documents(
        &self,
        source: usize,
        numbers: &[u64],
    ) -> Result<BTreeMap<u64, (String, SourceRef)>> {
        let documents = self.sources[source].dataset.documents(&[self.split])?;
        let full = |document: &Result<Document, _>| {
            document
                .as_ref()
                .map_or(true, |document| !document.text.is_empty())
        };
        let last = numbers.iter().max().map_or(0, |&last| last as usize + 1);
        let mut found = BTreeMap::new();
        for (number, document) in (0..).zip(documents.filter(full).take(last)) {
            let document = document?;
            if numbers.contains(&number) {
                found.insert(number, (document.key, document.source));
            }
        }
        Ok(found)
    }
}

/// A token's document.
struct Place<'a> {
    /// Which of the sources it is of.
    source: Option<usize>,
    shard: &'a Shard,
    /// Its number in the shard, from 0.
    number: u64,
    /// Its first token in the stream.
    start: u64,
}
