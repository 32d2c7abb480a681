// What making text token by token needs on the CPU, with nothing kept for a way back: a linear layer for a few rows,
// the attention of one position, and what comes before it. libtorch's general forms are two to three times slower there.
#include <atomic>
#include <cmath>
#include <cstring>

#include "shim.h"

namespace etude {

using at::Tensor;

// Hands out [0, total) in pieces of `step`. Each thread goes through a part of its own, a long run that the processor
// reads ahead, and then helps with the others': on a shared machine equal parts do not take equal time.
template <typename Body>
static void in_pieces(int64_t total, int64_t step, Body body) {
  struct alignas(64) Part {
    std::atomic<int64_t> next;
    int64_t end;
  };
  const int64_t pieces = (total + step - 1) / step, threads = std::min<int64_t>(at::get_num_threads(), pieces);
  std::vector<Part> parts(threads);
  for (int64_t i = 0; i < threads; ++i) {
    parts[i].next = i * pieces / threads * step;
    parts[i].end = std::min(total, (i + 1) * pieces / threads * step);
  }
  at::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      for (int64_t other = 0; other < threads; ++other) {
        Part& part = parts[(i + other) % threads];
        for (int64_t begin = part.next.fetch_add(step); begin < part.end; begin = part.next.fetch_add(step)) {
          body(begin, std::min(part.end, begin + step));
        }
      }
    }
  });
}

// What is done with a row before it is multiplied: native.rs has the same numbers.
enum Before { kNothing, kRmsNorm, kSwiGlu };

static Tensor prepared(const Tensor& x, Before before, const std::optional<Tensor>& norm_weight, double eps, int64_t d) {
  if (before == kNothing) return x;
  const int64_t rows = x.numel() / x.size(-1);
  Tensor y = at::empty({rows, d}, x.options());
  dispatch(x, [&](auto zero) {
    using F = decltype(zero);
    const F* from = read<F>(x);
    const Wide<F>* by = norm_weight ? read<Wide<F>>(*norm_weight) : nullptr;
    F* to = write<F>(y);
    std::vector<Wide<F>> rstd(rows);
    at::parallel_for(0, rows, grain(d), [&](int64_t begin, int64_t end) {
      if (before == kSwiGlu) pick<F>().swiglu(from, to, begin, end, d);
      else pick<F>().rms_norm(from, by, to, rstd.data(), begin, end, d, eps);
    });
  });
  return y;
}

// What comes of x (…, I), or (…, 2 I) where a gate is before it, by weight (O, I), which may be in bfloat16 where x is
// in float32; bias (O) or none, and added to `added` (…, O) where there is one.
static Tensor linear_rows(const Tensor& input, Before before, const std::optional<Tensor>& norm_weight, double eps, const Tensor& weight,
                          const std::optional<Tensor>& bias, const std::optional<Tensor>& added_in) {
  const int64_t d = weight.size(1), outputs = weight.size(0);
  const bool narrow = input.scalar_type() == at::kFloat && weight.scalar_type() == at::kBFloat16;
  const auto vector = [&](const Tensor& x, int64_t numbers) { return x.numel() == numbers && x.is_contiguous() && x.scalar_type() == input.scalar_type(); };
  TORCH_CHECK(weight.dim() == 2 && d > 0 && outputs > 0 && input.size(-1) == (before == kSwiGlu ? 2 * d : d) && (narrow || input.scalar_type() == weight.scalar_type()) && weight.is_contiguous() &&
                  (!bias || vector(*bias, outputs)) && (!norm_weight || vector(*norm_weight, d)),
              "x (…, I) and weight (O, I), dense and of one dtype, or float32 and bfloat16");
  std::vector<int64_t> shape = input.sizes().vec();
  shape.back() = outputs;
  Tensor y = at::empty(shape, input.options());
  const int64_t rows = y.numel() / outputs;
  const Tensor x = prepared(input.contiguous(), before, norm_weight, eps, d), added = added_in ? added_in->contiguous() : Tensor();
  TORCH_CHECK(!added_in || vector(added, y.numel()), "what is added to is (…, O), of x's dtype");
  // Rows of the weight in fours, a multiple of what the kernel takes, 64 KB or more a piece.
  const int64_t step = std::max<int64_t>(grain(d) / 2, 4) / 4 * 4;
  dispatch(x, [&](auto zero) {
    using F = decltype(zero);
    const F *from = read<F>(x), *b = bias ? read<F>(*bias) : nullptr, *to = added.defined() ? read<F>(added) : nullptr;
    const F* wide_weight = narrow ? nullptr : read<F>(weight);
    const Bf16* narrow_weight = narrow ? read<Bf16>(weight) : nullptr;
    F* out = write<F>(y);
    in_pieces(outputs, step, [&](int64_t begin, int64_t end) {
      if (narrow) {
        pick<F>().linear_rows_bf16(from, rows, narrow_weight, b, out, outputs, begin, end, d);
      } else {
        pick<F>().linear_rows(from, rows, wide_weight, b, out, outputs, begin, end, d);
      }
      if (!to) return;
      for (int64_t i = 0; i < rows * outputs; i += outputs) {
        for (int64_t o = begin; o < end; ++o) out[i + o] = F(to[i + o] + out[i + o]);
      }
    });
  });
  return y;
}

