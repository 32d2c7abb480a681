//! The K formats of ggml: 256 values a block, in groups whose scales are themselves quantized. Each
//! function decodes one block.

use super::dequantize::half;

/// 2 bits: 16 bytes of scale and minimum (4 bits each), 64 bytes of values, the scales' scale, the
/// minima's.
pub(super) fn q2(block: &[u8], values: &mut [f32]) {
    let (scales, rest) = block.split_at(16);
    let (packed, rest) = rest.split_at(64);
    let (scale, least) = (half(rest), half(&rest[2..]));
    for (i, value) in values.iter_mut().enumerate() {
        let group = scales[i / 16];
        let (scale, least) = (scale * f32::from(group & 15), least * f32::from(group >> 4));
        *value = scale * f32::from(two_bits(packed, i)) - least;
    }
}

/// Value `i` of 2-bit values: of each 128, a byte holds those 32 apart.
fn two_bits(packed: &[u8], i: usize) -> u8 {
    packed[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3
}

/// 3 bits: 32 bytes of third bits, 64 bytes of the lower two, 12 bytes of 6-bit scales, their scale. A
/// third bit that is not set takes 4 off.
pub(super) fn q3(block: &[u8], values: &mut [f32]) {
    let (third, rest) = block.split_at(32);
    let (packed, rest) = rest.split_at(64);
    let (scales, rest) = rest.split_at(12);
    let scale = half(rest);
    // The low 4 bits of scale g lie in the halves of the first 8 bytes, its high 2 in the last 4.
    let group_scale = |g: usize| {
        let low = scales[g % 8] >> (g / 8 * 4) & 15;
        let high = scales[8 + g % 4] >> (g / 4 * 2) & 3;
        scale * f32::from((low | high << 4) as i8 - 32)
    };
    for (g, values) in values.chunks_exact_mut(16).enumerate() {
        let scale = group_scale(g);
        for (at, value) in values.iter_mut().enumerate() {
            let i = g * 16 + at;
            let off = if third[i % 32] >> (i / 32) & 1 == 1 {
                0
            } else {
                4
            };
            *value = scale * f32::from(two_bits(packed, i) as i8 - off);
        }
    }
}

/// Scale and minimum of group `g` (32 values) out of 12 bytes that hold eight 6-bit pairs: the first four
/// in the low bits of bytes 0 to 7; the other four in the halves of bytes 8 to 11, their highest 2 bits
/// above the first four.
fn pair(bytes: &[u8], g: usize) -> (u8, u8) {
    if g < 4 {
        (bytes[g] & 63, bytes[4 + g] & 63)
    } else {
        let both = bytes[4 + g];
        (
            both & 15 | (bytes[g - 4] >> 2) & 0x30,
            both >> 4 | (bytes[g] >> 2) & 0x30,
        )
    }
}

/// What q4 and q5 begin with: for each group of 32, its scale and its minimum.
fn pairs(block: &[u8]) -> impl Fn(usize) -> (f32, f32) + '_ {
    let (scale, least) = (half(block), half(&block[2..]));
    move |g| {
        let (s, m) = pair(&block[4..16], g);
        (scale * f32::from(s), least * f32::from(m))
    }
}

/// 4 bits: the scales' scale, the minima's, 12 bytes of both, 128 bytes of values: of each 64, a byte holds
/// those 32 apart.
pub(super) fn q4(block: &[u8], values: &mut [f32]) {
    let (pairs, packed) = (pairs(block), &block[16..]);
    for (g, values) in values.chunks_exact_mut(32).enumerate() {
        let (scale, least) = pairs(g);
        for (at, value) in values.iter_mut().enumerate() {
            let low = packed[g / 2 * 32 + at] >> (g % 2 * 4) & 15;
            *value = scale * f32::from(low) - least;
        }
    }
}

/// 5 bits: as 4, with 32 bytes of fifth bits before the values: bit g of byte i is that of value i of
/// group g.
pub(super) fn q5(block: &[u8], values: &mut [f32]) {
    let (pairs, fifth, packed) = (pairs(block), &block[16..48], &block[48..]);
    for (g, values) in values.chunks_exact_mut(32).enumerate() {
        let (scale, least) = pairs(g);
        for (at, value) in values.iter_mut().enumerate() {
            let low = packed[g / 2 * 32 + at] >> (g % 2 * 4) & 15;
            let high = fifth[at] >> g & 1;
            *value = scale * f32::from(low | high << 4) - least;
        }
    }
}

/// 6 bits: 128 bytes of low halves (of each 128 values, a byte holds those 64 apart), 64 bytes of the
/// upper two bits (those 32 apart), 16 signed scales, their scale.
pub(super) fn q6(block: &[u8], values: &mut [f32]) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, rest) = rest.split_at(16);
    let scale = half(rest);
    for (g, values) in values.chunks_exact_mut(16).enumerate() {
        let scale = scale * f32::from(scales[g] as i8);
        for (at, value) in values.iter_mut().enumerate() {
            let i = g * 16 + at;
            let low = low[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15;
            *value = scale * f32::from((low | two_bits(high, i) << 4) as i8 - 32);
        }
    }
}
