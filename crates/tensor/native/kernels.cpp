// The loops behind kernels.h, compiled once for each instruction set under its own namespace
// (ETUDE_ISA). The compiler vectorizes them; reductions say so with `omp simd`.
#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#define ETUDE_JOIN_(a, b) a##b
#define ETUDE_JOIN(a, b) ETUDE_JOIN_(a, b)

namespace etude {
namespace ETUDE_JOIN(isa_, ETUDE_ISA) {

// exp to 1 unit in the last place or two on [-87, 88], clamped outside: the reduction
// x = n ln2 + r and a polynomial of degree 6 on |r| <= ln2 / 2 (Taylor's, its last coefficients
// adjusted for that interval are not needed at this width). NaN stays NaN.
static inline float fast_exp(float x) {
  const float log2e = 1.44269504088896341f;
  const float ln2_hi = 0.693145751953125f, ln2_lo = 1.42860682030941723212e-6f;
  float clamped = x > 88.37626f ? 88.37626f : x;
  clamped = clamped < -87.33654f ? -87.33654f : clamped;
  // Adding 1.5 * 2^23 rounds to the nearest integer, whose low bits are the exponent.
  const float shift = 12582912.0f;
  float shifted = clamped * log2e + shift;
  float n = shifted - shift;
  float r = clamped - n * ln2_hi;
  r = r - n * ln2_lo;
  float p = 1.0f / 720.0f + r * (1.0f / 5040.0f);
  p = 1.0f / 120.0f + r * p;
  p = 1.0f / 24.0f + r * p;
  p = 1.0f / 6.0f + r * p;
  p = 0.5f + r * p;
  p = 1.0f + r * p;
  p = 1.0f + r * p;
  uint32_t bits;
  std::memcpy(&bits, &shifted, 4);
  uint32_t exponent = (bits + 127u) << 23;
  float scale;
  std::memcpy(&scale, &exponent, 4);
  return p * scale;
}
static inline double fast_exp(double x) { return std::exp(x); }

// tanh by exp of a non-positive number, so that nothing overflows.
static inline float fast_tanh(float x) {
  float a = std::fabs(x);
  float e = fast_exp(-2.0f * a);
  float t = (1.0f - e) / (1.0f + e);
  // Below 0.1 the difference above cancels; the series does not.
  float s = x * x;
  float series = x * (1.0f + s * (-1.0f / 3.0f + s * (2.0f / 15.0f + s * (-17.0f / 315.0f))));
  return a < 0.1f ? series : std::copysign(t, x);
}
static inline double fast_tanh(double x) { return std::tanh(x); }

// Stores a result. A Bf16 is stored by its bits: through a temporary object the compiler would not
// vectorize the loop.
template <typename F>
static inline void put(F& to, F value) { to = value; }
static inline void put(Bf16& to, float value) { to.bits = Bf16::round(value); }

template <typename F>
static void rms_norm(const F* x, const Wide<F>* w, F* y, Wide<F>* rstd, int64_t begin, int64_t end, int64_t d, double eps) {
  using A = Wide<F>;
  for (int64_t i = begin; i < end; ++i) {
    const F* row = x + i * d;
    F* out = y + i * d;
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < d; ++j) sum += row[j] * row[j];
    A r = A(1) / std::sqrt(sum / A(d) + A(eps));
    rstd[i] = r;
    if (w) {
      for (int64_t j = 0; j < d; ++j) put(out[j], row[j] * r * w[j]);
    } else {
      for (int64_t j = 0; j < d; ++j) put(out[j], row[j] * r);
    }
  }
}

template <typename F>
static void rms_norm_backward(const F* dy, const F* x, const Wide<F>* w, const Wide<F>* rstd, F* dx, Wide<F>* dw,
                              int64_t begin, int64_t end, int64_t d) {
  using A = Wide<F>;
  for (int64_t i = begin; i < end; ++i) {
    const F* g = dy + i * d;
    const F* row = x + i * d;
    F* out = dx + i * d;
    A r = rstd[i];
    A dot = 0;
    if (w) {
#pragma omp simd reduction(+ : dot)
      for (int64_t j = 0; j < d; ++j) dot += g[j] * w[j] * row[j];
      A c = dot * r * r / A(d);
#pragma omp simd
      for (int64_t j = 0; j < d; ++j) put(out[j], r * (g[j] * w[j] - row[j] * c));
    } else {
#pragma omp simd reduction(+ : dot)
      for (int64_t j = 0; j < d; ++j) dot += g[j] * row[j];
      A c = dot * r * r / A(d);
#pragma omp simd
      for (int64_t j = 0; j < d; ++j) put(out[j], r * (g[j] - row[j] * c));
    }
    if (dw) {
#pragma omp simd
      for (int64_t j = 0; j < d; ++j) dw[j] += g[j] * row[j] * r;
    }
  }
}

template <typename F>
static void rope(const F* x, int64_t x_stride, const Wide<F>* cos, const Wide<F>* sin, F* y, Wide<F>* rstd, int64_t begin,
                 int64_t end, int64_t h, int64_t d, int64_t periods, double sign, double eps) {
  using A = Wide<F>;
  const int64_t half = d / 2;
  for (int64_t i = begin; i < end; ++i) {
    const A* c = cos + (i % periods) * half;
    const A* s = sin + (i % periods) * half;
    for (int64_t k = 0; k < h; ++k) {
      const F* a = x + i * x_stride + k * d;
      const F* b = a + half;
      F* out = y + (i * h + k) * d;
      A r = 1;
      if (rstd) {
        A sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < d; ++j) sum += a[j] * a[j];
        r = A(1) / std::sqrt(sum / A(d) + A(eps));
        rstd[i * h + k] = r;
      }
      const A rs = r * A(sign);
#pragma omp simd
      for (int64_t j = 0; j < half; ++j) {
        A u = a[j], v = b[j];
        put(out[j], u * c[j] * r - v * s[j] * rs);
        put(out[half + j], v * c[j] * r + u * s[j] * rs);
      }
    }
  }
}

