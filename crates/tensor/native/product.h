// Matrix products of whole layers. libtorch takes oneDNN's in bfloat16 and MKL's in float32; at a layer's shapes
// oneDNN's are 5 to 35 percent faster in float32 too (measured on AMD's processors with AVX-512), and MKL's where a side
// is as narrow as a low-rank update.
#pragma once
#include <ATen/Context.h>
#include <c10/core/InferenceMode.h>

#include <cmath>

#include "shim.h"

namespace at::native {
// Of ATen/native/mkldnn/Matmul.h, which the packages of libtorch leave out: result = beta result + alpha mat1 mat2.
TORCH_API void mkldnn_matmul(const Tensor& mat1, const Tensor& mat2, const Tensor& result, float beta, float alpha);
}  // namespace at::native

namespace etude {

constexpr int64_t kNarrow = 16;

// Whether oneDNN multiplies float32 here, and as such: libtorch's way to it wants AVX-512, oneDNN may be left out of a
// libtorch, and the environment may limit its instructions or let it round (ONEDNN_MAX_CPU_ISA and
// ONEDNN_DEFAULT_FPMATH_MODE). So it is asked once.
inline bool onednn_multiplies_float32() {
  static const bool does = [] {
    if (!at::hasMKLDNN()) return false;
    try {
      c10::InferenceMode no_gradients;
      const at::Tensor a = at::full({kNarrow, kNarrow}, 1 + 1.0 / 4096, at::kFloat), out = at::zeros({kNarrow, kNarrow}, at::kFloat);
      at::native::mkldnn_matmul(a, a, out, 0, 1);
      return std::abs(out.min().item<double>() - kNarrow * std::pow(1 + 1.0 / 4096, 2)) < 1e-4;
    } catch (const std::exception&) {
      return false;
    }
  }();
  return does;
}

inline bool by_onednn(const at::Tensor& a, const at::Tensor& b) {
#ifdef ETUDE_X86
  return a.scalar_type() == at::kFloat && b.scalar_type() == at::kFloat && a.device().is_cpu() &&
         std::min({a.size(0), a.size(1), b.size(1)}) >= kNarrow && at::globalContext().userEnabledMkldnn() &&
         onednn_multiplies_float32();
#else
  return false;
#endif
}

// out = a b, of matrices (N, K) and (K, M), each dense in rows or in columns; nothing is recorded for a way back.
inline void product_into(at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
  if (by_onednn(a, b)) at::native::mkldnn_matmul(a, b, out, 0, 1);
  else at::mm_out(out, a, b);
}

// out += a b.
inline void add_product(at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
  if (by_onednn(a, b)) at::native::mkldnn_matmul(a, b, out, 1, 1);
  else out.addmm_(a, b);
}

inline at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
  at::Tensor out = at::empty({a.size(0), b.size(1)}, a.options());
  product_into(out, a, b);
  return out;
}

// x W^T + bias: (N, I), (O, I) and (O) or none.
inline at::Tensor affine(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  if (!bias) return product(x, weight.t());
  at::Tensor out = at::empty({x.size(0), weight.size(0)}, x.options());
  out.copy_(*bias);
  add_product(out, x, weight.t());
  return out;
}

}  // namespace etude
