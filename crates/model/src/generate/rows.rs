//! The rows of a running batch: their shared cache, their padding, and dropping those that are done.
//!
//! Prompts are padded on the left, so that the newest token of every row stands in the last column.
//! The cache never holds more positions than the context, since some row always has no padding: when
//! that row ends, the padding that all others share is cut away.
//!
//! B rows, T positions, G key-value heads, D head width, V vocabulary.

use etude_tensor::Tensor;

use super::Running;
use crate::cache::KvCache;
use crate::decoder::{Decoder, Input};

/// The state of a running batch.
pub(super) struct Rows<'a> {
    decoder: &'a Decoder,
    cache: KvCache,
    /// The padding on the left of each row.
    padding: Vec<i64>,
}

impl<'a> Rows<'a> {
    /// Reads the prompts and gives the logits after each, `(B, V)`.
    pub(super) fn read(decoder: &'a Decoder, running: &[Running<'_>]) -> (Self, Tensor) {
        let lengths = || running.iter().map(|row| row.request.ids.len());
        let longest = lengths().max().expect("there is a row");
        let padding: Vec<i64> = lengths().map(|length| (longest - length) as i64).collect();
        let mut ids = Vec::with_capacity(running.len() * longest);
        for row in running {
            ids.resize(ids.len() + longest - row.request.ids.len(), 0);
            ids.extend(row.request.ids.iter().map(|&id| i64::from(id)));
        }
        let ids = Tensor::from_slice(&ids).view([-1, longest as i64]); // (B, T)
        let cache = room(decoder, running, &padding);
        let mut rows = Self {
            decoder,
            cache,
            padding,
        };
        let logits = rows.forward(&ids);
        (rows, logits)
    }

    /// Reads the newest token of each row and gives the logits after it, `(B, V)`.
    pub(super) fn step(&mut self, running: &[Running<'_>]) -> Tensor {
        let newest = |row: &Running<'_>| row.ids.last().map_or(0, |&id| i64::from(id));
        let ids: Vec<i64> = running.iter().map(newest).collect();
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

    /// Takes finished rows out of the batch when that pays: what is left of the cache is copied, so it
    /// waits until a quarter is done, or until no position is free.
    pub(super) fn drop_finished(&mut self, running: &mut Vec<Running<'_>>) {
        let live: Vec<usize> = (0..running.len())
            .filter(|&row| !running[row].finished)
            .collect();
        let full = self.cache.length() == self.cache.capacity();
        if !full && live.len() * 4 > running.len() * 3 {
            return;
        }
        let before = running.len();
        running.retain(|row| !row.finished);
        let padding: Vec<i64> = live.iter().map(|&row| self.padding[row]).collect();
        let shared = *padding.iter().min().expect("a row goes on");
        assert!(
            !full || shared > 0,
            "a row without padding ends when the cache is full"
        );
        self.padding = padding.iter().map(|padding| padding - shared).collect();
        self.move_cache(running, before, &live, shared);
    }

    /// Moves the rows `live` of the cache's `before` to a cache of their own, without the first `cut`
    /// positions.
    fn move_cache(&mut self, running: &[Running<'_>], before: usize, live: &[usize], cut: i64) {
        let (config, device) = (self.decoder.config(), self.decoder.device());
        let kind = self.decoder.params().kind();
        let index: Vec<i64> = live.iter().map(|&row| row as i64).collect();
        let index = Tensor::from_slice(&index).to_device(device);
        let nothing = [before as i64, config.n_kv_head, 0, config.head_dim];
        let nothing = Tensor::empty(nothing, (kind, device)); // (B, G, 0, D)
        let length = self.cache.length() - cut;
        let mut cache = room(self.decoder, running, &self.padding);
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
}

/// An empty cache for rows with this padding, as long as they can become.
fn room(decoder: &Decoder, running: &[Running<'_>], padding: &[i64]) -> KvCache {
    let config = decoder.config();
    let places = running
        .iter()
        .zip(padding)
        .map(|(row, padding)| padding + row.places());
    let capacity = places.max().expect("there is a row").min(config.context);
    let (kind, device) = (decoder.params().kind(), decoder.device());
    let cache = KvCache::new(config, running.len() as i64, capacity, kind, device);
    // Without padding no mask is needed, so none is asked for.
    match padding.iter().any(|&padding| padding > 0) {
        true => cache.with_left_padding(Tensor::from_slice(padding).to_device(device)),
        false => cache,
    }
}
