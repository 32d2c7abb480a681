//! One layer of the decoder: attention and feed-forward, each with its norm and added to the stream.
//!
//! B rows, T new positions, S positions in all, H query heads, G key-value heads, D head width,
//! C model width, I inner width, N places.

use etude_tensor::ops::{self, Angles};
use etude_tensor::{AttentionMask, Init, Linear, NewPosition, Norm, Scope, Tensor, attention};

use crate::cache::LayerCache;
use crate::config::{MlpKind, ModelConfig, NormKind, QkNorm};

/// How the matrices of a layer start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerInit {
    pub(crate) inner: Init,
    pub(crate) output: Init,
}

pub(crate) fn norm(scope: Scope<'_>, config: &ModelConfig, width: i64) -> Norm {
    match config.norm {
        NormKind::Layer => Norm::layer(scope, width, config.norm_eps),
        NormKind::Rms => Norm::rms(scope, width, true, config.norm_eps),
        NormKind::RmsPlain => Norm::rms(scope, width, false, config.norm_eps),
    }
}

#[derive(Debug)]
struct Attention {
    qkv: Linear,
    out: Linear,
    qk_norm: Option<(Norm, Norm)>,
    /// Whether that norm is over all heads together.
    whole_norm: bool,
    plain_norm_eps: Option<f64>,
    heads: i64,
    groups: i64,
    head_dim: i64,
}

impl Attention {
    fn new(mut scope: Scope<'_>, config: &ModelConfig, init: LayerInit) -> Self {
        let (heads, groups, d) = (config.n_head, config.n_kv_head, config.head_dim);
        let parts = [heads * d, groups * d, groups * d];
        let qkv = Linear::stacked(
            scope.sub("qkv"),
            config.n_embd,
            &parts,
            config.qkv_bias,
            init.inner,
        );
        let out = Linear::new(
            scope.sub("out"),
            heads * d,
            config.n_embd,
            config.out_bias,
            init.output,
        );
        let widths = match config.qk_norm {
            QkNorm::Weighted => Some((d, d)),
            QkNorm::Whole => Some((heads * d, groups * d)),
            QkNorm::Plain | QkNorm::None => None,
        };
        let weighted = |scope: Scope<'_>, width| Norm::rms(scope, width, true, config.norm_eps);
        let qk_norm = widths.map(|(q, k)| {
            (
                weighted(scope.sub("q_norm"), q),
                weighted(scope.sub("k_norm"), k),
            )
        });
        let plain_norm_eps = (config.qk_norm == QkNorm::Plain).then_some(config.norm_eps);
        Self {
            qkv,
            out,
            qk_norm,
            whole_norm: config.qk_norm == QkNorm::Whole,
            plain_norm_eps,
            heads,
            groups,
            head_dim: d,
        }
    }

    /// What the heads of the wanted positions read from `x`, `(B, T, C)` behind a norm or not, before `out`: `(B, T, H D)`,
    /// `(B, 1, H D)` or `(1, N, H D)`.
    fn forward(
        &self,
        x: &Tensor,
        norm: Option<&Norm>,
        at: &Positions<'_>,
        mut cache: Option<&mut LayerCache>,
    ) -> Tensor {
        let [b, t, _] = x.size()[..] else {
            panic!("a layer takes (B, T, C)")
        };
        let (h, g, d) = (self.heads, self.groups, self.head_dim);
        let qkv = self.qkv.forward_behind(norm, x, at.places);
        let parts = qkv.split_with_sizes([(h + g) * d, g * d], -1);
        let qk = self.normed(&parts[0]);
        if let Some(cache) = cache.as_deref_mut().filter(|_| t == 1) {
            let new = NewPosition {
                qk: &qk,
                v: &parts[1],
                angles: at.angles,
                norm_eps: at.angles.and(self.plain_norm_eps),
            };
            if let Some(y) = cache.attend_newest(new, at.mask) {
                return y;
            }
        }
        let qk = self.rotate(qk.view([b, t, h + g, d]), at); // (B, T, H + G, D)
        let qk = qk.split_with_sizes([h, g], 2);
        let q = match at.wanted {
            Wanted::Newest => newest(&qk[0].transpose(1, 2), 2),
            Wanted::All | Wanted::Places(_) => qk[0].transpose(1, 2),
        }; // (B, H, T, D)
        let k = qk[1].transpose(1, 2); // (B, G, T, D)
        let v = parts[1].view([b, t, g, d]).transpose(1, 2); // (B, G, T, D)
        let y = match cache {
            Some(cache) => {
                let (k, v) = cache.append(&k, &v); // (B, G, S, D)
                attention(&q, &k, &v, at.mask)
            }
            None => attention(&q, &k, &v, at.mask),
        };
        let y = y.transpose(1, 2).reshape([b, -1, h * d]);
        match at.wanted {
            Wanted::Places(index) => chosen(&y, index),
            Wanted::All | Wanted::Newest => y,
        }
    }

    /// Queries and keys, `(B, T, (H + G) D)`, behind their norms where these have weights.
    fn normed(&self, qk: &Tensor) -> Tensor {
        let Some((q_norm, k_norm)) = &self.qk_norm else {
            return qk.shallow_clone();
        };
        let (h, g, d) = (self.heads, self.groups, self.head_dim);
        let parts = qk.split_with_sizes([h * d, g * d], -1);
        let [b, t, _] = qk.size()[..] else {
            panic!("queries and keys lie side by side")
        };
        let normed = |norm: &Norm, part: &Tensor, heads: i64| match self.whole_norm {
            true => norm.forward(part),
            false => norm.forward(&part.view([b, t, heads, d])).view([b, t, -1]),
        };
        Tensor::cat(
            &[normed(q_norm, &parts[0], h), normed(k_norm, &parts[1], g)],
            -1,
        )
    }

