#include "kernels/cuda/combine.cuh"
#include "kernels/cuda/launch.cuh"

namespace tap {
namespace cuda {

// Token by token, so that its S planes are read from memory once and serve all rows from cache.
template <typename T>
__global__ void __launch_bounds__(kMaxBlockThreads, 4)
    PredictKernel(const __grid_constant__ PredictArgs args, bool vectors) {
  const Team team = this_team();
  if (team.token >= args.batches * args.tokens) return;
  const Place place = locate(team.token, args.tokens);
  const T* stack = token_data<const T>(args.stack, place);
  T* candidates = token_data<T>(args.candidates, place);
  for (int64_t m = 0; m < args.rows.count; ++m) {
    combine<T, 4>(team, stack, args.stack.plane_stride, args.planes,
                  args.rows.data + m * args.rows.stride, nullptr, args.channels, vectors,
                  candidates + m * args.candidates.plane_stride);
  }
}

}  // namespace cuda

Status predict_cuda(const PredictArgs& args, void* stream) {
  const bool vectors = cuda::vectors_allowed(args.dtype, args.stack, args.candidates);
  return cuda::with_dtype(args.dtype, [&]<typename T>() {
    return cuda::launch(cuda::PredictKernel<T>, args.batches * args.tokens, args.channels,
                        args.dtype, stream, args, vectors);
  });
}

}  // namespace tap
