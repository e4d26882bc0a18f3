#pragma once

#include <cstdint>

#include "core/score.h"
#include "kernels/args.h"
#include "kernels/cpu/reduce.h"
#include "kernels/cpu/vec.h"

// The choice of one token's row: its Gram matrix in one pass over its planes, then all rows.

namespace tap::cpu::TAP_ISA {

/// What a function template is given for S where it shall take any.
inline constexpr int kAnyPlanes = 0;

/// A target that lies in memory.
template <typename T>
struct Stored {
  const T* data;

  /// From this channel on, zero beyond what `read` reads.
  template <typename Read>
  TAP_INLINE Vec operator()(int64_t channel, Read read) const {
    return read(data + channel);
  }
};

/// One token's planes and target, from its first channel on.
template <typename T, typename Target = Stored<T>>
struct ScoredToken {
  const T* stack;  ///< D_0; D_i lies i * plane_stride elements further
  int64_t plane_stride;
  int planes;
  Target target;
  int64_t channels;
};

/// Writes the Gram matrix (gram_size(kPlanes) entries), which stays in registers meanwhile.
template <int kPlanes, typename T, typename Target>
TAP_INLINE void token_gram(const ScoredToken<T, Target>& token, double* gram) {
  sum_channels<gram_size(kPlanes), Gram<Vec, kPlanes>>(
      token.channels, gram, [&](auto& partial, int64_t channel, auto read) TAP_INLINE_LAMBDA {
        Vec basis[basis_size(kPlanes)];
        basis[kPlanes] = token.target(channel, read);
        basis[0] = basis[kPlanes] - read(token.stack + channel);
        TAP_UNROLL
        for (int i = 1; i < kPlanes; ++i) {
          basis[i] = read(token.stack + i * token.plane_stride + channel);
        }
        partial.add(basis);
      });
}

/// Any S: a pass over the channels for each pair of basis vectors, which the caches serve.
template <typename T, typename Target>
void token_gram_any(const ScoredToken<T, Target>& token, double* gram) {
  const auto basis = [&](int i, int64_t channel, auto read) TAP_INLINE_LAMBDA {
    if (i == token.planes) return token.target(channel, read);
    const Vec plane = read(token.stack + i * token.plane_stride + channel);
    return i == 0 ? token.target(channel, read) - plane : plane;
  };
  for (int i = 0; i < basis_size(token.planes); ++i) {
    for (int j = 0; j <= i; ++j) {
      sum_channels<1, Sum>(token.channels, gram + gram_index(i, j),
                           [&](Sum& sum, int64_t channel, auto read) TAP_INLINE_LAMBDA {
                             sum.products[0] += basis(i, channel, read) * basis(j, channel, read);
                           });
    }
  }
}

/// Out of line so that every row is scored by the very same instructions: equal rows tie exactly.
template <int kPlanes>
__attribute__((noinline)) double score_row(Metric metric, const double* gram, const float* row,
                                           int planes) {
  return row_distance(metric, gram, row, kPlanes == kAnyPlanes ? planes : kPlanes);
}

template <typename T, int kPlanes, typename Target = Stored<T>>
Best<double> choose_row(const ScoredToken<T, Target>& token, Metric metric, const Rows& rows) {
  double gram[gram_size(kPlanes == kAnyPlanes ? kMaxScoredPlanes : kPlanes)];
  if constexpr (kPlanes == kAnyPlanes) {
    token_gram_any(token, gram);
  } else {
    token_gram<kPlanes>(token, gram);
  }
  Best<double> best;
  for (int64_t m = 0; m < rows.count; ++m) {
    const float* row = rows.data + m * rows.stride;
    best.add(score_row<kPlanes>(metric, gram, row, token.planes), static_cast<int32_t>(m));
  }
  return best;
}

template <typename T, typename Target = Stored<T>>
using ChooseRow = Best<double> (*)(const ScoredToken<T, Target>& token, Metric metric,
                                   const Rows& rows);

/// choose_row for S planes.
template <typename T, typename Target = Stored<T>>
ChooseRow<T, Target> choose_row_function(int64_t planes) {
  switch (planes) {
    case 1:
      return choose_row<T, 1, Target>;
    case 2:
      return choose_row<T, 2, Target>;
    case 3:
      return choose_row<T, 3, Target>;
    case 4:
      return choose_row<T, 4, Target>;
    case 5:
      return choose_row<T, 5, Target>;
    case 6:
      return choose_row<T, 6, Target>;
    default:
      return choose_row<T, kAnyPlanes, Target>;
  }
}

}  // namespace tap::cpu::TAP_ISA
