//! Which part of a data set a document belongs to, decided by nothing but its key and a salt.
//!
//! The rule is fixed for ever: take the SHA-256 of the salt, one zero byte, and the key (UTF-8);
//! read the first eight bytes as a big-endian number `x`; the document's bucket is
//! `floor(x * 100 / 2^64)`, a number from 0 to 99. Buckets below `test` are the test split, the next
//! `validation` buckets the validation split, the rest is for training. Two data sets with the same
//! salt, percentages and keys therefore agree on every document, whatever else they do with it.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What is learnt from.
    Train,
    /// What is looked at during training.
    Validation,
    /// What is looked at once, at the end.
    Test,
}

impl Split {
    /// The three splits.
    pub const ALL: [Split; 3] = [Split::Train, Split::Validation, Split::Test];

    /// The split's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// The first eight bytes of SHA-256(salt, 0, key), big-endian.
pub fn key_hash(salt: &str, key: &str) -> u64 {
    let digest = Sha256::new()
        .chain_update(salt)
        .chain_update([0])
        .chain_update(key)
        .finalize();
    let mut head = [0; 8];
    head.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(head)
}

/// The bucket, 0 to 99, of a key hash.
pub fn bucket(hash: u64) -> u8 {
    u8::try_from((u128::from(hash) * 100) >> 64).expect("a 64-bit fraction of 100 is below 100")
}

/// The split of a key hash when `test` and then `validation` percent are held out.
pub fn split_of(hash: u64, validation: u8, test: u8) -> Split {
    let bucket = bucket(hash);
    if bucket < test {
        Split::Test
    } else if bucket < test.saturating_add(validation) {
        Split::Validation
    } else {
        Split::Train
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers from scripts/goldens/data_split.py (hashlib); a change here breaks every published split.
    #[test]
    fn hashes_never_change() {
        let golden = include_str!("../tests/goldens/split.tsv");
        let mut seen = 0;
        for line in golden.lines().filter(|line| !line.starts_with('#')) {
            let [salt, key, hash, expected, split] = line.split('\t').collect::<Vec<_>>()[..]
            else {
                panic!("five columns: {line}");
            };
            assert_eq!(key_hash(salt, key).to_string(), hash, "{key}");
            assert_eq!(bucket(key_hash(salt, key)).to_string(), expected, "{key}");
            assert_eq!(split_of(key_hash(salt, key), 4, 6).name(), split, "{key}");
            seen += 1;
        }
        assert!(seen >= 20, "{seen}");
    }

    #[test]
    fn shares_come_out_as_asked() {
        let mut counts = [0u32; 3];
        for i in 0..20_000 {
            counts[split_of(key_hash("salt", &i.to_string()), 4, 6) as usize] += 1;
        }
        assert!((17_800..18_200).contains(&counts[0]), "{counts:?}");
        assert!((700..900).contains(&counts[1]), "{counts:?}");
        assert!((1_080..1_320).contains(&counts[2]), "{counts:?}");
    }

    #[test]
    fn the_ends_of_the_range() {
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, 99));
        assert_eq!(split_of(0, 0, 0), Split::Train);
        assert_eq!(split_of(u64::MAX, 50, 50), Split::Validation);
    }
}
