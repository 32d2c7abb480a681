// What a training step needs beyond the generated API: the fused AdamW of libtorch over all
// parameters at once, the global gradient norm without waiting for the device, and gradients that
// are dropped instead of filled with zeros.
#include <ATen/autocast_mode.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>

#include "shim.h"

using etude::gather;
using etude::guarded;

// One AdamW step. `steps` is one float tensor shared by all parameters, holding the number of this
// step (1 for the first). `grad_scale` divides each gradient and may be null; where `found_inf` (may be
// null) holds 1, nothing changes. Neither is read by the host.
ETUDE_API const char* etude_adamw(at::Tensor* const* params, at::Tensor* const* grads,
                                  at::Tensor* const* exp_avg, at::Tensor* const* exp_avg_sq, int64_t n,
                                  at::Tensor* step, double lr, double beta1, double beta2,
                                  double weight_decay, double eps, at::Tensor* grad_scale,
                                  at::Tensor* found_inf) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    if (n == 0) return;
    std::vector<at::Tensor> p = gather(params, n), g = gather(grads, n);
    std::vector<at::Tensor> m = gather(exp_avg, n), v = gather(exp_avg_sq, n);
    std::vector<at::Tensor> steps(n, *step);
    std::optional<at::Tensor> scale, inf;
    if (grad_scale) scale = *grad_scale;
    if (found_inf) inf = *found_inf;
    at::_fused_adamw_(p, g, m, v, {}, steps, lr, beta1, beta2, weight_decay, eps, false, false, scale, inf);
  });
}

// The global L2 norm of the gradients, a scalar tensor on their device.
ETUDE_API const char* etude_grad_norm(at::Tensor* const* grads, int64_t n, at::Tensor** out) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> g = gather(grads, n);
    std::vector<at::Tensor> norms = at::_foreach_norm(g, 2);
    *out = new at::Tensor(at::stack(norms).norm(2));
  });
}

// Drops the gradients: the next backward pass stores its own instead of adding to zeros.
ETUDE_API const char* etude_drop_grads(at::Tensor* const* params, int64_t n) {
  return guarded([&] {
    for (int64_t i = 0; i < n; ++i) params[i]->mutable_grad() = at::Tensor();
  });
}

// bf16 autocast of this thread, on the CPU or on CUDA. Leaving it clears the cast weights.
ETUDE_API const char* etude_autocast(int cuda, int enabled) {
  return guarded([&] {
    const at::DeviceType device = cuda ? at::kCUDA : at::kCPU;
    if (enabled) {
      at::autocast::set_autocast_dtype(device, at::kBFloat16);
      at::autocast::increment_nesting();
    } else if (at::autocast::decrement_nesting() == 0) {
      at::autocast::clear_cache();
    }
    at::autocast::set_autocast_enabled(device, enabled != 0);
  });
}

// Turns autocast of this thread off or on again where it was entered; gives back whether it was on.
ETUDE_API int etude_switch_autocast(int cuda, int enabled) {
  const at::DeviceType device = cuda ? at::kCUDA : at::kCPU;
  const bool before = at::autocast::is_autocast_enabled(device);
  at::autocast::set_autocast_enabled(device, enabled != 0);
  return before ? 1 : 0;
}

// Whether products of this thread on the CPU are cast to bf16.
ETUDE_API int etude_autocasts_cpu() { return at::autocast::is_autocast_enabled(at::kCPU) ? 1 : 0; }

ETUDE_API void etude_free_message(const char* message) { free(const_cast<char*>(message)); }
