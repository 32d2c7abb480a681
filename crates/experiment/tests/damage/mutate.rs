//! Damage to a whole file: what disks, editors, copies and malice do to one.

use proptest::prelude::*;

/// One change. Places are shares of the file's length, from 0 to 1.
#[derive(Debug, Clone)]
pub(crate) enum Damage {
    /// A bit turned over.
    Flip(f64, u8),
    /// Everything from here on is gone.
    Cut(f64),
    /// Bytes at the end that do not belong there.
    Extend(Vec<u8>),
    /// A stretch of zeros, as a lost block is read.
    Zero(f64, f64),
    /// A stretch taken out.
    Remove(f64, f64),
    /// A stretch copied to another place, over what is there or between.
    Splice(f64, f64, f64, bool),
    /// One of the numbers, in text, replaced by an extreme one.
    Number(f64, usize),
    /// A stretch replaced by many opening brackets.
    Nest(f64, u8, usize),
    /// Bytes that no text holds.
    NotText(f64, usize),
}

/// What stands for a number.
const EXTREMES: [&str; 12] = [
    "0",
    "-1",
    "9223372036854775807",
    "18446744073709551616",
    "-9223372036854775808",
    "1e400",
    "-0.0",
    "nan",
    "inf",
    "0.1e-400",
    "4294967296",
    "\"7\"",
];

/// NUL, a lone continuation byte, an overlong form, half a letter, a surrogate, a byte that never occurs.
const NOT_TEXT: [&[u8]; 6] = [
    b"\0",
    b"\x80",
    b"\xc0\xaf",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xff\xfe",
];

/// One to three changes.
pub(crate) fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let place = || 0.0..1.0f64;
    let short = || 0.0..0.2f64;
    let one = prop_oneof![
        4 => (place(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        2 => place().prop_map(Damage::Cut),
        1 => proptest::collection::vec(any::<u8>(), 1..40).prop_map(Damage::Extend),
        1 => (place(), short()).prop_map(|(at, length)| Damage::Zero(at, length)),
        2 => (place(), short()).prop_map(|(at, length)| Damage::Remove(at, length)),
        2 => (place(), short(), place(), any::<bool>())
            .prop_map(|(from, length, to, over)| Damage::Splice(from, length, to, over)),
        4 => (place(), 0..EXTREMES.len()).prop_map(|(at, which)| Damage::Number(at, which)),
        1 => (place(), prop_oneof![Just(b'['), Just(b'{')], 1..20_000usize)
            .prop_map(|(at, bracket, depth)| Damage::Nest(at, bracket, depth)),
        1 => (place(), 0..NOT_TEXT.len()).prop_map(|(at, which)| Damage::NotText(at, which)),
    ];
    proptest::collection::vec(one, 1..4)
}

/// The file after these changes.
pub(crate) fn apply(whole: &[u8], damages: &[Damage]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for damage in damages {
        change(&mut bytes, damage);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, damage: &Damage) {
    let at = |share: f64| ((share * bytes.len() as f64) as usize).min(bytes.len());
    let stretch = |from: f64, length: f64| at(from)..at((from + length).min(1.0));
    match damage {
        Damage::Flip(place, bit) => {
            let place = at(*place);
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << bit;
            }
        }
        Damage::Cut(place) => bytes.truncate(at(*place)),
        Damage::Extend(more) => bytes.extend(more),
        Damage::Zero(from, length) => {
            let range = stretch(*from, *length);
            bytes[range].fill(0);
        }
        Damage::Remove(from, length) => {
            let range = stretch(*from, *length);
            bytes.drain(range);
        }
        Damage::Splice(from, length, to, over) => {
            let (piece, to) = (bytes[stretch(*from, *length)].to_vec(), at(*to));
            let end = if *over {
                (to + piece.len()).min(bytes.len())
            } else {
                to
            };
            bytes.splice(to..end, piece);
        }
        Damage::Number(share, which) => {
            let digit = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
            let starts: Vec<usize> = (0..bytes.len())
                .filter(|&at| digit(&bytes[at]) && (at == 0 || !digit(&bytes[at - 1])))
                .collect();
            let Some(&start) = starts.get((share * starts.len() as f64) as usize) else {
                return;
            };
            let length = bytes[start..].iter().take_while(|byte| digit(byte)).count();
            bytes.splice(start..start + length, EXTREMES[*which].bytes());
        }
        Damage::Nest(place, bracket, depth) => {
            let place = at(*place);
            bytes.splice(place..place, std::iter::repeat_n(*bracket, *depth));
        }
        Damage::NotText(place, which) => {
            let place = at(*place);
            bytes.splice(place..place, NOT_TEXT[*which].iter().copied());
        }
    }
}
