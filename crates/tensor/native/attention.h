// Causal attention over many positions, forward and backward, part of `kernels.cpp`. Scores are made for a block of
// queries by a block of keys at a time and never kept (Dao et al. 2022); the products are blocks of registers. Nothing
// that follows a position reaches it, be it finite or not; on the way back a few keys also read the gradients of the
// queries just before them, by weight zero.

// The rows and vectors of a product that stay in registers: with what is read they just fit.
constexpr int kRows = 6, kVectors = kRegisters / 8;

// c[r][·] (+)= sum over k of a[r][k] b[k][·], R rows by U vectors. a's rows and steps lie any distance apart, so that a
// transposed matrix is as good; b's and c's rows are dense.
template <int R, int U, typename F>
static inline void multiply_block(const F* a, int64_t a_row, int64_t a_step, const F* b, int64_t b_step, int64_t steps, F* c, int64_t c_row, bool add) {
  constexpr int lanes = kRegister / sizeof(F);
  typename Lanes<F>::type sums[R][U] = {};
  for (int64_t k = 0; k < steps; ++k) {
    typename Lanes<F>::type bs[U];
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) bs[u] = lanes_of(b + k * b_step + u * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const F factor = a[r * a_row + k * a_step];
#pragma GCC unroll 8
      for (int u = 0; u < U; ++u) sums[r][u] += factor * bs[u];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int u = 0; u < U; ++u) {
      F* to = c + r * c_row + u * lanes;
      if (add) sums[r][u] += lanes_of(to);
      std::memcpy(to, &sums[r][u], kRegister);
    }
  }
}

template <int U, typename F>
static void multiply_rows(int64_t rows, const F* a, int64_t a_row, int64_t a_step, const F* b, int64_t b_step, int64_t steps, F* c, int64_t c_row, bool add) {
  switch (rows) {
    case 1: return multiply_block<1, U>(a, a_row, a_step, b, b_step, steps, c, c_row, add);
    case 2: return multiply_block<2, U>(a, a_row, a_step, b, b_step, steps, c, c_row, add);
    case 3: return multiply_block<3, U>(a, a_row, a_step, b, b_step, steps, c, c_row, add);
    case 4: return multiply_block<4, U>(a, a_row, a_step, b, b_step, steps, c, c_row, add);
    case 5: return multiply_block<5, U>(a, a_row, a_step, b, b_step, steps, c, c_row, add);
    default: return multiply_block<6, U>(a, a_row, a_step, b, b_step, steps, c, c_row, add);
  }
}

// Up to kRows rows of the product, `columns` wide: a multiple of a register's numbers.
template <typename F>
static void multiply(int64_t rows, int64_t columns, const F* a, int64_t a_row, int64_t a_step, const F* b, int64_t b_step, int64_t steps, F* c, int64_t c_row, bool add) {
  constexpr int64_t lanes = kRegister / sizeof(F);
  int64_t j = 0;
  for (; j + kVectors * lanes <= columns; j += kVectors * lanes) multiply_rows<kVectors>(rows, a, a_row, a_step, b + j, b_step, steps, c + j, c_row, add);
  for (; j + 2 * lanes <= columns; j += 2 * lanes) multiply_rows<2>(rows, a, a_row, a_step, b + j, b_step, steps, c + j, c_row, add);
  for (; j < columns; j += lanes) multiply_rows<1>(rows, a, a_row, a_step, b + j, b_step, steps, c + j, c_row, add);
}

// Keys or values turned for `scores`: panels of as many positions as fit kVectors registers, each D rows; the last
// panel is as wide as it must be.
template <typename F>
static void turn(const F* from, int64_t stride, int64_t positions, int64_t d, F* to) {
  constexpr int64_t lanes = kRegister / sizeof(F), wide = kVectors * lanes;
  for (int64_t first = 0; first < positions; first += wide) {
    const int64_t count = std::min(wide, positions - first), width = (count + lanes - 1) / lanes * lanes;
    for (int64_t j = 0; j < d; ++j) {
      for (int64_t p = 0; p < count; ++p) to[j * width + p] = from[(first + p) * stride + j];
      for (int64_t p = count; p < width; ++p) to[j * width + p] = 0;
    }
    to += d * width;
  }
}

// Of a block: queries [query, query + queries) by keys [key, end), where a query sees the keys up to itself.
struct Block { int64_t query, queries, key, end; };

// out[r][c] = a[r] · key (block.key + c) for what the rows see, of keys that `turn` made of `positions`; the rest of a
// row is unspecified.
template <typename F>
static void scores(Block block, const F* a, int64_t a_row, const F* turned, int64_t positions, int64_t d, F* out) {
  constexpr int64_t lanes = kRegister / sizeof(F), wide = kVectors * lanes;
  for (int64_t key = block.key; key < block.end; key += wide) {
    const int64_t width = (std::min(wide, positions - key) + lanes - 1) / lanes * lanes;
    for (int64_t r = std::max<int64_t>(0, key - block.query); r < block.queries; r += kRows) {
      multiply(std::min<int64_t>(kRows, block.queries - r), width, a + r * a_row, a_row, 1, turned + key * d, width, d, out + r * kScoreRow + key - block.key, kScoreRow, false);
    }
  }
}

// How many of the block's keys row r sees.
static inline int64_t sees(Block block, int64_t r) {
  return std::max<int64_t>(0, std::min(block.end, block.query + r + 1) - block.key);
}

