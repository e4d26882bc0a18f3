#pragma once

#include <cstdint>

#include "core/score.h"
#include "kernels/cpu/vec.h"

// Sums over the channels of one token. Each lane adds a block of channels in float32, then the
// blocks are added in double: as exact as a float64 sum of the float32 products to about 1e-8,
// at the price of float32. The order is fixed, so results never depend on threads or neighbours.

namespace tap::cpu::TAP_ISA {

inline constexpr int64_t kBlock = 32 * kLanes;  // channels between two widenings

/// How a vector of channels is read: whole, or (last) in part.
struct Whole {
  template <typename T>
  TAP_INLINE Vec operator()(const T* source) const {
    return load_ahead(source);
  }
  /// One in every lane that is read.
  TAP_INLINE Vec ones() const { return Vec{} + 1; }
};

struct Part {
  int64_t count;
  template <typename T>
  TAP_INLINE Vec operator()(const T* source) const {
    return load_part(source, count);
  }
  TAP_INLINE Vec ones() const {
    Vec lanes{};
    for (int64_t lane = 0; lane < count; ++lane) lanes[lane] = 1;
    return lanes;
  }
};

/// Adds `add(partial, channel, read)` over all channels; `Partial` holds `kSums` Vec as `products`
/// and is zero after clear(). Writes the `kSums` totals.
template <int kSums, typename Partial, typename Add>
TAP_INLINE void sum_channels(int64_t channels, double* totals, Add add) {
  VecWide wide[kSums] = {};
  const int64_t whole = channels - channels % kLanes;
  int64_t channel = 0;
  do {
    Partial partial;
    partial.clear();
    const int64_t left = whole - channel;
    const int64_t end = channel + (left < kBlock ? left : kBlock);
    for (; channel < end; channel += kLanes) add(partial, channel, Whole{});
    if (channel == whole && whole < channels) add(partial, whole, Part{channels - whole});
    TAP_UNROLL
    for (int k = 0; k < kSums; ++k) add_wide(wide[k], partial.products[k]);
  } while (channel < whole);
  for (int k = 0; k < kSums; ++k) totals[k] = sum_lanes(wide[k]);
}

/// One float32 sum: the Partial of a plain sum.
struct Sum {
  Vec products[1];
  TAP_INLINE void clear() { products[0] = Vec{}; }
};

}  // namespace tap::cpu::TAP_ISA
