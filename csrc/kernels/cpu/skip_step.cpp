#include "kernels/cpu/combine.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/score.h"
#include "kernels/cpu/tokens.h"

namespace tap::cpu::TAP_ISA {

// Moves, per token, (S + 1) D elements of the probe and at most (S + 2) D of the residual.
void skip_step(const SkipStepArgs& args, int64_t begin, int64_t end) {
  with_dtype(args.dtype, [&]<typename T>(T) {
    const ChooseRow<T> choose_row = choose_row_function<T>(args.planes);
    for (int64_t token = begin; token < end; ++token) {
      const ScoredToken<T> scored{token_data<const T>(args.probe_stack, token, args.tokens),
                                  args.probe_stack.plane_stride,
                                  static_cast<int>(args.planes),
                                  {token_data<const T>(args.probe, token, args.tokens)},
                                  args.probe_channels};
      const int32_t index = choose_row(scored, args.metric, args.rows).index;
      args.index[token] = index;
      combine(token_data<const T>(args.residual_stack, token, args.tokens),
              args.residual_stack.plane_stride, args.planes,
              args.rows.data + index * args.rows.stride,
              token_data<const T>(args.hidden, token, args.tokens), args.residual_channels,
              token_data<T>(args.out, token, args.tokens));
    }
  });
}

}  // namespace tap::cpu::TAP_ISA
