//! The modules of a decoder as Hugging Face names them, and which of them a name means.

use std::collections::BTreeSet;

use crate::decoder::Decoder;
use crate::hf::place;

/// A matrix that can have an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinearModule {
    /// Hugging Face's path: `model.layers.0.self_attn.q_proj`.
    pub(crate) path: String,
    /// The decoder's layer that holds it, alone or with others: `layers.0.attn.qkv`.
    pub(crate) linear: String,
    /// Its first output there.
    pub(crate) start: i64,
    /// Its outputs.
    pub(crate) outputs: i64,
    /// Its inputs.
    pub(crate) inputs: i64,
}

/// Matrices whose rows are looked up.
const TABLES: [&str; 2] = ["embedding", "positions"];

impl LinearModule {
    /// Whether it is an embedding, whose updates PEFT writes the other way round.
    pub(crate) fn is_table(&self) -> bool {
        TABLES.contains(&&*self.linear)
    }
}

/// All of them, in the decoder's order.
pub(crate) fn linear_modules(decoder: &Decoder) -> Vec<LinearModule> {
    let mut modules = Vec::new();
    for param in decoder.params().entries() {
        let Some(linear) = param.name.strip_suffix(".weight") else {
            continue;
        };
        let [outputs, inputs] = param.tensor.size()[..] else {
            continue; // a norm
        };
        if !linear.starts_with("layers.") {
            continue; // the embedding, the output layer
        }
        let paths = place(decoder.config(), &param.name).names;
        // One path may stand for all stacked parts: GPT-2's c_attn.
        let sizes = if paths.len() == 1 {
            vec![outputs]
        } else {
            param.parts.clone()
        };
        let mut start = 0;
        for (path, outputs) in paths.iter().zip(sizes) {
            modules.push(LinearModule {
                path: module_of(path).to_owned(),
                linear: linear.to_owned(),
                start,
                outputs,
                inputs,
            });
            start += outputs;
        }
    }
    modules
}

/// The matrices outside the layers: embeddings, and the output layer where it is none of them. Adapters of these are
/// merged, not trained.
pub(crate) fn outer_modules(decoder: &Decoder) -> Vec<LinearModule> {
    let mut modules = Vec::new();
    for linear in TABLES.into_iter().chain(["head"]) {
        let name = format!("{linear}.weight");
        let Some(param) = decoder.params().get(&name) else {
            continue;
        };
        let size = param.size();
        modules.push(LinearModule {
            path: module_of(&place(decoder.config(), &name).names[0]).to_owned(),
            linear: linear.to_owned(),
            start: 0,
            outputs: size[0],
            inputs: size[1],
        });
    }
    modules
}

/// Modules that can be trained whole, as (path, parameters): those that share no product with others.
pub(crate) fn whole_modules(decoder: &Decoder) -> Vec<(String, Vec<String>)> {
    let mut modules: Vec<(String, Vec<String>)> = Vec::new();
    for param in decoder.params().entries() {
        let [name] = &place(decoder.config(), &param.name).names[..] else {
            continue;
        };
        let path = module_of(name);
        match modules.iter_mut().find(|(known, _)| known == path) {
            Some((_, params)) => params.push(param.name.clone()),
            None => modules.push((path.to_owned(), vec![param.name.clone()])),
        }
    }
    modules
}

fn module_of(tensor: &str) -> &str {
    tensor.rsplit_once('.').map_or(tensor, |(module, _)| module)
}

/// Whether `name` means the module at `path`, as PEFT has it: the whole path, or its end after a dot.
pub(crate) fn matches(path: &str, name: &str) -> bool {
    path.strip_suffix(name)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The last parts of paths, each once, for a message.
pub(crate) fn leaves<'a>(paths: impl IntoIterator<Item = &'a str>) -> String {
    let leaves: BTreeSet<&str> = paths
        .into_iter()
        .map(|path| path.rsplit('.').next().unwrap_or(path))
        .collect();
    Vec::from_iter(leaves).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_a_path_or_its_end() {
        let path = "transformer.h.1.attn.c_proj";
        for name in ["c_proj", "attn.c_proj", path] {
            assert!(matches(path, name), "{name}");
        }
        for name in ["proj", "mlp.c_proj", "c_proj.x", ""] {
            assert!(!matches(path, name), "{name}");
        }
    }
}
