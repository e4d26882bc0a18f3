#pragma once

#include <cstdint>

#include "kernels/cuda/team.cuh"

namespace tap::cuda {

/// out = base + sum_s row[s] * stack[s] over one token's channels, in float32 with one rounding.
/// `base.operator()<V>(first)` gives it as a Vector V. Planes of weight zero are not read. kGroup
/// planes are loaded before the first of them is used; S of them where S is known, for then nothing
/// is left over.
template <typename T, int kGroup, typename Base>
__device__ __forceinline__ void combine_onto(const Team& team, const T* stack, int64_t plane_stride,
                                             int64_t planes, const float* row, Base base,
                                             int64_t channels, bool vectors, T* out) {
  for_each_vector<T>(team, channels, vectors, [&]<typename V>(int64_t first) {
    const V start = base.template operator()<V>(first);
    float sums[V::kSize];
    TAP_UNROLL
    for (int v = 0; v < V::kSize; ++v) sums[v] = widen(start.values[v]);
    for (int64_t s = 0; s < planes; s += kGroup) {
      float weights[kGroup];
      V group[kGroup];
      TAP_UNROLL
      for (int k = 0; k < kGroup; ++k) {
        weights[k] = s + k < planes ? row[s + k] : 0;
        if (weights[k] != 0) group[k] = V::load(stack + (s + k) * plane_stride + first);
      }
      TAP_UNROLL
      for (int k = 0; k < kGroup; ++k) {
        if (weights[k] == 0) continue;
        TAP_UNROLL
        for (int v = 0; v < V::kSize; ++v) sums[v] += weights[k] * widen(group[k].values[v]);
      }
    }
    V result;
    TAP_UNROLL
    for (int v = 0; v < V::kSize; ++v) result.values[v] = narrow<T>(sums[v]);
    result.store(out + first);
  });
}

/// combine_onto a base in memory; a null one is zero.
template <typename T, int kGroup>
__device__ __forceinline__ void combine(const Team& team, const T* stack, int64_t plane_stride,
                                        int64_t planes, const float* row, const T* base,
                                        int64_t channels, bool vectors, T* out) {
  const auto start = [&]<typename V>(int64_t first) {
    V vector{};
    if (base != nullptr) vector = V::load(base + first);
    return vector;
  };
  combine_onto<T, kGroup>(team, stack, plane_stride, planes, row, start, channels, vectors, out);
}

}  // namespace tap::cuda
