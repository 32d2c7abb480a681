// What the files of the native module share: the error channel to Rust, and the choice of kernels.
// Tensors cross as at::Tensor*, the pointer that tch holds. No exception crosses: every body runs in
// `guarded`, and a failure returns a message that Rust frees.
#pragma once
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "kernels.h"

namespace etude {

namespace isa_base { extern const Kernels<float> table_f32; extern const Kernels<double> table_f64; extern const Kernels<Bf16> table_bf16; }
#ifdef ETUDE_X86
namespace isa_v3 { extern const Kernels<float> table_f32; extern const Kernels<double> table_f64; extern const Kernels<Bf16> table_bf16; }
namespace isa_v4 { extern const Kernels<float> table_f32; extern const Kernels<double> table_f64; extern const Kernels<Bf16> table_bf16; }
inline int isa_level() {
  static const int level = [] {
    // For tests, and to see what the instructions bring: no more than those of base, v3 or v4.
    const char* most = std::getenv("ETUDE_CPU_ISA");
    if (most && !std::strcmp(most, "base")) return 1;
    __builtin_cpu_init();
    bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
              __builtin_cpu_supports("bmi2");
    bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl");
    return v4 && !(most && !std::strcmp(most, "v3")) ? 4 : v3 ? 3 : 1;
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
template <> inline const Kernels<Bf16>& pick<Bf16>() { return ETUDE_PICK(table_bf16); }

// Elements of a tensor as the kernels name their type.
template <typename F> const F* read(const at::Tensor& t) { return t.const_data_ptr<F>(); }
template <> inline const Bf16* read<Bf16>(const at::Tensor& t) { return reinterpret_cast<const Bf16*>(t.const_data_ptr<at::BFloat16>()); }
template <typename F> F* write(const at::Tensor& t) { return t.mutable_data_ptr<F>(); }
template <> inline Bf16* write<Bf16>(const at::Tensor& t) { return reinterpret_cast<Bf16*>(t.mutable_data_ptr<at::BFloat16>()); }

// The dtype that a kernel over `t` computes in.
inline at::ScalarType wide(const at::Tensor& t) { return t.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// Calls `body` with a value of the kernels' type for elements of `t`.
template <typename Body>
void dispatch(const at::Tensor& t, Body body) {
  switch (t.scalar_type()) {
    case at::kFloat: return body(float{});
    case at::kDouble: return body(double{});
    case at::kBFloat16: return body(Bf16{});
    default: TORCH_CHECK(false, "the CPU kernels take float32, float64 and bfloat16");
  }
}

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

inline std::optional<at::Tensor> optional(const at::Tensor* tensor) { return tensor ? std::optional<at::Tensor>(*tensor) : std::nullopt; }

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
