//! What a decoder is made of. A family (Llama, GPT-2, …) is one setting of these, not code of its own;
//! [`ModelConfig::new`] gives each family's, [`crate::hf`] reads them from a `config.json`.

use serde::{Deserialize, Serialize};

/// A family of models, as Transformers names its architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// GPT-2 (Radford et al. 2019).
    Gpt2,
    /// Llama 2 and 3, SmolLM2 (Touvron et al. 2023).
    Llama,
    /// Mistral: Llama with a sliding window (Jiang et al. 2023).
    Mistral,
    /// Qwen2: Llama with biases on queries, keys and values.
    Qwen2,
    /// Qwen3: Llama with weighted query-key norms.
    Qwen3,
    /// OLMo 2: norms behind the sub-layers, and over all heads of queries and of keys (OLMo et al. 2024).
    Olmo2,
    /// nanochat: norms without weights, squared ReLU, capped logits.
    NanoChat,
}

impl Family {
    /// All families, in the order of [`Family::name`]'s listing in messages.
    pub const ALL: [Family; 7] = [
        Family::Gpt2,
        Family::Llama,
        Family::Mistral,
        Family::Qwen2,
        Family::Qwen3,
        Family::Olmo2,
        Family::NanoChat,
    ];

    /// Transformers' `model_type`.
    pub fn name(self) -> &'static str {
        match self {
            Family::Gpt2 => "gpt2",
            Family::Llama => "llama",
            Family::Mistral => "mistral",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Olmo2 => "olmo2",
            Family::NanoChat => "nanochat",
        }
    }

    /// The family of a `model_type`.
    pub fn parse(name: &str) -> Option<Family> {
        Family::ALL.into_iter().find(|family| family.name() == name)
    }
}

/// How positions enter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Position {
    /// A learned vector for each position, added to the embedding.
    Learned,
    /// Rotary positions (Su et al. 2021).
    Rotary {
        /// The base of the wavelengths.
        theta: f64,
        /// Whether the rotation turns the other way (nanochat).
        flipped: bool,
        /// How the wavelengths were stretched for a longer context, if they were.
        scaling: Option<RotaryScaling>,
    },
}

/// How rotary wavelengths are stretched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RotaryScaling {
    /// All by one factor: position interpolation (Chen et al. 2023).
    Linear {
        /// The factor.
        factor: f64,
    },
    /// The long ones alone (Llama 3, Grattafiori et al. 2024).
    Llama3 {
        /// Long wavelengths are stretched by this.
        factor: f64,
        /// Wavelengths over `original_context / low` are stretched wholly.
        low: f64,
        /// Wavelengths under `original_context / high` are left alone.
        high: f64,
        /// The context before stretching, in tokens.
        original_context: f64,
    },
}

/// Which norm goes with each sub-layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Layer norm with weight and bias.
    Layer,
    /// RMS norm with a weight.
    Rms,
    /// RMS norm without one.
    RmsPlain,
}

/// The feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpKind {
    /// Two products around GELU in its tanh form.
    GeluTanh,
    /// Two products around GELU by the error function.
    Gelu,
    /// Two products around squared ReLU.
    ReluSquared,
    /// Three products, SiLU gating.
    SwiGlu,
}

/// A norm on queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// With a weight of the head's width, before the rotation (Qwen3).
    Weighted,
    /// Over all heads together, with a weight as wide as they are, before the rotation (OLMo 2).
    Whole,
    /// Without one (nanochat).
    Plain,
}

/// The decoder's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Which family's names and defaults apply at the edge.
    pub family: Family,
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Layers.
    pub n_layer: i64,
    /// Query heads.
    pub n_head: i64,
    /// Key and value heads; divides `n_head`.
    pub n_kv_head: i64,
    /// Width.
    pub n_embd: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Width inside the feed-forward layer.
    pub n_inner: i64,
    /// The most positions.
    pub context: i64,
    /// How positions enter.
    pub position: Position,
    /// The norm of each sub-layer and at the end.
    pub norm: NormKind,
    /// Whether a sub-layer's norm stands behind it, before its output is added, and not before it.
    pub norm_after: bool,
    /// Added to the variance or mean square.
    pub norm_eps: f64,
    /// A norm right after the embedding.
    pub embed_norm: bool,
    /// The norm on queries and keys.
    pub qk_norm: QkNorm,
    /// Biases on queries, keys and values.
    pub qkv_bias: bool,
    /// A bias on the attention's output.
    pub out_bias: bool,
    /// Biases in the feed-forward layer.
    pub mlp_bias: bool,
    /// The feed-forward layer.
    pub mlp: MlpKind,
    /// Whether the output layer is the embedding.
    pub tied: bool,
    /// `cap * tanh(logits / cap)`.
    pub logit_cap: Option<f64>,
    /// A position sees itself and this many before it, minus one.
    pub sliding_window: Option<i64>,
}

/// The most numbers in the tables of rotary positions: a million positions of heads 128 wide.
const ROTARY_TABLE: i64 = 1 << 27;

/// The sizes that a recipe chooses; the rest follows from the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Layers.
    pub n_layer: i64,
    /// Query heads.
    pub n_head: i64,
    /// Key and value heads.
    pub n_kv_head: i64,
    /// Width.
    pub n_embd: i64,
    /// Width inside the feed-forward layer.
    pub n_inner: i64,
    /// The most positions.
    pub context: i64,
    /// Whether the output layer is the embedding.
    pub tied: bool,
}

