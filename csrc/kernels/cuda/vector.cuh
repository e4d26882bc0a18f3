#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "core/dtype.h"
#include "core/launch.h"

// How one thread reads and writes the channels of a token.

namespace tap::cuda {

// As tap::to_float and tap::from_float, in one instruction each.
__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(BFloat16 value) { return to_float(value); }
__device__ __forceinline__ float widen(Float16 value) {
  return __half2float(__ushort_as_half(value.bits));
}

template <typename T>
__device__ __forceinline__ T narrow(float value);
template <>
__device__ __forceinline__ float narrow<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ BFloat16 narrow<BFloat16>(float value) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
}
template <>
__device__ __forceinline__ Float16 narrow<Float16>(float value) {
  return {__half_as_ushort(__float2half_rn(value))};
}

/// Consecutive channels of one token, as they are stored: kVectorBytes of them, read and written by
/// one instruction each, or a single one.
template <typename T, int kChannels>
struct Vector {
  static constexpr int kSize = kChannels;
  static_assert(kSize == 1 || kSize * sizeof(T) == kVectorBytes);

  T values[kSize];

  /// Unless kSize is 1, `source` and `target` are aligned to kVectorBytes.
  static __device__ __forceinline__ Vector load(const T* source) {
    if constexpr (kSize == 1) {
      return {*source};
    } else {
      return bit_cast<Vector>(*reinterpret_cast<const uint4*>(source));
    }
  }

  __device__ __forceinline__ void store(T* target) const {
    if constexpr (kSize == 1) {
      *target = values[0];
    } else {
      *reinterpret_cast<uint4*>(target) = bit_cast<uint4>(*this);
    }
  }
};

}  // namespace tap::cuda