template <typename F>
static void rope_backward(const F* dy, int64_t dy_stride, const F* x, int64_t x_stride, const Wide<F>* cos,
                          const Wide<F>* sin, const Wide<F>* rstd, F* dx, int64_t begin, int64_t end, int64_t h,
                          int64_t d, int64_t periods, double sign) {
  using A = Wide<F>;
  const int64_t half = d / 2;
  for (int64_t i = begin; i < end; ++i) {
    const A* c = cos + (i % periods) * half;
    const A* s = sin + (i % periods) * half;
    for (int64_t k = 0; k < h; ++k) {
      const F* ga = dy + i * dy_stride + k * d;
      const F* gb = ga + half;
      F* out = dx + (i * h + k) * d;
      const A sg = A(sign);
#pragma omp simd
      for (int64_t j = 0; j < half; ++j) {
        A u = ga[j], v = gb[j];
        put(out[j], u * c[j] + v * s[j] * sg);
        put(out[half + j], v * c[j] - u * s[j] * sg);
      }
      if (rstd) {
        const F* a = x + i * x_stride + k * d;
        const A r = rstd[i * h + k];
        A dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t j = 0; j < d; ++j) dot += out[j] * a[j];
        A coef = dot * r * r / A(d);
#pragma omp simd
        for (int64_t j = 0; j < d; ++j) put(out[j], r * (out[j] - a[j] * coef));
      }
    }
  }
}

template <typename F>
static void relu_squared(const F* x, F* y, int64_t begin, int64_t end) {
  using A = Wide<F>;
  for (int64_t i = begin; i < end; ++i) {
    // Written so that NaN passes through.
    const A v = x[i];
    const A r = v < A(0) ? A(0) : v;
    put(y[i], r * r);
  }
}

