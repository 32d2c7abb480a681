//! Batches of ids as padded tensors (feature `tensor`). Shapes: B rows of a batch, T the length of
//! the longest row.

use etude_tensor::{Device, Kind, Tensor};

use crate::{Tokenizer, TokenizerError};

/// Where the shorter rows of a batch are filled up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PadSide {
    /// Before the text, so that all rows end together: for generating on from them.
    Left,
    /// After the text: for scoring and training.
    #[default]
    Right,
}

/// Rows of ids as one tensor.
#[derive(Debug)]
pub struct IdBatch {
    /// The ids, 64-bit integers, (B, T).
    pub ids: Tensor,
    /// False where a row is filled up, (B, T).
    pub mask: Tensor,
    /// The length of each row without filling, 64-bit integers, (B).
    pub lengths: Tensor,
}

impl Tokenizer {
    /// Rows of ids as tensors on `device`, filled up with the padding token, or with the end token
    /// where there is none; the mask tells both from the text.
    ///
    /// # Errors
    /// Rows of different lengths, and neither a padding nor an end token to fill them with.
    pub fn batch_tensors(
        &self,
        rows: &[Vec<u32>],
        side: PadSide,
        device: Device,
    ) -> Result<IdBatch, TokenizerError> {
        let width = rows.iter().map(Vec::len).max().unwrap_or(0);
        let is_even = rows.iter().all(|row| row.len() == width);
        let pad = match self.pad_id().or(self.eos_id()) {
            Some(id) => i64::from(id),
            None if is_even => 0,
            None => return Err(TokenizerError::NoPadding),
        };
        let mut ids = Vec::with_capacity(rows.len() * width);
        let mut mask = Vec::with_capacity(rows.len() * width);
        for row in rows {
            let missing = width - row.len();
            let (before, after) = match side {
                PadSide::Left => (missing, 0),
                PadSide::Right => (0, missing),
            };
            ids.extend(std::iter::repeat_n(pad, before));
            ids.extend(row.iter().map(|id| i64::from(*id)));
            ids.extend(std::iter::repeat_n(pad, after));
            mask.extend(std::iter::repeat_n(false, before));
            mask.extend(std::iter::repeat_n(true, row.len()));
            mask.extend(std::iter::repeat_n(false, after));
        }
        let lengths: Vec<i64> = rows.iter().map(|row| row.len() as i64).collect();
        let shape = [rows.len() as i64, width as i64];
        Ok(IdBatch {
            ids: Tensor::from_slice(&ids).reshape(shape).to_device(device), // (B, T)
            mask: Tensor::from_slice(&mask)
                .to_kind(Kind::Bool)
                .reshape(shape)
                .to_device(device), // (B, T)
            lengths: Tensor::from_slice(&lengths).to_device(device),        // (B)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TrainSettings;

    fn values(tensor: &Tensor) -> Vec<i64> {
        Vec::try_from(tensor.to_kind(Kind::Int64).flatten(0, -1)).unwrap()
    }

    #[test]
    fn rows_are_filled_up_on_the_side_asked_for() {
        let settings = TrainSettings {
            vocab_size: 262,
            ..TrainSettings::default()
        };
        let text = std::iter::once("some text".to_owned());
        let tokenizer = Tokenizer::train(text, &settings).unwrap().0;
        let rows = [vec![9, 8, 7], vec![6], vec![]];
        let right = tokenizer
            .batch_tensors(&rows, PadSide::Right, Device::Cpu)
            .unwrap();
        assert_eq!(right.ids.size(), [3, 3]);
        assert_eq!(values(&right.ids), [9, 8, 7, 6, 1, 1, 1, 1, 1]);
        assert_eq!(values(&right.mask), [1, 1, 1, 1, 0, 0, 0, 0, 0]);
        assert_eq!(values(&right.lengths), [3, 1, 0]);
        let left = tokenizer
            .batch_tensors(&rows, PadSide::Left, Device::Cpu)
            .unwrap();
        assert_eq!(values(&left.ids), [9, 8, 7, 1, 1, 6, 1, 1, 1]);
        assert_eq!(values(&left.mask), [1, 1, 1, 0, 0, 1, 0, 0, 0]);
        let none = tokenizer
            .batch_tensors(&[], PadSide::Left, Device::Cpu)
            .unwrap();
        assert_eq!(none.ids.size(), [0, 0]);
    }
}
