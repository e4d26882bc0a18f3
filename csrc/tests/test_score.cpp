#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "core/score.h"
#include "tests/check.h"

namespace {

using tap::Metric;

// e, D_1, ..., D_{S-1} and u.
static_assert(tap::basis_size(3) == 4 && tap::gram_size(3) == 10);

/// 1 - cos and |u - v|^2 as they are defined, of a candidate that is built.
struct Distances {
  long double cosine, l2;
};

Distances defined_distances(const std::vector<double>& u, const std::vector<double>& v) {
  long double uu = 0, vv = 0, uv = 0, dd = 0;
  for (size_t k = 0; k < u.size(); ++k) {
    uu += static_cast<long double>(u[k]) * u[k];
    vv += static_cast<long double>(v[k]) * v[k];
    uv += static_cast<long double>(u[k]) * v[k];
    dd += static_cast<long double>(u[k] - v[k]) * (u[k] - v[k]);
  }
  if (uu == 0 || vv == 0) return {uu == vv ? 0.0L : 1.0L, dd};
  return {1 - uv / (sqrtl(uu) * sqrtl(vv)), dd};
}

/// One token: planes[s][channel] and target[channel].
struct Token {
  std::vector<std::vector<double>> planes;
  std::vector<double> target;
};

template <int kPlanes, typename Real>
tap::Gram<Real, kPlanes> gram_of(const Token& token, size_t begin, size_t end) {
  tap::Gram<Real, kPlanes> gram;
  gram.clear();
  for (size_t k = begin; k < end; ++k) {
    Real basis[tap::basis_size(kPlanes)];
    basis[0] = static_cast<Real>(token.target[k]) - static_cast<Real>(token.planes[0][k]);
    for (int i = 1; i < kPlanes; ++i) basis[i] = static_cast<Real>(token.planes[i][k]);
    basis[kPlanes] = static_cast<Real>(token.target[k]);
    gram.add(basis);
  }
  return gram;
}

/// Scores of the Gram form against candidates that are built, for rows of every kind; the Gram
/// matrix in two parts, merged.
template <int kPlanes>
void test_distances(std::mt19937& random) {
  std::normal_distribution<double> normal;
  constexpr size_t kChannels = 97;
  for (int round = 0; round < 50; ++round) {
    Token token{{}, std::vector<double>(kChannels)};
    for (int s = 0; s < kPlanes; ++s) {
      const double scale = std::pow(0.5, s);
      token.planes.emplace_back(kChannels);
      for (double& x : token.planes.back()) x = static_cast<float>(scale * normal(random));
    }
    float row[kPlanes];
    for (float& weight : row) weight = static_cast<float>(normal(random));
    if (round % 2 == 0) row[0] = 1;
    if (round % 3 == 0) row[kPlanes - 1] = 0;

    std::vector<double> candidate(kChannels);
    for (size_t k = 0; k < kChannels; ++k) {
      for (int s = 0; s < kPlanes; ++s) candidate[k] += row[s] * token.planes[s][k];
      // Near the candidate half of the time: where the plain formula would cancel.
      token.target[k] =
          static_cast<float>(round % 4 < 2 ? normal(random) : candidate[k] + 1e-3 * normal(random));
    }
    auto gram = gram_of<kPlanes, double>(token, 0, 40);
    gram.merge(gram_of<kPlanes, double>(token, 40, kChannels));
    const Distances expected = defined_distances(token.target, candidate);
    const double cosine = tap::row_distance(Metric::kCosine, gram.products, row, kPlanes);
    const double l2 = tap::row_distance(Metric::kL2, gram.products, row, kPlanes);
    CHECK(tap::tests::close(cosine, expected.cosine, 1e-14, 1e-8), "S=%d: cosine %.17g, not %.17Lg",
          kPlanes, cosine, expected.cosine);
    CHECK(tap::tests::close(l2, expected.l2, 1e-11, 1e-8), "S=%d: l2 %.17g, not %.17Lg", kPlanes,
          l2, expected.l2);
  }
}

/// Why the basis starts from target - D_0: in float32 a distance of 1e-7 keeps its digits, where
/// 1 - <u, v> / (|u| |v|) has none left.
void test_nothing_cancels_in_float32() {
  std::mt19937 random(2);
  std::normal_distribution<double> normal;
  Token token{{std::vector<double>(512)}, std::vector<double>(512)};
  for (size_t k = 0; k < 512; ++k) {
    token.planes[0][k] = static_cast<float>(normal(random));
    token.target[k] = static_cast<float>(token.planes[0][k] + 3e-4 * normal(random));
  }
  const auto gram = gram_of<1, float>(token, 0, 512);
  const float row[] = {1};
  const float got = tap::row_distance(Metric::kCosine, gram.products, row, 1);
  const long double expected = defined_distances(token.target, token.planes[0]).cosine;
  CHECK(expected > 1e-9L && expected < 1e-6L, "%Lg", expected);
  CHECK(tap::tests::close(got, expected, 0, 1e-3), "%g, not %Lg", got, expected);
}

void test_zero_vectors() {
  const double zero[] = {0, 0, 0}, target[] = {1, 1, 1}, plane[] = {4, 0, 0};
  const float one[] = {1}, none[] = {0};
  // S = 1; entries <e, e>, <u, e>, <u, u>, with e = u - D_0.
  const auto cosine = [](const double* gram, const float* row) {
    return tap::row_distance(Metric::kCosine, gram, row, 1);
  };
  CHECK(cosine(zero, one) == 0, "target and candidate zero");
  CHECK(cosine(target, one) == 1, "D_0 zero");
  CHECK(cosine(target, none) == 1, "row zero");
  CHECK(cosine(plane, one) == 1, "target zero");
}

/// What rounding has taken below zero counts as zero.
void test_rounding_below_zero() {
  const double below[] = {-1e-9, 0, 1};
  const float one[] = {1};
  CHECK(tap::row_distance(Metric::kL2, below, one, 1) == 0, "|d|^2");
  CHECK(tap::cosine_distance(tap::Difference<double>{0.9, 1}, 1.0) == 1, "|v|^2");
  CHECK(tap::cosine_distance(tap::Difference<double>{0, 0.1}, 1.0) == 0, "the distance");
}

void test_planes_of_weight_zero_do_not_leak() {
  Token token{{{1, 2}, {NAN, INFINITY}}, {2, 2}};
  const auto gram = gram_of<2, double>(token, 0, 2);
  const float without[] = {1, 0}, with[] = {1, 1};
  CHECK(tap::row_distance(Metric::kL2, gram.products, without, 2) == 1, "weight zero");
  CHECK(std::isnan(tap::row_distance(Metric::kL2, gram.products, with, 2)), "weight one");
}

/// Best is the same in every order: lowest index among the least, NaN last of all.
void test_best() {
  const struct {
    std::vector<double> distances;
    int index;
  } cases[] = {{{3, 1, 2}, 1}, {{2, 1, 1, 1}, 1},    {{NAN, 2, NAN, 2}, 1},  {{NAN, NAN, NAN}, 0},
               {{0, 0}, 0},    {{INFINITY, NAN}, 0}, {{NAN, INFINITY, 1}, 2}};
  for (const auto& [distances, index] : cases) {
    std::vector<int> order(distances.size());
    std::iota(order.begin(), order.end(), 0);
    do {
      for (size_t split = 0; split <= order.size(); ++split) {
        tap::Best<double> left, right;
        for (size_t k = 0; k < order.size(); ++k) {
          (k < split ? left : right).add(distances[order[k]], order[k]);
        }
        left.merge(right);
        CHECK(left.index == index, "got %d, not %d", left.index, index);
        CHECK(tap::tests::close(left.distance, distances[index], 0), "row %d", index);
      }
    } while (std::next_permutation(order.begin(), order.end()));
  }
}

}  // namespace

int main() {
  std::mt19937 random(3);
  test_distances<1>(random);
  test_distances<2>(random);
  test_distances<3>(random);
  test_distances<4>(random);
  test_distances<7>(random);
  test_nothing_cancels_in_float32();
  test_zero_vectors();
  test_rounding_below_zero();
  test_planes_of_weight_zero_do_not_leak();
  test_best();
  return tap::tests::failures() != 0;
}
