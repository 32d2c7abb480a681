//! The rows of a running batch: their shared cache, their padding, and dropping those that are done.
//!
//! Prompts are padded on the left, so that the newest token of every row stands in the last column.
//! The cache never holds more positions than the context, since some row always has no padding: when
//! that row ends, the padding that all others share is cut away.
//!
//! B rows, T positions, G key-value heads, D head width, V vocabulary.

use etude_tensor::Tensor;

use crate::cache::KvCache;
use crate::decoder::{Decoder, Input};

/// What a row begins with.
pub(super) struct Prompt<'a> {
    ids: &'a [u32],
    /// The positions that the row will have taken when it has its most tokens; the last is not read.
    places: i64,
}

impl<'a> Prompt<'a> {
    /// Tokens that at most `most` new ones follow.
    pub(super) fn new(ids: &'a [u32], most: usize) -> Self {
        let places = (ids.len() + most - 1) as i64;
        Self { ids, places }
    }
}

/// The state of a running batch.
pub(super) struct Rows<'a> {
    decoder: &'a Decoder,
    cache: KvCache,
    /// The padding on the left of each row.
    padding: Vec<i64>,
    /// The positions that each row will have taken in the end, without its padding.
    places: Vec<i64>,
    /// Where prompts end.
    prompt: i64,
}

impl<'a> Rows<'a> {
    /// Reads the prompts and gives the logits after each, `(B, V)`.
    pub(super) fn read(decoder: &'a Decoder, prompts: &[Prompt<'_>]) -> (Self, Tensor) {
        let lengths = || prompts.iter().map(|prompt| prompt.ids.len());
        let longest = lengths().max().expect("there is a row");
        let padding: Vec<i64> = lengths().map(|length| (longest - length) as i64).collect();
        let mut ids = Vec::with_capacity(prompts.len() * longest);
        for prompt in prompts {
            ids.resize(ids.len() + longest - prompt.ids.len(), 0);
            ids.extend(prompt.ids.iter().map(|&id| i64::from(id)));
        }
        let ids = Tensor::from_slice(&ids).view([-1, longest as i64]); // (B, T)
        let places: Vec<i64> = prompts.iter().map(|prompt| prompt.places).collect();
        let cache = room(decoder, &padding, &places);
        let mut rows = Self {
            decoder,
            cache,
            padding,
            places,
            prompt: longest as i64,
        };
        let logits = rows.forward(&ids);
        (rows, logits)
    }

    /// Reads the newest token of each row and gives the logits after it, `(B, V)`.
    pub(super) fn step(&mut self, newest: &[u32]) -> Tensor {
        let ids: Vec<i64> = newest.iter().map(|&id| i64::from(id)).collect();
        self.forward(&Tensor::from_slice(&ids).unsqueeze(1)) // (B, 1)
    }

    fn forward(&mut self, ids: &Tensor) -> Tensor {
        let device = self.decoder.device();
        let t = ids.size()[1];
        let start = self.cache.length();
        // Without padding the decoder counts by itself.
        let positions = self.padded().then(|| {
            let here = |&padding: &i64| (start..start + t).map(move |at| (at - padding).max(0));
            let flat: Vec<i64> = self.padding.iter().flat_map(here).collect();
            Tensor::from_slice(&flat).view([-1, t]).to_device(device) // (B, T)
        });
        let ids = ids.to_device(device);
        let input = Input {
            ids: &ids,
            positions: positions.as_ref(),
            documents: None,
            lengths: None,
            places: None,
        };
        let hidden = self.decoder.newest_hidden(input, &mut self.cache); // (B, C)
        self.decoder.logits(&hidden) // (B, V)
    }

    fn padded(&self) -> bool {
        self.padding.iter().any(|&padding| padding > 0)
    }

    /// Puts `times` rows in the place of each.
    pub(super) fn repeat(&mut self, times: usize) {
        let rows = 0..self.padding.len();
        let each: Vec<usize> = rows
            .flat_map(|row| std::iter::repeat_n(row, times))
            .collect();
        self.keep(&each, 0);
    }

    /// Lets each row go on from what row `sources[row]`, of the same prompt, has read.
    pub(super) fn follow(&mut self, sources: &[usize]) {
        if sources.iter().enumerate().any(|(row, &from)| row != from) {
            let index = self.index(sources);
            self.cache.follow(self.prompt, &index);
        }
    }

    /// Takes finished rows out of the batch when that pays, and says whether it did: what is left of the cache is
    /// copied, so it waits until a quarter is done, or until no position is free.
    pub(super) fn drop_finished(&mut self, finished: &[bool]) -> bool {
        let live: Vec<usize> = (0..finished.len()).filter(|&row| !finished[row]).collect();
        let full = self.cache.length() == self.cache.capacity();
        if !full && live.len() * 4 > finished.len() * 3 {
            return false;
        }
        let padding = live.iter().map(|&row| self.padding[row]);
        let shared = padding.min().expect("a row goes on");
        assert!(
            !full || shared > 0,
            "a row without padding ends when the cache is full"
        );
        self.keep(&live, shared);
        true
    }

    /// Moves the rows `live`, of which some may stand there several times, to a cache of their own, without the first
    /// `cut` positions.
    fn keep(&mut self, live: &[usize], cut: i64) {
        let (config, device) = (self.decoder.config(), self.decoder.device());
        let kind = self.decoder.params().kind();
        let before = self.padding.len() as i64;
        let index = self.index(live);
        self.padding = live.iter().map(|&row| self.padding[row] - cut).collect();
        self.places = live.iter().map(|&row| self.places[row]).collect();
        self.prompt -= cut;
        let nothing = [before, config.n_kv_head, 0, config.head_dim];
        let nothing = Tensor::empty(nothing, (kind, device)); // (B, G, 0, D)
        let length = self.cache.length() - cut;
        let mut cache = room(self.decoder, &self.padding, &self.places);
        let layers = std::mem::take(&mut self.cache.layers);
        for (mut old, new) in layers.into_iter().zip(&mut cache.layers) {
            // Adding nothing gives back all there is; each old layer is freed before the next is moved.
            let (k, v) = old.append(&nothing, &nothing);
            let moved = |all: Tensor| all.narrow(2, cut, length).index_select(0, &index);
            let _ = new.append(&moved(k), &moved(v));
        }
        cache.length = length;
        self.cache = cache;
    }

    fn index(&self, rows: &[usize]) -> Tensor {
        let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        Tensor::from_slice(&rows).to_device(self.decoder.device())
    }
}

/// An empty cache for rows with this padding, as long as they can become.
fn room(decoder: &Decoder, padding: &[i64], places: &[i64]) -> KvCache {
    let config = decoder.config();
    let ends = places.iter().zip(padding).map(|(row, pad)| pad + row);
    let capacity = ends.max().expect("there is a row").min(config.context);
    let (kind, device) = (decoder.params().kind(), decoder.device());
    let cache = KvCache::new(config, padding.len() as i64, capacity, kind, device);
    // Without padding no mask is needed, so none is asked for.
    match padding.iter().any(|&padding| padding > 0) {
        true => cache.with_left_padding(Tensor::from_slice(padding).to_device(device)),
        false => cache,
    }
}
