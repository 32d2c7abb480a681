//! The decoder: embedding, layers, output. One for all families.
//!
//! B rows, T positions, C width, V vocabulary.

mod losses;

use etude_tensor::lora::frozen_linear;
use etude_tensor::loss;
use etude_tensor::ops;
use etude_tensor::{
    AttentionMask, Device, Embedding, Init, Kind, Linear, Norm, Param, Params, Tensor, no_grad,
    to_compute_kind,
};

use crate::block::{Block, LayerInit, Positions, Wanted, norm};
use crate::cache::KvCache;
use crate::config::{ConfigError, Family, ModelConfig, Position};
use crate::lora::Adapter;
use crate::masks;
use crate::rotary::Rotary;

pub use losses::supervised_places;

/// What the decoder reads: ids `(B, T)`, int64, on its device.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// `(B, T)`.
    pub ids: &'a Tensor,
    /// `(B, T)`; none means 0, 1, 2, … after what the cache holds.
    pub positions: Option<&'a Tensor>,
    /// `(B, T)`, the document of each token: attention stays inside. None means one document a row.
    pub documents: Option<&'a Tensor>,
    /// The lengths of those documents, padding included, end to end through the rows. With them, attention on
    /// the CPU goes document by document and needs no mask.
    pub lengths: Option<&'a [i64]>,
    /// `(B, T)`, int64: what dropout draws by. With a number that names the token, wherever it lies, training does not
    /// depend on how rows are put together. None means the place in these rows.
    pub places: Option<&'a Tensor>,
}

impl<'a> Input<'a> {
    /// Rows that are one document each.
    pub fn plain(ids: &'a Tensor) -> Self {
        Self {
            ids,
            positions: None,
            documents: None,
            lengths: None,
            places: None,
        }
    }
}

/// A decoder and its parameters.
#[derive(Debug)]
pub struct Decoder {
    config: ModelConfig,
    params: Params,
    embedding: Embedding,
    positions: Option<Embedding>,
    rotary: Option<Rotary>,
    embed_norm: Option<Norm>,
    layers: Vec<Block>,
    norm: Norm,
    head: Option<Tensor>,
    adapter: Option<Adapter>,
}

