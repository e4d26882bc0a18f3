#include <cmath>

#include "kernels/cuda/combine.cuh"
#include "kernels/cuda/launch.cuh"

namespace tap {
namespace cuda {

// Moves, per token, at most (S + 2) D elements: planes of weight zero stay unread.
template <typename T>
__global__ void __launch_bounds__(kMaxBlockThreads, 4)
    GatherRowsKernel(const __grid_constant__ GatherRowsArgs args, bool vectors) {
  const Team team = this_team();
  if (team.token >= args.batches * args.tokens) return;
  const Place place = locate(team.token, args.tokens);
  T* const out = token_data<T>(args.out, place);
  const int32_t row = args.index[team.token];
  if (row < 0 || row >= args.rows.count) {
    for_each_vector<T>(team, args.channels, vectors, [&]<typename V>(int64_t first) {
      V nothing;
      TAP_UNROLL
      for (int v = 0; v < V::kSize; ++v) nothing.values[v] = narrow<T>(NAN);
      nothing.store(out + first);
    });
    return;
  }
  combine<T, 4>(team, token_data<const T>(args.stack, place), args.stack.plane_stride, args.planes,
                args.rows.data + row * args.rows.stride, token_data<const T>(args.base, place),
                args.channels, vectors, out);
}

}  // namespace cuda

Status gather_rows_cuda(const GatherRowsArgs& args, void* stream) {
  const bool vectors = cuda::vectors_allowed(args.dtype, args.stack, args.base, args.out);
  return cuda::with_dtype(args.dtype, [&]<typename T>() {
    return cuda::launch(cuda::GatherRowsKernel<T>, args.batches * args.tokens, args.channels,
                        args.dtype, stream, args, vectors);
  });
}

}  // namespace tap
