#include "kernels/cpu/ops.h"
#include "kernels/cpu/score.h"
#include "kernels/cpu/tokens.h"

namespace tap::cpu::TAP_ISA {

// Moves (S + 1) D elements per token.
void select(const SelectArgs& args, int64_t begin, int64_t end) {
  with_dtype(args.dtype, [&]<typename T>(T) {
    const ChooseRow<T> choose_row = choose_row_function<T>(args.planes);
    for (int64_t token = begin; token < end; ++token) {
      const ScoredToken<T> scored{token_data<const T>(args.stack, token, args.tokens),
                                  args.stack.plane_stride,
                                  static_cast<int>(args.planes),
                                  {token_data<const T>(args.target, token, args.tokens)},
                                  args.channels};
      const Best<double> best = choose_row(scored, args.metric, args.rows);
      args.index[token] = best.index;
      if (args.distance != nullptr) args.distance[token] = static_cast<float>(best.distance);
    }
  });
}

}  // namespace tap::cpu::TAP_ISA