// y (+)= weights by what the keys stand for, rows of D.
template <typename F>
static void weigh(Block block, const F* weights, const F* rows, int64_t stride, int64_t d, F* y, int64_t y_row, bool add) {
  for (int64_t r = 0; r < block.queries; r += kRows) {
    const int64_t count = std::min<int64_t>(kRows, block.queries - r), all_see = sees(block, r);
    multiply(count, d, weights + r * kScoreRow, kScoreRow, 1, rows + block.key * stride, stride, all_see, y + r * y_row, y_row, add);
    // And what each sees beyond the first of them: by weight zero a number that is not finite would reach the others.
    for (int64_t i = r + 1; i < r + count; ++i) {
      multiply(1, d, weights + i * kScoreRow + all_see, kScoreRow, 1, rows + (block.key + all_see) * stride, stride, sees(block, i) - all_see, y + i * y_row, y_row, true);
    }
  }
}

// The other way round: to each key's row is added what the queries that see it stand for, by their weights.
template <typename F>
static void weigh_back(Block block, const F* weights, const F* rows, int64_t stride, int64_t d, F* y, int64_t y_row) {
  for (int64_t key = block.key; key < block.end; key += kRows) {
    const int64_t first = std::max<int64_t>(0, key - block.query);
    if (first >= block.queries) break;
    multiply(std::min<int64_t>(kRows, block.end - key), d, weights + first * kScoreRow + key - block.key, 1, kScoreRow, rows + first * stride, stride,
             block.queries - first, y + key * y_row, y_row, true);
  }
}

template <typename F>
static void attend_causal(const F* q, int64_t q_row, const F* keys, const F* v, int64_t v_row, int64_t positions, F* y, int64_t y_row, F* lse, int64_t first,
                          int64_t d, F scale, F* room) {
  const int64_t queries = std::min(kQueries, positions - first), end = first + queries;
  F top[kQueries], sum[kQueries];
  std::fill_n(top, queries, -std::numeric_limits<F>::infinity());
  std::fill_n(sum, queries, F(0));
  for (int64_t key = 0; key < end; key += kKeys) {
    const Block block{first, queries, key, std::min(end, key + kKeys)};
    scores(block, q + first * q_row, q_row, keys, positions, d, room);
    for (int64_t r = 0; r < queries; ++r) {
      F* row = room + r * kScoreRow;
      F* out = y + (first + r) * y_row;
      const int64_t n = sees(block, r);
      F most = top[r], part = 0;
#pragma omp simd reduction(max : most)
      for (int64_t p = 0; p < n; ++p) most = row[p] * scale > most ? row[p] * scale : most;
#pragma omp simd reduction(+ : part)
      for (int64_t p = 0; p < n; ++p) {
        row[p] = fast_exp(row[p] * scale - most);
        part += row[p];
      }
      std::fill(row + n, row + (block.end - block.key), F(0));
      if (key > 0) {
        const F less = fast_exp(top[r] - most);
        sum[r] *= less;
#pragma omp simd
        for (int64_t j = 0; j < d; ++j) out[j] *= less;
      }
      top[r] = most;
      sum[r] += part;
    }
    weigh(block, room, v, v_row, d, y + first * y_row, y_row, key > 0);
  }
  for (int64_t r = 0; r < queries; ++r) {
    F* out = y + (first + r) * y_row;
    const F share = 1 / sum[r];
#pragma omp simd
    for (int64_t j = 0; j < d; ++j) out[j] *= share;
    lse[first + r] = top[r] + std::log(sum[r]);
  }
}

template <typename F>
static void attend_causal_backward(const F* dy, int64_t dy_row, const F* q, int64_t q_row, const F* k, int64_t k_row, const F* keys, const F* values,
                                   const F* y, int64_t y_row, const F* lse, int64_t positions, F* dq, int64_t dq_row, F* dk, F* dv, int64_t dk_row, int64_t d,
                                   F scale, F* room) {
  F* weights = room;
  F* slopes = room + kQueries * kScoreRow;
  for (int64_t first = 0; first < positions; first += kQueries) {
    const int64_t queries = std::min(kQueries, positions - first), end = first + queries;
    F dots[kQueries];
    for (int64_t r = 0; r < queries; ++r) {
      const F* a = dy + (first + r) * dy_row;
      const F* b = y + (first + r) * y_row;
      F dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t j = 0; j < d; ++j) dot += a[j] * b[j];
      dots[r] = dot;
    }
    for (int64_t key = 0; key < end; key += kKeys) {
      const Block block{first, queries, key, std::min(end, key + kKeys)};
      scores(block, q + first * q_row, q_row, keys, positions, d, weights);
      scores(block, dy + first * dy_row, dy_row, values, positions, d, slopes);
      for (int64_t r = 0; r < queries; ++r) {
        F* w = weights + r * kScoreRow;
        F* s = slopes + r * kScoreRow;
        const int64_t n = sees(block, r);
        const F less = lse[first + r], dot = dots[r];
#pragma omp simd
        for (int64_t p = 0; p < n; ++p) {
          w[p] = fast_exp(w[p] * scale - less);
          s[p] = w[p] * (s[p] - dot) * scale;
        }
        std::fill(w + n, w + (block.end - block.key), F(0));
        std::fill(s + n, s + (block.end - block.key), F(0));
      }
      weigh(block, slopes, k, k_row, d, dq + first * dq_row, dq_row, key > 0);
      weigh_back(block, slopes, q + first * q_row, q_row, d, dk, dk_row);
      weigh_back(block, weights, dy + first * dy_row, dy_row, d, dv, dk_row);
    }
  }
}
