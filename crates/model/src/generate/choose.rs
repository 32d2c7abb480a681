//! From a batch of logits to one token a row, with one wait for the device and no more numbers
//! carried to the host than the rows' settings need.

use etude_tensor::{Kind, Tensor};
use rayon::prelude::*;

use super::{GenerateError, Running};

/// What the host gets to see of a batch of logits.
struct Offered {
    /// Candidates a row.
    width: usize,
    /// `(B, width)`.
    logits: Vec<f32>,
    /// `(B, width)`; none when the candidates are all tokens in order.
    ids: Option<Vec<u32>>,
}

/// The next token of each row from `(B, V)` logits, none for rows that are finished.
pub(super) fn choose(
    logits: &Tensor,
    rows: &mut [Running<'_>],
) -> Result<Vec<Option<u32>>, GenerateError> {
    let offered = offer(logits, rows);
    let width = offered.width;
    let pick = |(number, row): (usize, &mut Running<'_>)| {
        if row.finished {
            return Ok(None);
        }
        let here = number * width..(number + 1) * width;
        let ids = offered.ids.as_ref().map(|ids| &ids[here.clone()]);
        let id = row.sampler.pick(&offered.logits[here], ids);
        id.map(Some).ok_or(GenerateError::NotFinite {
            prompt: row.place,
            tokens: row.request.ids.len() + row.ids.len(),
        })
    };
    rows.par_iter_mut().enumerate().map(pick).collect()
}

/// The most likely token where that is all that any row asks for, the top-k where all rows have one,
/// else all logits.
fn offer(logits: &Tensor, rows: &[Running<'_>]) -> Offered {
    let live = || {
        rows.iter()
            .filter(|row| !row.finished)
            .map(|row| row.sampler.settings())
    };
    let all = *logits.size().last().expect("logits are (B, V)");
    let needs = live().map(|settings| match settings {
        _ if settings.has_penalty() => all,
        _ if settings.is_greedy() => 1,
        _ if settings.top_k > 0 => settings.top_k as i64,
        _ => all,
    });
    let width = needs.max().unwrap_or(1).clamp(1, all);
    if width == all {
        let flat = logits.to_kind(Kind::Float).reshape([-1]);
        let logits = Vec::try_from(flat).expect("float32"); // sync
        return Offered {
            width: all as usize,
            logits,
            ids: None,
        };
    }
    let (values, ids) = match width {
        1 => logits.max_dim(-1, true),
        _ => logits.topk(width, -1, true, false),
    }; // (B, width) each
    let (logits, ids) = to_host(&values, &ids);
    Offered {
        width: width as usize,
        logits,
        ids: Some(ids.into_iter().map(|id| id as u32).collect()),
    }
}

/// The best values and their places, of the same shape, flat and in one transfer.
pub(super) fn to_host(values: &Tensor, places: &Tensor) -> (Vec<f32>, Vec<i64>) {
    let both = [values, places].map(|all| all.to_kind(Kind::Double)); // float64 holds every place
    let both = Tensor::stack(&both, 0).reshape([-1]);
    let both: Vec<f64> = Vec::try_from(both).expect("float64"); // sync
    let (values, places) = both.split_at(both.len() / 2);
    let values = values.iter().map(|&value| value as f32).collect();
    (values, places.iter().map(|&place| place as i64).collect())
}
