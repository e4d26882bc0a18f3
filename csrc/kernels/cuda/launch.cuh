#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/launch.h"
#include "kernels/args.h"
#include "kernels/cuda/choose.cuh"
#include "kernels/kernels.h"

// Host side of a launch.

// Not `<<<...>>>` in the launchers themselves, so that another compiler can be given these sources
// together with a TAP_LAUNCH of its own (csrc/tests/shim).
#if !defined(TAP_LAUNCH)
#define TAP_LAUNCH(kernel, grid, block, stream, ...) \
  kernel<<<(grid), (block), 0, (stream)>>>(__VA_ARGS__)
#endif

namespace tap::cuda {

inline void add(Alignment& alignment, DType dtype, const Features& features) {
  alignment.add(features.data);
  alignment.add(features.batch_stride, dtype);
  alignment.add(features.token_stride, dtype);
}

inline void add(Alignment& alignment, DType dtype, const Stack& stack) {
  alignment.add(stack.data);
  alignment.add(stack.plane_stride, dtype);
  alignment.add(stack.batch_stride, dtype);
  alignment.add(stack.token_stride, dtype);
}

/// Whether vectors of all these tensors may be accessed whole.
template <typename... Tensors>
bool vectors_allowed(DType dtype, const Tensors&... tensors) {
  Alignment alignment;
  (add(alignment, dtype, tensors), ...);
  return alignment.vectors();
}

/// Enqueues `kernel(args...)` for `tokens` of `channels` elements.
template <typename... Args>
Status launch(void (*kernel)(Args...), int64_t tokens, int64_t channels, DType dtype, void* stream,
              const Args&... args) {
  const LaunchPlan plan = plan_launch(tokens, channels, dtype);
  if (plan.blocks == 0) return {};
  if (plan.blocks > kMaxGridBlocks) return {"more tokens than one CUDA launch can address"};
  const dim3 grid(static_cast<unsigned>(plan.blocks));
  const dim3 block(plan.team_threads, plan.block_teams);
  TAP_LAUNCH(kernel, grid, block, static_cast<cudaStream_t>(stream), args...);
  const cudaError_t error = cudaGetLastError();
  return {error == cudaSuccess ? nullptr : cudaGetErrorString(error)};
}

/// Calls `body.operator()<T>()` with the storage type.
template <typename Body>
Status with_dtype(DType dtype, Body body) {
  switch (dtype) {
    case DType::kFloat32:
      return body.template operator()<float>();
    case DType::kBFloat16:
      return body.template operator()<BFloat16>();
    case DType::kFloat16:
      return body.template operator()<Float16>();
  }
  return {"unknown dtype"};
}

/// Calls `body.operator()<T, kPlanes>()` with the storage type, and S where kernels know it.
template <typename Body>
Status with_dtype_and_planes(DType dtype, int64_t planes, Body body) {
  return with_dtype(dtype, [&]<typename T>() {
    switch (planes) {
      case 1:
        return body.template operator()<T, 1>();
      case 2:
        return body.template operator()<T, 2>();
      case 3:
        return body.template operator()<T, 3>();
      case 4:
        return body.template operator()<T, 4>();
      case 5:
        return body.template operator()<T, 5>();
      case 6:
        return body.template operator()<T, 6>();
      default:
        return body.template operator()<T, kAnyPlanes>();
    }
  });
}

}  // namespace tap::cuda
