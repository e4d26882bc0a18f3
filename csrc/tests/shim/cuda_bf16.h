#pragma once

#include "core/dtype.h"
#include "cuda_runtime.h"

struct __nv_bfloat16 {
  tap::BFloat16 value;
};

inline uint16_t __bfloat16_as_ushort(__nv_bfloat16 half) { return half.value.bits; }
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  return {tap::from_float<tap::BFloat16>(value)};
}
