#include <cmath>

#include "kernels/cuda/launch.cuh"

namespace tap {
namespace cuda {

// Moves, per token, at most S D elements in, S D out, and 1 or 2 features in. A thread updates its
// channels of all planes: a group of planes is loaded before any of it is overwritten, and each new
// plane goes on in float32 to the next.
template <typename T>
__global__ void __launch_bounds__(kMaxBlockThreads, 3)
    StackUpdateKernel(const __grid_constant__ StackUpdateArgs args, bool vectors) {
  constexpr int kGroup = 4;
  const Team team = this_team();
  if (team.token >= args.batches * args.tokens) return;
  const Place place = locate(team.token, args.tokens);
  T* stack = token_data<T>(args.stack, place);
  const T* feature = token_data<const T>(args.feature, place);
  const T* minus = token_data<const T>(args.minus, place);

  for_each_vector<T>(team, args.channels, vectors, [&]<typename V>(int64_t first) {
    const V whole = V::load(feature + first);
    V part{};
    if (minus != nullptr) part = V::load(minus + first);
    float fresh[V::kSize];
    TAP_UNROLL
    for (int v = 0; v < V::kSize; ++v) fresh[v] = widen(whole.values[v]) - widen(part.values[v]);

    for (int64_t s = 0; s < args.planes; s += kGroup) {
      T* planes = stack + s * args.stack.plane_stride + first;
      float gaps[kGroup];
      V old[kGroup];
      TAP_UNROLL
      for (int k = 0; k < kGroup; ++k) {
        gaps[k] = s + k + 1 < args.planes ? args.gaps[s + k] : INFINITY;
        if (!std::isinf(gaps[k])) old[k] = V::load(planes + k * args.stack.plane_stride);
      }
      TAP_UNROLL
      for (int k = 0; k < kGroup; ++k) {
        if (s + k == args.planes) break;
        V plane;
        TAP_UNROLL
        for (int v = 0; v < V::kSize; ++v) {
          plane.values[v] = narrow<T>(fresh[v]);
          fresh[v] = std::isinf(gaps[k]) ? 0 : (fresh[v] - widen(old[k].values[v])) / gaps[k];
        }
        plane.store(planes + k * args.stack.plane_stride);
      }
    }
  });
}

}  // namespace cuda

Status stack_update_cuda(const StackUpdateArgs& args, void* stream) {
  const bool vectors = cuda::vectors_allowed(args.dtype, args.stack, args.feature, args.minus);
  return cuda::with_dtype(args.dtype, [&]<typename T>() {
    return cuda::launch(cuda::StackUpdateKernel<T>, args.batches * args.tokens, args.channels,
                        args.dtype, stream, args, vectors);
  });
}

}  // namespace tap
