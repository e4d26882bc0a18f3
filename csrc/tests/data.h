#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "kernels/args.h"
#include "tests/check.h"

// What the tests of the CPU and of the CUDA kernels draw and compare alike.

namespace tap::tests {

template <typename T>
constexpr DType kDType = DType::kFloat32;
template <>
constexpr DType kDType<BFloat16> = DType::kBFloat16;
template <>
constexpr DType kDType<Float16> = DType::kFloat16;

/// What one rounding to the storage type may cost, relatively.
template <typename T>
constexpr double kRounding = 0x1p-24;
template <>
constexpr double kRounding<BFloat16> = 0x1p-8;
template <>
constexpr double kRounding<Float16> = 0x1p-11;

/// Seeded by each test's main().
inline std::mt19937 generator;

inline float normal() { return std::normal_distribution<float>()(generator); }

/// (M, S) rows with a stride of their own: Taylor-like ones, free ones, zeros among the weights.
struct RowTable {
  int64_t count, planes;
  std::vector<float> data;

  RowTable(int64_t count, int64_t planes)
      : count(count), planes(planes), data(count * (planes + 2), NAN) {
    for (int64_t m = 0; m < count; ++m) {
      for (int64_t s = 0; s < planes; ++s) at(m, s) = 0.5f * normal();
      if (m % 3 != 2) at(m, 0) = 1;
      if (m % 2 == 1) at(m, planes - 1) = 0;
    }
  }
  float& at(int64_t m, int64_t s) { return data[m * (planes + 2) + s]; }
  Rows view() const { return {data.data(), count, planes + 2}; }
};

/// One channel of candidate m, from a stack with `value(s, b, n, d)`.
template <typename Stack>
double candidate_value(Stack& stack, RowTable& rows, int64_t m, int64_t b, int64_t n, int64_t d) {
  double sum = 0;
  for (int64_t s = 0; s < rows.planes; ++s) {
    if (rows.at(m, s) != 0) sum += rows.at(m, s) * stack.value(s, b, n, d);
  }
  return sum;
}

/// The sums over channels that the distances of two vectors are made of.
struct Sums {
  long double uu = 0, vv = 0, uv = 0, dd = 0, absolute = 0;
};

/// Of the vectors that `u` and `v` yield per channel.
template <typename U, typename V>
Sums sums_of(int64_t channels, U u, V v) {
  Sums sums;
  for (int64_t d = 0; d < channels; ++d) {
    const long double a = u(d), b = v(d);
    sums.uu += a * a;
    sums.vv += b * b;
    sums.uv += a * b;
    sums.dd += (a - b) * (a - b);
    sums.absolute += fabsl(a - b);
  }
  return sums;
}

/// The probe of hidden state `h` by definition: one token's LayerNorm, scaled and shifted.
template <typename H, typename Shift, typename Scale>
std::vector<double> modulated(int64_t channels, double eps, H h, Shift shift, Scale scale) {
  long double total = 0, squares = 0;
  for (int64_t d = 0; d < channels; ++d) total += h(d);
  const long double mean = total / channels;
  for (int64_t d = 0; d < channels; ++d) squares += (h(d) - mean) * (h(d) - mean);
  const long double deviation = sqrtl(squares / channels + static_cast<float>(eps));
  std::vector<double> probe(channels);
  for (int64_t d = 0; d < channels; ++d) {
    probe[d] = static_cast<double>((h(d) - mean) / deviation * (1 + scale(d)) + shift(d));
  }
  return probe;
}

/// A distance by definition, and what float32 arithmetic may be off by.
struct Distance {
  double value, slack;
};

/// A choice is right if no row is nearer by more than rounding, and its distance is reported.
inline void check_choice(const std::vector<Distance>& distances, int32_t index, double distance,
                         const std::string& where) {
  CHECK(index >= 0 && index < static_cast<int32_t>(distances.size()), "%s: index %d", where.c_str(),
        index);
  const Distance& chosen = distances[index];
  for (const Distance& other : distances) {
    CHECK(chosen.value - other.value <= chosen.slack + other.slack, "%s: regret %g", where.c_str(),
          chosen.value - other.value);
  }
  CHECK(close(distance, chosen.value, chosen.slack, 1e-6), "%s: %g, not %g", where.c_str(),
        distance, chosen.value);
}

}  // namespace tap::tests
