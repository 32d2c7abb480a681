//! Which of a file's tensors make up each parameter.

use etude_tensor::Tensor;

use crate::config::{Family, ModelConfig};

/// Where a parameter lies in a file: its parts under one name each, or all under one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) names: Vec<String>,
    /// The query heads and the key-value heads, where the rows of both are permuted.
    pub(super) permuted: Option<[i64; 2]>,
}

/// The place of the parameter with Etude's name `name`.
pub(super) fn place(config: &ModelConfig, name: &str) -> Place {
    let (module, leaf) = name
        .rsplit_once('.')
        .expect("every parameter lies in a module");
    let (prefix, inner) = match module
        .strip_prefix("layers.")
        .and_then(|rest| rest.split_once('.'))
    {
        Some((index, inner)) => (format!("blk.{index}."), inner),
        None => (String::new(), module),
    };
    let names = modules(inner, config.family)
        .iter()
        .map(|module| format!("{prefix}{module}.{leaf}"))
        .collect();
    let interleaved = matches!(config.family, Family::Llama | Family::Mistral);
    Place {
        names,
        permuted: (interleaved && inner == "attn.qkv").then_some([config.n_head, config.n_kv_head]),
    }
}

fn modules(inner: &str, family: Family) -> &'static [&'static str] {
    match (inner, family) {
        ("embedding", _) => &["token_embd"],
        ("positions", _) => &["position_embd"],
        ("norm", _) => &["output_norm"],
        ("head", _) => &["output"],
        ("attn_norm", _) => &["attn_norm"],
        ("attn.qkv", Family::Gpt2) => &["attn_qkv"],
        ("attn.qkv", _) => &["attn_q", "attn_k", "attn_v"],
        ("attn.q_norm", _) => &["attn_q_norm"],
        ("attn.k_norm", _) => &["attn_k_norm"],
        ("attn.out", _) => &["attn_output"],
        ("mlp_norm", _) => &["ffn_norm"],
        ("mlp.up", Family::Gpt2) => &["ffn_up"],
        ("mlp.up", _) => &["ffn_gate", "ffn_up"],
        ("mlp.down", _) => &["ffn_down"],
        (other, _) => unreachable!("no module `{other}` in a family that GGUF has"),
    }
}

/// Rotary factors of a stretched context: no parameter, yet a tensor.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Etude (and Hugging Face) turn value i of a head with value i + D/2; llama.cpp turns neighbours in the
/// architecture `llama`. Its files therefore hold the query and key rows of each head in the order 0, D/2,
/// 1, D/2 + 1, …. Rows, `(heads · D, …)`, from the files' order to ours.
pub(super) fn from_neighbours(rows: &Tensor, heads: i64) -> Tensor {
    reorder(rows, heads, |half| [half, 2])
}

/// The inverse of [`from_neighbours`].
pub(super) fn to_neighbours(rows: &Tensor, heads: i64) -> Tensor {
    reorder(rows, heads, |half| [2, half])
}

fn reorder(rows: &Tensor, heads: i64, split: impl Fn(i64) -> [i64; 2]) -> Tensor {
    let size = rows.size();
    let [first, second] = split(size[0] / heads / 2);
    rows.reshape([heads, first, second, -1]) // (H, D/2, 2, C), or (H, 2, D/2, C)
        .transpose(1, 2)
        .reshape(size) // (H · D, C)
}
