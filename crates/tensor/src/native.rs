//! The safe face of the native module (`native/*.cpp`): each function hands `at::Tensor` pointers
//! across, and an exception on the other side comes back as an error.
#![allow(unsafe_code)]

mod lora;

use std::ffi::{CStr, c_char, c_int};
use std::ptr::{null, null_mut};

use tch::{Device, Tensor};
use torch_sys::C_tensor;

use crate::few_rows::Before;

pub(crate) use lora::{low_rank_linear, records_gradients};

/// A message from libtorch.
#[derive(Debug, thiserror::Error)]
#[error("libtorch: {0}")]
pub struct NativeError(String);

type Ptr = *mut C_tensor;

unsafe extern "C" {
    fn etude_free_message(message: *const c_char);
    fn etude_adamw(
        params: *const Ptr,
        grads: *const Ptr,
        exp_avg: *const Ptr,
        exp_avg_sq: *const Ptr,
        n: i64,
        step: Ptr,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        grad_scale: Ptr,
        found_inf: Ptr,
    ) -> *const c_char;
    fn etude_grad_norm(grads: *const Ptr, n: i64, out: *mut Ptr) -> *const c_char;
    fn etude_drop_grads(params: *const Ptr, n: i64) -> *const c_char;
    fn etude_rms_norm(x: Ptr, weight: Ptr, eps: f64, out: *mut Ptr) -> *const c_char;
    fn etude_rope(
        x: Ptr,
        cos: Ptr,
        sin: Ptr,
        sign: f64,
        norm_eps: f64,
        out: *mut Ptr,
    ) -> *const c_char;
    fn etude_relu_squared(x: Ptr, out: *mut Ptr) -> *const c_char;
    fn etude_gelu(x: Ptr, out: *mut Ptr) -> *const c_char;
    fn etude_swiglu(x: Ptr, out: *mut Ptr) -> *const c_char;
    fn etude_linear(x: Ptr, weight: Ptr, bias: Ptr, out: *mut Ptr) -> *const c_char;
    fn etude_linear_rows(
        x: Ptr,
        before: c_int,
        norm_weight: Ptr,
        eps: f64,
        weight: Ptr,
        bias: Ptr,
        added: Ptr,
        out: *mut Ptr,
    ) -> *const c_char;
    fn etude_causal_attention(
        q: Ptr,
        k: Ptr,
        v: Ptr,
        lengths: *const i64,
        documents: i64,
        out: *mut Ptr,
    ) -> *const c_char;
    fn etude_attend_one(q: Ptr, k: Ptr, v: Ptr, seen: Ptr, out: *mut Ptr) -> *const c_char;
    fn etude_attend_newest(
        qk: Ptr,
        v: Ptr,
        cos: Ptr,
        sin: Ptr,
        sign: f64,
        norm_eps: f64,
        keys: Ptr,
        values: Ptr,
        place: i64,
        seen: Ptr,
        out: *mut Ptr,
    ) -> *const c_char;
    fn etude_linear_cross_entropy(
        x: Ptr,
        weight: Ptr,
        targets: Ptr,
        cap: f64,
        block_rows: i64,
        out: *mut Ptr,
    ) -> *const c_char;
    fn etude_linear_cross_entropies(
        x: Ptr,
        weight: Ptr,
        targets: Ptr,
        cap: f64,
        block_rows: i64,
        out: *mut Ptr,
    ) -> *const c_char;
    fn etude_autocast(cuda: c_int, enabled: c_int) -> *const c_char;
    fn etude_switch_autocast(cuda: c_int, enabled: c_int) -> c_int;
    fn etude_autocasts_cpu() -> c_int;
}

/// The pointer that the other side reads; it changes only what its contract says (gradients, or the
/// storage of optimizer state), never the Rust value.
fn raw(tensor: &Tensor) -> Ptr {
    tensor.as_ptr().cast_mut()
}

fn raws<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<Ptr> {
    tensors.into_iter().map(raw).collect()
}

fn check(message: *const c_char) -> Result<(), NativeError> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: a non-null message is a NUL-terminated string that the other side allocated for us.
    let text = unsafe { CStr::from_ptr(message) }
        .to_string_lossy()
        .into_owned();
    // SAFETY: it is freed once, by the allocator that made it.
    unsafe { etude_free_message(message) };
    // libtorch appends its C++ stack; the first line is what a reader can use.
    Err(NativeError(
        text.lines().next().unwrap_or_default().to_owned(),
    ))
}

