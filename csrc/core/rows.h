#pragma once

#include "core/macros.h"

namespace tap {

// A row holds the S weights of one predictor over the planes of a stack, newest plane first:
// candidate = sum_s row[s] * D_s. A plane of weight zero takes no part in the candidate, so that
// whatever it holds (a NaN of a history not yet filled) cannot leak.

/// Coefficient of basis vector `i` in d = target - candidate, over the basis of core/score.h:
/// (e, D_1, ..., D_{S-1}, u) with e = u - D_0, where d = w_0 e - sum_i w_i D_i + (1 - w_0) u.
/// Every Taylor-like row has w_0 = 1 and leaves u out.
template <typename Real>
TAP_HOST_DEVICE Real difference_coefficient(const float* row, int planes, int i) {
  if (i == 0) return static_cast<Real>(row[0]);
  if (i == planes) return Real(1) - static_cast<Real>(row[0]);
  return -static_cast<Real>(row[i]);
}

}  // namespace tap
