//! What the decoder's predictions cost: the sum over supervised positions, and its summands.
//!
//! B rows, T positions, C width, N supervised positions.

use etude_tensor::Tensor;
use etude_tensor::loss::{self, IGNORE};

use super::{Decoder, Input};

impl Decoder {
    /// The summed cross-entropy in nats of `targets` `(B, T)` over the positions that are supervised
    /// (not [`IGNORE`]); logits exist for those alone. A scalar that can be differentiated once.
    pub fn loss_sum(&self, input: Input<'_>, targets: &Tensor, supervised: &[i64]) -> Tensor {
        let (hidden, targets) = self.supervised(input, targets, supervised);
        let head = self.loss_head(&hidden);
        loss::linear_cross_entropy(&hidden, &head, &targets, self.config.logit_cap)
    }

    /// The summands of [`Decoder::loss_sum`], `(N)`, in the order of `supervised`. No gradients are kept, but where
    /// they are recorded, the layers compute as in training.
    pub fn losses(&self, input: Input<'_>, targets: &Tensor, supervised: &[i64]) -> Tensor {
        let (hidden, targets) = self.supervised(input, targets, supervised);
        let head = self.loss_head(&hidden);
        loss::linear_cross_entropies(&hidden.detach(), &head, &targets, self.config.logit_cap)
    }

    /// The hidden states `(N, C)` and targets `(N)` of the supervised places.
    fn supervised(
        &self,
        input: Input<'_>,
        targets: &Tensor,
        supervised: &[i64],
    ) -> (Tensor, Tensor) {
        let targets = targets.reshape([-1]); // (B * T)
        if supervised.len() as i64 == targets.size()[0] {
            let hidden = self.hidden(input, None); // (B, T, C)
            return (hidden.reshape([-1, self.config.n_embd]), targets);
        }
        let index = Tensor::from_slice(supervised).to_device(self.device());
        let hidden = self.hidden_at(input, &index);
        (hidden, targets.index_select(0, &index)) // (N, C), (N)
    }

    /// The output layer for the loss of `hidden`: a frozen one in the dtype that is computed in.
    fn loss_head(&self, hidden: &Tensor) -> Tensor {
        let head = self.head_weight();
        if head.requires_grad() {
            head.shallow_clone()
        } else {
            head.to_kind(hidden.kind())
        }
    }
}

/// The places of supervised targets in a batch's row-major order: what [`Decoder::loss_sum`] takes.
pub fn supervised_places(targets: &[i64]) -> Vec<i64> {
    (0i64..)
        .zip(targets)
        .filter(|&(_, &target)| target != IGNORE)
        .map(|(place, _)| place)
        .collect()
}