    fn rotate(&self, qk: Tensor, at: &Positions<'_>) -> Tensor {
        match at.angles {
            Some(angles) => ops::rope(&qk, angles, self.plain_norm_eps),
            None => qk,
        }
    }
}

#[derive(Debug)]
struct Mlp {
    up: Linear,
    down: Linear,
    kind: MlpKind,
}

impl Mlp {
    fn new(mut scope: Scope<'_>, config: &ModelConfig, init: LayerInit) -> Self {
        let inner = config.n_inner;
        // Gate and up lie in one product, the gate first.
        let parts: &[i64] = if config.mlp == MlpKind::SwiGlu {
            &[inner, inner]
        } else {
            &[inner]
        };
        let up = Linear::stacked(
            scope.sub("up"),
            config.n_embd,
            parts,
            config.mlp_bias,
            init.inner,
        );
        let down = Linear::new(
            scope.sub("down"),
            inner,
            config.n_embd,
            config.mlp_bias,
            init.output,
        );
        Self {
            up,
            down,
            kind: config.mlp,
        }
    }

    /// What comes of the stream as it is.
    fn forward(&self, stream: &Tensor, at: &Positions<'_>) -> Tensor {
        let inner = self.up.forward_behind(None, stream, at.places_after);
        self.down.forward_at(&self.active(&inner), at.places_after)
    }

    /// The stream with what comes of it behind `norm` added.
    fn add_to(&self, stream: &Tensor, norm: &Norm, at: &Positions<'_>) -> Tensor {
        let inner = self.up.forward_behind(Some(norm), stream, at.places_after); // (B, T, I), or (B, T, 2 I) with a gate
        match self.kind {
            MlpKind::SwiGlu => self.down.add_gated_to(stream, &inner, at.places_after),
            _ => self
                .down
                .add_to(stream, &self.active(&inner), at.places_after),
        }
    }

    fn active(&self, inner: &Tensor) -> Tensor {
        match self.kind {
            MlpKind::GeluTanh => ops::gelu_tanh(inner),
            MlpKind::Gelu => inner.gelu("none"),
            MlpKind::ReluSquared => ops::relu_squared(inner),
            MlpKind::SwiGlu => ops::swiglu(inner),
        }
    }
}

/// What a layer is told about where its input stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Positions<'a> {
    pub(crate) angles: Option<&'a Angles>,
    /// What the positions that ask see.
    pub(crate) mask: AttentionMask<'a>,
    /// By what dropout draws.
    pub(crate) places: Option<&'a Tensor>,
    pub(crate) wanted: Wanted<'a>,
    /// By what dropout draws behind the attention, where what is not wanted is gone.
    pub(crate) places_after: Option<&'a Tensor>,
}

/// Of which positions a layer makes an output. Of the others it makes keys and values alone.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted<'a> {
    All,
    /// Each row's last, and it alone asks.
    Newest,
    /// Some, `(N)`, counted through the rows.
    Places(&'a Tensor),
}

impl Positions<'_> {
    /// The wanted part of the stream `x`, `(B, T, C)`: `(B, 1, C)`, or `(1, N, C)`.
    fn wanted(&self, x: &Tensor) -> Tensor {
        match self.wanted {
            Wanted::All => x.shallow_clone(),
            Wanted::Newest => newest(x, 1),
            Wanted::Places(index) => chosen(x, index),
        }
    }
}

fn newest(x: &Tensor, dim: i64) -> Tensor {
    x.narrow(dim, x.size()[dim as usize] - 1, 1)
}

/// Some places of `(B, T, …)`, `(1, N, …)`.
fn chosen(x: &Tensor, index: &Tensor) -> Tensor {
    x.flatten(0, 1).index_select(0, index).unsqueeze(0)
}

/// One layer.
#[derive(Debug)]
pub(crate) struct Block {
    attn_norm: Norm,
    attn: Attention,
    mlp_norm: Norm,
    mlp: Mlp,
    norm_after: bool,
}

impl Block {
    pub(crate) fn new(mut scope: Scope<'_>, config: &ModelConfig, init: LayerInit) -> Self {
        Self {
            attn_norm: norm(scope.sub("attn_norm"), config, config.n_embd),
            attn: Attention::new(scope.sub("attn"), config, init),
            mlp_norm: norm(scope.sub("mlp_norm"), config, config.n_embd),
            mlp: Mlp::new(scope.sub("mlp"), config, init),
            norm_after: config.norm_after,
        }
    }

    /// The matrices with their names below the layer's.
    pub(crate) fn linears_mut(&mut self) -> [(&'static str, &mut Linear); 4] {
        [
            ("attn.qkv", &mut self.attn.qkv),
            ("attn.out", &mut self.attn.out),
            ("mlp.up", &mut self.mlp.up),
            ("mlp.down", &mut self.mlp.down),
        ]
    }

    /// `(B, T, C)` to the wanted part of `(B, T, C)`: all, `(B, 1, C)`, or `(1, N, C)`.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        at: &Positions<'_>,
        cache: Option<&mut LayerCache>,
    ) -> Tensor {
        let out = &self.attn.out;
        if self.norm_after {
            let heads = self.attn.forward(x, None, at, cache);
            let inner = out.forward_at(&heads, at.places_after);
            let x = at.wanted(x) + self.attn_norm.forward(&inner);
            let inner = self.mlp.forward(&x, at);
            return &x + self.mlp_norm.forward(&inner);
        }
        let heads = self.attn.forward(x, Some(&self.attn_norm), at, cache);
        let x = out.add_to(&at.wanted(x), &heads, at.places_after);
        self.mlp.add_to(&x, &self.mlp_norm, at)
    }
}