impl Decoder {
    /// A new decoder with fresh parameters, drawn from libtorch's generator: seed it first.
    ///
    /// Matrices start as their family's do. nanochat: embedding of deviation 1, inner matrices uniform
    /// with deviation 1/√C, the matrices that write to the stream zero, the output layer 0.001. The others
    /// (as GPT-2): deviation 0.02, those that write to the stream divided by √(2 layers). Norms start at 1,
    /// biases at 0.
    ///
    /// # Errors
    /// When the configuration is impossible.
    pub fn new(config: ModelConfig, kind: Kind, device: Device) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self::build(config, Params::new(device, kind)))
    }

    /// A decoder over `params`, which are none yet, for those who read them from a file.
    pub(crate) fn over(config: ModelConfig, params: Params) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self::build(config, params))
    }

    /// The names, shapes and parts of the parameters of a configuration, without their memory.
    pub(crate) fn outline(config: &ModelConfig) -> Result<Params, ConfigError> {
        config.validate()?;
        Ok(Self::build(config.clone(), Params::outline()).params)
    }

    fn build(config: ModelConfig, mut params: Params) -> Self {
        let (kind, device) = (params.kind(), params.device());
        let mut root = params.root();
        let (width, vocabulary) = (config.n_embd, config.vocab_size);
        let (table, head_init, init) = initialization(&config);
        let embedding = Embedding::new(root.sub("embedding"), vocabulary, width, table);
        let positions = (config.position == Position::Learned).then(|| {
            Embedding::new(
                root.sub("positions"),
                config.context,
                width,
                Init::Normal(0.01),
            )
        });
        let embed_norm = config
            .embed_norm
            .then(|| norm(root.sub("embed_norm"), &config, width));
        let layers = (0..config.n_layer)
            .map(|index| Block::new(root.sub("layers").sub(index), &config, init))
            .collect();
        let final_norm = norm(root.sub("norm"), &config, width);
        let head = (!config.tied).then(|| {
            root.sub("head")
                .param("weight", &[vocabulary, width], head_init)
        });
        let rotary = Rotary::new(&config, kind, device);
        Self {
            config,
            params,
            embedding,
            positions,
            rotary,
            embed_norm,
            layers,
            norm: final_norm,
            head,
            adapter: None,
        }
    }

    /// Its settings.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Its parameters.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Whether training drops a part of what the adapter's updates see.
    pub fn has_dropout(&self) -> bool {
        self.adapter
            .as_ref()
            .is_some_and(|adapter| adapter.config().dropout > 0.0)
    }

    /// Its adapter, see [`crate::lora::attach`].
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// What training moves, in a stable order: all parameters, or, with an adapter, the adapter's and those
    /// that it trains whole.
    pub fn trainable(&self) -> impl Iterator<Item = &Param> {
        let own = self.params.entries().iter();
        let adapter = self
            .adapter
            .iter()
            .flat_map(|adapter| adapter.params().entries());
        own.filter(|param| param.tensor.requires_grad())
            .chain(adapter)
    }

    /// Floating-point operations of one training step per token, see [`ModelConfig::flops_per_token`]. The
    /// third that a frozen matrix's gradient would take is left out; what the last layer saves where few places are
    /// supervised is not.
    pub fn flops_per_token(&self, length: i64) -> f64 {
        let share = if self.adapter.is_some() {
            2.0 / 3.0
        } else {
            1.0
        };
        share * self.config.flops_per_token(length)
    }

    /// Forgets the gradients of what training moves.
    pub fn drop_grads(&self) {
        self.params.drop_grads();
        if let Some(adapter) = &self.adapter {
            adapter.params().drop_grads();
        }
    }

    /// A parameter's values as a model folder holds them: with an adapter all in one dtype, and its update added.
    pub(crate) fn merged(&self, param: &Param) -> Tensor {
        let own = param.tensor.detach();
        let Some(adapter) = &self.adapter else {
            return own;
        };
        let own = own.to_kind(self.params.kind());
        let module = param.name.strip_suffix(".weight");
        let Some(update) = module.and_then(|module| adapter.update(module)) else {
            return own;
        };
        let sum = own.copy();
        update.merge_into(&sum, 1.0);
        sum
    }

    /// Gives it an output layer of its own, for now the embedding's numbers.
    pub(crate) fn untie(&mut self) {
        if !self.config.tied {
            return;
        }
        let table = self.embedding.weight.detach();
        let mut root = self.params.root();
        let mut scope = root.sub("head");
        let head = scope.param("weight", &table.size(), Init::Zeros);
        no_grad(|| head.shallow_clone().copy_(&table));
        self.head = Some(head);
        self.config.tied = false;
    }

    pub(crate) fn set_adapter(&mut self, adapter: Adapter) {
        self.adapter = Some(adapter);
    }

    /// The matrices inside the layers, by name.
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = (String, &mut Linear)> {
        self.layers
            .iter_mut()
            .enumerate()
            .flat_map(|(index, layer)| {
                let linears = layer.linears_mut();
                linears.map(|(name, linear)| (format!("layers.{index}.{name}"), linear))
            })
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        self.params.device()
    }

    /// The stream after the last norm, `(B, T, C)`.
    ///
    /// # Panics
    /// When the input is longer than the context, or the cache has no room for it: callers check both.
    pub fn hidden(&self, input: Input<'_>, cache: Option<&mut KvCache>) -> Tensor {
        self.stream(input, cache, Wanted::All, &mut |_, _| ())
    }

    /// [`Decoder::hidden`] of some places alone, `(N, C)`; `index`, `(N)`, counts them through the rows. The last layer
    /// makes no output for the others.
    ///
    /// # Panics
    /// As [`Decoder::hidden`].
    pub fn hidden_at(&self, input: Input<'_>, index: &Tensor) -> Tensor {
        let stream = self.stream(input, None, Wanted::Places(index), &mut |_, _| ());
        stream.squeeze_dim(0)
    }

    /// [`Decoder::hidden`] of the last position alone, `(B, C)`: the last layer makes no output for the others.
    ///
    /// # Panics
    /// As [`Decoder::hidden`].
    pub fn newest_hidden(&self, input: Input<'_>, cache: &mut KvCache) -> Tensor {
        let stream = self.stream(input, Some(cache), Wanted::Newest, &mut |_, _| ());
        stream.squeeze_dim(1)
    }

    /// Shows `look` the stream, `(B, T, C)`, after each part: `embedding`, `layers.N`, `norm`.
    ///
    /// # Panics
    /// As [`Decoder::hidden`].
    pub fn watched(&self, input: Input<'_>, look: &mut dyn FnMut(&str, &Tensor)) {
        let _ = self.stream(input, None, Wanted::All, look);
    }

    fn stream(
        &self,
        input: Input<'_>,
        mut cache: Option<&mut KvCache>,
        wanted: Wanted<'_>,
        look: &mut dyn FnMut(&str, &Tensor),
    ) -> Tensor {
        let [_, t] = input.ids.size()[..] else {
            panic!("ids are (B, T)")
        };
        let start = cache.as_ref().map_or(0, |cache| cache.length);
        assert!(
            start + t <= self.config.context,
            "{} positions in a context of {}",
            start + t,
            self.config.context
        );
        assert!(
            cache
                .as_ref()
                .is_none_or(|cache| start + t <= cache.capacity()),
            "the cache is full"
        );

        // A frozen table may be kept in another dtype.
        let mut x = self
            .embedding
            .forward(input.ids)
            .to_kind(self.params.kind()); // (B, T, C)
        if let Some(table) = &self.positions {
            let here = match input.positions {
                Some(positions) => table.forward(positions),
                None => table.weight.narrow(0, start, t),
            };
            x = &x + here;
        }
        if let Some(norm) = &self.embed_norm {
            x = norm.forward(&x);
        }
        look("embedding", &x);
        let angles = self
            .rotary
            .as_ref()
            .map(|rotary| rotary.angles(input.positions, start, t));
        let padding = cache.as_ref().and_then(|cache| cache.padding.as_ref());
        let lengths = self.document_lengths(input);
        let seen = match lengths {
            Some(_) => None,
            None => self.seen(input, padding, start, t),
        };
        let mask = match &seen {
            Some(seen) => AttentionMask::Seen(seen),
            None if lengths.is_some() => AttentionMask::Documents(lengths.unwrap_or_default()),
            None if start > 0 || t == 1 => AttentionMask::Full,
            None => AttentionMask::Causal,
        };
        let at = Positions {
            angles: angles.as_ref(),
            mask,
            places: input.places,
            wanted: Wanted::All,
            places_after: input.places,
        };
        let mut at_the_end = Positions { wanted, ..at };
        let (row, places);
        match wanted {
            Wanted::All => (),
            Wanted::Newest => {
                row = seen.as_ref().map(|seen| seen.narrow(-2, t - 1, 1));
                at_the_end.mask = row
                    .as_ref()
                    .map_or(AttentionMask::Full, AttentionMask::Seen);
            }
            Wanted::Places(index) => {
                places = match input.places {
                    Some(places) => places.reshape([-1]).index_select(0, index),
                    None => index.shallow_clone(),
                };
                at_the_end.places_after = Some(&places);
            }
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let room = cache.as_deref_mut().map(|cache| &mut cache.layers[index]);
            let last = index + 1 == self.layers.len();
            let at = if last { &at_the_end } else { &at };
            x = layer.forward(&x, at, room);
            look(&format!("layers.{index}"), &x);
        }
        if let Some(cache) = cache {
            cache.length += t;
        }
        let x = self.norm.forward(&x);
        look("norm", &x);
        to_compute_kind(&x)
    }

    /// The lengths of packed documents, where attention is to go by them.
    fn document_lengths<'a>(&self, input: Input<'a>) -> Option<&'a [i64]> {
        let window = self.config.sliding_window.unwrap_or(i64::MAX);
        // A GPU would rather have one masked call than many small ones.
        let lengths = input.lengths.filter(|_| self.device() == Device::Cpu)?;
        lengths
            .iter()
            .all(|&length| length <= window)
            .then_some(lengths)
    }

    /// The explicit mask, where plain causality does not say who sees whom.
    fn seen(
        &self,
        input: Input<'_>,
        padding: Option<&Tensor>,
        start: i64,
        t: i64,
    ) -> Option<Tensor> {
        let window = self
            .config
            .sliding_window
            .filter(|&window| window < start + t);
        if let Some(documents) = input.documents {
            assert!(
                start == 0,
                "documents are packed in whole rows, not after a cache"
            );
            return Some(masks::documents(documents, window));
        }
        if let Some(padding) = padding {
            return Some(masks::left_padded(padding, start, t, window));
        }
        let plain = window.is_none() && (start == 0 || t == 1);
        (!plain).then(|| masks::causal(start, t, window, self.device()))
    }

    /// Logits of hidden states, `(…, C)` to `(…, V)`.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        let head = self.head_weight();
        let logits = if head.kind() == hidden.kind() || head.requires_grad() {
            ops::linear(hidden, head, None)
        } else {
            frozen_linear(hidden, head, None, None, None)
        };
        loss::soft_cap(&logits, self.config.logit_cap)
    }

    fn head_weight(&self) -> &Tensor {
        self.head.as_ref().unwrap_or(&self.embedding.weight)
    }
}

/// How the embedding, the output layer and the layers start.
fn initialization(config: &ModelConfig) -> (Init, Init, LayerInit) {
    if config.family == Family::NanoChat {
        // A uniform distribution of half-width √3 σ has deviation σ.
        let inner = Init::Uniform((3.0 / config.n_embd as f64).sqrt());
        let table = if config.tied {
            Init::Normal(0.02)
        } else {
            Init::Normal(1.0)
        };
        return (
            table,
            Init::Normal(0.001),
            LayerInit {
                inner,
                output: Init::Zeros,
            },
        );
    }
    let output = 0.02 / (2.0 * config.n_layer as f64).sqrt();
    let init = LayerInit {
        inner: Init::Normal(0.02),
        output: Init::Normal(output),
    };
    (Init::Normal(0.02), Init::Normal(0.02), init)
}
