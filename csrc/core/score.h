#pragma once

#include <cmath>
#include <cstdint>

#include "core/macros.h"
#include "core/rows.h"

namespace tap {

/// How far a candidate v is from the target u of its token (u, v have D channels).
enum class Metric : int32_t {
  kCosine,  ///< 1 - cos(v, u): eq. 7, arXiv 2603.03792
  kL2,      ///< |u - v|^2
  kL1,      ///< sum |u - v|; has no Gram form, so only where candidates are materialised
};

// ---- The Gram matrix of one token --------------------------------------------------------------
//
// Candidates are scored without being built. With u the target and e = u - D_0, every difference
// u - v lies in the span of the S + 1 basis vectors (e, D_1, ..., D_{S-1}, u), so all distances of
// all rows follow from the basis' inner products, whatever the number of rows. The basis starts
// from the difference e, not from D_0, because <u, v> / (|u| |v|) cancels in float32 exactly where
// candidates are good: there d = u - v is small, and e is of its order.

TAP_HOST_DEVICE constexpr int basis_size(int planes) { return planes + 1; }

/// Entries of the Gram matrix that are kept: the lower triangle, row by row.
TAP_HOST_DEVICE constexpr int gram_size(int planes) {
  return basis_size(planes) * (basis_size(planes) + 1) / 2;
}

/// Position of <basis_i, basis_j> in the lower triangle; needs i >= j.
TAP_HOST_DEVICE constexpr int gram_index(int i, int j) { return i * (i + 1) / 2 + j; }

/// Inner products of a token's basis over the channels seen so far: a monoid under `merge`, so
/// that channels may be split over lanes, threads and blocks. `Real` is a float or a SIMD vector
/// of independent partial sums.
template <typename Real, int kPlanes>
struct Gram {
  static constexpr int kBasis = basis_size(kPlanes);
  static constexpr int kSize = gram_size(kPlanes);

  Real products[kSize];

  TAP_HOST_DEVICE void clear() {
    TAP_UNROLL
    for (int k = 0; k < kSize; ++k) products[k] = Real{};
  }

  /// Adds one channel of the basis: basis = (u - D_0, D_1, ..., D_{S-1}, u) there.
  TAP_HOST_DEVICE void add(const Real (&basis)[kBasis]) {
    TAP_UNROLL
    for (int i = 0; i < kBasis; ++i) {
      TAP_UNROLL
      for (int j = 0; j <= i; ++j) products[gram_index(i, j)] += basis[i] * basis[j];
    }
  }

  TAP_HOST_DEVICE void merge(const Gram& other) {
    TAP_UNROLL
    for (int k = 0; k < kSize; ++k) products[k] += other.products[k];
  }
};

// ---- From the Gram matrix to a distance --------------------------------------------------------

/// Inner products of d = u - v for one row: everything a distance needs besides |u|^2.
template <typename Real>
struct Difference {
  Real dd;  ///< |d|^2
  Real du;  ///< <d, u>
};

/// Evaluates d over the lower triangle `gram` (gram_size(planes) entries) for `row` (planes
/// weights). Basis vectors of coefficient zero are left out, NaN or not.
template <typename Real>
TAP_HOST_DEVICE Difference<Real> difference(const Real* gram, const float* row, int planes) {
  Difference<Real> result{0, 0};
  TAP_UNROLL
  for (int i = 0; i <= planes; ++i) {
    const Real c_i = difference_coefficient<Real>(row, planes, i);
    if (c_i == 0) continue;
    Real cross = 0;
    TAP_UNROLL
    for (int j = 0; j < i; ++j) {
      const Real c_j = difference_coefficient<Real>(row, planes, j);
      if (c_j != 0) cross += c_j * gram[gram_index(i, j)];
    }
    result.dd += c_i * (c_i * gram[gram_index(i, i)] + 2 * cross);
    result.du += c_i * gram[gram_index(planes, i)];
  }
  if (result.dd < 0) result.dd = 0;  // rounding only; keeps a NaN
  return result;
}

/// 1 - cos(v, u) from |d|^2, <d, u> and |u|^2, at least 0:
///   |v|^2 = |u|^2 - 2 <d, u> + |d|^2,  |u| - |v| = (2 <d, u> - |d|^2) / (|u| + |v|),
///   1 - cos = (|d|^2 - (|u| - |v|)^2) / (2 |u| |v|).
/// The cosine with a zero vector is taken as 0, and as 1 between two zero vectors.
template <typename Real>
TAP_HOST_DEVICE Real cosine_distance(Difference<Real> d, Real uu) {
  Real vv = uu - 2 * d.du + d.dd;
  if (vv < 0) vv = 0;
  const Real u_norm = std::sqrt(uu);
  const Real v_norm = std::sqrt(vv);
  if (u_norm * v_norm == 0) return u_norm == v_norm ? Real(0) : Real(1);
  const Real shortfall = (2 * d.du - d.dd) / (u_norm + v_norm);
  const Real distance = (d.dd - shortfall * shortfall) / (2 * u_norm * v_norm);
  return distance < 0 ? Real(0) : distance;
}

/// Distance of a row's candidate from the target; `metric` is kCosine or kL2.
template <typename Real>
TAP_HOST_DEVICE Real row_distance(Metric metric, const Real* gram, const float* row, int planes) {
  const Difference<Real> d = difference(gram, row, planes);
  return metric == Metric::kL2 ? d.dd : cosine_distance(d, gram[gram_index(planes, planes)]);
}

// ---- The choice --------------------------------------------------------------------------------

/// Running argmin over rows: a monoid whose result does not depend on the order of merging. A NaN
/// never wins; ties take the lowest row; with NaN alone the choice is row 0 at distance NaN.
template <typename Real>
struct Best {
  Real distance = static_cast<Real>(NAN);
  int32_t index = 0;

  TAP_HOST_DEVICE void add(Real candidate, int32_t row) {
    const bool first = distance != distance && candidate == candidate;
    if (first || candidate < distance || (candidate == distance && row < index)) {
      distance = candidate;
      index = row;
    }
  }

  TAP_HOST_DEVICE void merge(const Best& other) { add(other.distance, other.index); }
};

}  // namespace tap
