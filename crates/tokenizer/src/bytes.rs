//! The alphabet of byte-level tokenizers: each byte is written as one printable character, so that
//! a vocabulary of strings can hold any bytes (Radford et al. 2019, GPT-2).
//!
//! Printable bytes stand for themselves; the other 68 become U+0100, U+0101, … in order.

use std::sync::LazyLock;

/// The character of each byte.
static CHARACTER: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        if is_printable(byte as u8) {
            return char::from(byte as u8);
        }
        next += 1;
        char::from_u32(next - 1).expect("U+0100 to U+0143 are characters")
    })
});

/// The byte of each character up to the last one in use.
static BYTE: LazyLock<Vec<Option<u8>>> = LazyLock::new(|| {
    let mut table = vec![None; 0x100 + 68];
    for (byte, character) in CHARACTER.iter().enumerate() {
        table[*character as usize] = Some(byte as u8);
    }
    table
});

fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// All 256 characters, in the order of their bytes.
pub(crate) fn alphabet() -> impl Iterator<Item = char> {
    CHARACTER.iter().copied()
}

/// Writes the bytes of `text` in the alphabet.
pub(crate) fn to_alphabet(text: &str) -> String {
    text.bytes().map(|byte| CHARACTER[byte as usize]).collect()
}

/// Appends the bytes that a token stands for. A token with a character outside of the alphabet
/// (an added token such as `<｜end｜>`) stands for its own spelling.
pub(crate) fn push_token_bytes(token: &str, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for character in token.chars() {
        match BYTE.get(character as usize).copied().flatten() {
            Some(byte) => bytes.push(byte),
            None => {
                bytes.truncate(start);
                bytes.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    #[test]
    fn alphabet_is_the_engines() {
        let ours: std::collections::HashSet<char> = alphabet().collect();
        assert_eq!(ours, ByteLevel::alphabet().into_iter().collect());
        assert_eq!(to_alphabet("a\n é"), "aĊĠÃ©");
    }

    #[test]
    fn every_byte_comes_back() {
        for (byte, character) in alphabet().enumerate() {
            let mut bytes = Vec::new();
            push_token_bytes(&character.to_string(), &mut bytes);
            assert_eq!(bytes, [byte as u8]);
        }
        let mut bytes = vec![7];
        push_token_bytes("<｜end｜>", &mut bytes);
        assert_eq!(&bytes[1..], "<｜end｜>".as_bytes());
    }
}
