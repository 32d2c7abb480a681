//! Scaled dot-product attention, by libtorch's fused kernels.

use tch::Tensor;

/// Which positions may be seen.
#[derive(Debug, Clone, Copy)]
pub enum AttentionMask<'a> {
    /// Each position sees itself and those before it; queries and keys have the same positions.
    Causal,
    /// Everything is seen: one new position against a cache.
    Full,
    /// `(B, 1, T, S)` or `(T, S)` booleans, true where the key is seen.
    Seen(&'a Tensor),
}

/// Queries `(B, H, T, D)`, keys and values `(B, G, S, D)` with G dividing H: query head h reads key
/// head h / (H / G) (Ainslie et al. 2023). Scores are divided by the root of D. Returns `(B, H, T, D)`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: AttentionMask<'_>) -> Tensor {
    let (heads, groups) = (q.size()[1], k.size()[1]);
    let (mask, causal) = match mask {
        AttentionMask::Causal => (None, true),
        AttentionMask::Full => (None, false),
        AttentionMask::Seen(seen) => (Some(seen), false),
    };
    Tensor::scaled_dot_product_attention(q, k, v, mask, 0.0, causal, None, heads != groups)
}
