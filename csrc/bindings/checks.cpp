#include "bindings/checks.h"

#include <cmath>
#include <stdexcept>

#include "kernels/args.h"

namespace tap::bindings {
namespace {

using torch::headeronly::IntHeaderOnlyArrayRef;

template <typename... Parts>
std::string join(const Parts&... parts) {
  std::string text;
  (text.append(parts), ...);
  return text;
}

/// As Python prints a tuple.
template <typename Values>
std::string tuple_text(const Values& values) {
  std::string text = "(";
  for (const int64_t value : values) {
    if (text.size() > 1) text.append(", ");
    text.append(std::to_string(value));
  }
  return text.append(values.size() == 1 ? ",)" : ")");
}

std::string shape_text(const Tensor& tensor) { return tuple_text(tensor.sizes()); }

std::string strides_text(const Tensor& tensor) {
  return join("strides ", tuple_text(tensor.strides()));
}

/// As Python prints a dtype, without the module.
std::string dtype_text(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Half:
      return "float16";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    default:
      return torch::headeronly::toString(dtype);
  }
}

std::string device_text(const Tensor& tensor) {
  if (tensor.is_cpu()) return "cpu";
  if (tensor.is_cuda()) return join("cuda:", std::to_string(tensor.get_device_index()));
  return join("device type ", std::to_string(static_cast<int>(tensor.device().type())));
}

bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cpu() == b.is_cpu() && a.is_cuda() == b.is_cuda() &&
         a.get_device_index() == b.get_device_index();
}

/// Addresses of a tensor's first byte and of the one after its last.
struct Extent {
  uintptr_t begin = 0;
  uintptr_t end = 0;

  explicit Extent(const Tensor& tensor) {
    if (tensor.numel() == 0) return;
    int64_t last = 0;
    for (int64_t axis = 0; axis < tensor.dim(); ++axis) {
      last += (tensor.size(axis) - 1) * tensor.stride(axis);
    }
    begin = reinterpret_cast<uintptr_t>(tensor.data_ptr());
    end = begin + static_cast<uintptr_t>(last + 1) * tensor.element_size();
  }

  bool overlaps(const Extent& other) const { return begin < other.end && other.begin < end; }
};

std::string to_match(Argument like) { return join(" to match ", like.name); }

}  // namespace

DType Checks::stack(Argument stack, char letter) const {
  const Tensor& tensor = stack.tensor;
  if (tensor.dim() != 4 || tensor.size(0) < 1 || tensor.size(3) < 1) {
    const std::string count(1, letter);
    fail(join(stack.name, " must have shape (", count, ", B, N, D) with ", count,
              " >= 1 and D >= 1"),
         shape_text(tensor));
  }
  last_axis(stack);
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    default:
      fail(join(stack.name, " must be float32, bfloat16 or float16"),
           dtype_text(tensor.scalar_type()));
  }
}

void Checks::scored(Argument stack) const {
  const int64_t planes = stack.tensor.size(0);
  if (planes > kMaxScoredPlanes) {
    fail(join(stack.name, " must have S <= ", std::to_string(kMaxScoredPlanes), " planes"),
         join("S=", std::to_string(planes)));
  }
}

void Checks::companion(Argument stack, Argument like) const {
  const Tensor& tensor = like.tensor;
  shape(stack, {tensor.size(0), tensor.size(1), tensor.size(2), stack.tensor.size(3)},
        to_match(like));
  dtype(stack, tensor.scalar_type(), to_match(like));
  device(stack, like);
}

void Checks::like(Argument stack, Argument like) const {
  const Tensor& tensor = like.tensor;
  shape(stack, {tensor.size(0), tensor.size(1), tensor.size(2), tensor.size(3)}, to_match(like));
  dtype(stack, tensor.scalar_type(), to_match(like));
  device(stack, like);
  last_axis(stack);
}

void Checks::feature(Argument feature, Argument stack) const {
  const Tensor& tensor = stack.tensor;
  shape(feature, {tensor.size(1), tensor.size(2), tensor.size(3)}, to_match(stack));
  dtype(feature, tensor.scalar_type(), to_match(stack));
  device(feature, stack);
  last_axis(feature);
}

void Checks::per_batch(Argument values, Argument stack) const {
  const Tensor& tensor = stack.tensor;
  shape(values, {tensor.size(1), tensor.size(3)}, to_match(stack));
  dtype(values, tensor.scalar_type(), to_match(stack));
  device(values, stack);
  last_axis(values);
}

void Checks::per_token(Argument values, ScalarType expected, Argument stack) const {
  shape(values, {stack.tensor.size(1), stack.tensor.size(2)}, to_match(stack));
  dtype(values, expected, "");
  device(values, stack);
  if (!values.tensor.is_contiguous()) {
    fail(join(values.name, " must be contiguous"), strides_text(values.tensor));
  }
}

