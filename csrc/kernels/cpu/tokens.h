#pragma once

#include <cstdint>

#include "kernels/args.h"
#include "kernels/cpu/vec.h"

namespace tap::cpu::TAP_ISA {

/// Where token `token` of the flattened (B, N) axis starts, in elements.
template <typename Tensor>
TAP_INLINE int64_t token_offset(const Tensor& tensor, int64_t token, int64_t tokens) {
  return token / tokens * tensor.batch_stride + token % tokens * tensor.token_stride;
}

/// First channel of a token in (B, N, D), or in the newest plane of (S, B, N, D); null if absent.
template <typename T, typename Tensor>
TAP_INLINE T* token_data(const Tensor& tensor, int64_t token, int64_t tokens) {
  if (tensor.data == nullptr) return nullptr;
  return static_cast<T*>(tensor.data) + token_offset(tensor, token, tokens);
}

/// Calls `body` with a value of the storage type, for its type.
template <typename Body>
TAP_INLINE void with_dtype(DType dtype, Body body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(float{});
    case DType::kBFloat16:
      return body(BFloat16{});
    case DType::kFloat16:
      return body(Float16{});
  }
}

}  // namespace tap::cpu::TAP_ISA
