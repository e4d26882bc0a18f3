#pragma once

#include "core/dtype.h"
#include "cuda_runtime.h"

struct __half {
  tap::Float16 value;
};

inline __half __ushort_as_half(uint16_t bits) { return {{bits}}; }
inline uint16_t __half_as_ushort(__half half) { return half.value.bits; }
inline float __half2float(__half half) { return tap::to_float(half.value); }
inline __half __float2half_rn(float value) { return {tap::from_float<tap::Float16>(value)}; }