// What is seen of S positions, for each of B rows or for all alike; undefined when everything is.
static Tensor dense_mask(const std::optional<Tensor>& mask, int64_t b, int64_t s) {
  if (!mask) return Tensor();
  const Tensor seen = mask->contiguous();
  TORCH_CHECK(seen.scalar_type() == at::kBool && (seen.numel() == s || seen.numel() == b * s), "seen (B, 1, 1, S) or (1, S) booleans");
  return seen;
}

// h queries of D numbers in each row, the rows `stride` numbers apart, over k and v (B, G, S, D), see `attend_one`; y as
// the queries, dense.
template <typename F>
static void attend_rows(const F* q, int64_t stride, const Tensor& k, const Tensor& v, const Tensor& seen, F* y, int64_t h) {
  const int64_t b = k.size(0), g = k.size(1), s = k.size(2), d = k.size(3), shared = h / g;
  const int64_t seen_stride = seen.defined() && seen.numel() == b * s ? s : 0;
  const Wide<F> scale = 1 / std::sqrt(Wide<F>(d));
  at::parallel_for(0, b * g, grain(2 * shared * s * d), [&](int64_t begin, int64_t end) {
    std::vector<Wide<F>> scores(shared * s);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / g, head = i % g, first = head * shared * d;
      pick<F>().attend(q + row * stride + first, shared, read<F>(k) + row * k.stride(0) + head * k.stride(1),
                       read<F>(v) + row * v.stride(0) + head * v.stride(1),
                       seen.defined() ? seen.const_data_ptr<bool>() + row * seen_stride : nullptr, s, y + row * h * d + first, d,
                       scale, scores.data());
    }
  });
}

// q (B, H, 1, D), k and v (B, G, S, D) with G dividing H, their rows dense, heads any distance apart; seen (B, 1, 1, S)
// or (1, S) booleans, or none when all of the S are. Returns (B, H, 1, D).
static Tensor attend_one(const Tensor& query, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask) {
  const Tensor q = query.contiguous();
  const int64_t b = q.size(0), h = q.size(1), d = q.size(3), g = k.size(1), s = k.size(2);
  TORCH_CHECK(q.size(2) == 1 && g > 0 && h % g == 0 && k.size(0) == b && k.sizes() == v.sizes() && k.size(3) == d, "q (B, H, 1, D), k and v (B, G, S, D)");
  for (const Tensor& t : {k, v}) {
    TORCH_CHECK(t.stride(3) == 1 && t.stride(2) == d && t.scalar_type() == q.scalar_type(), "rows of keys and values are dense, of q's dtype");
  }
  const Tensor seen = dense_mask(mask, b, s);
  Tensor y = at::empty({b, h, 1, d}, q.options());
  dispatch(q, [&](auto zero) { attend_rows(read<decltype(zero)>(q), h * d, k, v, seen, write<decltype(zero)>(y), h); });
  return y;
}

