#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>

#include "bindings/checks.h"
#include "bindings/cuda_stream.h"
#include "kernels/kernels.h"

// Every op of torch.ops.tap_ext: schema, checks, dispatch to the kernels. What an op means is said
// in kernels/args.h. Shapes: stack (S, B, N, D), features (B, N, D), rows (M, S), gaps (S-1,),
// index and distance (B, N).

namespace tap::bindings {
namespace {

Features features_view(const Tensor& tensor) {
  return {tensor.data_ptr(), tensor.stride(0), tensor.stride(1)};
}

Features features_view(const std::optional<Tensor>& tensor) {
  return tensor ? features_view(*tensor) : Features{};
}

Stack stack_view(const Tensor& tensor) {
  return {tensor.data_ptr(), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

/// (B, D): every token of a batch row finds the same.
Features per_batch_view(const Tensor& tensor) { return {tensor.data_ptr(), tensor.stride(0), 0}; }

Rows rows_view(const Tensor& tensor) {
  return {tensor.const_data_ptr<float>(), tensor.size(0), tensor.stride(0)};
}

/// An op's implementations for run(); in a build without CUDA there is no second.
#if defined(TAP_CUDA)
#define TAP_KERNELS(op) op##_range, op##_cuda
#else
#define TAP_KERNELS(op) op##_range, nullptr
#endif

/// Runs an op over its `args.batches * args.tokens` tokens, on the device of `where`. A token reads
/// about `elements`: enough tokens go to a CPU thread to be worth waking it.
template <typename Args>
void run(const char* op, const Args& args, const Tensor& where, int64_t elements,
         void (*range)(const Args&, int64_t, int64_t),
         std::type_identity_t<Status (*)(const Args&, void*)> launch) {
  constexpr int64_t kGrainElements = 1 << 15;
  const int64_t total = args.batches * args.tokens;
  if (total == 0) return;
  if (where.is_cuda()) {
    const int32_t device = where.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    const Status status = launch(args, current_cuda_stream(device));
    if (status.error != nullptr) {
      throw std::runtime_error("tap_ext::" + std::string(op) + ": " + status.error);
    }
    return;
  }
  const int64_t grain = (kGrainElements + elements - 1) / elements;
  torch::stable::parallel_for(0, total, grain,
                              [&](int64_t begin, int64_t end) { range(args, begin, end); });
}

void stack_update_(const Tensor& stack, const Tensor& feature, const Tensor& gaps,
                   const std::optional<Tensor>& minus) {
  const Checks checks("stack_update_");
  const DType dtype = checks.stack({"stack", stack});
  checks.feature({"feature", feature}, {"stack", stack});
  if (minus) checks.feature({"minus", *minus}, {"stack", stack});
  checks.gaps({"gaps", gaps}, {"stack", stack});
  checks.distinct({"stack", stack}, {{"feature", feature}});
  if (minus) checks.distinct({"stack", stack}, {{"minus", *minus}});
  const StackUpdateArgs args{.dtype = dtype,
                             .planes = stack.size(0),
                             .batches = stack.size(1),
                             .tokens = stack.size(2),
                             .channels = stack.size(3),
                             .stack = stack_view(stack),
                             .feature = features_view(feature),
                             .minus = features_view(minus),
                             .gaps = gaps.const_data_ptr<float>()};
  run("stack_update_", args, stack, args.planes * args.channels, TAP_KERNELS(stack_update));
}

Tensor predict(const Tensor& stack, const Tensor& rows) {
  const Checks checks("predict");
  const DType dtype = checks.stack({"stack", stack});
  checks.rows({"rows", rows}, {"stack", stack});
  const Tensor candidates =
      torch::stable::new_empty(stack, {rows.size(0), stack.size(1), stack.size(2), stack.size(3)});
  const PredictArgs args{.dtype = dtype,
                         .planes = stack.size(0),
                         .batches = stack.size(1),
                         .tokens = stack.size(2),
                         .channels = stack.size(3),
                         .stack = stack_view(stack),
                         .rows = rows_view(rows),
                         .candidates = stack_view(candidates)};
  run("predict", args, stack, args.rows.count * args.planes * args.channels, TAP_KERNELS(predict));
  return candidates;
}

/// Reads a string argument and frees it. The conversion in the headers of torch 2.13 leaves a copy
/// of the text on the heap at every call.
std::string taken(StringHandle handle) {
  size_t length = 0;
  const char* data = nullptr;
  // The macro that checks such calls has another name in every other torch.
  STD_TORCH_CHECK(torch_string_length(handle, &length) == TORCH_SUCCESS, "a string without length");
  STD_TORCH_CHECK(torch_string_c_str(handle, &data) == TORCH_SUCCESS, "a string without text");
  std::string text(data, length);
  STD_TORCH_CHECK(torch_delete_string(handle) == TORCH_SUCCESS, "a string that stays");
  return text;
}

std::tuple<Tensor, Tensor> cosine_argmin(const Tensor& candidates, const Tensor& target,
                                         StringHandle metric_text) {
  const std::string metric = taken(metric_text);
  const Checks checks("cosine_argmin");
  const DType dtype = checks.stack({"candidates", candidates}, 'M');
  checks.feature({"target", target}, {"candidates", candidates});
  const Metric by = checks.any_metric(metric);
  const int64_t batches = candidates.size(1);
  const int64_t tokens = candidates.size(2);
  const Tensor index = torch::stable::new_empty(candidates, {batches, tokens}, ScalarType::Int);
  const Tensor distance =
      torch::stable::new_empty(candidates, {batches, tokens}, ScalarType::Float);
  const CosineArgminArgs args{.dtype = dtype,
                              .metric = by,
                              .count = candidates.size(0),
                              .batches = batches,
                              .tokens = tokens,
                              .channels = candidates.size(3),
                              .candidates = stack_view(candidates),
                              .target = features_view(target),
                              .index = index.mutable_data_ptr<int32_t>(),
                              .distance = distance.mutable_data_ptr<float>()};
  run("cosine_argmin", args, candidates, args.count * args.channels, TAP_KERNELS(cosine_argmin));
  return {index, distance};
}

Tensor gather_rows(const Tensor& stack, const Tensor& rows, const Tensor& index,
                   const std::optional<Tensor>& base) {
  const Checks checks("gather_rows");
  const DType dtype = checks.stack({"stack", stack});
  checks.rows({"rows", rows}, {"stack", stack});
  checks.per_token({"index", index}, ScalarType::Int, {"stack", stack});
  if (base) checks.feature({"base", *base}, {"stack", stack});
  if (index.is_cpu()) {
    checks.in_range(index.const_data_ptr<int32_t>(), index.numel(), rows.size(0));
  }
  const Tensor out = torch::stable::new_empty(stack, {stack.size(1), stack.size(2), stack.size(3)});
  const GatherRowsArgs args{.dtype = dtype,
                            .planes = stack.size(0),
                            .batches = stack.size(1),
                            .tokens = stack.size(2),
                            .channels = stack.size(3),
                            .stack = stack_view(stack),
                            .rows = rows_view(rows),
                            .index = index.const_data_ptr<int32_t>(),
                            .base = features_view(base),
                            .out = features_view(out)};
  run("gather_rows", args, stack, args.planes * args.channels, TAP_KERNELS(gather_rows));
  return out;
}

void select_into(const Tensor& stack, const Tensor& target, const Tensor& rows,
                 const std::string& metric, const Tensor& index, const Tensor& distance) {
  const Checks checks("select");
  const DType dtype = checks.stack({"stack", stack});
  checks.scored({"stack", stack});
  checks.feature({"target", target}, {"stack", stack});
  checks.rows({"rows", rows}, {"stack", stack});
  const Metric by = checks.gram_metric(metric);
  checks.per_token({"index", index}, ScalarType::Int, {"stack", stack});
  checks.per_token({"distance", distance}, ScalarType::Float, {"stack", stack});
  const SelectArgs args{.dtype = dtype,
                        .metric = by,
                        .planes = stack.size(0),
                        .batches = stack.size(1),
                        .tokens = stack.size(2),
                        .channels = stack.size(3),
                        .stack = stack_view(stack),
                        .target = features_view(target),
                        .rows = rows_view(rows),
                        .index = index.mutable_data_ptr<int32_t>(),
                        .distance = distance.mutable_data_ptr<float>()};
  run("select", args, stack, args.planes * args.channels, TAP_KERNELS(select));
}

std::tuple<Tensor, Tensor> select(const Tensor& stack, const Tensor& target, const Tensor& rows,
                                  StringHandle metric_text) {
  const std::string metric = taken(metric_text);
  Checks("select").stack({"stack", stack});  // its shape is that of the outputs
  const Tensor index =
      torch::stable::new_empty(stack, {stack.size(1), stack.size(2)}, ScalarType::Int);
  const Tensor distance =
      torch::stable::new_empty(stack, {stack.size(1), stack.size(2)}, ScalarType::Float);
  select_into(stack, target, rows, metric, index, distance);
  return {index, distance};
}

void select_out(const Tensor& stack, const Tensor& target, const Tensor& rows,
                StringHandle metric_text, const Tensor& index, const Tensor& distance) {
  select_into(stack, target, rows, taken(metric_text), index, distance);
}

void skip_step_(const Tensor& out, const Tensor& index, const Tensor& probe_stack,
                const Tensor& probe, const Tensor& residual_stack,
                const std::optional<Tensor>& hidden, const Tensor& rows, StringHandle metric_text) {
  const std::string metric = taken(metric_text);
  const Checks checks("skip_step_");
  const DType dtype = checks.stack({"probe_stack", probe_stack});
  checks.scored({"probe_stack", probe_stack});
  checks.feature({"probe", probe}, {"probe_stack", probe_stack});
  checks.stack({"residual_stack", residual_stack});
  checks.companion({"residual_stack", residual_stack}, {"probe_stack", probe_stack});
  if (hidden) checks.feature({"hidden", *hidden}, {"residual_stack", residual_stack});
  checks.feature({"out", out}, {"residual_stack", residual_stack});
  checks.per_token({"index", index}, ScalarType::Int, {"residual_stack", residual_stack});
  checks.rows({"rows", rows}, {"probe_stack", probe_stack});
  const Metric by = checks.gram_metric(metric);
  checks.distinct(
      {"out", out},
      {{"probe_stack", probe_stack}, {"probe", probe}, {"residual_stack", residual_stack}});
  if (hidden) checks.distinct({"out", out}, {{"hidden", *hidden}});
  const SkipStepArgs args{.dtype = dtype,
                          .metric = by,
                          .planes = probe_stack.size(0),
                          .batches = probe_stack.size(1),
                          .tokens = probe_stack.size(2),
                          .probe_channels = probe_stack.size(3),
                          .residual_channels = residual_stack.size(3),
                          .probe_stack = stack_view(probe_stack),
                          .probe = features_view(probe),
                          .residual_stack = stack_view(residual_stack),
                          .hidden = features_view(hidden),
                          .rows = rows_view(rows),
                          .out = features_view(out),
                          .index = index.mutable_data_ptr<int32_t>()};
  run("skip_step_", args, out, args.planes * (args.probe_channels + args.residual_channels),
      TAP_KERNELS(skip_step));
}

void modulated_skip_step_(const Tensor& out, const Tensor& index, const Tensor& probe_stack,
                          const Tensor& hidden, const Tensor& shift, const Tensor& scale,
                          const Tensor& residual_stack, const Tensor& rows, double eps,
                          StringHandle metric_text, bool add) {
  const std::string metric = taken(metric_text);
  const Checks checks("modulated_skip_step_");
  const DType dtype = checks.stack({"probe_stack", probe_stack});
  checks.scored({"probe_stack", probe_stack});
  checks.feature({"hidden", hidden}, {"probe_stack", probe_stack});
  checks.per_batch({"shift", shift}, {"probe_stack", probe_stack});
  checks.per_batch({"scale", scale}, {"probe_stack", probe_stack});
  checks.like({"residual_stack", residual_stack}, {"probe_stack", probe_stack});
  checks.feature({"out", out}, {"probe_stack", probe_stack});
  checks.per_token({"index", index}, ScalarType::Int, {"probe_stack", probe_stack});
  checks.rows({"rows", rows}, {"probe_stack", probe_stack});
  checks.not_negative("eps", eps);
  const Metric by = checks.gram_metric(metric);
  checks.distinct({"out", out}, {{"probe_stack", probe_stack},
                                 {"hidden", hidden},
                                 {"shift", shift},
                                 {"scale", scale},
                                 {"residual_stack", residual_stack}});
  const ModulatedSkipStepArgs args{.dtype = dtype,
                                   .metric = by,
                                   .planes = probe_stack.size(0),
                                   .batches = probe_stack.size(1),
                                   .tokens = probe_stack.size(2),
                                   .channels = probe_stack.size(3),
                                   .probe_stack = stack_view(probe_stack),
                                   .hidden = features_view(hidden),
                                   .shift = per_batch_view(shift),
                                   .scale = per_batch_view(scale),
                                   .residual_stack = stack_view(residual_stack),
                                   .rows = rows_view(rows),
                                   .eps = static_cast<float>(eps),
                                   .add = add,
                                   .out = features_view(out),
                                   .index = index.mutable_data_ptr<int32_t>()};
  run("modulated_skip_step_", args, out, 2 * args.planes * args.channels,
      TAP_KERNELS(modulated_skip_step));
}

void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("stack_update_", TORCH_BOX(&stack_update_));
  m.impl("predict", TORCH_BOX(&predict));
  m.impl("cosine_argmin", TORCH_BOX(&cosine_argmin));
  m.impl("gather_rows", TORCH_BOX(&gather_rows));
  m.impl("select", TORCH_BOX(&select));
  m.impl("select.out", TORCH_BOX(&select_out));
  m.impl("skip_step_", TORCH_BOX(&skip_step_));
  m.impl("modulated_skip_step_", TORCH_BOX(&modulated_skip_step_));
}

}  // namespace
}  // namespace tap::bindings

STABLE_TORCH_LIBRARY(tap_ext, m) {
  m.def("stack_update_(Tensor(a!) stack, Tensor feature, Tensor gaps, Tensor? minus=None) -> ()");
  m.def("predict(Tensor stack, Tensor rows) -> Tensor");
  m.def(
      "cosine_argmin(Tensor candidates, Tensor target, str metric=\"cosine\")"
      " -> (Tensor index, Tensor distance)");
  m.def("gather_rows(Tensor stack, Tensor rows, Tensor index, Tensor? base) -> Tensor");
  m.def(
      "select(Tensor stack, Tensor target, Tensor rows, str metric=\"cosine\")"
      " -> (Tensor index, Tensor distance)");
  m.def(
      "select.out(Tensor stack, Tensor target, Tensor rows, str metric=\"cosine\","
      " *, Tensor(a!) index, Tensor(b!) distance) -> ()");
  m.def(
      "skip_step_(Tensor(a!) out, Tensor(b!) index, Tensor probe_stack, Tensor probe,"
      " Tensor residual_stack, Tensor? hidden, Tensor rows, str metric=\"cosine\") -> ()");
  m.def(
      "modulated_skip_step_(Tensor(a!) out, Tensor(b!) index, Tensor probe_stack, Tensor hidden,"
      " Tensor shift, Tensor scale, Tensor residual_stack, Tensor rows,"
      " float eps=1e-6, str metric=\"cosine\", bool add=True) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(tap_ext, CPU, m) { tap::bindings::implement(m); }

// Without kernels for it CUDA stays unregistered, so that the dispatcher finds what else there is.
#if defined(TAP_CUDA)
STABLE_TORCH_LIBRARY_IMPL(tap_ext, CUDA, m) { tap::bindings::implement(m); }
#endif
