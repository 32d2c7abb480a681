// The output layer and the cross-entropy as one function that never holds all logits: a block of
// rows at a time, its logits are turned into their gradient in place and at once into the gradients of
// the input and of the weight. Memory is one block instead of three times N x V.
#include <torch/csrc/autograd/custom_function.h>

#include "shim.h"

namespace etude {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// x: (N, D), weight: (V, D), targets: (N) int64, negative where nothing is supervised. Returns the
// summed cross-entropy, a scalar. On the CPU the block is one that stays near the cache.
struct LinearCrossEntropy : Function<LinearCrossEntropy> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x_in, const Tensor& weight, const Tensor& targets_in,
                        double cap, int64_t block_rows, bool need_grad) {
    Tensor x = x_in.contiguous(), targets = targets_in.contiguous();
    const int64_t n = x.size(0), v = weight.size(0);
    TORCH_CHECK(targets.size(0) == n && targets.scalar_type() == at::kLong, "targets are int64, one a row");
    Tensor dx, dw;
    if (need_grad) {
      dx = at::empty_like(x);
      dw = at::empty_like(weight, at::MemoryFormat::Contiguous);
    }
    Tensor losses = at::zeros({n}, x.options());
    Tensor buffer = at::empty({std::min(n, block_rows), v}, x.options());
    Tensor weight_t = weight.t();
    for (int64_t start = 0; start < n; start += block_rows) {
      const int64_t rows = std::min(block_rows, n - start);
      Tensor xs = x.narrow(0, start, rows), z = buffer.narrow(0, 0, rows);
      at::mm_out(z, xs, weight_t);
      rows_to_gradient(z, targets.narrow(0, start, rows), losses.narrow(0, start, rows), cap, need_grad);
      if (need_grad) {
        Tensor dxs = dx.narrow(0, start, rows);
        at::mm_out(dxs, z, weight);
        if (start == 0) at::mm_out(dw, z.t(), xs);
        else dw.addmm_(z.t(), xs);
      }
    }
    if (n == 0 && need_grad) dw.zero_();
    ctx->save_for_backward({dx, dw});
    return losses.sum();
  }

  static void rows_to_gradient(const Tensor& z, const Tensor& targets, const Tensor& losses, double cap, bool grad) {
    const int64_t rows = z.size(0), v = z.size(1);
    auto run = [&](auto zero) {
      using F = decltype(zero);
      at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
        pick<F>().cross_entropy(z.mutable_data_ptr<F>(), targets.const_data_ptr<int64_t>(), losses.mutable_data_ptr<F>(),
                                begin, end, v, cap, grad);
      });
    };
    if (z.scalar_type() == at::kFloat) run(0.0f);
    else if (z.scalar_type() == at::kDouble) run(0.0);
    else TORCH_CHECK(false, "the CPU kernels take float32 and float64");
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    TORCH_CHECK(saved[0].defined(), "the loss was computed without gradients");
    // The stored gradients are this node's own, so scaling them in place is safe once.
    TORCH_CHECK(!ctx->saved_data.count("spent"), "the loss can be differentiated once");
    ctx->saved_data["spent"] = true;
    at::NoGradGuard no_grad;
    return {saved[0].mul_(grads[0]), saved[1].mul_(grads[0]), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace etude

ETUDE_API const char* etude_linear_cross_entropy(at::Tensor* x, at::Tensor* weight, at::Tensor* targets, double cap,
                                                 int64_t block_rows, at::Tensor** out) {
  return etude::guarded([&] {
    // Asked here: inside `forward` gradients are always off.
    const bool need_grad = at::GradMode::is_enabled() && (x->requires_grad() || weight->requires_grad());
    *out = new at::Tensor(etude::LinearCrossEntropy::apply(*x, *weight, *targets, cap, block_rows, need_grad));
  });
}
