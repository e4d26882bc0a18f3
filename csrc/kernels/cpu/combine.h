#pragma once

#include <cstdint>

#include "core/macros.h"
#include "kernels/cpu/vec.h"

namespace tap::cpu::TAP_ISA {

/// out = base + sum_s row[s] * stack[s] over one token's channels, in float32 with one rounding.
/// Planes of weight zero are not read; a null base is zero.
template <typename T>
void combine(const T* stack, int64_t plane_stride, int64_t planes, const float* row, const T* base,
             int64_t channels, T* out) {
  constexpr int kVecs = 4;  // independent sums, to hide the latency of a fused multiply-add
  int64_t channel = 0;
  for (; channel + kVecs * kLanes <= channels; channel += kVecs * kLanes) {
    Vec sums[kVecs] = {};
    if (base != nullptr) {
      TAP_UNROLL
      for (int v = 0; v < kVecs; ++v) sums[v] = load_ahead(base + channel + v * kLanes);
    }
    for (int64_t s = 0; s < planes; ++s) {
      if (row[s] == 0) continue;
      const T* plane = stack + s * plane_stride + channel;
      TAP_UNROLL
      for (int v = 0; v < kVecs; ++v) sums[v] += row[s] * load_ahead(plane + v * kLanes);
    }
    TAP_UNROLL
    for (int v = 0; v < kVecs; ++v) store(out + channel + v * kLanes, sums[v]);
  }
  for (; channel < channels; channel += kLanes) {
    const int64_t count = channels - channel < kLanes ? channels - channel : kLanes;
    Vec sum = base != nullptr ? load_part(base + channel, count) : Vec{};
    for (int64_t s = 0; s < planes; ++s) {
      if (row[s] != 0) sum += row[s] * load_part(stack + s * plane_stride + channel, count);
    }
    store_part(out + channel, sum, count);
  }
}

}  // namespace tap::cpu::TAP_ISA
