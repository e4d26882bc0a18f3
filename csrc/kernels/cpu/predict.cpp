#include "kernels/cpu/combine.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/tokens.h"

namespace tap::cpu::TAP_ISA {

// Token by token, so that its S planes are read from memory once and serve all rows from cache.
void predict(const PredictArgs& args, int64_t begin, int64_t end) {
  with_dtype(args.dtype, [&]<typename T>(T) {
    for (int64_t token = begin; token < end; ++token) {
      const T* stack = token_data<const T>(args.stack, token, args.tokens);
      T* candidates = token_data<T>(args.candidates, token, args.tokens);
      for (int64_t m = 0; m < args.rows.count; ++m) {
        combine<T>(stack, args.stack.plane_stride, args.planes,
                   args.rows.data + m * args.rows.stride, nullptr, args.channels,
                   candidates + m * args.candidates.plane_stride);
      }
    }
  });
}

}  // namespace tap::cpu::TAP_ISA
