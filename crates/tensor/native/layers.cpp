// Layers with hand-written forward and backward passes on the CPU, where each would otherwise be
// several passes over memory: RMS norm, rotary positions with the weightless query-key norm, squared
// ReLU, GELU (tanh form), SwiGLU. Rust takes the composed form on other devices and dtypes.
#include "function.h"

namespace etude {

// Partial sums for a weight's gradient are kept in this many blocks whatever the number of threads,
// so that the result does not depend on it.
constexpr int64_t kBlocks = 16;

struct RmsNorm : Function<RmsNorm> {
  static Tensor forward(AutogradContext* ctx, const Tensor& input, const std::optional<Tensor>& weight, double eps) {
    Tensor x = input.contiguous();
    const int64_t d = x.size(-1), n = x.numel() / d;
    Tensor y = at::empty_like(x), rstd = at::empty({n}, x.options().dtype(wide(x)));
    Tensor w = weight ? weight->contiguous() : Tensor();
    dispatch(x, [&](auto zero) {
      using F = decltype(zero);
      const Wide<F>* wp = w.defined() ? read<Wide<F>>(w) : nullptr;
      at::parallel_for(0, n, grain(d), [&](int64_t begin, int64_t end) {
        pick<F>().rms_norm(read<F>(x), wp, write<F>(y), write<Wide<F>>(rstd), begin, end, d, eps);
      });
    });
    ctx->save_for_backward({x, w, rstd});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    Tensor x = saved[0], w = saved[1], rstd = saved[2], dy = grads[0].contiguous();
    const int64_t d = x.size(-1), n = x.numel() / d;
    Tensor dx = at::empty_like(x), partial;
    const bool weighted = w.defined();
    if (weighted) partial = at::zeros({kBlocks, d}, w.options());
    dispatch(x, [&](auto zero) {
      using F = decltype(zero);
      const int64_t rows = (n + kBlocks - 1) / kBlocks;
      at::parallel_for(0, kBlocks, 1, [&](int64_t first, int64_t last) {
        for (int64_t block = first; block < last; ++block) {
          Wide<F>* dw = weighted ? write<Wide<F>>(partial) + block * d : nullptr;
          pick<F>().rms_norm_backward(read<F>(dy), read<F>(x), weighted ? read<Wide<F>>(w) : nullptr,
                                      read<Wide<F>>(rstd), write<F>(dx), dw, std::min(n, block * rows),
                                      std::min(n, (block + 1) * rows), d);
        }
      });
    });
    return {dx, weighted ? partial.sum(0) : Tensor(), Tensor()};
  }
};

// x: (B, T, H, D) whose last two dimensions are dense; rows are b * T + t. cos and sin: (P, D/2) with
// P = T (shared by the rows of the batch) or B * T. Returns (B, T, H, D).
struct Rope : Function<Rope> {
  static int64_t row_stride(const Tensor& x) { return x.stride(1); }
  static Tensor dense(const Tensor& x) {
    bool ok = x.stride(3) == 1 && x.stride(2) == x.size(3) && x.stride(0) == x.stride(1) * x.size(1);
    return ok ? x : x.contiguous();
  }

