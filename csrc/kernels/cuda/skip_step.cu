#include "kernels/cuda/combine.cuh"
#include "kernels/cuda/launch.cuh"

namespace tap {
namespace cuda {

// Moves, per token, (S + 1) D elements of the probe and at most (S + 2) D of the residual. Teams
// are sized for the probe, so that select on the same tensors chooses the same rows, bit for bit.
template <typename T, int kPlanes>
__global__ void __launch_bounds__(kMaxBlockThreads, resident_blocks(kPlanes))
    SkipStepKernel(const __grid_constant__ SkipStepArgs args, bool vectors) {
  const Team team = this_team();
  if (team.token >= args.batches * args.tokens) return;
  const Place place = locate(team.token, args.tokens);
  const Scored<T> token{token_data<const T>(args.probe_stack, place),
                        args.probe_stack.plane_stride,
                        static_cast<int>(args.planes),
                        {token_data<const T>(args.probe, place)},
                        args.probe_channels,
                        vectors};
  const int32_t index = Choose<T, kPlanes>::row(team, args.metric, args.rows, token).index;
  if (team.thread == 0) args.index[team.token] = index;

  combine<T, kPlanes == kAnyPlanes ? 4 : kPlanes>(
      team, token_data<const T>(args.residual_stack, place), args.residual_stack.plane_stride,
      kPlanes == kAnyPlanes ? args.planes : kPlanes, args.rows.data + index * args.rows.stride,
      token_data<const T>(args.hidden, place), args.residual_channels, vectors,
      token_data<T>(args.out, place));
}

}  // namespace cuda

Status skip_step_cuda(const SkipStepArgs& args, void* stream) {
  const bool vectors = cuda::vectors_allowed(args.dtype, args.probe_stack, args.probe,
                                             args.residual_stack, args.hidden, args.out);
  return cuda::with_dtype_and_planes(args.dtype, args.planes, [&]<typename T, int kPlanes>() {
    return cuda::launch(cuda::SkipStepKernel<T, kPlanes>, args.batches * args.tokens,
                        args.probe_channels, args.dtype, stream, args, vectors);
  });
}

}  // namespace tap
