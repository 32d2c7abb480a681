// Causal attention over many positions with a hand-written way back, on the CPU: the loops are in `attention.h`, here is
// what they go over. Bfloat16 is computed in float32: libtorch's attention in bfloat16 took longer than its own in float32
// (on an AMD processor with AVX512-BF16), and these loops less than half of that.
#include <cmath>

#include "function.h"

namespace etude {

// A run of positions that see each other: a row, or a document in it. `start` counts through all rows.
struct Run {
  int64_t start, length;
};

// The B * T positions of a (B, H, T, D) tensor one after the other: (H, B * T, D) by pointer and strides.
template <typename F>
struct Positions {
  F* at;
  int64_t head, row;
  F* of(int64_t h, int64_t position) const { return at + h * head + position * row; }
};
// How far positions lie apart. Where a row has one, its own stride says nothing.
static int64_t position_stride(const Tensor& x) { return x.stride(x.size(2) == 1 ? 0 : 2); }
template <typename F>
static Positions<const F> reading(const Tensor& x) { return {read<F>(x), x.stride(1), position_stride(x)}; }
template <typename F>
static Positions<F> writing(const Tensor& x) { return {write<F>(x), x.stride(1), position_stride(x)}; }

// As `Positions` wants it: numbers of a row dense, rows of the batch as far apart as T positions.
static Tensor laid_out(const Tensor& x) {
  const bool fits = x.stride(3) == 1 && (x.size(0) == 1 || x.stride(0) == x.size(2) * position_stride(x));
  return fits ? x : x.transpose(1, 2).contiguous().transpose(1, 2);
}
static Tensor in_wide(const Tensor& x) { return laid_out(x.to(wide(x))); }
// Positions first in memory, heads within them, as the layer's products want them: (B, H, T, D).
static Tensor like_layers(int64_t b, int64_t h, int64_t t, int64_t d, at::TensorOptions options, bool zeros) {
  return (zeros ? at::zeros({b, t, h, d}, options) : at::empty({b, t, h, d}, options)).transpose(1, 2);
}

// q (B, H, T, D), k and v (B, G, T, D) with G dividing H, of one dtype; lengths of the documents that fill the rows, end
// to end, or none: then each row is one. Returns (B, H, T, D).
struct CausalAttention : Function<CausalAttention> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q_in, const Tensor& k_in, const Tensor& v_in, std::optional<std::vector<int64_t>> lengths) {
    const Tensor q = in_wide(q_in), k = in_wide(k_in), v = in_wide(v_in);
    const int64_t b = q.size(0), h = q.size(1), t = q.size(2), d = q.size(3);
    const std::vector<Run> runs = runs_of(lengths, b, t);
    const Tensor y = like_layers(b, h, t, d, q.options(), false), lse = at::empty({h, b * t}, q.options());
    either(q, [&](auto zero) { go<decltype(zero)>(q, k, v, y, lse, runs); });
    const Tensor out = y.to(q_in.scalar_type());
    ctx->save_for_backward({q_in, k_in, v_in, out, lse});
    if (lengths) ctx->saved_data["lengths"] = std::move(*lengths);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "attention can be differentiated once");
    const variable_list saved = ctx->get_saved_variables();
    const Tensor q = in_wide(saved[0]), k = in_wide(saved[1]), v = in_wide(saved[2]), y = in_wide(saved[3]), lse = saved[4], dy = in_wide(grads[0]);
    const int64_t b = q.size(0), h = q.size(1), t = q.size(2), d = q.size(3), g = k.size(1);
    std::optional<std::vector<int64_t>> lengths;
    if (ctx->saved_data.count("lengths")) lengths = ctx->saved_data["lengths"].toIntVector();
    const std::vector<Run> runs = runs_of(lengths, b, t);
    const Tensor dq = like_layers(b, h, t, d, q.options(), false);
    // Query heads that share a key head each have a sum of their own, so that no two tasks write the same row.
    Tensor dk = like_layers(b, h, t, d, q.options(), true), dv = like_layers(b, h, t, d, q.options(), true);
    either(q, [&](auto zero) { go_back<decltype(zero)>(dy, q, k, v, y, lse, dq, dk, dv, runs); });
    if (g < h) {
      const auto shared = [&](const Tensor& x) { return x.transpose(1, 2).view({b, t, g, h / g, d}).sum(3).transpose(1, 2); };
      dk = shared(dk);
      dv = shared(dv);
    }
    const auto own = [&](const Tensor& x) { return x.to(saved[0].scalar_type()); };
    return {own(dq), own(dk), own(dv), Tensor()};
  }

 private:
  template <typename Body>
  static void either(const Tensor& q, Body body) {
    if (q.scalar_type() == at::kDouble) body(double{});
    else body(float{});
  }

  static std::vector<Run> runs_of(const std::optional<std::vector<int64_t>>& lengths, int64_t b, int64_t t) {
    std::vector<Run> runs;
    int64_t start = 0;
    if (lengths) {
      for (const int64_t length : *lengths) {
        TORCH_CHECK(length >= 0, "a document has no fewer than no positions");
        if (length > 0) runs.push_back({start, length});
        start += length;
      }
    } else {
      for (; start < b * t; start += t) runs.push_back({start, t});
    }
    TORCH_CHECK(start == b * t, "documents fill the rows");
    return runs;
  }

  // Keys or values of all runs and heads as the kernels read them, and where those of a run begin.
  template <typename F>
  struct Turned {
    Tensor all;
    std::vector<int64_t> begin;  // of each run, in numbers
    int64_t heads;
    int64_t place(size_t run, int64_t head) const { return begin[run] + head * ((begin[run + 1] - begin[run]) / heads); }
    const F* of(size_t run, int64_t head) const { return read<F>(all) + place(run, head); }
  };
  template <typename F>
  static Turned<F> turned(const Tensor& x, const std::vector<Run>& runs) {
    const int64_t heads = x.size(1), d = x.size(3), n = runs.size();
    std::vector<int64_t> begin = {0};
    for (const Run& run : runs) begin.push_back(begin.back() + heads * turned_room(run.length, d));
    const Turned<F> out{at::empty({begin.back()}, x.options()), begin, heads};
    const auto from = reading<F>(x);
    at::parallel_for(0, n * heads, grain(begin.back() / std::max<int64_t>(1, n * heads)), [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const Run run = runs[i / heads];
        pick<F>().turn(from.of(i % heads, run.start), from.row, run.length, d, write<F>(out.all) + out.place(i / heads, i % heads));
      }
    });
    return out;
  }

  template <typename F>
  static void go(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in, const Tensor& y_out, const Tensor& lse_out, const std::vector<Run>& runs) {
    const int64_t h = q_in.size(1), d = q_in.size(3), shared = h / k_in.size(1), all = lse_out.size(1);
    const auto q = reading<F>(q_in), v = reading<F>(v_in);
    const auto y = writing<F>(y_out);
    const auto keys = turned<F>(k_in, runs);
    // Tasks are blocks of queries, those of a head next to each other.
    std::vector<int64_t> tasks = {0};  // up to each run
    for (const Run& run : runs) tasks.push_back(tasks.back() + h * blocks(run));
    at::parallel_for(0, tasks.back(), 1, [&](int64_t first, int64_t last) {
      std::vector<F> room(kScores);
      size_t i = std::upper_bound(tasks.begin(), tasks.end(), first) - tasks.begin() - 1;
      for (int64_t task = first; task < last; ++task) {
        while (task >= tasks[i + 1]) ++i;
        const Run run = runs[i];
        const int64_t head = (task - tasks[i]) / blocks(run), block = (task - tasks[i]) % blocks(run);
        pick<F>().attend_causal(q.of(head, run.start), q.row, keys.of(i, head / shared), v.of(head / shared, run.start), v.row, run.length,
                                y.of(head, run.start), y.row, write<F>(lse_out) + head * all + run.start, block * kQueries, d, scale<F>(d), room.data());
      }
    });
  }

  template <typename F>
  static void go_back(const Tensor& dy_in, const Tensor& q_in, const Tensor& k_in, const Tensor& v_in, const Tensor& y_in, const Tensor& lse_in,
                      const Tensor& dq_out, const Tensor& dk_out, const Tensor& dv_out, const std::vector<Run>& runs) {
    const int64_t h = q_in.size(1), d = q_in.size(3), shared = h / k_in.size(1), all = lse_in.size(1);
    const auto dy = reading<F>(dy_in), q = reading<F>(q_in), k = reading<F>(k_in), y = reading<F>(y_in);
    const auto dq = writing<F>(dq_out), dk = writing<F>(dk_out), dv = writing<F>(dv_out);
    const auto keys = turned<F>(k_in, runs), values = turned<F>(v_in, runs);
    at::parallel_for(0, h * runs.size(), 1, [&](int64_t first, int64_t last) {
      std::vector<F> room(2 * kScores);
      for (int64_t task = first; task < last; ++task) {
        const int64_t i = task / h, head = task % h, start = runs[i].start;
        pick<F>().attend_causal_backward(dy.of(head, start), dy.row, q.of(head, start), q.row, k.of(head / shared, start), k.row, keys.of(i, head / shared),
                                         values.of(i, head / shared), y.of(head, start), y.row, read<F>(lse_in) + head * all + start, runs[i].length,
                                         dq.of(head, start), dq.row, dk.of(head, start), dv.of(head, start), dk.row, d, scale<F>(d), room.data());
      }
    });
  }

  static int64_t blocks(Run run) { return (run.length + kQueries - 1) / kQueries; }
  template <typename F>
  static F scale(int64_t d) { return 1 / std::sqrt(F(d)); }
};

}  // namespace etude

ETUDE_API const char* etude_causal_attention(at::Tensor* q, at::Tensor* k, at::Tensor* v, const int64_t* lengths, int64_t documents, at::Tensor** out) {
  return etude::guarded([&] {
    const bool one = q->dim() == 4 && k->dim() == 4 && k->sizes() == v->sizes() && q->scalar_type() == k->scalar_type() && k->scalar_type() == v->scalar_type() &&
                     q->size(0) == k->size(0) && q->size(2) == k->size(2) && q->size(3) == k->size(3) && k->size(1) > 0 && q->size(1) % k->size(1) == 0;
    const auto kind = q->scalar_type();
    TORCH_CHECK(one && q->size(3) % etude::kHeadStep == 0 && (kind == at::kFloat || kind == at::kDouble || kind == at::kBFloat16),
                "q (B, H, T, D), k and v (B, G, T, D), of float32, float64 or bfloat16, D a multiple of 16");
    std::optional<std::vector<int64_t>> known;
    if (lengths) known.emplace(lengths, lengths + documents);
    *out = etude::apply<etude::CausalAttention>(*q, *k, *v, known);
  });
}
