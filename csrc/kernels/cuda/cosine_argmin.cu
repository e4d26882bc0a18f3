#include <cmath>

#include "kernels/cuda/launch.cuh"

namespace tap {
namespace cuda {

// Moves (M + 1) D elements per token; the target's channels come from cache after the first row.
template <typename T>
__global__ void __launch_bounds__(kMaxBlockThreads, 4)
    CosineArgminKernel(const __grid_constant__ CosineArgminArgs args, bool vectors) {
  const Team team = this_team();
  if (team.token >= args.batches * args.tokens) return;
  const Place place = locate(team.token, args.tokens);
  const T* candidates = token_data<const T>(args.candidates, place);
  const T* target = token_data<const T>(args.target, place);

  Best<float> best;
  for (int64_t m = 0; m < args.count; ++m) {
    const T* candidate = candidates + m * args.candidates.plane_stride;
    // sum |d|, or |d|^2, <d, u> and |u|^2, of d = u - v with u the target, v the candidate
    float sums[3] = {};
    for_each_vector<T>(team, args.channels, vectors, [&]<typename V>(int64_t first) {
      const V goal = V::load(target + first);
      const V guess = V::load(candidate + first);
      TAP_UNROLL
      for (int v = 0; v < V::kSize; ++v) {
        const float u = widen(goal.values[v]);
        const float d = u - widen(guess.values[v]);
        sums[0] += args.metric == Metric::kL1 ? std::fabs(d) : d * d;
        sums[1] += d * u;
        sums[2] += u * u;
      }
    });
    sum_over_team(team, sums);
    team.sync();
    const float distance = args.metric == Metric::kCosine
                               ? cosine_distance(Difference<float>{sums[0], sums[1]}, sums[2])
                               : sums[0];
    best.add(distance, static_cast<int32_t>(m));
  }
  if (team.thread == 0) {
    args.index[team.token] = best.index;
    args.distance[team.token] = best.distance;
  }
}

}  // namespace cuda

Status cosine_argmin_cuda(const CosineArgminArgs& args, void* stream) {
  const bool vectors = cuda::vectors_allowed(args.dtype, args.candidates, args.target);
  return cuda::with_dtype(args.dtype, [&]<typename T>() {
    return cuda::launch(cuda::CosineArgminKernel<T>, args.batches * args.tokens, args.channels,
                        args.dtype, stream, args, vectors);
  });
}

}  // namespace tap
