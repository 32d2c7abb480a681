// A linear layer whose weight is learnt, forward and backward by the products of `product.h`.
#include "function.h"
#include "product.h"

namespace etude {

// x: (…, I), weight: (O, I), bias: (O) or none, of one dtype. Returns (…, O).
struct Linear : Function<Linear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias) {
    const Tensor x = input.reshape({-1, input.size(-1)});
    std::vector<int64_t> shape = input.sizes().vec();
    shape.back() = weight.size(0);
    // What is frozen has no use for its input.
    ctx->save_for_backward({weight.requires_grad() ? x : Tensor(), weight});
    ctx->saved_data["bias"] = bias.has_value();
    return affine(x, weight, bias).view(shape);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "a linear layer can be differentiated once");
    const variable_list saved = ctx->get_saved_variables();
    const Tensor x = saved[0], weight = saved[1], dy = grads[0].reshape({-1, grads[0].size(-1)});
    std::vector<int64_t> shape = grads[0].sizes().vec();
    shape.back() = weight.size(1);
    // Inputs are counted without a bias that is not there.
    const auto wanted = [&](size_t input) { return ctx->needs_input_grad(input); };
    return {wanted(0) ? product(dy, weight).view(shape) : Tensor(), wanted(1) ? product(dy.t(), x) : Tensor(),
            ctx->saved_data["bias"].toBool() && wanted(2) ? dy.sum(0) : Tensor()};
  }
};

}  // namespace etude

ETUDE_API const char* etude_linear(at::Tensor* x, at::Tensor* weight, at::Tensor* bias, at::Tensor** out) {
  return etude::guarded([&] { *out = etude::apply<etude::Linear>(*x, *weight, etude::optional(bias)); });
}