template <typename F>
static void relu_squared_backward(const F* dy, const F* y, F* dx, int64_t begin, int64_t end) {
  using A = Wide<F>;
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) put(dx[i], A(2) * std::sqrt(A(y[i])) * dy[i]);
}

template <typename F>
static void gelu(const F* x, F* y, int64_t begin, int64_t end) {
  using A = Wide<F>;
  const A k = A(0.7978845608028654), c = A(0.044715);
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    A v = x[i];
    put(y[i], A(0.5) * v * (A(1) + fast_tanh(k * (v + c * v * v * v))));
  }
}

template <typename F>
static void gelu_backward(const F* dy, const F* x, F* dx, int64_t begin, int64_t end) {
  using A = Wide<F>;
  const A k = A(0.7978845608028654), c = A(0.044715);
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    A v = x[i];
    A t = fast_tanh(k * (v + c * v * v * v));
    A dt = (A(1) - t * t) * k * (A(1) + A(3) * c * v * v);
    put(dx[i], dy[i] * A(0.5) * (A(1) + t + v * dt));
  }
}

template <typename F>
static void swiglu(const F* x, F* y, int64_t begin, int64_t end, int64_t d) {
  using A = Wide<F>;
  for (int64_t i = begin; i < end; ++i) {
    const F* gate = x + 2 * i * d;
    const F* up = gate + d;
    F* out = y + i * d;
#pragma omp simd
    for (int64_t j = 0; j < d; ++j) put(out[j], gate[j] / (A(1) + fast_exp(-gate[j])) * up[j]);
  }
}

template <typename F>
static void swiglu_backward(const F* dy, const F* x, F* dx, int64_t begin, int64_t end, int64_t d) {
  using A = Wide<F>;
  for (int64_t i = begin; i < end; ++i) {
    const F* gate = x + 2 * i * d;
    const F* up = gate + d;
    const F* grad = dy + i * d;
    F* dgate = dx + 2 * i * d;
    F* dup = dgate + d;
#pragma omp simd
    for (int64_t j = 0; j < d; ++j) {
      A g = gate[j];
      A sigmoid = A(1) / (A(1) + fast_exp(-g));
      A silu = g * sigmoid;
      put(dup[j], grad[j] * silu);
      put(dgate[j], grad[j] * up[j] * (sigmoid + silu * (A(1) - sigmoid)));
    }
  }
}

template <typename F>
static void cross_entropy(F* logits, const int64_t* targets, F* loss, int64_t begin, int64_t end,
                          int64_t v, double cap, bool grad) {
  for (int64_t i = begin; i < end; ++i) {
    F* z = logits + i * v;
    const int64_t target = targets[i];
    if (target < 0) {
      loss[i] = 0;
      if (grad) std::memset(z, 0, sizeof(F) * v);
      continue;
    }
    if (cap > 0) {
      const F k = F(cap), inverse = F(1.0 / cap);
#pragma omp simd
      for (int64_t j = 0; j < v; ++j) z[j] = k * fast_tanh(z[j] * inverse);
    }
    F top = -std::numeric_limits<F>::infinity();
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < v; ++j) top = z[j] > top ? z[j] : top;
    const F at_target = z[target];
    if (!grad) {
      F sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < v; ++j) sum += fast_exp(z[j] - top);
      loss[i] = std::log(sum) + top - at_target;
      continue;
    }
    // The capped value of the target is lost below, its slope is taken first.
    if (cap > 0) {
      // With tanh in (-1, 1) the cap itself is an upper bound: no pass for the maximum is needed to
      // be safe, but the true maximum keeps the sum well scaled.
      const F inverse = F(1.0 / cap);
      F sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < v; ++j) sum += fast_exp(z[j] - top);
      loss[i] = std::log(sum) + top - at_target;
      const F scale = F(1) / sum;
      const F slope_target = F(1) - at_target * inverse * at_target * inverse;
