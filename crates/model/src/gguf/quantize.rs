//! Float32 to the formats that an export may have.

use half::f16;
use rayon::prelude::*;

use super::format::TensorFormat;

/// Stores values as F32, F16 or Q8_0; the last with the arithmetic of ggml's reference.
///
/// # Panics
/// For another format, and when the values are no whole blocks.
pub fn quantize(format: TensorFormat, values: &[f32]) -> Vec<u8> {
    assert!(
        values.len().is_multiple_of(format.block_len()),
        "whole blocks"
    );
    match format {
        TensorFormat::F32 => values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
        TensorFormat::F16 => values
            .iter()
            .flat_map(|&value| f16::from_f32(value).to_le_bytes())
            .collect(),
        TensorFormat::Q8_0 => {
            let (block_len, block_bytes) = (format.block_len(), format.block_bytes());
            let mut bytes = vec![0; values.len() / block_len * block_bytes];
            bytes
                .par_chunks_mut(block_bytes)
                .zip(values.par_chunks(block_len))
                .with_min_len(512)
                .for_each(|(block, values)| q8_0(values, block));
            bytes
        }
        other => panic!("nothing is stored as {}", other.name()),
    }
}

/// The largest magnitude becomes 127.
fn q8_0(values: &[f32], block: &mut [u8]) {
    let largest = values
        .iter()
        .fold(0f32, |most, value| most.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for (byte, value) in block[2..].iter_mut().zip(values) {
        *byte = (value * inverse).round() as i8 as u8;
    }
}
