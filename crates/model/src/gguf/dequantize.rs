//! Stored numbers to float32. The arithmetic, order of operations included, is that of ggml's reference
//! (`ggml-quants.c`), so results are equal to the last bit.

use half::{bf16, f16};
use rayon::prelude::*;

use super::format::TensorFormat;
use super::k_quants;

/// Values that one thread takes at a time.
const RUN: usize = 1 << 14;

/// Turns whole blocks in `bytes` into the values that they stand for, on all cores.
///
/// # Panics
/// When `bytes` and `values` are not as long as the format makes each other.
pub fn dequantize(format: TensorFormat, bytes: &[u8], values: &mut [f32]) {
    let (block_len, block_bytes) = (format.block_len(), format.block_bytes());
    assert!(
        values.len().is_multiple_of(block_len)
            && bytes.len() == values.len() / block_len * block_bytes,
        "{} bytes are not {} values in {}",
        bytes.len(),
        values.len(),
        format.name()
    );
    let decode = decoder(format);
    let blocks = RUN / block_len;
    let runs = values.par_chunks_mut(blocks * block_len);
    runs.zip(bytes.par_chunks(blocks * block_bytes))
        .for_each(|(values, bytes)| {
            let each = values.chunks_exact_mut(block_len);
            for (values, block) in each.zip(bytes.chunks_exact(block_bytes)) {
                decode(block, values);
            }
        });
}

/// What decodes one block of a format.
fn decoder(format: TensorFormat) -> fn(&[u8], &mut [f32]) {
    match format {
        TensorFormat::F32 => |block, values| {
            values[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
        },
        TensorFormat::F16 => |block, values| values[0] = half(block),
        TensorFormat::Bf16 => |block, values| {
            values[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32();
        },
        TensorFormat::Q4_0 => q4_0,
        TensorFormat::Q4_1 => q4_1,
        TensorFormat::Q5_0 => q5_0,
        TensorFormat::Q5_1 => q5_1,
        TensorFormat::Q8_0 => q8_0,
        TensorFormat::Q2K => k_quants::q2,
        TensorFormat::Q3K => k_quants::q3,
        TensorFormat::Q4K => k_quants::q4,
        TensorFormat::Q5K => k_quants::q5,
        TensorFormat::Q6K => k_quants::q6,
    }
}

/// The float16 that `bytes` begin with.
pub(super) fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// Scale, 16 bytes: the low halves are the first 16 values, the high halves the others.
fn q4_0(block: &[u8], values: &mut [f32]) {
    let scale = half(block);
    for (i, byte) in block[2..].iter().enumerate() {
        values[i] = scale * f32::from((byte & 15) as i8 - 8);
        values[i + 16] = scale * f32::from((byte >> 4) as i8 - 8);
    }
}

/// Scale, minimum, 16 bytes.
fn q4_1(block: &[u8], values: &mut [f32]) {
    let (scale, least) = (half(block), half(&block[2..]));
    for (i, byte) in block[4..].iter().enumerate() {
        values[i] = scale * f32::from(byte & 15) + least;
        values[i + 16] = scale * f32::from(byte >> 4) + least;
    }
}

/// Bit `i` of the fifth bits, as the value it adds.
fn fifth(bits: u32, i: usize) -> u8 {
    ((bits >> i & 1) << 4) as u8
}

fn fifth_bits(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Scale, 32 fifth bits, 16 bytes.
fn q5_0(block: &[u8], values: &mut [f32]) {
    let (scale, bits) = (half(block), fifth_bits(&block[2..]));
    for (i, byte) in block[6..].iter().enumerate() {
        let low = byte & 15 | fifth(bits, i);
        let high = byte >> 4 | fifth(bits, i + 16);
        values[i] = scale * f32::from(low as i8 - 16);
        values[i + 16] = scale * f32::from(high as i8 - 16);
    }
}

/// Scale, minimum, 32 fifth bits, 16 bytes.
fn q5_1(block: &[u8], values: &mut [f32]) {
    let (scale, least) = (half(block), half(&block[2..]));
    let bits = fifth_bits(&block[4..]);
    for (i, byte) in block[8..].iter().enumerate() {
        values[i] = scale * f32::from(byte & 15 | fifth(bits, i)) + least;
        values[i + 16] = scale * f32::from(byte >> 4 | fifth(bits, i + 16)) + least;
    }
}

/// Scale, 32 signed bytes.
fn q8_0(block: &[u8], values: &mut [f32]) {
    let scale = half(block);
    for (value, byte) in values.iter_mut().zip(&block[2..]) {
        *value = f32::from(*byte as i8) * scale;
    }
}