#pragma omp simd
      for (int64_t j = 0; j < v; ++j) {
        F u = z[j] * inverse;
        z[j] = fast_exp(z[j] - top) * scale * (F(1) - u * u);
      }
      z[target] -= slope_target;
    } else {
      F sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < v; ++j) {
        z[j] = fast_exp(z[j] - top);
        sum += z[j];
      }
      loss[i] = std::log(sum) + top - at_target;
      const F scale = F(1) / sum;
#pragma omp simd
      for (int64_t j = 0; j < v; ++j) z[j] *= scale;
      z[target] -= F(1);
    }
  }
}

// Rows of bfloat16 are widened one at a time: the passes over a row stay in float.
static void cross_entropy_bf16(Bf16* logits, const int64_t* targets, float* loss, int64_t begin,
                               int64_t end, int64_t v, double cap, bool grad) {
  std::vector<float> wide(v);
  float* z = wide.data();
  for (int64_t i = begin; i < end; ++i) {
    Bf16* row = logits + i * v;
#pragma omp simd
    for (int64_t j = 0; j < v; ++j) z[j] = row[j];
    cross_entropy<float>(z, targets + i, loss + i, 0, 1, v, cap, grad);
    if (!grad) continue;
#pragma omp simd
    for (int64_t j = 0; j < v; ++j) put(row[j], z[j]);
  }
}

// A register of the instruction set, in bytes, and how many there are. Vectors wider than a register the compiler
// takes apart through memory.
#if defined(__AVX512F__)
constexpr int kRegister = 64, kRegisters = 32;
#elif defined(__AVX__)
constexpr int kRegister = 32, kRegisters = 16;
#else
constexpr int kRegister = 16, kRegisters = 16;
#endif

// A register of what F is computed in. As a type of its own the sums stay in registers, which the compiler does not
// manage with arrays.
template <typename A> struct Lanes { typedef A type __attribute__((vector_size(kRegister))); };

template <typename F>
static inline typename Lanes<Wide<F>>::type lanes_of(const F* from) {
  typename Lanes<Wide<F>>::type out;
  if constexpr (std::is_same_v<F, Wide<F>>) {
    std::memcpy(&out, from, kRegister);
  } else {
    typedef uint16_t Narrow __attribute__((vector_size(kRegister / 2)));
    typedef uint32_t Bits __attribute__((vector_size(kRegister)));
    Narrow bits;
    std::memcpy(&bits, from, kRegister / 2);
    out = __builtin_bit_cast(typename Lanes<float>::type, __builtin_convertvector(bits, Bits) << 16);
  }
  return out;
}

// The first `count` of them, and zeros.
template <typename F>
static inline typename Lanes<Wide<F>>::type first_of(const F* from, int64_t count) {
  if (count == int64_t(kRegister / sizeof(Wide<F>))) return lanes_of(from);
  F some[kRegister / sizeof(Wide<F>)] = {};
  std::memcpy(some, from, count * sizeof(F));
  return lanes_of(some);
}

// The sum of a vector's numbers: halves by halves down to 16 bytes, then one by one.
template <typename A, int Bytes, typename Vector>
static inline A total(Vector sums) {
  if constexpr (Bytes > 16) {
    typedef A Half __attribute__((vector_size(Bytes / 2)));
    struct Halves { Half low, high; };
    const auto halves = __builtin_bit_cast(Halves, sums);
    return total<A, Bytes / 2>(halves.low + halves.high);
  } else {
    A sum = 0;
    for (size_t l = 0; l < Bytes / sizeof(A); ++l) sum += sums[l];
    return sum;
  }
}

