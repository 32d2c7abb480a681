//! The low-rank linear layer of `native/lora.cpp`.

use std::ffi::{c_char, c_int};
use std::ptr::null_mut;

use tch::Tensor;

use super::{NativeError, Ptr, check, made, raw, raws};
use crate::lora::LowRank;
use crate::seed::last_seed;

unsafe extern "C" {
    fn etude_low_rank_linear(
        x: Ptr,
        weight: Ptr,
        bias: Ptr,
        a: Ptr,
        b: *const Ptr,
        starts: *const i64,
        scales: *const f64,
        parts: i64,
        dropout: f64,
        seed: u64,
        layer: u64,
        places: Ptr,
        out: *mut Ptr,
    ) -> *const c_char;
    fn etude_records_gradients(out: *mut c_int) -> *const c_char;
}

/// `x W^T + b` with a frozen weight, plus the low-rank update.
pub(crate) fn low_rank_linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    update: Option<&LowRank>,
    places: Option<&Tensor>,
) -> Result<Tensor, NativeError> {
    let parts = update.map_or(&[][..], |update| &update.parts);
    let b = raws(parts.iter().map(|part| &part.b));
    let starts: Vec<i64> = parts.iter().map(|part| part.start).collect();
    let scales: Vec<f64> = parts.iter().map(|part| part.scale).collect();
    let optional = |tensor: Option<&Tensor>| tensor.map_or(null_mut(), raw);
    // SAFETY: live tensors or null; the three arrays have one entry for each part.
    made(|out| unsafe {
        etude_low_rank_linear(
            raw(x),
            raw(weight),
            optional(bias),
            optional(update.map(|update| &update.a)),
            b.as_ptr(),
            starts.as_ptr(),
            scales.as_ptr(),
            parts.len() as i64,
            update.map_or(0.0, |update| update.dropout),
            last_seed(),
            update.map_or(0, |update| update.layer),
            optional(places),
            out,
        )
    })
}

/// Whether operations are recorded for a way back.
pub(crate) fn records_gradients() -> bool {
    let mut on = 0;
    // SAFETY: a live integer.
    check(unsafe { etude_records_gradients(&mut on) }).expect("a question cannot fail");
    on != 0
}