impl ModelConfig {
    /// A family's decoder of these sizes, as Transformers' defaults for that family have it.
    pub fn new(family: Family, sizes: Sizes) -> Self {
        let rotary = |theta| Position::Rotary {
            theta,
            flipped: false,
            scaling: None,
        };
        let llama = Self {
            family,
            vocab_size: sizes.vocab_size,
            n_layer: sizes.n_layer,
            n_head: sizes.n_head,
            n_kv_head: sizes.n_kv_head,
            n_embd: sizes.n_embd,
            head_dim: sizes.n_embd / sizes.n_head.max(1),
            n_inner: sizes.n_inner,
            context: sizes.context,
            position: rotary(10_000.0),
            norm: NormKind::Rms,
            norm_after: false,
            norm_eps: 1e-5,
            embed_norm: false,
            qk_norm: QkNorm::None,
            qkv_bias: false,
            out_bias: false,
            mlp_bias: false,
            mlp: MlpKind::SwiGlu,
            tied: sizes.tied,
            logit_cap: None,
            sliding_window: None,
        };
        match family {
            Family::Llama | Family::Mistral => llama,
            Family::Qwen2 => Self {
                qkv_bias: true,
                norm_eps: 1e-6,
                ..llama
            },
            Family::Qwen3 => Self {
                qk_norm: QkNorm::Weighted,
                norm_eps: 1e-6,
                ..llama
            },
            Family::Olmo2 => Self {
                norm_after: true,
                qk_norm: QkNorm::Whole,
                ..llama
            },
            Family::Gpt2 => Self {
                position: Position::Learned,
                norm: NormKind::Layer,
                qkv_bias: true,
                out_bias: true,
                mlp_bias: true,
                mlp: MlpKind::GeluTanh,
                ..llama
            },
            Family::NanoChat => Self {
                position: Position::Rotary {
                    theta: 10_000.0,
                    flipped: true,
                    scaling: None,
                },
                norm: NormKind::RmsPlain,
                norm_eps: 1e-6,
                embed_norm: true,
                qk_norm: QkNorm::Plain,
                mlp: MlpKind::ReluSquared,
                logit_cap: Some(15.0),
                ..llama
            },
        }
    }

    /// Refuses sizes that no decoder can have.
    ///
    /// # Errors
    /// The field, its value, and what it must be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        // Far above any model, and small enough that no product of them overflows: sizes come from files.
        let limits = [
            ("vocab_size", self.vocab_size, 1 << 28),
            ("n_layer", self.n_layer, 1 << 10),
            ("n_head", self.n_head, 1 << 16),
            ("n_kv_head", self.n_kv_head, 1 << 16),
            ("n_embd", self.n_embd, 1 << 24),
            ("head_dim", self.head_dim, 1 << 16),
            ("n_inner", self.n_inner, 1 << 28),
            ("context", self.context, 1 << 28),
        ];
        for (field, value, most) in limits {
            if !(1..=most).contains(&value) {
                let remedy = format!("it must be from 1 to {most}");
                return Err(ConfigError::new(field, value, &remedy));
            }
        }
        if self.n_head % self.n_kv_head != 0 {
            return Err(ConfigError::new(
                "n_kv_head",
                self.n_kv_head,
                &format!("it must divide n_head = {}", self.n_head),
            ));
        }
        // As in Transformers; the other families' attention may be wider or narrower than the model.
        let is_split = matches!(self.family, Family::Gpt2 | Family::Llama);
        if is_split && self.head_dim == self.n_embd / self.n_head && self.n_embd % self.n_head != 0
        {
            return Err(ConfigError::new(
                "n_embd",
                self.n_embd,
                &format!("it must be a multiple of n_head = {}", self.n_head),
            ));
        }
        if matches!(self.position, Position::Rotary { .. }) && self.head_dim % 2 != 0 {
            return Err(ConfigError::new(
                "head_dim",
                self.head_dim,
                "rotary positions need an even head width (n_embd / n_head)",
            ));
        }
        let is_rotary = matches!(self.position, Position::Rotary { .. });
        if is_rotary && self.context * self.head_dim > ROTARY_TABLE {
            let most = ROTARY_TABLE / self.head_dim;
            let remedy =
                format!("the tables of rotary positions would be too large; at most {most}");
            return Err(ConfigError::new("context", self.context, &remedy));
        }
        if self.sliding_window.is_some_and(|window| window < 1) {
            return Err(ConfigError::new(
                "sliding_window",
                self.sliding_window.unwrap_or(0),
                "it must be at least 1",
            ));
        }
        Ok(())
    }

    /// The number of parameters in matrices that each token is multiplied with: what FLOPs follow from.
    pub fn matrix_parameters(&self) -> i64 {
        let heads = (2 * self.n_head + 2 * self.n_kv_head) * self.head_dim * self.n_embd;
        let mlp = if self.mlp == MlpKind::SwiGlu { 3 } else { 2 } * self.n_embd * self.n_inner;
        self.n_layer * (heads + mlp) + self.vocab_size * self.n_embd
    }

    /// Floating-point operations of one training step per token, forward and backward: six for each
    /// matrix parameter and twelve for each layer's width and position seen (Chowdhery et al. 2022).
    pub fn flops_per_token(&self, length: i64) -> f64 {
        let seen = self
            .sliding_window
            .map_or(length, |window| window.min(length));
        let attention = 12 * self.n_layer * self.n_head * self.head_dim * seen;
        (6 * self.matrix_parameters() + attention) as f64
    }
}

/// A setting that no decoder can have.
#[derive(Debug, Clone, thiserror::Error)]
#[error("model.{field} = {value}: {remedy}")]
pub struct ConfigError {
    /// The field.
    pub field: &'static str,
    /// Its value.
    pub value: i64,
    /// What it must be.
    pub remedy: String,
}

impl ConfigError {
    fn new(field: &'static str, value: i64, remedy: &str) -> Self {
        Self {
            field,
            value,
            remedy: remedy.to_owned(),
        }
    }
}
