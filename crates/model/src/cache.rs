//! The keys and values of positions already read, so that a new token costs one position's work.

use etude_tensor::{AttentionMask, Device, Kind, NewPosition, Tensor, attend_newest};

use crate::config::ModelConfig;

/// Keys and values of every layer, room for a fixed number of positions.
#[derive(Debug)]
pub struct KvCache {
    pub(crate) layers: Vec<LayerCache>,
    pub(crate) length: i64,
    capacity: i64,
    /// How many positions each row is padded with on the left, `(B)`; none when there is no padding.
    pub(crate) padding: Option<Tensor>,
}

impl KvCache {
    /// Room for `rows` rows of `capacity` positions.
    pub fn new(config: &ModelConfig, rows: i64, capacity: i64, kind: Kind, device: Device) -> Self {
        let shape = [rows, config.n_kv_head, capacity, config.head_dim];
        let room = || Tensor::empty(shape, (kind, device));
        let layers = (0..config.n_layer)
            .map(|_| LayerCache {
                keys: room(),
                values: room(),
                length: 0,
            })
            .collect();
        Self {
            layers,
            length: 0,
            capacity,
            padding: None,
        }
    }

    /// What the one row of this cache holds, for `rows` rows that go on differently, with room for `more`
    /// positions.
    ///
    /// # Panics
    /// When this cache has several rows, or padding.
    pub fn repeated(&self, rows: i64, more: i64) -> Self {
        assert!(self.padding.is_none(), "padding differs between rows");
        let (length, capacity) = (self.length, self.length + more);
        let layers = self
            .layers
            .iter()
            .map(|layer| layer.repeated(rows, capacity));
        Self {
            layers: layers.collect(),
            length,
            capacity,
            padding: None,
        }
    }

    /// Says that row i starts with `padding[i]` positions that are nobody's.
    pub fn with_left_padding(mut self, padding: Tensor) -> Self {
        self.padding = Some(padding);
        self
    }

    /// Gives each row the positions from `from` on of the row that `sources`, `(B)`, names; what is before they share.
    pub(crate) fn follow(&mut self, from: i64, sources: &Tensor) {
        for layer in &mut self.layers {
            let new = layer.length - from;
            for held in [&layer.keys, &layer.values] {
                let mut tail = held.narrow(2, from, new);
                tail.copy_(&tail.index_select(0, sources)); // (B, G, new, D)
            }
        }
    }

    /// Positions held.
    pub fn length(&self) -> i64 {
        self.length
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> i64 {
        self.capacity
    }
}

/// One layer's keys and values, `(B, G, capacity, D)`.
#[derive(Debug)]
pub(crate) struct LayerCache {
    keys: Tensor,
    values: Tensor,
    length: i64,
}

impl LayerCache {
    fn repeated(&self, rows: i64, capacity: i64) -> Self {
        let repeat = |held: &Tensor| {
            let [one, heads, _, width] = held.size()[..] else {
                panic!("a cache is (B, G, capacity, D)")
            };
            assert_eq!(one, 1, "only a cache of one row can be repeated");
            let room = Tensor::empty([rows, heads, capacity, width], (held.kind(), held.device()));
            room.narrow(2, 0, self.length)
                .copy_(&held.narrow(2, 0, self.length)); // (B, G, length, D)
            room
        };
        Self {
            keys: repeat(&self.keys),
            values: repeat(&self.values),
            length: self.length,
        }
    }

    /// Adds one position and attends to all, `(B, 1, H D)`; none, and nothing added, where that is to be done step by
    /// step.
    pub(crate) fn attend_newest(
        &mut self,
        new: NewPosition<'_>,
        mask: AttentionMask<'_>,
    ) -> Option<Tensor> {
        let y = attend_newest(new, [&self.keys, &self.values], self.length, mask)?;
        self.length += 1;
        Some(y)
    }

    /// Adds `(B, G, T, D)` keys and values and gives back all there are, `(B, G, S, D)`.
    pub(crate) fn append(&mut self, k: &Tensor, v: &Tensor) -> (Tensor, Tensor) {
        let t = k.size()[2];
        let place = |room: &Tensor, new: &Tensor| room.narrow(2, self.length, t).copy_(new);
        place(&self.keys, k);
        place(&self.values, v);
        self.length += t;
        (
            self.keys.narrow(2, 0, self.length),
            self.values.narrow(2, 0, self.length),
        )
    }
}
