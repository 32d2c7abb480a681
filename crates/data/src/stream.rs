//! Several token shards read as one long stream of tokens, in the order given.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};

use crate::shard::{Shard, ShardDocument};

/// One or more shards of one tokenizer, end to end. Cheap to clone and to share between threads.
#[derive(Clone, Debug)]
pub struct TokenStream {
    shards: Arc<[Shard]>,
    /// The first token and the first document of each shard, in the numbering of the stream.
    starts: Arc<[(u64, u64)]>,
    tokens: u64,
    documents: u64,
}

impl TokenStream {
    /// Puts the shards end to end.
    ///
    /// # Errors
    /// When there is no shard, no token in them, or they are of different tokenizers.
    pub fn new(shards: Vec<Shard>) -> Result<TokenStream> {
        let Some(first) = shards.first() else {
            bail!("there is no token shard to read; give at least one source of text");
        };
        let fingerprint = first.fingerprint();
        let (mut tokens, mut documents, mut starts) = (0, 0, Vec::new());
        for shard in &shards {
            shard.check_tokenizer(&fingerprint)?;
            starts.push((tokens, documents));
            tokens += shard.tokens();
            documents += shard.documents();
        }
        let stream = TokenStream {
            shards: shards.into(),
            starts: starts.into(),
            tokens,
            documents,
        };
        if tokens == 0 {
            bail!("there is no token in {}; the text is empty", stream.names());
        }
        Ok(stream)
    }

    /// The number of tokens.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The number of documents.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// The length of the original text in bytes.
    pub fn text_bytes(&self) -> u64 {
        self.shards.iter().map(Shard::text_bytes).sum()
    }

    /// The smallest vocabulary that holds every id.
    pub fn id_bound(&self) -> u64 {
        self.shards.iter().map(Shard::id_bound).max().unwrap_or(0)
    }

    /// The shards, in order.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Checks that the model's vocabulary holds every id of the stream.
    ///
    /// # Errors
    /// When it does not.
    pub fn check_vocab(&self, vocab_size: usize) -> Result<()> {
        if self.id_bound() > vocab_size as u64 {
            bail!(
                "{} holds token {}, outside the model's vocabulary of {vocab_size}; tokenize the text with the model's own tokenizer",
                self.names(),
                self.id_bound() - 1
            );
        }
        Ok(())
    }

    /// Appends the ids of `range` to `ids`.
    ///
    /// # Panics
    /// When the range ends past the last token.
    pub fn read(&self, range: Range<u64>, ids: &mut Vec<u32>) {
        assert!(
            range.start <= range.end && range.end <= self.tokens,
            "tokens {range:?}"
        );
        let mut at = range.start;
        while at < range.end {
            let (shard, (first, _)) = self.shard_of(at);
            let end = range.end.min(first + shard.tokens());
            shard.read(at - first..end - first, ids);
            at = end;
        }
    }

    /// The document that holds `token`: its number and its place in the stream.
    ///
    /// # Panics
    /// When `token` is not in the stream.
    pub fn document_of(&self, token: u64) -> (u64, ShardDocument) {
        assert!(token < self.tokens, "token {token} of {}", self.tokens);
        let (shard, (first_token, first_document)) = self.shard_of(token);
        let number = shard.document_of(token - first_token);
        let document = shard.document(number);
        let tokens = document.tokens.start + first_token..document.tokens.end + first_token;
        (
            first_document + number,
            ShardDocument { tokens, ..document },
        )
    }

    /// The shard that holds `token`, with its starts.
    fn shard_of(&self, token: u64) -> (&Shard, (u64, u64)) {
        // Empty shards start where the next one does, so the last that starts in time is the one.
        let index = self.starts.partition_point(|&(first, _)| first <= token) - 1;
        (&self.shards[index], self.starts[index])
    }

    /// The files, for messages.
    pub(crate) fn names(&self) -> String {
        let names: Vec<PathBuf> = self.shards.iter().map(|s| s.path().to_path_buf()).collect();
        match &names[..] {
            [one] => format!("the token shard {}", one.display()),
            [first, ..] => format!(
                "the {} token shards from {} on",
                names.len(),
                first.display()
            ),
            [] => "no token shard".into(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::shard::ShardWriter;

    pub(crate) const FINGERPRINT: &str =
        "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    /// A stream of one shard for each list of documents (ids and bytes of text), in memory for as
    /// long as it lives.
    pub(crate) fn stream(shards: &[Vec<(Vec<u32>, u64)>]) -> TokenStream {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let open = |(i, documents): (usize, &Vec<(Vec<u32>, u64)>)| {
            let path = folder.path().join(format!("{i}.tokens"));
            let mut writer = ShardWriter::create(&path, FINGERPRINT, 1 << 20).expect("a shard");
            for (ids, bytes) in documents {
                writer.push(ids, *bytes).expect("room");
            }
            writer.finish().expect("a whole shard")
        };
        TokenStream::new(shards.iter().enumerate().map(open).collect()).expect("a stream")
    }

    #[test]
    fn reads_across_shards() {
        let stream = stream(&[
            vec![(vec![1, 2, 0], 2)],
            vec![],
            vec![(vec![3, 0], 1), (vec![4, 0], 7)],
        ]);
        assert_eq!(
            (stream.tokens(), stream.documents(), stream.text_bytes()),
            (7, 3, 10)
        );
        let mut ids = vec![];
        stream.read(1..6, &mut ids);
        assert_eq!(ids, [2, 0, 3, 0, 4]);
        assert_eq!(stream.document_of(2).0, 0);
        assert_eq!(
            stream.document_of(3),
            (
                1,
                ShardDocument {
                    tokens: 3..5,
                    text_bytes: 1
                }
            )
        );
        assert_eq!(
            stream.document_of(6),
            (
                2,
                ShardDocument {
                    tokens: 5..7,
                    text_bytes: 7
                }
            )
        );
        stream.check_vocab(5).expect("ids up to 4");
        assert!(
            stream
                .check_vocab(4)
                .expect_err("id 4")
                .to_string()
                .contains("token 4")
        );
    }

    #[test]
    fn refuses_nothing_and_mixtures() {
        assert!(TokenStream::new(vec![]).is_err());
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, fingerprint: &str, ids: &[u32]| {
            let mut writer =
                ShardWriter::create(&folder.path().join(name), fingerprint, 10).expect("a shard");
            if !ids.is_empty() {
                writer.push(ids, 1).expect("room");
            }
            writer.finish().expect("a whole shard")
        };
        assert!(TokenStream::new(vec![write("empty", FINGERPRINT, &[])]).is_err());
        let mixed = vec![
            write("a", FINGERPRINT, &[1]),
            write("b", &"e".repeat(64), &[1]),
        ];
        assert!(
            TokenStream::new(mixed)
                .expect_err("two tokenizers")
                .to_string()
                .contains('b')
        );
    }
}
