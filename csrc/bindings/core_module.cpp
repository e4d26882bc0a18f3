#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/python.h"
#include "bindings/seen.h"
#include "core/dtype.h"
#include "core/launch.h"
#include "core/score.h"
#include "kernels/args.h"
#include "kernels/cpu/isa.h"

// What is not a tensor op: how this build came about, and core's formulas over numpy arrays, the
// very lines that the CPU and CUDA kernels compile. No torch.

namespace py = pybind11;

namespace tap::bindings {
namespace {

using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;

py::dict build_info() {
  py::list isas;
  for (int i = 0; i < cpu::kIsaCount; ++i) {
    if (cpu::isa_supported(static_cast<cpu::Isa>(i))) {
      isas.append(cpu::isa_name(static_cast<cpu::Isa>(i)));
    }
  }
  const std::string archs = TAP_CUDA_ARCHS;
  py::dict info;
  info["version"] = TAP_VERSION;
  info["compiler"] = TAP_COMPILER;
  info["cuda_archs"] = archs.empty() ? py::object(py::none()) : py::str(archs);
  info["isas"] = isas;
  info["isa"] = cpu::isa_name(cpu::active_isa());
  return info;
}

/// Distances of all rows from the target of one token, accumulated in double.
template <int kPlanes>
void score_planes(const float* stack, const float* target, const float* rows, int64_t count,
                  int64_t channels, Metric metric, double* distances) {
  Gram<double, kPlanes> gram;
  gram.clear();
  for (int64_t channel = 0; channel < channels; ++channel) {
    double basis[basis_size(kPlanes)];
    basis[0] = static_cast<double>(target[channel]) - stack[channel];
    for (int i = 1; i < kPlanes; ++i) basis[i] = stack[i * channels + channel];
    basis[kPlanes] = target[channel];
    gram.add(basis);
  }
  for (int64_t m = 0; m < count; ++m) {
    distances[m] = row_distance(metric, gram.products, rows + m * kPlanes, kPlanes);
  }
}

using ScoreFunction = decltype(&score_planes<1>);

template <int... kIndices>
constexpr std::array<ScoreFunction, sizeof...(kIndices)> score_functions(
    std::integer_sequence<int, kIndices...>) {
  return {score_planes<kIndices + 1>...};
}

void require(bool ok, const std::string& expected, const std::string& got) {
  if (!ok) throw std::invalid_argument(expected + ", got " + got);
}

std::string shape_text(const py::array& array) { return py::str(py::object(array.attr("shape"))); }

py::tuple score(const FloatArray& stack, const FloatArray& target, const FloatArray& rows,
                const std::string& metric) {
  require(stack.ndim() == 2 && stack.shape(0) >= 1 && stack.shape(0) <= kMaxScoredPlanes,
          "stack must have shape (S, D) with 1 <= S <= " + std::to_string(kMaxScoredPlanes),
          shape_text(stack));
  const std::string planes = std::to_string(stack.shape(0));
  require(target.ndim() == 1 && target.shape(0) == stack.shape(1),
          "target must have shape (" + std::to_string(stack.shape(1)) + ",) to match stack",
          shape_text(target));
  require(rows.ndim() == 2 && rows.shape(1) == stack.shape(0) && rows.shape(0) >= 1,
          "rows must have shape (M, " + planes + ") to match stack with S=" + planes,
          shape_text(rows));
  require(metric == "cosine" || metric == "l2", "metric must be cosine or l2", "'" + metric + "'");

  static constexpr auto kScore =
      score_functions(std::make_integer_sequence<int, kMaxScoredPlanes>{});
  py::array_t<double> distances(rows.shape(0));
  kScore[stack.shape(0) - 1](stack.data(), target.data(), rows.data(), rows.shape(0),
                             stack.shape(1), metric == "l2" ? Metric::kL2 : Metric::kCosine,
                             distances.mutable_data());
  Best<double> best;
  for (py::ssize_t m = 0; m < rows.shape(0); ++m) {
    best.add(distances.at(m), static_cast<int32_t>(m));
  }
  return py::make_tuple(best.index, distances);
}

DType parse_dtype(const std::string& dtype) {
  if (dtype == "float32") return DType::kFloat32;
  if (dtype == "bfloat16") return DType::kBFloat16;
  if (dtype == "float16") return DType::kFloat16;
  throw std::invalid_argument("dtype must be float32, bfloat16 or float16, got '" + dtype + "'");
}

py::dict launch_plan(int64_t tokens, int64_t channels, const std::string& dtype) {
  require(tokens >= 0, "tokens must be at least 0", std::to_string(tokens));
  require(channels >= 1, "channels must be at least 1", std::to_string(channels));
  const LaunchPlan plan = plan_launch(tokens, channels, parse_dtype(dtype));
  py::dict result;
  result["blocks"] = plan.blocks;
  result["team_threads"] = plan.team_threads;
  result["block_teams"] = plan.block_teams;
  return result;
}

py::object environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? py::none() : owned(PyUnicode_DecodeFSDefault(value));
}

}  // namespace
}  // namespace tap::bindings

PYBIND11_MODULE(_core, m) {
  using namespace tap::bindings;
  m.doc() = "The compiled core without torch: build facts, scores and launch plans.";
  m.def("build_info", &build_info,
        "Version, compiler, CUDA architectures (None without CUDA) and CPU instruction sets.");
  m.def("score", &score, py::arg("stack"), py::arg("target"), py::arg("rows"),
        py::arg("metric") = "cosine",
        "Index of the nearest row and the distances (M,) of all rows, for one token: stack (S, D), "
        "target (D,), rows (M, S), float32 accumulated in float64.");
  py::class_<Seen>(m, "Seen", "Counts how often modules were found other than at the last look.")
      .def(py::init<>())
      .def("look", &Seen::look, py::arg("own"), py::arg("address"),
           "The count after one look at modules, given by their __dict__. address(tensor) tells "
           "where one lies; None: children and attributes are looked at, tensors are not.");
  py::class_<Arguments>(m, "Arguments",
                        "The arguments of a call, to tell whether another has the same.")
      .def(py::init<const py::list&, const py::dict&, const py::dict&, const py::dict&>(),
           py::arg("names"), py::arg("plain"), py::arg("fixed"), py::arg("moving"),
           "Remember arguments: plain values are to be equal, fixed tensors the very same and "
           "unedited, moving ones tensors like these.")
      .def("fit", &Arguments::fit, py::arg("arguments"),
           "Whether a call's are the same, those apart that were named and nothing else.");
  m.def("environment", &environment, py::arg("name"),
        "An environment variable's value; None: it is not set.");
  m.def("launch_plan", &launch_plan, py::arg("tokens"), py::arg("channels"), py::arg("dtype"),
        "Shape of a CUDA launch: grid size, threads per token and tokens per block.");
}
