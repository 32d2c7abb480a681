// A frozen linear layer with low-rank updates of its parts, forward and backward by hand: one product
// for all the parts' A, each part's B added to its own columns of the output in place, no gradient for
// the frozen weight, and no copy of a weight that is kept in another dtype than the one computed in.
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include "function.h"
#include "product.h"

namespace etude {

// SplitMix64's next number (Steele, Lea and Flood 2014), and what it adds to its state for each.
constexpr uint64_t kStep = 0x9e3779b97f4a7c15;
inline uint64_t splitmix(uint64_t state) {
  uint64_t z = state + kStep;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

// Dropout that is a function of the seed, the layer, the part, the place and the column, and of nothing else: not of
// how many rows go through the model at a time, how they are padded or packed, or by how many threads. So nothing is
// kept for the way back but the places. lora.rs has the same in composed form.
struct Dropout {
  double share;
  uint64_t seed, layer;

  // x: (N, I), places: (N) int64, or none: then a row's place is its number. Returns x without what is dropped.
  Tensor operator()(const Tensor& x_in, const Tensor& places, size_t part) const {
    const Tensor x = x_in.contiguous();
    Tensor y = at::empty_like(x);
    const int64_t n = x.size(0), d = x.size(1);
    const int64_t* place = places.defined() ? read<int64_t>(places) : nullptr;
    const uint64_t layer_key = splitmix(splitmix(seed) ^ (layer << 8 | part));
    const auto least = static_cast<uint32_t>(share * 4294967296.0);
    dispatch(x, [&](auto zero) {
      using F = decltype(zero);
      const F* from = read<F>(x);
      F* to = write<F>(y);
      const auto scale = static_cast<Wide<F>>(1 / (1 - share));
      at::parallel_for(0, n, grain(d), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const F* xs = from + i * d;
          F* ys = to + i * d;
          // One number of 64 bits for each two columns.
          uint64_t state = splitmix(layer_key ^ static_cast<uint64_t>(place ? place[i] : i));
          for (int64_t j = 0; j < d; j += 2, state += kStep) {
            const uint64_t drawn = splitmix(state);
            ys[j] = static_cast<uint32_t>(drawn) >= least ? F(xs[j] * scale) : F(0);
            if (j + 1 < d) ys[j + 1] = static_cast<uint32_t>(drawn >> 32) >= least ? F(xs[j + 1] * scale) : F(0);
          }
        }
      });
    });
    return y;
  }
};

