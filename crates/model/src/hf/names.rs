//! Which tensors of a Hugging Face folder make up each parameter.

use etude_tensor::{Param, Tensor};

use crate::config::{Family, ModelConfig};

/// Where a parameter lies in a folder: under one name, or its parts under several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// One name, or one for each part.
    pub(crate) names: Vec<String>,
    /// Whether the file holds the matrix as (in, out).
    pub(crate) transposed: bool,
}

/// A tensor as a folder holds it.
#[derive(Debug)]
pub struct HfTensor {
    /// Hugging Face's name.
    pub name: String,
    /// The values, in that layout.
    pub tensor: Tensor,
}

/// A parameter's values (or its gradient, of the same shape) as the tensors that a folder holds.
pub fn hf_tensors(config: &ModelConfig, param: &Param, values: &Tensor) -> Vec<HfTensor> {
    let place = place(config, &param.name);
    let parts = if place.names.len() == 1 {
        vec![values.shallow_clone()]
    } else {
        values.split_with_sizes(&param.parts, 0)
    };
    let layout = |tensor: Tensor| {
        if place.transposed {
            tensor.tr()
        } else {
            tensor
        }
    };
    place
        .names
        .into_iter()
        .zip(parts)
        .map(|(name, tensor)| HfTensor {
            name,
            tensor: layout(tensor),
        })
        .collect()
}

/// The place of the parameter with Etude's name `name`.
pub(crate) fn place(config: &ModelConfig, name: &str) -> Place {
    let (module, leaf) = name
        .rsplit_once('.')
        .expect("every parameter lies in a module");
    let (prefix, inner) = match module
        .strip_prefix("layers.")
        .and_then(|rest| rest.split_once('.'))
    {
        Some((index, inner)) => (Some(index), inner),
        None => (None, module),
    };
    let gpt2 = config.family == Family::Gpt2;
    let modules = if gpt2 {
        gpt2_modules(inner)
    } else {
        llama_modules(inner, config.family)
    };
    let path = |module: &str| match (prefix, gpt2) {
        (Some(index), true) => format!("transformer.h.{index}.{module}.{leaf}"),
        (Some(index), false) => format!("model.layers.{index}.{module}.{leaf}"),
        (None, _) => format!("{module}.{leaf}"),
    };
    let matrix = prefix.is_some() && leaf == "weight" && !inner.ends_with("norm");
    Place {
        names: modules.iter().map(|module| path(module)).collect(),
        transposed: gpt2 && matrix,
    }
}

fn gpt2_modules(inner: &str) -> &'static [&'static str] {
    match inner {
        "embedding" => &["transformer.wte"],
        "positions" => &["transformer.wpe"],
        "norm" => &["transformer.ln_f"],
        "head" => &["lm_head"],
        "attn_norm" => &["ln_1"],
        "attn.qkv" => &["attn.c_attn"],
        "attn.out" => &["attn.c_proj"],
        "mlp_norm" => &["ln_2"],
        "mlp.up" => &["mlp.c_fc"],
        "mlp.down" => &["mlp.c_proj"],
        other => unreachable!("GPT-2 has no module `{other}`"),
    }
}

fn llama_modules(inner: &str, family: Family) -> &'static [&'static str] {
    match (inner, family) {
        ("embedding", _) => &["model.embed_tokens"],
        ("norm", _) => &["model.norm"],
        ("head", _) => &["lm_head"],
        ("attn_norm", Family::Olmo2) => &["post_attention_layernorm"],
        ("mlp_norm", Family::Olmo2) => &["post_feedforward_layernorm"],
        ("attn_norm", _) => &["input_layernorm"],
        ("attn.qkv", _) => &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ("attn.out", _) => &["self_attn.o_proj"],
        ("attn.q_norm", _) => &["self_attn.q_norm"],
        ("attn.k_norm", _) => &["self_attn.k_norm"],
        ("mlp_norm", _) => &["post_attention_layernorm"],
        ("mlp.up", Family::NanoChat) => &["mlp.fc1"],
        ("mlp.down", Family::NanoChat) => &["mlp.fc2"],
        ("mlp.up", _) => &["mlp.gate_proj", "mlp.up_proj"],
        ("mlp.down", _) => &["mlp.down_proj"],
        (other, _) => unreachable!("no module `{other}` in this family"),
    }
}

/// The output layer's name, in all families.
pub(super) const HEAD: &str = "lm_head.weight";

/// The embedding's name.
pub(super) fn table(config: &ModelConfig) -> String {
    place(config, "embedding.weight").names.remove(0)
}

/// Whether a tensor that no parameter claims is a buffer that old files carry, or a tied copy.
pub(super) fn harmless(config: &ModelConfig, name: &str) -> bool {
    name.ends_with(".attn.bias")
        || name.ends_with(".attn.masked_bias")
        || name.ends_with("rotary_emb.inv_freq")
        || (config.tied && name == HEAD)
}

/// Other names that the same tensor goes by: folders saved from the model without its output layer.
pub(super) fn alias(name: &str) -> Option<&str> {
    name.strip_prefix("transformer.")
        .or_else(|| name.strip_prefix("model."))
}