/// Calls a function that makes one tensor.
fn made(call: impl FnOnce(*mut Ptr) -> *const c_char) -> Result<Tensor, NativeError> {
    let mut out = null_mut();
    check(call(&mut out))?;
    // SAFETY: on success the other side stored a new at::Tensor that nobody else owns.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// The moments and settings of one fused AdamW call over several parameters.
pub(crate) struct AdamWCall<'a> {
    pub(crate) params: &'a [&'a Tensor],
    pub(crate) grads: &'a [&'a Tensor],
    pub(crate) exp_avg: &'a [&'a Tensor],
    pub(crate) exp_avg_sq: &'a [&'a Tensor],
    pub(crate) step: &'a Tensor,
    pub(crate) lr: f64,
    pub(crate) betas: (f64, f64),
    pub(crate) weight_decay: f64,
    pub(crate) eps: f64,
    pub(crate) grad_scale: Option<&'a Tensor>,
    pub(crate) found_inf: Option<&'a Tensor>,
}

pub(crate) fn adamw(call: &AdamWCall<'_>) -> Result<(), NativeError> {
    let n = call.params.len();
    assert!(
        n == call.grads.len() && n == call.exp_avg.len() && n == call.exp_avg_sq.len(),
        "one gradient and two moments for each parameter"
    );
    let gather = |tensors: &[&Tensor]| raws(tensors.iter().copied());
    let (params, grads) = (gather(call.params), gather(call.grads));
    let (exp_avg, exp_avg_sq) = (gather(call.exp_avg), gather(call.exp_avg_sq));
    let optional = |tensor: Option<&Tensor>| tensor.map_or(null_mut(), raw);
    // SAFETY: all four arrays hold n live tensors, and the optional pointers are live or null.
    check(unsafe {
        etude_adamw(
            params.as_ptr(),
            grads.as_ptr(),
            exp_avg.as_ptr(),
            exp_avg_sq.as_ptr(),
            n as i64,
            raw(call.step),
            call.lr,
            call.betas.0,
            call.betas.1,
            call.weight_decay,
            call.eps,
            optional(call.grad_scale),
            optional(call.found_inf),
        )
    })
}

pub(crate) fn grad_norm<'a>(
    grads: impl IntoIterator<Item = &'a Tensor>,
) -> Result<Tensor, NativeError> {
    let grads = raws(grads);
    assert!(!grads.is_empty(), "the norm of no gradients is asked for");
    // SAFETY: the array holds live tensors.
    made(|out| unsafe { etude_grad_norm(grads.as_ptr(), grads.len() as i64, out) })
}

pub(crate) fn drop_grads<'a>(params: impl IntoIterator<Item = &'a Tensor>) {
    let params = raws(params);
    // SAFETY: the array holds live tensors.
    check(unsafe { etude_drop_grads(params.as_ptr(), params.len() as i64) })
        .expect("replacing a gradient by none cannot fail");
}

pub(crate) fn rms_norm(
    x: &Tensor,
    weight: Option<&Tensor>,
    eps: f64,
) -> Result<Tensor, NativeError> {
    // SAFETY: live tensors or null.
    made(|out| unsafe { etude_rms_norm(raw(x), weight.map_or(null_mut(), raw), eps, out) })
}

/// `norm_eps` below zero means no query-key norm.
pub(crate) fn rope(
    x: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    sign: f64,
    norm_eps: f64,
) -> Result<Tensor, NativeError> {
    // SAFETY: live tensors; the other side checks their shapes.
    made(|out| unsafe { etude_rope(raw(x), raw(cos), raw(sin), sign, norm_eps, out) })
}

pub(crate) fn relu_squared(x: &Tensor) -> Result<Tensor, NativeError> {
    // SAFETY: a live tensor.
    made(|out| unsafe { etude_relu_squared(raw(x), out) })
}

pub(crate) fn gelu(x: &Tensor) -> Result<Tensor, NativeError> {
    // SAFETY: a live tensor.
    made(|out| unsafe { etude_gelu(raw(x), out) })
}

pub(crate) fn swiglu(x: &Tensor) -> Result<Tensor, NativeError> {
    // SAFETY: a live tensor.
    made(|out| unsafe { etude_swiglu(raw(x), out) })
}

/// x, weight and bias of one dtype.
pub(crate) fn linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor, NativeError> {
    // SAFETY: live tensors, or null.
    made(|out| unsafe { etude_linear(raw(x), raw(weight), bias.map_or(null_mut(), raw), out) })
}

/// Without a way back; the weight dense and all of one dtype, but for a weight in bfloat16 where the rest is in float32.
pub(crate) fn linear_rows(
    x: &Tensor,
    before: Before<'_>,
    weight: &Tensor,
    bias: Option<&Tensor>,
    added: Option<&Tensor>,
) -> Result<Tensor, NativeError> {
    let (number, norm_weight, eps) = match before {
        // `Before` of decode.cpp.
        Before::Nothing => (0, None, 0.0),
        Before::RmsNorm { weight, eps } => (1, weight, eps),
        Before::SwiGlu => (2, None, 0.0),
    };
    let [norm_weight, bias, added] =
        [norm_weight, bias, added].map(|tensor| tensor.map_or(null_mut(), raw));
    let (x, weight) = (raw(x), raw(weight));
    // SAFETY: live tensors, or null; the other side checks shapes and dtypes.
    made(|out| unsafe { etude_linear_rows(x, number, norm_weight, eps, weight, bias, added, out) })
}

