#include "kernels/cpu/ops.h"
#include "kernels/cpu/reduce.h"
#include "kernels/cpu/score.h"
#include "kernels/cpu/tokens.h"

namespace tap::cpu::TAP_ISA {
namespace {

template <typename T>
double absolute_distance(const ScoredToken<T>& token) {
  double total = 0;
  sum_channels<1, Sum>(token.channels, &total,
                       [&](Sum& sum, int64_t channel, auto read) TAP_INLINE_LAMBDA {
                         const Vec d = token.target(channel, read) - read(token.stack + channel);
                         sum.products[0] += d < 0 ? -d : d;
                       });
  return total;
}

/// A candidate is a stack of one plane and weight one, scored by the same Gram matrix.
template <typename T>
double candidate_distance(const ScoredToken<T>& token, Metric metric) {
  if (metric == Metric::kL1) return absolute_distance(token);
  constexpr float kRow[] = {1};
  return choose_row<T, 1>(token, metric, {kRow, 1, 1}).distance;
}

}  // namespace

void cosine_argmin(const CosineArgminArgs& args, int64_t begin, int64_t end) {
  with_dtype(args.dtype, [&]<typename T>(T) {
    for (int64_t token = begin; token < end; ++token) {
      const T* candidates = token_data<const T>(args.candidates, token, args.tokens);
      const T* target = token_data<const T>(args.target, token, args.tokens);
      Best<double> best;
      for (int64_t m = 0; m < args.count; ++m) {
        const ScoredToken<T> scored{
            candidates + m * args.candidates.plane_stride, 0, 1, {target}, args.channels};
        best.add(candidate_distance(scored, args.metric), static_cast<int32_t>(m));
      }
      args.index[token] = best.index;
      args.distance[token] = static_cast<float>(best.distance);
    }
  });
}

}  // namespace tap::cpu::TAP_ISA