  static Tensor forward(AutogradContext* ctx, const Tensor& input, const Tensor& cos, const Tensor& sin,
                        double sign, double norm_eps) {
    Tensor x = dense(input);
    const int64_t rows = x.size(0) * x.size(1), h = x.size(2), d = x.size(3);
    TORCH_CHECK(d % 2 == 0, "rotary positions need an even head width");
    TORCH_CHECK(cos.size(0) == x.size(1) || cos.size(0) == rows, "cos has a row for each position");
    TORCH_CHECK(cos.is_contiguous() && sin.is_contiguous() && cos.scalar_type() == wide(x), "cos and sin in the dtype that x is computed in");
    const bool norm = norm_eps >= 0;
    Tensor y = at::empty({x.size(0), x.size(1), h, d}, x.options());
    Tensor rstd = norm ? at::empty({rows, h}, x.options().dtype(wide(x))) : Tensor();
    dispatch(x, [&](auto zero) {
      using F = decltype(zero);
      at::parallel_for(0, rows, grain(h * d), [&](int64_t begin, int64_t end) {
        pick<F>().rope(read<F>(x), row_stride(x), read<Wide<F>>(cos), read<Wide<F>>(sin),
                       write<F>(y), norm ? write<Wide<F>>(rstd) : nullptr, begin, end, h, d, cos.size(0), sign, norm_eps);
      });
    });
    ctx->save_for_backward({norm ? x : Tensor(), cos, sin, rstd});
    ctx->saved_data["sign"] = sign;
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    Tensor x = saved[0], cos = saved[1], sin = saved[2], rstd = saved[3], dy = dense(grads[0]);
    const double sign = ctx->saved_data["sign"].toDouble();
    const int64_t rows = dy.size(0) * dy.size(1), h = dy.size(2), d = dy.size(3);
    const bool norm = x.defined();
    Tensor dx = at::empty({dy.size(0), dy.size(1), h, d}, dy.options());
    dispatch(dy, [&](auto zero) {
      using F = decltype(zero);
      at::parallel_for(0, rows, grain(h * d), [&](int64_t begin, int64_t end) {
        pick<F>().rope_backward(read<F>(dy), row_stride(dy), norm ? read<F>(x) : nullptr,
                                norm ? row_stride(x) : 0, read<Wide<F>>(cos), read<Wide<F>>(sin),
                                norm ? read<Wide<F>>(rstd) : nullptr, write<F>(dx), begin, end, h, d, cos.size(0), sign);
      });
    });
    return {dx, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

struct ReluSquared : Function<ReluSquared> {
  static Tensor forward(AutogradContext* ctx, const Tensor& input) {
    Tensor x = input.contiguous(), y = at::empty_like(x);
    dispatch(x, [&](auto zero) {
      using F = decltype(zero);
      at::parallel_for(0, x.numel(), 32768, [&](int64_t begin, int64_t end) {
        pick<F>().relu_squared(read<F>(x), write<F>(y), begin, end);
      });
    });
    // The result is kept, not the input: the next layer keeps it anyway, and sqrt gives the ReLU back.
    ctx->save_for_backward({y});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    Tensor y = ctx->get_saved_variables()[0], dy = grads[0].contiguous(), dx = at::empty_like(y);
    dispatch(y, [&](auto zero) {
      using F = decltype(zero);
      at::parallel_for(0, y.numel(), 32768, [&](int64_t begin, int64_t end) {
        pick<F>().relu_squared_backward(read<F>(dy), read<F>(y), write<F>(dx), begin, end);
      });
    });
    return {dx};
  }
};

struct Gelu : Function<Gelu> {
  static Tensor forward(AutogradContext* ctx, const Tensor& input) {
    Tensor x = input.contiguous(), y = at::empty_like(x);
    dispatch(x, [&](auto zero) {
      using F = decltype(zero);
      at::parallel_for(0, x.numel(), 8192, [&](int64_t begin, int64_t end) {
        pick<F>().gelu(read<F>(x), write<F>(y), begin, end);
      });
    });
    ctx->save_for_backward({x});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    Tensor x = ctx->get_saved_variables()[0], dy = grads[0].contiguous(), dx = at::empty_like(x);
    dispatch(x, [&](auto zero) {
      using F = decltype(zero);
      at::parallel_for(0, x.numel(), 8192, [&](int64_t begin, int64_t end) {
        pick<F>().gelu_backward(read<F>(dy), read<F>(x), write<F>(dx), begin, end);
      });
    });
    return {dx};
  }
};

// x: (…, 2D) with the gate in the first half. Returns (…, D).
struct SwiGlu : Function<SwiGlu> {
  static Tensor forward(AutogradContext* ctx, const Tensor& input) {
    Tensor x = input.contiguous();
    const int64_t d = x.size(-1) / 2, n = x.numel() / (2 * d);
    std::vector<int64_t> shape = x.sizes().vec();
    shape.back() = d;
    Tensor y = at::empty(shape, x.options());
    dispatch(x, [&](auto zero) {
      using F = decltype(zero);
      at::parallel_for(0, n, grain(2 * d), [&](int64_t begin, int64_t end) {
        pick<F>().swiglu(read<F>(x), write<F>(y), begin, end, d);
      });
    });
    ctx->save_for_backward({x});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    Tensor x = ctx->get_saved_variables()[0], dy = grads[0].contiguous(), dx = at::empty_like(x);
    const int64_t d = x.size(-1) / 2, n = x.numel() / (2 * d);
    dispatch(x, [&](auto zero) {
      using F = decltype(zero);
      at::parallel_for(0, n, grain(2 * d), [&](int64_t begin, int64_t end) {
        pick<F>().swiglu_backward(read<F>(dy), read<F>(x), write<F>(dx), begin, end, d);
      });
    });
    return {dx};
  }
};

}  // namespace etude

using etude::apply;
using etude::guarded;

ETUDE_API const char* etude_rms_norm(at::Tensor* x, at::Tensor* weight, double eps, at::Tensor** out) {
  return guarded([&] { *out = apply<etude::RmsNorm>(*x, etude::optional(weight), eps); });
}
ETUDE_API const char* etude_rope(at::Tensor* x, at::Tensor* cos, at::Tensor* sin, double sign, double norm_eps, at::Tensor** out) {
  return guarded([&] { *out = apply<etude::Rope>(*x, *cos, *sin, sign, norm_eps); });
}
ETUDE_API const char* etude_relu_squared(at::Tensor* x, at::Tensor** out) {
  return guarded([&] { *out = apply<etude::ReluSquared>(*x); });
}
ETUDE_API const char* etude_gelu(at::Tensor* x, at::Tensor** out) {
  return guarded([&] { *out = apply<etude::Gelu>(*x); });
}
ETUDE_API const char* etude_swiglu(at::Tensor* x, at::Tensor** out) {
  return guarded([&] { *out = apply<etude::SwiGlu>(*x); });
}
