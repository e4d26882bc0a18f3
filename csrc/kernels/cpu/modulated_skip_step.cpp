#include <cmath>

#include "kernels/cpu/combine.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/score.h"
#include "kernels/cpu/tokens.h"

namespace tap::cpu::TAP_ISA {
namespace {

/// The probe of one token, made as it is scored.
template <typename T>
struct Modulated {
  const T* hidden;
  const T* shift;
  const T* scale;
  float mean;
  float inverse_deviation;

  template <typename Read>
  TAP_INLINE Vec operator()(int64_t channel, Read read) const {
    const Vec normed = (read(hidden + channel) - mean * read.ones()) * inverse_deviation;
    return normed * (1 + read(scale + channel)) + read(shift + channel);
  }
};

/// Mean and variance in two passes, for a variance from squares cancels where the mean is large.
template <typename T>
Modulated<T> modulate(const T* hidden, const T* shift, const T* scale, int64_t channels,
                      float eps) {
  double total = 0;
  sum_channels<1, Sum>(channels, &total,
                       [&](Sum& sum, int64_t channel, auto read)
                           TAP_INLINE_LAMBDA { sum.products[0] += read(hidden + channel); });
  const float mean = static_cast<float>(total / channels);
  double squares = 0;
  sum_channels<1, Sum>(channels, &squares,
                       [&](Sum& sum, int64_t channel, auto read) TAP_INLINE_LAMBDA {
                         const Vec d = read(hidden + channel) - mean * read.ones();
                         sum.products[0] += d * d;
                       });
  const double inverse = 1 / std::sqrt(squares / channels + eps);
  return {hidden, shift, scale, mean, static_cast<float>(inverse)};
}

}  // namespace

// Moves, per token, (S + 1) D elements for the choice and at most (S + 1) D for the result: the
// hidden state is still in the cache by then, and shift and scale stay there for the whole batch.
void modulated_skip_step(const ModulatedSkipStepArgs& args, int64_t begin, int64_t end) {
  with_dtype(args.dtype, [&]<typename T>(T) {
    const auto choose_row = choose_row_function<T, Modulated<T>>(args.planes);
    for (int64_t token = begin; token < end; ++token) {
      const T* hidden = token_data<const T>(args.hidden, token, args.tokens);
      const ScoredToken<T, Modulated<T>> scored{
          token_data<const T>(args.probe_stack, token, args.tokens), args.probe_stack.plane_stride,
          static_cast<int>(args.planes),
          modulate(hidden, token_data<const T>(args.shift, token, args.tokens),
                   token_data<const T>(args.scale, token, args.tokens), args.channels, args.eps),
          args.channels};
      const int32_t index = choose_row(scored, args.metric, args.rows).index;
      args.index[token] = index;
      combine(token_data<const T>(args.residual_stack, token, args.tokens),
              args.residual_stack.plane_stride, args.planes,
              args.rows.data + index * args.rows.stride, args.add ? hidden : nullptr, args.channels,
              token_data<T>(args.out, token, args.tokens));
    }
  });
}

}  // namespace tap::cpu::TAP_ISA