void Checks::rows(Argument rows, Argument stack) const {
  const int64_t planes = stack.tensor.size(0);
  const Tensor& tensor = rows.tensor;
  if (tensor.dim() != 2 || tensor.size(0) < 1 || tensor.size(1) != planes) {
    const std::string count = std::to_string(planes);
    fail(join(rows.name, " must have shape (M, ", count, ")", to_match(stack), " with S=", count),
         shape_text(tensor));
  }
  dtype(rows, ScalarType::Float, "");
  device(rows, stack);
  last_axis(rows);
}

void Checks::gaps(Argument gaps, Argument stack) const {
  const int64_t planes = stack.tensor.size(0);
  shape(gaps, {planes - 1}, join(to_match(stack), " with S=", std::to_string(planes)));
  dtype(gaps, ScalarType::Float, "");
  device(gaps, stack);
  last_axis(gaps);
}

Metric Checks::any_metric(const std::string& metric) const {
  if (metric == "cosine") return Metric::kCosine;
  if (metric == "l2") return Metric::kL2;
  if (metric == "l1") return Metric::kL1;
  throw std::invalid_argument(
      join("tap_ext::", op_, ": metric must be cosine, l2 or l1, got '", metric, "'"));
}

Metric Checks::gram_metric(const std::string& metric) const {
  if (metric == "cosine") return Metric::kCosine;
  if (metric == "l2") return Metric::kL2;
  const char* remedy = metric == "l1" ? "; use predict and cosine_argmin for l1" : "";
  throw std::invalid_argument(
      join("tap_ext::", op_, ": metric must be cosine or l2, got '", metric, "'", remedy));
}

void Checks::not_negative(const char* name, double value) const {
  if (!(std::isfinite(value) && value >= 0)) {
    throw std::invalid_argument(join("tap_ext::", op_, ": ", name,
                                     " must be finite and at least 0, got ",
                                     std::isnan(value)   ? "nan"
                                     : std::isinf(value) ? (value < 0 ? "-inf" : "inf")
                                                         : std::to_string(value)));
  }
}

void Checks::distinct(Argument written, std::initializer_list<Argument> others) const {
  if (written.tensor.numel() == 0) return;
  for (int64_t axis = 0; axis < written.tensor.dim(); ++axis) {
    if (written.tensor.stride(axis) == 0 && written.tensor.size(axis) > 1) {
      fail(join(written.name, " must not overlap itself"), strides_text(written.tensor));
    }
  }
  const Extent extent(written.tensor);
  for (const Argument& other : others) {
    if (extent.overlaps(Extent(other.tensor))) {
      fail(join(written.name, " must not share memory with ", other.name), "overlapping tensors");
    }
  }
}

void Checks::in_range(const int32_t* index, int64_t count, int64_t rows) const {
  for (int64_t token = 0; token < count; ++token) {
    if (index[token] < 0 || index[token] >= rows) {
      throw std::out_of_range(join("tap_ext::", op_, ": index must lie in [0, ",
                                   std::to_string(rows), "), got ", std::to_string(index[token]),
                                   " for token ", std::to_string(token)));
    }
  }
}

void Checks::fail(const std::string& expected, const std::string& got) const {
  throw std::runtime_error(join("tap_ext::", op_, ": ", expected, ", got ", got));
}

void Checks::shape(Argument argument, std::initializer_list<int64_t> expected,
                   const std::string& match) const {
  const IntHeaderOnlyArrayRef sizes = argument.tensor.sizes();
  if (!sizes.equals(IntHeaderOnlyArrayRef(expected))) {
    fail(join(argument.name, " must have shape ", tuple_text(expected), match),
         shape_text(argument.tensor));
  }
}

void Checks::dtype(Argument argument, ScalarType expected, const std::string& reason) const {
  if (argument.tensor.scalar_type() != expected) {
    fail(join(argument.name, " must be ", dtype_text(expected), reason),
         dtype_text(argument.tensor.scalar_type()));
  }
}

void Checks::device(Argument argument, Argument like) const {
  if (!same_device(argument.tensor, like.tensor)) {
    fail(join(argument.name, " must be on ", device_text(like.tensor), to_match(like)),
         device_text(argument.tensor));
  }
}

void Checks::last_axis(Argument argument) const {
  const Tensor& tensor = argument.tensor;
  if (tensor.numel() == 0) return;
  if (tensor.size(tensor.dim() - 1) > 1 && tensor.stride(tensor.dim() - 1) != 1) {
    fail(join(argument.name, " must have a contiguous last axis"), strides_text(tensor));
  }
}

}  // namespace tap::bindings
