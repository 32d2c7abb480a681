//! Gradients and movements of the parameters, gathered by layer and by kind.

use etude_model::Decoder;
use etude_tensor::{Kind, Param, Tensor, no_grad};
use serde::Serialize;

/// Parameters that belong together. A number that is not finite is null in JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    /// `embedding`, `layer 0`, …, or what the parameters are for.
    pub name: String,
    /// The norm of the gradient before clipping.
    pub grad_norm: f64,
    /// How far the step moved the weights.
    pub update: f64,
    /// The norm of the weights before.
    pub weight: f64,
    /// The one divided by the other; null where the weights are zero.
    pub ratio: Option<f64>,
}

/// The first parameter on the way back whose gradient is not finite: the last one that has such a gradient.
pub(super) fn broken(measured: &[Measured]) -> Option<String> {
    let broken = measured.iter().rev().find(|one| !one.grad.is_finite());
    broken.map(|one| one.name.clone())
}

/// What is known of one parameter, squared so that it adds up.
pub(super) struct Measured {
    name: String,
    grad: f64,
    weight: f64,
    update: f64,
}

/// The weights before the step, and their gradients measured before the optimizer clips them in place.
pub(super) struct Before {
    measured: Vec<Measured>,
    weights: Vec<Tensor>,
}

impl Before {
    /// Looks at a decoder that has its gradients.
    pub(super) fn new(decoder: &Decoder) -> Self {
        Self {
            measured: measure(decoder),
            weights: decoder.trainable().map(|p| copy(&p.tensor)).collect(),
        }
    }

    /// What the step moved.
    pub(super) fn after(mut self, decoder: &Decoder) -> Vec<Measured> {
        let moved = decoder.trainable().zip(&self.weights);
        for ((param, before), measured) in moved.zip(&mut self.measured) {
            measured.update = no_grad(|| squared(&(&param.tensor - before)));
        }
        self.measured
    }
}

fn copy(tensor: &Tensor) -> Tensor {
    no_grad(|| tensor.detach().copy())
}

/// Gradients and weights as they are; nothing has moved.
fn measure(decoder: &Decoder) -> Vec<Measured> {
    let of = |param: &Param| {
        let grad = param.tensor.grad();
        Measured {
            name: param.name.clone(),
            grad: if grad.defined() { squared(&grad) } else { 0.0 },
            weight: squared(&param.tensor),
            update: 0.0,
        }
    };
    no_grad(|| decoder.trainable().map(of).collect())
}

/// The sum of the squares. // sync
fn squared(tensor: &Tensor) -> f64 {
    let wide = tensor.detach().to_kind(Kind::Double);
    (&wide * &wide).sum(Kind::Double).double_value(&[])
}

/// By depth: the embedding first, the output layer last.
pub(super) fn by_layer(measured: &[Measured]) -> Vec<Group> {
    let mut groups = gathered(measured, layer);
    groups.sort_by_key(|group| depth(&group.name));
    groups
}

/// By what the parameters are for, over all layers.
pub(super) fn by_kind(measured: &[Measured]) -> Vec<Group> {
    gathered(measured, kind)
}

fn gathered(measured: &[Measured], name: fn(&str) -> String) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for one in measured {
        let name = name(&one.name);
        let place = groups.iter().position(|group| group.name == name);
        let place = place.unwrap_or_else(|| {
            groups.push(Group {
                name,
                grad_norm: 0.0,
                update: 0.0,
                weight: 0.0,
                ratio: None,
            });
            groups.len() - 1
        });
        let group = &mut groups[place];
        group.grad_norm += one.grad;
        group.update += one.update;
        group.weight += one.weight;
    }
    for group in &mut groups {
        for value in [&mut group.grad_norm, &mut group.update, &mut group.weight] {
            *value = value.sqrt();
        }
        group.ratio = (group.weight > 0.0).then(|| group.update / group.weight);
    }
    groups
}

/// `layers.3.attn.qkv.weight` is in `layer 3`.
fn layer(name: &str) -> String {
    let mut parts = name.split('.');
    match (parts.next(), parts.next()) {
        (Some("layers"), Some(index)) => format!("layer {index}"),
        (Some("norm"), _) => "last norm".to_owned(),
        (Some("head"), _) => "output layer".to_owned(),
        (first, _) => first.unwrap_or_default().to_owned(),
    }
}

fn depth(group: &str) -> usize {
    match group {
        "embedding" => 0,
        "positions" => 1,
        "embed_norm" => 2,
        "last norm" => usize::MAX - 1,
        "output layer" => usize::MAX,
        layer => layer
            .strip_prefix("layer ")
            .and_then(|index| index.parse().ok())
            .map_or(3, |index: usize| index.saturating_add(4)),
    }
}

fn kind(name: &str) -> String {
    let adapter = name.contains(".lora_");
    let known = [
        ("attn.qkv", "attention: queries, keys, values"),
        ("attn.out", "attention: output"),
        ("mlp.up", "feed-forward: in"),
        ("mlp.down", "feed-forward: out"),
        ("norm", "norms"),
        ("embedding", "embedding"),
        ("positions", "positions"),
        ("head", "output layer"),
    ];
    let found = known.iter().find(|(part, _)| name.contains(part));
    let shown = found.map_or(name, |(_, shown)| shown);
    if adapter {
        format!("adapter of {shown}")
    } else {
        shown.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_add_up_and_stand_in_order() {
        let one = |name: &str, grad: f64| Measured {
            name: name.to_owned(),
            grad,
            weight: 0.0,
            update: 1.0,
        };
        let measured = [
            one("head.weight", 1.0),
            one("layers.10.attn.qkv.weight", 9.0),
            one("layers.2.attn.qkv.weight", 9.0),
            one("layers.2.mlp.up.lora_a", 16.0),
            one("embedding.weight", 4.0),
        ];
        let layers: Vec<(String, f64)> = by_layer(&measured)
            .into_iter()
            .map(|group| (group.name, group.grad_norm))
            .collect();
        let expected = [
            ("embedding", 2.0),
            ("layer 2", 5.0),
            ("layer 10", 3.0),
            ("output layer", 1.0),
        ];
        assert_eq!(layers, expected.map(|(name, norm)| (name.to_owned(), norm)));
        let kinds = by_kind(&measured);
        assert_eq!(kinds[1].name, "attention: queries, keys, values");
        assert_eq!(kinds[2].name, "adapter of feed-forward: in");
        assert_eq!((kinds[0].ratio, kinds.len()), (None, 4));
    }
}