// x: (…, I), weight: (O, I), bias: (O) or none, a: (R, I) with the parts' A stacked, b[i]: (O_i, R_i),
// starts[i]: the part's first output, scales[i]: what its product is multiplied with. Everything is computed
// in x's dtype. With dropout each part sees its own draw of x, as if it were a layer by itself. places: as Dropout
// takes them. Returns (…, O).
struct LowRankLinear : Function<LowRankLinear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                        const std::optional<Tensor>& a_in, at::TensorList b_in, const std::optional<Tensor>& places_in,
                        std::vector<int64_t> starts, std::vector<double> scales, Dropout dropout) {
    // Dtypes are settled here, also where autocast is on.
    c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const auto dtype = input.scalar_type();
    Tensor x = input.reshape({-1, input.size(-1)});
    Tensor y = affine(x, weight.to(dtype), bias ? std::optional<Tensor>(bias->to(dtype)) : std::nullopt);
    Tensor u, places;
    if (a_in) {
      Tensor a = a_in->to(dtype);
      if (dropout.share > 0) {
        if (places_in) places = places_in->reshape({-1}).contiguous();
        TORCH_CHECK(!places.defined() || places.size(0) == x.size(0), "dropout takes one number a place");
        u = at::empty({x.size(0), a.size(0)}, x.options());
        each(b_in, [&](size_t i, int64_t first, int64_t rank) {
          Tensor ui = u.narrow(1, first, rank);
          at::mm_out(ui, dropout(x, places, i), a.narrow(0, first, rank).t());
        });
      } else {
        u = product(x, a.t());
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
      saved.push_back(places);
    }
    ctx->save_for_backward(saved);
    ctx->saved_data["starts"] = std::move(starts);
    ctx->saved_data["scales"] = std::move(scales);
    ctx->saved_data["dropout"] = dropout.share;
    ctx->saved_data["seed"] = static_cast<int64_t>(dropout.seed);
    ctx->saved_data["layer"] = static_cast<int64_t>(dropout.layer);
    ctx->saved_data["bias"] = bias.has_value();
    std::vector<int64_t> shape = input.sizes().vec();
    shape.back() = weight.size(0);
    return y.view(shape);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "a linear layer can be differentiated once");
    c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    variable_list saved = ctx->get_saved_variables();
    const std::vector<int64_t> starts = ctx->saved_data["starts"].toIntVector();
    const std::vector<double> scales = ctx->saved_data["scales"].toDoubleVector();
    const Dropout dropout{ctx->saved_data["dropout"].toDouble(), static_cast<uint64_t>(ctx->saved_data["seed"].toInt()),
                          static_cast<uint64_t>(ctx->saved_data["layer"].toInt())};
    const size_t parts = starts.size();
    const Tensor weight = saved[0];
    std::vector<int64_t> shape = grads[0].sizes().vec();
    Tensor dy = grads[0].reshape({-1, grads[0].size(-1)});
    const bool need_dx = ctx->needs_input_grad(0);
    Tensor dx, da;
    variable_list db(parts);
    if (need_dx) dx = product(dy, weight.to(dy.scalar_type()));
    if (parts > 0) {
      const Tensor x = saved[1], u = saved[2], a_own = saved[3], a = a_own.to(dy.scalar_type());
      const variable_list b_own(saved.begin() + 4, saved.begin() + 4 + parts);
      const Tensor places = saved[4 + parts];
      // With a few columns on the right a product is several times slower than with a few rows on the left.
      Tensor du = at::empty({u.size(1), u.size(0)}, u.options());  // (R, rows of x)
      if (dropout.share > 0) da = at::empty_like(a);
      each(b_own, [&](size_t i, int64_t first, int64_t rank) {
        const Tensor dys = dy.narrow(1, starts[i], b_own[i].size(0)), b = b_own[i].to(dy.scalar_type());
        Tensor dui = du.narrow(0, first, rank);
        at::mm_out(dui, b.t(), dys.t());
        dui.mul_(scales[i]);
        const Tensor dbi = at::mm(u.narrow(1, first, rank).t(), dys).mul_(scales[i]);
        db[i] = dbi.t().to(b_own[i].scalar_type()).contiguous();
        if (dropout.share > 0) {
          Tensor dai = da.narrow(0, first, rank);
          at::mm_out(dai, dui, dropout(x, places, i));
          if (need_dx) dx.add_(dropout(at::mm(dui.t(), a.narrow(0, first, rank)), places, i));
        }
      });
      if (dropout.share == 0) {
        da = product(du, x);
        if (need_dx) add_product(dx, du.t(), a);
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
    out.resize(out.size() + 4);
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
};

}  // namespace etude

ETUDE_API const char* etude_low_rank_linear(at::Tensor* x, at::Tensor* weight, at::Tensor* bias, at::Tensor* a,
                                            at::Tensor* const* b, const int64_t* starts, const double* scales, int64_t parts,
                                            double dropout, uint64_t seed, uint64_t layer, at::Tensor* places, at::Tensor** out) {
  return etude::guarded([&] {
    using etude::optional;
    // Nothing is dropped where nothing is learnt.
    const double share = at::GradMode::is_enabled() ? dropout : 0.0;
    const etude::Dropout draw{share, seed, layer};
    const std::vector<at::Tensor> parts_b = etude::gather(b, parts);
    *out = new at::Tensor(etude::LowRankLinear::apply(*x, *weight, optional(bias), optional(a), at::TensorList(parts_b),
                                                      optional(places), std::vector<int64_t>(starts, starts + parts),
                                                      std::vector<double>(scales, scales + parts), draw));
  });
}
ETUDE_API const char* etude_records_gradients(int* out) {
  return etude::guarded([&] { *out = at::GradMode::is_enabled(); });
}
