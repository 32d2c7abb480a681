//! Which keys a query sees, where plain causality does not say it: documents packed in one row,
//! padding on the left, sliding windows, several new positions after a cache.

use etude_tensor::{Device, Kind, Tensor};

/// Keys `0 .. start + t` seen by queries `start .. start + t`: those at or before the query's
/// position, and within `window` of it. `(T, S)` booleans.
pub(crate) fn causal(start: i64, t: i64, window: Option<i64>, device: Device) -> Tensor {
    let queries = Tensor::arange_start(start, start + t, (Kind::Int64, device)).unsqueeze(1);
    let keys = Tensor::arange(start + t, (Kind::Int64, device)).unsqueeze(0);
    let seen = keys.le_tensor(&queries);
    match window {
        Some(window) => seen.logical_and(&keys.gt_tensor(&(queries - window))),
        None => seen,
    }
}

/// Attention inside documents only: `documents` `(B, T)` numbers the document of each token. Padding
/// (-1) sees its own kind, so that no row is empty. `(B, 1, T, T)` booleans.
pub(crate) fn documents(documents: &Tensor, window: Option<i64>) -> Tensor {
    let t = documents.size()[1];
    let same = documents.unsqueeze(2).eq_tensor(&documents.unsqueeze(1)); // (B, T, T)
    let causal = causal(0, t, window, documents.device());
    same.logical_and(&causal).unsqueeze(1)
}

/// Rows that are padded on the left by `padding` `(B)` positions: keys `0 .. start + t` seen by
/// queries `start .. start + t`. A padded query sees itself, so that no row is empty. `(B, 1, T, S)`.
pub(crate) fn left_padded(padding: &Tensor, start: i64, t: i64, window: Option<i64>) -> Tensor {
    let device = padding.device();
    let keys = Tensor::arange(start + t, (Kind::Int64, device));
    let real = keys.unsqueeze(0).ge_tensor(&padding.unsqueeze(1)); // (B, S)
    let causal = causal(start, t, window, device); // (T, S)
    let queries = Tensor::arange_start(start, start + t, (Kind::Int64, device)).unsqueeze(1);
    let own = keys.unsqueeze(0).eq_tensor(&queries); // (T, S)
    real.unsqueeze(1)
        .logical_and(&causal)
        .logical_or(&own)
        .unsqueeze(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(mask: &Tensor) -> Vec<String> {
        let columns = *mask.size().last().expect("not a scalar");
        let flat: Vec<bool> = Vec::try_from(mask.reshape([-1])).expect("booleans");
        flat.chunks(columns as usize)
            .map(|row| {
                row.iter()
                    .map(|&seen| if seen { 'x' } else { '.' })
                    .collect()
            })
            .collect()
    }

    #[test]
    fn masks_are_what_they_look_like() {
        assert_eq!(
            rows(&causal(0, 3, None, Device::Cpu)),
            ["x..", "xx.", "xxx"]
        );
        assert_eq!(
            rows(&causal(0, 4, Some(2), Device::Cpu)),
            ["x...", "xx..", ".xx.", "..xx"]
        );
        assert_eq!(rows(&causal(2, 2, None, Device::Cpu)), ["xxx.", "xxxx"]);
        let packed = Tensor::from_slice(&[0i64, 0, 1, 1, -1]).unsqueeze(0);
        assert_eq!(
            rows(&documents(&packed, None)),
            ["x....", "xx...", "..x..", "..xx.", "....x"]
        );
        let padding = Tensor::from_slice(&[0i64, 2]);
        assert_eq!(
            rows(&left_padded(&padding, 0, 3, None)),
            ["x..", "xx.", "xxx", "x..", ".x.", "..x"]
        );
        assert_eq!(rows(&left_padded(&padding, 3, 1, None)), ["xxxx", "..xx"]);
    }
}