// R rows of x by O rows of w, each sum in U parts: sums that do not wait for each other keep the processor busy,
// and few rows of w at once are the long runs that it reads ahead.
template <int R, int O, int U, typename F, typename W, typename Y>
static inline void dots(const F* x, const W* w, const F* bias, Y* y, int64_t outputs, int64_t d) {
  using A = Wide<F>;
  constexpr int lanes = kRegister / sizeof(A);
  typename Lanes<A>::type sums[R][O][U] = {};
  int64_t j = 0;
  for (; j + U * lanes <= d; j += U * lanes) {
    for (int u = 0; u < U; ++u) {
      typename Lanes<A>::type xs[R];
      for (int r = 0; r < R; ++r) xs[r] = lanes_of(x + r * d + j + u * lanes);
      for (int o = 0; o < O; ++o) {
        const W* from = w + o * d + j + u * lanes;
        // One row after the other is one long run, which the processor reads ahead; told where to, it reads 7 percent
        // faster. Half as far is 3 percent slower than this, twice as far 15 (when writing text, on an AMD Zen 4).
        if constexpr (O == 1) {
          if (u * lanes * sizeof(W) % 64 == 0) __builtin_prefetch(reinterpret_cast<const char*>(from) + 4096, 0, 2);
        }
        const auto ws = lanes_of(from);
        for (int r = 0; r < R; ++r) sums[r][o][u] += xs[r] * ws;
      }
    }
  }
  // The rest goes by lanes as well: of scalars the compiler would choose for each type how they are rounded.
  for (; j < d; j += lanes) {
    const int64_t count = std::min<int64_t>(lanes, d - j);
    for (int r = 0; r < R; ++r) {
      const auto xs = first_of(x + r * d + j, count);
      for (int o = 0; o < O; ++o) sums[r][o][0] += xs * first_of(w + o * d + j, count);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int o = 0; o < O; ++o) {
      for (int u = 1; u < U; ++u) sums[r][o][0] += sums[r][o][u];
      A sum = total<A, kRegister>(sums[r][o][0]);
      if (bias) sum += bias[o];
      put(y[r * outputs + o], sum);
    }
  }
}

template <typename F, typename W, typename Y = F>
static void linear_rows(const F* x, int64_t rows, const W* w, const F* bias, Y* y, int64_t outputs,
                        int64_t begin, int64_t end, int64_t d) {
  // No more than half of the registers hold sums, the others what is read.
  constexpr int few = kRegisters / 8, parts = std::min(256 / kRegister, kRegisters / 2);
  int64_t o = begin;
  if (rows > 1) {
    // All of x by a few rows of w, which stay in the nearest cache.
    for (; o + few <= end; o += few) {
      const W* wo = w + o * d;
      const F* bo = bias ? bias + o : nullptr;
      int64_t i = 0;
      for (; i + 4 <= rows; i += 4) dots<4, few, 1>(x + i * d, wo, bo, y + i * outputs + o, outputs, d);
      for (; i + 2 <= rows; i += 2) dots<2, few, 1>(x + i * d, wo, bo, y + i * outputs + o, outputs, d);
      if (i < rows) dots<1, few, 1>(x + i * d, wo, bo, y + i * outputs + o, outputs, d);
    }
  }
  for (; o < end; ++o) {
    for (int64_t i = 0; i < rows; ++i) dots<1, 1, parts>(x + i * d, w + o * d, bias ? bias + o : nullptr, y + i * outputs + o, outputs, d);
  }
}

// The softmax of scale * scores over what is seen, in place; 0 for the rest.
template <typename A>
static void softmax(A* scores, const bool* seen, int64_t positions, A scale) {
  const A nothing = -std::numeric_limits<A>::infinity();
  A top = nothing, sum = 0;
#pragma omp simd reduction(max : top)
  for (int64_t p = 0; p < positions; ++p) {
    scores[p] = seen && !seen[p] ? nothing : scores[p] * scale;
    top = scores[p] > top ? scores[p] : top;
  }
#pragma omp simd reduction(+ : sum)
  for (int64_t p = 0; p < positions; ++p) {
    scores[p] = scores[p] == nothing ? A(0) : fast_exp(scores[p] - top);
    sum += scores[p];
  }
#pragma omp simd
  for (int64_t p = 0; p < positions; ++p) scores[p] /= sum;
}

