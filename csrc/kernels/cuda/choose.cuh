#pragma once

#include <cstdint>

#include "core/score.h"
#include "kernels/args.h"
#include "kernels/cuda/team.cuh"

// The choice of one token's row: its Gram matrix in one pass over its planes, then all rows.

namespace tap::cuda {

/// As kPlanes: S is known at run time only.
inline constexpr int kAnyPlanes = 0;

/// Blocks that fit a multiprocessor together, for __launch_bounds__: as many as the registers of
/// the Gram matrix allow without spilling.
constexpr int resident_blocks(int planes) { return planes <= 3 ? 4 : planes == 4 ? 3 : 2; }

/// A target that lies in memory.
template <typename T>
struct Stored {
  const T* data;

  /// Channels of a Vector V, not yet widened.
  template <typename V>
  struct Piece {
    V vector;
    __device__ __forceinline__ float value(int v) const { return widen(vector.values[v]); }
  };

  template <typename V>
  __device__ __forceinline__ Piece<V> load(int64_t first) const {
    return {V::load(data + first)};
  }
};

/// One token of a stack and its target: pointers to its first channel.
template <typename T, typename Target = Stored<T>>
struct Scored {
  const T* stack;
  int64_t plane_stride;
  int planes;
  Target target;
  int64_t channels;
  bool vectors;  ///< whether vectors may be accessed whole
};

/// Best of all rows by `distance(row)`. Every warp does all of it, which costs less than telling
/// the others, and gets the same result.
template <typename Distance>
__device__ __forceinline__ Best<float> best_row(const Team& team, const Rows& rows,
                                                Distance distance) {
  Best<float> best;
#pragma unroll 1  // one copy of the code, so that equal rows tie exactly
  for (int64_t m = team.lane(); m < rows.count; m += kWarpThreads) {
    best.add(distance(rows.data + m * rows.stride), static_cast<int32_t>(m));
  }
  return best_of_warp(best);
}

/// S known at compile time: the whole Gram matrix stays in registers.
template <typename T, int kPlanes>
struct Choose {
  template <typename Target>
  static __device__ __forceinline__ Best<float> row(const Team& team, Metric metric,
                                                    const Rows& rows,
                                                    const Scored<T, Target>& token) {
    Gram<float, kPlanes> gram;
    gram.clear();
    for_each_vector<T>(team, token.channels, token.vectors, [&]<typename V>(int64_t first) {
      const auto target = token.target.template load<V>(first);
      V planes[kPlanes];
      TAP_UNROLL
      for (int s = 0; s < kPlanes; ++s) {
        planes[s] = V::load(token.stack + s * token.plane_stride + first);
      }
      TAP_UNROLL
      for (int v = 0; v < V::kSize; ++v) {
        float basis[basis_size(kPlanes)];
        basis[kPlanes] = target.value(v);
        basis[0] = basis[kPlanes] - widen(planes[0].values[v]);
        TAP_UNROLL
        for (int i = 1; i < kPlanes; ++i) basis[i] = widen(planes[i].values[v]);
        gram.add(basis);
      }
    });
    sum_over_team(team, gram.products);
    return best_row(team, rows, [&](const float* row) {
      return row_distance(metric, gram.products, row, kPlanes);
    });
  }
};

/// Any S up to kMaxScoredPlanes: a pass over the channels for every few entries of a row of the
/// Gram matrix, which is gathered in shared memory.
template <typename T>
struct Choose<T, kAnyPlanes> {
  static constexpr int kEntries = 4;  // of a row of the matrix, per pass

  /// Channels of basis vector `i`.
  template <typename V, typename Target>
  static __device__ __forceinline__ void load_basis(const Scored<T, Target>& token, int i,
                                                    int64_t first, float (&basis)[V::kSize]) {
    if (i == token.planes) {
      const auto target = token.target.template load<V>(first);
      TAP_UNROLL
      for (int v = 0; v < V::kSize; ++v) basis[v] = target.value(v);
      return;
    }
    const V plane = V::load(token.stack + i * token.plane_stride + first);
    TAP_UNROLL
    for (int v = 0; v < V::kSize; ++v) basis[v] = widen(plane.values[v]);
    if (i > 0) return;
    const auto target = token.target.template load<V>(first);
    TAP_UNROLL
    for (int v = 0; v < V::kSize; ++v) basis[v] = target.value(v) - basis[v];
  }

  template <typename Target>
  static __device__ __forceinline__ Best<float> row(const Team& team, Metric metric,
                                                    const Rows& rows,
                                                    const Scored<T, Target>& token) {
    __shared__ float grams[kMaxBlockThreads / kWarpThreads][gram_size(kMaxScoredPlanes)];
    float* gram = grams[threadIdx.y];
    for (int i = 0; i < basis_size(token.planes); ++i) {
      for (int j = 0; j <= i; j += kEntries) {
        float entries[kEntries] = {};
        for_each_vector<T>(team, token.channels, token.vectors, [&]<typename V>(int64_t first) {
          float left[V::kSize];
          load_basis<V>(token, i, first, left);
          TAP_UNROLL
          for (int k = 0; k < kEntries; ++k) {
            if (j + k > i) break;
            float right[V::kSize];
            load_basis<V>(token, j + k, first, right);
            TAP_UNROLL
            for (int v = 0; v < V::kSize; ++v) entries[k] += left[v] * right[v];
          }
        });
        sum_over_team(team, entries);
        if (team.thread == 0) {
          for (int k = 0; k < kEntries && j + k <= i; ++k) gram[gram_index(i, j + k)] = entries[k];
        }
        team.sync();
      }
    }
    return best_row(team, rows, [&](const float* row) {
      return row_distance(metric, gram, row, token.planes);
    });
  }
};

}  // namespace tap::cuda
