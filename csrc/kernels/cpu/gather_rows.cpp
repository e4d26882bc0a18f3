#include "kernels/cpu/combine.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/tokens.h"

namespace tap::cpu::TAP_ISA {

// Moves, per token, at most (S + 2) D elements: planes of weight zero stay unread.
void gather_rows(const GatherRowsArgs& args, int64_t begin, int64_t end) {
  with_dtype(args.dtype, [&]<typename T>(T) {
    for (int64_t token = begin; token < end; ++token) {
      combine(token_data<const T>(args.stack, token, args.tokens), args.stack.plane_stride,
              args.planes, args.rows.data + args.index[token] * args.rows.stride,
              token_data<const T>(args.base, token, args.tokens), args.channels,
              token_data<T>(args.out, token, args.tokens));
    }
  });
}

}  // namespace tap::cpu::TAP_ISA
