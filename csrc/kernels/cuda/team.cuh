#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/launch.h"
#include "core/score.h"
#include "kernels/cuda/vector.cuh"

namespace tap::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

/// The threads that work on one token (see LaunchPlan): whole warps, in step with each other.
struct Team {
  int64_t token;  ///< in the flattened (B, N) axis; may lie beyond its end
  int thread;     ///< of the team
  int threads;

  __device__ __forceinline__ int lane() const { return thread % kWarpThreads; }
  __device__ __forceinline__ int warp() const { return thread / kWarpThreads; }
  __device__ __forceinline__ int warps() const { return threads / kWarpThreads; }

  /// Waits for the team, and makes visible to it what its threads wrote to shared memory.
  __device__ __forceinline__ void sync() const {
    if (warps() == 1) {
      __syncwarp();
    } else {
      __syncthreads();  // a team of several warps is the whole block
    }
  }
};

__device__ __forceinline__ Team this_team() {
  return {static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y,
          static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)};
}

/// Calls `body.operator()<V>(first)` for all channels of the calling thread, `first` being the
/// first of a Vector V: a whole one where `vectors` allows it, else one channel after the other.
/// Which channels a thread gets, and in which order, is the same either way.
template <typename T, typename Body>
__device__ __forceinline__ void for_each_vector(const Team& team, int64_t channels, bool vectors,
                                                Body body) {
  constexpr int kSize = kVectorBytes / sizeof(T);
  for (int64_t first = int64_t{team.thread} * kSize; first < channels;
       first += int64_t{team.threads} * kSize) {
    const int64_t count = channels - first;
    if (vectors && count >= kSize) {
      body.template operator()<Vector<T, kSize>>(first);
    } else {
#pragma unroll 1
      for (int v = 0; v < kSize && v < count; ++v) {
        body.template operator()<Vector<T, 1>>(first + v);
      }
    }
  }
}

/// Sums each of `values` over the team, in an order fixed by the team's size: every thread gets
/// the totals. Between two calls with the same kCount the team must sync.
template <int kCount>
__device__ __forceinline__ void sum_over_team(const Team& team, float (&values)[kCount]) {
  TAP_UNROLL
  for (int distance = kWarpThreads / 2; distance > 0; distance /= 2) {
    TAP_UNROLL
    for (int k = 0; k < kCount; ++k) values[k] += __shfl_xor_sync(kAllLanes, values[k], distance);
  }
  if (team.warps() == 1) return;

  __shared__ float warp_sums[kMaxBlockThreads / kWarpThreads][kCount];
  if (team.lane() == 0) {
    TAP_UNROLL
    for (int k = 0; k < kCount; ++k) warp_sums[team.warp()][k] = values[k];
  }
  team.sync();
  TAP_UNROLL
  for (int k = 0; k < kCount; ++k) values[k] = warp_sums[0][k];
  for (int warp = 1; warp < team.warps(); ++warp) {
    TAP_UNROLL
    for (int k = 0; k < kCount; ++k) values[k] += warp_sums[warp][k];
  }
}

/// The best of the warp's 32 choices, in every lane.
__device__ __forceinline__ Best<float> best_of_warp(Best<float> best) {
  TAP_UNROLL
  for (int distance = kWarpThreads / 2; distance > 0; distance /= 2) {
    Best<float> other;
    other.distance = __shfl_xor_sync(kAllLanes, best.distance, distance);
    other.index = __shfl_xor_sync(kAllLanes, best.index, distance);
    best.merge(other);
  }
  return best;
}

/// Where a token is in (B, N).
struct Place {
  int64_t batch;
  int64_t token;
};

__device__ __forceinline__ Place locate(int64_t token, int64_t tokens) {
  return {token / tokens, token % tokens};
}

/// First channel of a token in (B, N, D), or in the newest plane of (S, B, N, D); null if absent.
template <typename T, typename Tensor>
__device__ __forceinline__ T* token_data(const Tensor& tensor, Place place) {
  if (tensor.data == nullptr) return nullptr;
  return static_cast<T*>(tensor.data) + place.batch * tensor.batch_stride +
         place.token * tensor.token_stride;
}

}  // namespace tap::cuda
