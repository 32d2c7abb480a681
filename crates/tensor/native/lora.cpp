// A frozen linear layer with low-rank updates of its parts, forward and backward by hand: one product
// for all the parts' A, each part's B added to its own columns of the output in place, no gradient for
// the frozen weight, and no copy of a weight that is kept in another dtype than the one computed in.
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/custom_function.h>

#include "shim.h"

namespace etude {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// x: (…, I), weight: (O, I), bias: (O) or none, a: (R, I) with the parts' A stacked, b[i]: (O_i, R_i),
// starts[i]: the part's first output, scales[i]: what its product is multiplied with. Everything is computed
// in x's dtype. With dropout each part sees its own draw of x, as if it were a layer by itself; what is
// kept for the way back is then one byte a number. Returns (…, O).
struct LowRankLinear : Function<LowRankLinear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                        const std::optional<Tensor>& a_in, at::TensorList b_in, std::vector<int64_t> starts,
                        std::vector<double> scales, double dropout) {
    // Dtypes are settled here, also where autocast is on.
    c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const auto dtype = input.scalar_type();
    Tensor x = input.reshape({-1, input.size(-1)});
    Tensor w = weight.to(dtype).t();
    Tensor y = bias ? at::addmm(bias->to(dtype), x, w) : at::mm(x, w);
    Tensor u;
    variable_list masks;
    if (a_in) {
      Tensor a = a_in->to(dtype);
      if (dropout > 0) {
        u = at::empty({x.size(0), a.size(0)}, x.options());
        each(b_in, [&](size_t i, int64_t first, int64_t rank) {
          masks.push_back(at::empty(x.sizes(), x.options().dtype(at::kBool)).bernoulli_(1 - dropout));
          Tensor ui = u.narrow(1, first, rank);
          at::mm_out(ui, dropped(x, masks[i], dropout), a.narrow(0, first, rank).t());
        });
      } else {
        u = at::mm(x, a.t());
      }
      each(b_in, [&](size_t i, int64_t first, int64_t rank) {
        Tensor b = b_in[i].to(dtype);
        y.narrow(1, starts[i], b.size(0)).addmm_(u.narrow(1, first, rank), b.t(), 1, scales[i]);
      });
    }
    variable_list saved = {weight};
    if (a_in) {
      saved.insert(saved.end(), {x, u, *a_in});
      saved.insert(saved.end(), b_in.begin(), b_in.end());
      saved.insert(saved.end(), masks.begin(), masks.end());
    }
    ctx->save_for_backward(saved);
    ctx->saved_data["starts"] = std::move(starts);
    ctx->saved_data["scales"] = std::move(scales);
    ctx->saved_data["dropout"] = dropout;
    ctx->saved_data["bias"] = bias.has_value();
    std::vector<int64_t> shape = input.sizes().vec();
    shape.back() = weight.size(0);
    return y.view(shape);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    variable_list saved = ctx->get_saved_variables();
    const std::vector<int64_t> starts = ctx->saved_data["starts"].toIntVector();
    const std::vector<double> scales = ctx->saved_data["scales"].toDoubleVector();
    const double dropout = ctx->saved_data["dropout"].toDouble();
    const size_t parts = starts.size();
    const Tensor weight = saved[0];
    std::vector<int64_t> shape = grads[0].sizes().vec();
    Tensor dy = grads[0].reshape({-1, grads[0].size(-1)});
    const bool need_dx = ctx->needs_input_grad(0);
    Tensor dx, da;
    variable_list db(parts);
    if (need_dx) dx = at::mm(dy, weight.to(dy.scalar_type()));
    if (parts > 0) {
      const Tensor x = saved[1], u = saved[2], a_own = saved[3], a = a_own.to(dy.scalar_type());
      const variable_list b_own(saved.begin() + 4, saved.begin() + 4 + parts);
      // With a few columns on the right a product is several times slower than with a few rows on the left.
      Tensor du = at::empty({u.size(1), u.size(0)}, u.options());  // (R, rows of x)
      if (dropout > 0) da = at::empty_like(a);
      each(b_own, [&](size_t i, int64_t first, int64_t rank) {
        const Tensor dys = dy.narrow(1, starts[i], b_own[i].size(0)), b = b_own[i].to(dy.scalar_type());
        Tensor dui = du.narrow(0, first, rank);
        at::mm_out(dui, b.t(), dys.t());
        dui.mul_(scales[i]);
        const Tensor dbi = at::mm(u.narrow(1, first, rank).t(), dys).mul_(scales[i]);
        db[i] = dbi.t().to(b_own[i].scalar_type()).contiguous();
        if (dropout > 0) {
          const Tensor mask = saved[4 + parts + i];
          Tensor dai = da.narrow(0, first, rank);
          at::mm_out(dai, dui, dropped(x, mask, dropout));
          if (need_dx) dx.add_(dropped(at::mm(dui.t(), a.narrow(0, first, rank)), mask, dropout));
        }
      });
      if (dropout == 0) {
        da = at::mm(du, x);
        if (need_dx) dx.addmm_(du.t(), a);
      }
      da = da.to(a_own.scalar_type());
    }
    if (need_dx) {
      shape.back() = weight.size(1);
      dx = dx.view(shape);
    }
    // One for each argument of `forward`, the list of tensors counting as many as it holds.
    variable_list out = {dx, Tensor(), Tensor(), da};
    out.insert(out.end(), db.begin(), db.end());
    out.resize(out.size() + 3);
    return out;
  }

 private:
  // Each part's number, the first of its rows of A, and its rank.
  template <typename Body>
  static void each(at::TensorList b, Body body) {
    int64_t first = 0;
    for (size_t i = 0; i < b.size(); ++i) {
      body(i, first, b[i].size(1));
      first += b[i].size(1);
    }
  }

  static Tensor dropped(const Tensor& x, const Tensor& mask, double dropout) {
    return at::mul(x, mask).mul_(1 / (1 - dropout));
  }
};

}  // namespace etude

ETUDE_API const char* etude_low_rank_linear(at::Tensor* x, at::Tensor* weight, at::Tensor* bias, at::Tensor* a,
                                            at::Tensor* const* b, const int64_t* starts, const double* scales, int64_t parts,
                                            double dropout, at::Tensor** out) {
  return etude::guarded([&] {
    auto optional = [](at::Tensor* tensor) { return tensor ? std::optional<at::Tensor>(*tensor) : std::nullopt; };
    // Nothing is dropped where nothing is learnt.
    const double p = at::GradMode::is_enabled() ? dropout : 0.0;
    const std::vector<at::Tensor> parts_b = etude::gather(b, parts);
    *out = new at::Tensor(etude::LowRankLinear::apply(*x, *weight, optional(bias), optional(a), at::TensorList(parts_b),
                                                      std::vector<int64_t>(starts, starts + parts),
                                                      std::vector<double>(scales, scales + parts), p));
  });
}
ETUDE_API const char* etude_records_gradients(int* out) {
  return etude::guarded([&] { *out = at::GradMode::is_enabled(); });
}