// The newest position of each row, all that a layer does with it between its first product and its second: qk
// (B, 1, (H + G) D) and v (B, 1, G D), rows dense and any distance apart; queries and keys are turned as in `rope`
// where there are angles, keys and values (B, G, capacity, D) keep the new ones at `place`, and the queries attend to
// all up to there; seen as in `attend_one`. Returns (B, 1, H D).
static Tensor attend_newest(const Tensor& qk, const Tensor& v, const std::optional<Tensor>& cos, const std::optional<Tensor>& sin, double sign,
                            double norm_eps, const Tensor& keys, const Tensor& values, int64_t place, const std::optional<Tensor>& mask) {
  TORCH_CHECK(keys.dim() == 4 && keys.is_contiguous() && values.is_contiguous() && keys.sizes() == values.sizes() && place >= 0 && place < keys.size(2),
              "keys and values (B, G, capacity, D), dense, with room for one more");
  const int64_t b = keys.size(0), g = keys.size(1), d = keys.size(3), heads = qk.size(-1) / d, h = heads - g;
  for (const Tensor& t : {qk, v}) {
    TORCH_CHECK(t.dim() == 3 && t.size(0) == b && t.size(1) == 1 && t.stride(2) == 1 && t.scalar_type() == keys.scalar_type() && values.scalar_type() == keys.scalar_type(),
                "one new position, its numbers dense, of the cache's dtype");
  }
  TORCH_CHECK(qk.size(2) == heads * d && v.size(2) == g * d && h > 0 && h % g == 0, "qk (B, 1, (H + G) D) and v (B, 1, G D)");
  TORCH_CHECK(cos.has_value() == sin.has_value() && (cos || norm_eps < 0), "no norm without angles");
  if (cos) {
    for (const Tensor& t : {*cos, *sin}) {
      TORCH_CHECK(t.dim() == 2 && t.is_contiguous() && 2 * t.size(1) == d && (t.size(0) == 1 || t.size(0) == b) && t.scalar_type() == wide(qk),
                  "angles (1, D / 2) or (B, D / 2), dense, in the dtype that is computed in");
    }
  }
  const int64_t s = place + 1;
  const Tensor seen = dense_mask(mask, b, s);
  const Tensor turned = at::empty({b, heads, d}, qk.options()), rstd = norm_eps >= 0 ? at::empty({b, heads}, qk.options().dtype(wide(qk))) : Tensor();
  Tensor y = at::empty({b, 1, h * d}, qk.options());
  dispatch(qk, [&](auto zero) {
    using F = decltype(zero);
    F* all = write<F>(turned);
    if (cos) {
      pick<F>().rope(read<F>(qk), qk.stride(0), read<Wide<F>>(*cos), read<Wide<F>>(*sin), all, rstd.defined() ? write<Wide<F>>(rstd) : nullptr, 0, b, heads, d,
                     cos->size(0), sign, norm_eps);
    }
    for (int64_t row = 0; row < b; ++row) {
      F* mine = all + row * heads * d;
      if (!cos) std::memcpy(mine, read<F>(qk) + row * qk.stride(0), heads * d * sizeof(F));
      for (int64_t head = 0; head < g; ++head) {
        const int64_t to = row * keys.stride(0) + head * keys.stride(1) + place * d;
        std::memcpy(write<F>(keys) + to, mine + (h + head) * d, d * sizeof(F));
        std::memcpy(write<F>(values) + to, read<F>(v) + row * v.stride(0) + head * d, d * sizeof(F));
      }
    }
    attend_rows<F>(all, heads * d, keys.narrow(2, 0, s), values.narrow(2, 0, s), seen, write<F>(y), h);
  });
  return y;
}

}  // namespace etude

using etude::guarded;

ETUDE_API const char* etude_linear_rows(at::Tensor* x, int before, at::Tensor* norm_weight, double eps, at::Tensor* weight, at::Tensor* bias,
                                        at::Tensor* added, at::Tensor** out) {
  return guarded([&] {
    using etude::optional;
    *out = new at::Tensor(
        etude::linear_rows(*x, static_cast<etude::Before>(before), optional(norm_weight), eps, *weight, optional(bias), optional(added)));
  });
}
ETUDE_API const char* etude_attend_newest(at::Tensor* qk, at::Tensor* v, at::Tensor* cos, at::Tensor* sin, double sign, double norm_eps, at::Tensor* keys,
                                          at::Tensor* values, int64_t place, at::Tensor* seen, at::Tensor** out) {
  return guarded([&] {
    using etude::optional;
    *out = new at::Tensor(etude::attend_newest(*qk, *v, optional(cos), optional(sin), sign, norm_eps, *keys, *values, place, optional(seen)));
  });
}
ETUDE_API const char* etude_attend_one(at::Tensor* q, at::Tensor* k, at::Tensor* v, at::Tensor* seen, at::Tensor** out) {
  return guarded([&] { *out = new at::Tensor(etude::attend_one(*q, *k, *v, etude::optional(seen))); });
}
