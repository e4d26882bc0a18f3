#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

#include "core/dtype.h"
#include "core/score.h"

// What the ops ask of their tensors, one function per clause. Each throws a sentence that names
// the op, the argument, what was expected and what was got: std::runtime_error for a tensor
// (RuntimeError in Python, as torch's own operators raise), std::invalid_argument for a choice
// (ValueError), std::out_of_range for an index (IndexError). The fakes in Python state the same
// contract in the same words.

namespace tap::bindings {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

/// A tensor and the name that its op's schema gives it.
struct Argument {
  const char* name;
  const Tensor& tensor;
};

/// The checks of one op.
class Checks {
 public:
  explicit Checks(const char* op) : op_(op) {}

  /// (S, B, N, D) of a storage dtype with S, D >= 1; `letter` is M where the planes are candidates.
  DType stack(Argument stack, char letter = 'S') const;

  /// Few enough planes to hold their Gram matrix.
  void scored(Argument stack) const;

  /// `stack` and `like` agree in B, N, dtype and device; their D may differ.
  void companion(Argument stack, Argument like) const;

  /// `stack` agrees with `like` in shape, dtype and device.
  void like(Argument stack, Argument like) const;

  /// (B, N, D) of the stack's dtype, on its device.
  void feature(Argument feature, Argument stack) const;

  /// (B, D) of the stack's dtype, on its device: the same for all tokens of a batch row.
  void per_batch(Argument values, Argument stack) const;

  /// Contiguous (B, N) of `dtype`, on the stack's device.
  void per_token(Argument values, ScalarType dtype, Argument stack) const;

  /// (M, S) float32 with M >= 1, on the stack's device.
  void rows(Argument rows, Argument stack) const;

  /// (S-1,) float32, on the stack's device.
  void gaps(Argument gaps, Argument stack) const;

  Metric any_metric(const std::string& metric) const;

  /// A metric of candidates that are never built.
  Metric gram_metric(const std::string& metric) const;

  /// Finite and not negative.
  void not_negative(const char* name, double value) const;

  /// `written` shares no memory, by address range, with itself or with `others`.
  void distinct(Argument written, std::initializer_list<Argument> others) const;

  /// Every entry of `index` (`count` entries in host memory) is in [0, M).
  void in_range(const int32_t* index, int64_t count, int64_t rows) const;

  [[noreturn]] void fail(const std::string& expected, const std::string& got) const;

 private:
  void shape(Argument argument, std::initializer_list<int64_t> expected,
             const std::string& match) const;
  void dtype(Argument argument, ScalarType expected, const std::string& reason) const;
  void device(Argument argument, Argument like) const;
  void last_axis(Argument argument) const;

  const char* op_;
};

}  // namespace tap::bindings