/// `(B, H, T, D)`, `(B, G, T, D)` twice, of one dtype on the CPU with D a multiple of [`HEAD_STEP`]; causal in
/// each row, or, where there are `lengths`, in each document of the rows end to end.
pub(crate) fn causal_attention(
    [q, k, v]: [&Tensor; 3],
    lengths: Option<&[i64]>,
) -> Result<Tensor, NativeError> {
    // SAFETY: live tensors, and as many lengths as are told.
    made(|out| unsafe {
        etude_causal_attention(
            raw(q),
            raw(k),
            raw(v),
            lengths.map_or(null(), <[i64]>::as_ptr),
            lengths.map_or(0, <[i64]>::len) as i64,
            out,
        )
    })
}

/// What [`causal_attention`] takes the width of a head in multiples of.
pub(crate) const HEAD_STEP: i64 = 16;

/// Without a way back; rows of keys and values dense, one dtype; what is seen `(B, 1, 1, S)` or `(1, S)`.
pub(crate) fn attend_one(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    seen: Option<&Tensor>,
) -> Result<Tensor, NativeError> {
    // SAFETY: live tensors, or null.
    made(|out| unsafe {
        etude_attend_one(raw(q), raw(k), raw(v), seen.map_or(null_mut(), raw), out)
    })
}

/// Without a way back: `qk` and `v`, `(B, 1, …)`, turned by `angles` where there are any, into `keys` and `values` at
/// `place`, and through the attention; `norm_eps` below zero means no query-key norm. Returns `(B, 1, H D)`.
pub(crate) fn attend_newest(
    [qk, v]: [&Tensor; 2],
    angles: Option<[&Tensor; 2]>,
    (sign, norm_eps): (f64, f64),
    [keys, values]: [&Tensor; 2],
    place: i64,
    seen: Option<&Tensor>,
) -> Result<Tensor, NativeError> {
    let [cos, sin] = angles.map_or([null_mut(); 2], |both| both.map(raw));
    let seen = seen.map_or(null_mut(), raw);
    // SAFETY: live tensors, or null; the other side checks shapes and dtypes, and writes inside keys and values.
    made(|out| unsafe {
        etude_attend_newest(
            raw(qk),
            raw(v),
            cos,
            sin,
            sign,
            norm_eps,
            raw(keys),
            raw(values),
            place,
            seen,
            out,
        )
    })
}

pub(crate) fn linear_cross_entropy(
    x: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    cap: f64,
    block_rows: i64,
) -> Result<Tensor, NativeError> {
    assert!(block_rows > 0, "a block has at least one row");
    // SAFETY: live tensors; the other side checks shapes and dtypes, the caller the targets' range.
    made(|out| unsafe {
        etude_linear_cross_entropy(raw(x), raw(weight), raw(targets), cap, block_rows, out)
    })
}

pub(crate) fn linear_cross_entropies(
    x: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    cap: f64,
    block_rows: i64,
) -> Result<Tensor, NativeError> {
    assert!(block_rows > 0, "a block has at least one row");
    // SAFETY: as in `linear_cross_entropy`.
    made(|out| unsafe {
        etude_linear_cross_entropies(raw(x), raw(weight), raw(targets), cap, block_rows, out)
    })
}

/// Whether products of this thread on the CPU are cast to bf16.
pub(crate) fn autocasts_cpu() -> bool {
    // SAFETY: reads thread-local state.
    unsafe { etude_autocasts_cpu() != 0 }
}

/// No autocast for as long as this lives.
pub(crate) struct NoAutocast {
    cuda: bool,
    before: c_int,
}

impl NoAutocast {
    pub(crate) fn enter(device: Device) -> Self {
        let cuda = device.is_cuda();
        // SAFETY: plain integers; the other side sets thread-local state.
        let before = unsafe { etude_switch_autocast(cuda.into(), 0) };
        Self { cuda, before }
    }
}

impl Drop for NoAutocast {
    fn drop(&mut self) {
        // SAFETY: as in `enter`.
        unsafe { etude_switch_autocast(self.cuda.into(), self.before) };
    }
}

/// bf16 autocast for as long as this lives.
pub(crate) struct Autocast {
    cuda: bool,
}

impl Autocast {
    pub(crate) fn enter(device: Device) -> Self {
        let cuda = device.is_cuda();
        // SAFETY: plain integers; the other side sets thread-local state.
        check(unsafe { etude_autocast(cuda.into(), 1) })
            .expect("autocast to bf16 is known to libtorch");
        Self { cuda }
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: as in `enter`.
        let _ = check(unsafe { etude_autocast(self.cuda.into(), 0) });
    }
}
