// The output layer and the cross-entropy as one function that never holds all logits: a block of
// rows at a time, its logits are turned into their gradient in place and at once into the gradients of
// the input and of the weight. Memory is one block instead of three times N x V.
#include "function.h"
#include "product.h"

namespace etude {

// x: (N, D), weight: (V, D), targets: (N) int64, negative where nothing is supervised. Returns the
// summed cross-entropy, a scalar. On the CPU the block is one that stays near the cache.
//
// With x in bfloat16 the products are in bfloat16, whatever the weight's dtype; rows are turned into
// their gradient in float32, and the weight's gradient is summed over the blocks in its own dtype.
struct LinearCrossEntropy : Function<LinearCrossEntropy> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, const Tensor& targets,
                        double cap, int64_t block_rows, bool need_dx, bool need_dw) {
    Tensor dx, dw;
    if (need_dx) dx = at::empty_like(x, at::MemoryFormat::Contiguous);
    if (need_dw) dw = at::empty_like(weight, at::MemoryFormat::Contiguous);
    Tensor sum = losses(x, weight, targets, cap, block_rows, dx, dw).sum();
    ctx->save_for_backward({dx, dw});
    return sum;
  }

  // The cross-entropy of each row, (N). The gradients of their sum are written where there is room for them.
  static Tensor losses(const Tensor& x_in, const Tensor& weight, const Tensor& targets_in, double cap,
                       int64_t block_rows, Tensor dx, Tensor dw) {
    const bool need_dx = dx.defined(), need_dw = dw.defined();
    Tensor x = x_in.contiguous(), targets = targets_in.contiguous(), w = weight.to(x.scalar_type());
    const int64_t n = x.size(0), v = w.size(0);
    TORCH_CHECK(targets.size(0) == n && targets.scalar_type() == at::kLong, "targets are int64, one a row");
    Tensor partial;
    const bool mixed = w.scalar_type() != weight.scalar_type();
    if (need_dw && mixed) partial = at::empty_like(w, at::MemoryFormat::Contiguous);
    Tensor losses = at::zeros({n}, x.options().dtype(wide(x)));
    Tensor buffer = at::empty({std::min(n, block_rows), v}, x.options());
    Tensor weight_t = w.t();
    for (int64_t start = 0; start < n; start += block_rows) {
      const int64_t rows = std::min(block_rows, n - start);
      Tensor xs = x.narrow(0, start, rows), z = buffer.narrow(0, 0, rows);
      product_into(z, xs, weight_t);
      rows_to_gradient(z, targets.narrow(0, start, rows), losses.narrow(0, start, rows), cap, need_dx || need_dw);
      if (need_dx) {
        Tensor dxs = dx.narrow(0, start, rows);
        product_into(dxs, z, w);
      }
      if (!need_dw) continue;
      if (mixed) product_into(partial, z.t(), xs);
      if (start == 0 && mixed) dw.copy_(partial);
      else if (start == 0) product_into(dw, z.t(), xs);
      else if (mixed) dw.add_(partial);
      else add_product(dw, z.t(), xs);
    }
    if (n == 0 && need_dw) dw.zero_();
    return losses;
  }

  static void rows_to_gradient(const Tensor& z, const Tensor& targets, const Tensor& losses, double cap, bool grad) {
    const int64_t rows = z.size(0), v = z.size(1);
    dispatch(z, [&](auto zero) {
      using F = decltype(zero);
      at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
        pick<F>().cross_entropy(write<F>(z), read<int64_t>(targets), write<Wide<F>>(losses), begin, end, v, cap, grad);
      });
    });
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    TORCH_CHECK(saved[0].defined() || saved[1].defined(), "the loss was computed without gradients");
    // The stored gradients are this node's own, so scaling them in place is safe once.
    TORCH_CHECK(!ctx->saved_data.count("spent"), "the loss can be differentiated once");
    ctx->saved_data["spent"] = true;
    at::NoGradGuard no_grad;
    for (Tensor& grad : saved)
      if (grad.defined()) grad.mul_(grads[0]);
    return {saved[0], saved[1], Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace etude

ETUDE_API const char* etude_linear_cross_entropy(at::Tensor* x, at::Tensor* weight, at::Tensor* targets, double cap,
                                                 int64_t block_rows, at::Tensor** out) {
  return etude::guarded([&] {
    // Asked here: inside `forward` gradients are always off. A frozen output layer has no gradient.
    const bool grad = at::GradMode::is_enabled();
    *out = new at::Tensor(etude::LinearCrossEntropy::apply(*x, *weight, *targets, cap, block_rows,
                                                           grad && x->requires_grad(), grad && weight->requires_grad()));
  });
}

// The summands of that sum, (N), without gradients.
ETUDE_API const char* etude_linear_cross_entropies(at::Tensor* x, at::Tensor* weight, at::Tensor* targets, double cap,
                                                   int64_t block_rows, at::Tensor** out) {
  return etude::guarded([&] {
    at::NoGradGuard no_grad;
    *out = new at::Tensor(etude::LinearCrossEntropy::losses(*x, *weight, *targets, cap, block_rows, {}, {}));
  });
}