// R rows of weights by v: y[r] is the sum of v's rows, each times its weight, as many columns at once as registers
// hold the sums of. `count` is of the last register's columns, all but at the end of a row.
template <int R, int U, typename F>
static inline void weighted_columns(const Wide<F>* weights, const F* v, int64_t positions, F* y, int64_t d, int64_t count) {
  using A = Wide<F>;
  constexpr int lanes = kRegister / sizeof(A);
  typename Lanes<A>::type sums[R][U] = {};
  for (int64_t p = 0; p < positions; ++p) {
    for (int u = 0; u < U; ++u) {
      const F* from = v + p * d + u * lanes;
      const auto vs = first_of(from, count);
      for (int r = 0; r < R; ++r) sums[r][u] += weights[r * positions + p] * vs;
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int u = 0; u < U; ++u) {
      for (int64_t l = 0; l < count; ++l) put(y[r * d + u * lanes + l], sums[r][u][l]);
    }
  }
}

template <int R, typename F>
static void weighted_sums(const Wide<F>* weights, const F* v, int64_t positions, F* y, int64_t d) {
  constexpr int64_t lanes = kRegister / sizeof(Wide<F>);
  constexpr int parts = std::min(4, kRegisters / 2 / R);
  int64_t j = 0;
  for (; j + parts * lanes <= d; j += parts * lanes) weighted_columns<R, parts>(weights, v + j, positions, y + j, d, lanes);
  for (; j < d; j += lanes) weighted_columns<R, 1>(weights, v + j, positions, y + j, d, std::min(lanes, d - j));
}

template <typename F>
static void attend(const F* q, int64_t queries, const F* k, const F* v, const bool* seen, int64_t positions, F* y,
                   int64_t d, Wide<F> scale, Wide<F>* scores) {
  linear_rows<F, F, Wide<F>>(q, queries, k, nullptr, scores, positions, 0, positions, d);
  for (int64_t i = 0; i < queries; ++i) softmax(scores + i * positions, seen, positions, scale);
  int64_t i = 0;
  for (; i + 4 <= queries; i += 4) weighted_sums<4>(scores + i * positions, v, positions, y + i * d, d);
  for (; i + 2 <= queries; i += 2) weighted_sums<2>(scores + i * positions, v, positions, y + i * d, d);
  if (i < queries) weighted_sums<1>(scores + i * positions, v, positions, y + i * d, d);
}

#include "attention.h"

template <typename F>
static constexpr auto cross_entropy_of() { return cross_entropy<F>; }
template <>
constexpr auto cross_entropy_of<Bf16>() { return cross_entropy_bf16; }

template <typename F>
static constexpr auto linear_rows_bf16_of() { return linear_rows<F, Bf16>; }
template <>
constexpr auto linear_rows_bf16_of<double>() { return static_cast<decltype(Kernels<double>::linear_rows_bf16)>(nullptr); }

template <typename F>
static constexpr Kernels<F> table() {
  Kernels<F> all = {rms_norm<F>, rms_norm_backward<F>, rope<F>, rope_backward<F>, relu_squared<F>,
                    relu_squared_backward<F>, gelu<F>, gelu_backward<F>, swiglu<F>, swiglu_backward<F>,
                    cross_entropy_of<F>(), linear_rows<F, F>, linear_rows_bf16_of<F>(), attend<F>};
  // None for bfloat16: attention.cpp widens it first.
  if constexpr (!std::is_same_v<F, Bf16>) {
    all.turn = turn<F>;
    all.attend_causal = attend_causal<F>;
    all.attend_causal_backward = attend_causal_backward<F>;
  }
  return all;
}

extern const Kernels<float> table_f32;
extern const Kernels<double> table_f64;
extern const Kernels<Bf16> table_bf16;
// Made by the compiler: code that filled them when the program starts would run on processors without these instructions.
constexpr Kernels<float> table_f32 = table<float>();
constexpr Kernels<double> table_f64 = table<double>();
constexpr Kernels<Bf16> table_bf16 = table<Bf16>();

}  // namespace isa
}  // namespace etude
