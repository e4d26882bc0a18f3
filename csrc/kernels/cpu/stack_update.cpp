#include <cmath>

#include "kernels/cpu/ops.h"
#include "kernels/cpu/tokens.h"
#include "kernels/cpu/vec.h"

namespace tap::cpu::TAP_ISA {
namespace {

/// Updates kLanes channels (or `count` of them) of all planes. Plane i is read just before it is
/// overwritten, and each new plane goes on in float32 to the next.
template <typename T, bool kWhole>
TAP_INLINE void update_channels(T* stack, int64_t plane_stride, int64_t planes, const T* feature,
                                const T* minus, const float* gaps, int64_t count) {
  const auto read = [&](const T* source) TAP_INLINE_LAMBDA {
    return kWhole ? load(source) : load_part(source, count);
  };
  Vec fresh = read(feature);
  if (minus != nullptr) fresh -= read(minus);
  for (int64_t i = 0; i < planes; ++i) {
    T* plane = stack + i * plane_stride;
    const bool last = i + 1 == planes;
    const bool divides = !last && !std::isinf(gaps[i]);
    const Vec next = divides ? (fresh - read(plane)) / gaps[i] : Vec{};
    if (kWhole) {
      store(plane, fresh);
    } else {
      store_part(plane, fresh, count);
    }
    fresh = next;
  }
}

}  // namespace

// Moves, per token, at most S D elements in, S D out, and 1 or 2 features in.
void stack_update(const StackUpdateArgs& args, int64_t begin, int64_t end) {
  with_dtype(args.dtype, [&]<typename T>(T) {
    for (int64_t token = begin; token < end; ++token) {
      T* stack = token_data<T>(args.stack, token, args.tokens);
      const T* feature = token_data<const T>(args.feature, token, args.tokens);
      const T* minus = token_data<const T>(args.minus, token, args.tokens);
      for (int64_t channel = 0; channel < args.channels; channel += kLanes) {
        const int64_t count = args.channels - channel;
        const T* minus_here = minus != nullptr ? minus + channel : nullptr;
        if (count >= kLanes) {
          update_channels<T, true>(stack + channel, args.stack.plane_stride, args.planes,
                                   feature + channel, minus_here, args.gaps, kLanes);
        } else {
          update_channels<T, false>(stack + channel, args.stack.plane_stride, args.planes,
                                    feature + channel, minus_here, args.gaps, count);
        }
      }
    }
  });
}

}  // namespace tap::cpu::TAP_ISA
