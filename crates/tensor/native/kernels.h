// The CPU kernels of the native module: plain loops over rows, one function a row range, compiled
// once for each instruction set (see build.rs) and chosen at run time. Threads are the caller's
// business. Legend: N rows, D columns, V vocabulary, T positions, H heads.
#pragma once
#include <cstdint>
#include <cstring>

namespace etude {

// A bfloat16 in memory, a float in computation: the upper half of a float, rounded to nearest even.
struct Bf16 {
  uint16_t bits;
  Bf16() = default;
  explicit Bf16(float value) : bits(round(value)) {}
  static uint16_t round(float value) {
    uint32_t u;
    std::memcpy(&u, &value, 4);
    const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    // Rounding could carry a NaN over to infinity.
    return static_cast<uint16_t>(value != value ? 0x7fc0u : rounded);
  }
  operator float() const {
    const uint32_t u = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &u, 4);
    return value;
  }
};

// What a kernel computes in, and keeps its statistics, angles and weights in.
template <typename F> struct WideOf { using type = F; };
template <> struct WideOf<Bf16> { using type = float; };
template <typename F> using Wide = typename WideOf<F>::type;

// One table of function pointers for each instruction set and element type: float, double, Bf16.
template <typename F>
struct Kernels {
  using A = Wide<F>;
  // y = x * rstd * w for rows [begin, end); w may be null. rstd[i] = 1 / sqrt(mean(x_i^2) + eps).
  void (*rms_norm)(const F* x, const A* w, F* y, A* rstd, int64_t begin, int64_t end, int64_t d, double eps);
  // dx of rms_norm; adds the rows' share of dw to dw when dw is not null.
  void (*rms_norm_backward)(const F* dy, const F* x, const A* w, const A* rstd, F* dx, A* dw,
                            int64_t begin, int64_t end, int64_t d);
  // Rotates pairs (j, j + d/2) of each of h heads by the angle of the row's position. sign is +1 for
  // the usual direction, -1 for its inverse. rstd, when not null, receives 1 / sqrt(mean(x^2) + eps)
  // of each head and scales the result: the weightless query-key norm.
  void (*rope)(const F* x, int64_t x_stride, const A* cos, const A* sin, F* y, A* rstd, int64_t begin,
               int64_t end, int64_t h, int64_t d, int64_t periods, double sign, double eps);
  void (*rope_backward)(const F* dy, int64_t dy_stride, const F* x, int64_t x_stride, const A* cos,
                        const A* sin, const A* rstd, F* dx, int64_t begin, int64_t end, int64_t h,
                        int64_t d, int64_t periods, double sign);
  // y = max(x, 0)^2 and dx = 2 sqrt(y) dy.
  void (*relu_squared)(const F* x, F* y, int64_t begin, int64_t end);
  void (*relu_squared_backward)(const F* dy, const F* y, F* dx, int64_t begin, int64_t end);
  // The tanh form of GELU.
  void (*gelu)(const F* x, F* y, int64_t begin, int64_t end);
  void (*gelu_backward)(const F* dy, const F* x, F* dx, int64_t begin, int64_t end);
  // x holds rows [gate | up] of 2d: y = silu(gate) * up, rows of d.
  void (*swiglu)(const F* x, F* y, int64_t begin, int64_t end, int64_t d);
  void (*swiglu_backward)(const F* dy, const F* x, F* dx, int64_t begin, int64_t end, int64_t d);
  // For each row of logits: the cross-entropy of target (0 where target < 0) into loss, and the
  // gradient of the summed loss with respect to the logits in place of them when grad is true.
  // cap > 0 means that the logits pass through cap * tanh(z / cap) first.
  void (*cross_entropy)(F* logits, const int64_t* targets, A* loss, int64_t begin, int64_t end,
                        int64_t v, double cap, bool grad);
  // Outputs [begin, end) of a linear layer for a few rows: y[i][o] = x[i] · w[o] + bias[o], x and w with rows
  // of d, y with rows of `outputs`; bias may be null. Each row of w is read from memory once.
  void (*linear_rows)(const F* x, int64_t rows, const F* w, const F* bias, F* y, int64_t outputs,
                      int64_t begin, int64_t end, int64_t d);
  // The same with a weight in bfloat16, whose numbers are widened as they are read; none where x is in float64.
  void (*linear_rows_bf16)(const F* x, int64_t rows, const Bf16* w, const F* bias, F* y, int64_t outputs,
                           int64_t begin, int64_t end, int64_t d);
  // Attention of the newest position for query heads that share a key head: y[i] is the sum of the rows of v by the
  // softmax of scale * q[i] · k over the positions that are seen, all when seen is null. q and y have rows of d, so have
  // k and v; scores has room for `queries` times `positions` numbers.
  void (*attend)(const F* q, int64_t queries, const F* k, const F* v, const bool* seen, int64_t positions, F* y,
                 int64_t d, A scale, A* scores);
  // Causal attention of one head, for float and double; see attention.h. Rows of D numbers lie any distance apart; D is
  // a multiple of kHeadStep. `turn` writes keys, or values, as the two below read them: `turned_room` numbers. Query
  // `first` and as many more as a block has are taken at a time, `room` is for kScores numbers, and lse gets the logarithm
  // of each sum of exponentials.
  void (*turn)(const F* from, int64_t stride, int64_t positions, int64_t d, F* to) = nullptr;
  void (*attend_causal)(const F* q, int64_t q_row, const F* keys, const F* v, int64_t v_row, int64_t positions, F* y, int64_t y_row, F* lse, int64_t first,
                        int64_t d, F scale, F* room) = nullptr;
  // Sets dq and adds to dk and dv, rows both dk_row apart; `room` is for twice kScores numbers.
  void (*attend_causal_backward)(const F* dy, int64_t dy_row, const F* q, int64_t q_row, const F* k, int64_t k_row, const F* keys, const F* values, const F* y,
                                 int64_t y_row, const F* lse, int64_t positions, F* dq, int64_t dq_row, F* dk, F* dv, int64_t dk_row, int64_t d, F scale,
                                 F* room) = nullptr;
};

// Queries and keys of a block of scores, and how far its rows lie apart: a power of two would have them all in a few
// places of the nearest cache.
constexpr int64_t kQueries = 48, kKeys = 512, kScoreRow = kKeys + 16, kScores = kQueries * kScoreRow;
// The numbers of the widest register.
constexpr int64_t kHeadStep = 16;
// The room that `turn` needs for one head.
constexpr int64_t turned_room(int64_t positions, int64_t d) { return (positions + kHeadStep - 1) / kHeadStep * kHeadStep * d; }

}  // namespace etude
