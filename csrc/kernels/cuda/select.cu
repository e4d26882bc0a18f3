#include "kernels/cuda/launch.cuh"

namespace tap {
namespace cuda {

// Moves (S + 1) D elements per token.
template <typename T, int kPlanes>
__global__ void __launch_bounds__(kMaxBlockThreads, resident_blocks(kPlanes))
    SelectKernel(const __grid_constant__ SelectArgs args, bool vectors) {
  const Team team = this_team();
  if (team.token >= args.batches * args.tokens) return;
  const Place place = locate(team.token, args.tokens);
  const Scored<T> token{token_data<const T>(args.stack, place),
                        args.stack.plane_stride,
                        static_cast<int>(args.planes),
                        {token_data<const T>(args.target, place)},
                        args.channels,
                        vectors};
  const Best<float> best = Choose<T, kPlanes>::row(team, args.metric, args.rows, token);
  if (team.thread == 0) {
    args.index[team.token] = best.index;
    if (args.distance != nullptr) args.distance[team.token] = best.distance;
  }
}

}  // namespace cuda

Status select_cuda(const SelectArgs& args, void* stream) {
  const bool vectors = cuda::vectors_allowed(args.dtype, args.stack, args.target);
  return cuda::with_dtype_and_planes(args.dtype, args.planes, [&]<typename T, int kPlanes>() {
    return cuda::launch(cuda::SelectKernel<T, kPlanes>, args.batches * args.tokens, args.channels,
                        args.dtype, stream, args, vectors);
  });
}

}  // namespace tap
