// What the files of the native module share: the error channel to Rust, and the choice of kernels.
// Tensors cross as at::Tensor*, the pointer that tch holds. No exception crosses: every body runs in
// `guarded`, and a failure returns a message that Rust frees.
#pragma once
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <cstring>
#include <string>
#include <vector>

#include "kernels.h"

namespace etude {

namespace isa_base { extern const Kernels<float> table_f32; extern const Kernels<double> table_f64; }
#ifdef ETUDE_X86
namespace isa_v3 { extern const Kernels<float> table_f32; extern const Kernels<double> table_f64; }
namespace isa_v4 { extern const Kernels<float> table_f32; extern const Kernels<double> table_f64; }
inline int isa_level() {
  static const int level = [] {
    __builtin_cpu_init();
    bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
              __builtin_cpu_supports("bmi2");
    bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl");
    return v4 ? 4 : v3 ? 3 : 1;
  }();
  return level;
}
#define ETUDE_PICK(table) (isa_level() == 4 ? isa_v4::table : isa_level() == 3 ? isa_v3::table : isa_base::table)
#else
#define ETUDE_PICK(table) (isa_base::table)
#endif

template <typename F> const Kernels<F>& pick();
template <> inline const Kernels<float>& pick<float>() { return ETUDE_PICK(table_f32); }
template <> inline const Kernels<double>& pick<double>() { return ETUDE_PICK(table_f64); }

template <typename Body>
const char* guarded(Body body) {
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("unknown exception in the native module");
  }
}

inline std::vector<at::Tensor> gather(at::Tensor* const* tensors, int64_t n) {
  std::vector<at::Tensor> out;
  out.reserve(n);
  for (int64_t i = 0; i < n; ++i) out.push_back(*tensors[i]);
  return out;
}

// Rows a thread takes at a time so that a task is worth its start.
inline int64_t grain(int64_t per_row) { return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, per_row)); }

}  // namespace etude

#define ETUDE_API extern "C" __attribute__((visibility("default")))
