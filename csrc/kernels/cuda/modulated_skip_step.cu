#include <cmath>

#include "kernels/cuda/combine.cuh"
#include "kernels/cuda/launch.cuh"

namespace tap {
namespace cuda {

/// One token's hidden state: read from memory once, and kept in shared memory as far as that goes
/// (beyond, caches serve it again). A thread finds there what it put there itself, so that nobody
/// waits for anybody.
template <typename T>
class HiddenRow {
 public:
  static constexpr int kKept = 3 * kMaxBlockThreads * kVectorBytes / sizeof(T);  ///< channels

  __device__ __forceinline__ HiddenRow(const T* data, const Team& team) : data_(data) {
    alignas(kVectorBytes) __shared__ T kept[kKept];
    // A team of one warp has no more channels than its share.
    kept_ = kept + threadIdx.y * (kKept * kWarpThreads / kMaxBlockThreads);
    capacity_ = team.warps() == 1 ? kKept * kWarpThreads / kMaxBlockThreads : kKept;
  }

  /// The first read of a vector.
  template <typename V>
  __device__ __forceinline__ V fetch(int64_t first) const {
    const V vector = V::load(data_ + first);
    if (first < capacity_) vector.store(kept_ + first);
    return vector;
  }

  /// A vector that the calling thread has fetched.
  template <typename V>
  __device__ __forceinline__ V load(int64_t first) const {
    if (first < capacity_) return V::load(kept_ + first);
    return V::load(data_ + first);
  }

 private:
  const T* data_;
  T* kept_;
  int capacity_;
};

/// The probe of one token, made as it is scored.
template <typename T>
struct Modulated {
  const HiddenRow<T>& hidden;
  const T* shift;
  const T* scale;
  float mean;
  float inverse_deviation;

  template <typename V>
  struct Piece {
    float values[V::kSize];
    __device__ __forceinline__ float value(int v) const { return values[v]; }
  };

  template <typename V>
  __device__ __forceinline__ Piece<V> load(int64_t first) const {
    const V here = hidden.template load<V>(first);
    const V shifts = V::load(shift + first);
    const V scales = V::load(scale + first);
    Piece<V> piece;
    TAP_UNROLL
    for (int v = 0; v < V::kSize; ++v) {
      const float normed = (widen(here.values[v]) - mean) * inverse_deviation;
      piece.values[v] = normed * (1 + widen(scales.values[v])) + widen(shifts.values[v]);
    }
    return piece;
  }
};

/// Mean and 1 / sqrt(variance + eps) of a token's channels, in every thread of its team; in two
/// passes, for a variance from squares cancels where the mean is large.
template <typename T>
__device__ __forceinline__ void normalise(const Team& team, const HiddenRow<T>& hidden,
                                          int64_t channels, bool vectors, float eps, float& mean,
                                          float& inverse_deviation) {
  float total[1] = {};
  for_each_vector<T>(team, channels, vectors, [&]<typename V>(int64_t first) {
    const V vector = hidden.template fetch<V>(first);
    TAP_UNROLL
    for (int v = 0; v < V::kSize; ++v) total[0] += widen(vector.values[v]);
  });
  sum_over_team(team, total);
  team.sync();
  mean = total[0] / static_cast<float>(channels);
  float squares[1] = {};
  for_each_vector<T>(team, channels, vectors, [&]<typename V>(int64_t first) {
    const V vector = hidden.template load<V>(first);
    TAP_UNROLL
    for (int v = 0; v < V::kSize; ++v) {
      const float d = widen(vector.values[v]) - mean;
      squares[0] += d * d;
    }
  });
  sum_over_team(team, squares);
  inverse_deviation = 1 / std::sqrt(squares[0] / static_cast<float>(channels) + eps);
}

/// As resident_blocks: what the probe is made of takes registers of its own.
constexpr int modulated_resident_blocks(int planes) {
  if (planes == kAnyPlanes) return 2;
  return planes <= 2 ? 4 : planes == 3 ? 3 : planes <= 5 ? 2 : 1;
}

// Moves, per token, (S + 1) D elements of the probe and at most (S + 1) D of the residual: the
// hidden state comes once, shift and scale are the same for a whole batch row and come from cache.
template <typename T, int kPlanes>
__global__ void __launch_bounds__(kMaxBlockThreads, modulated_resident_blocks(kPlanes))
    ModulatedSkipStepKernel(const __grid_constant__ ModulatedSkipStepArgs args, bool vectors) {
  const Team team = this_team();
  if (team.token >= args.batches * args.tokens) return;
  const Place place = locate(team.token, args.tokens);
  const HiddenRow<T> hidden(token_data<const T>(args.hidden, place), team);
  float mean, inverse_deviation;
  normalise(team, hidden, args.channels, vectors, args.eps, mean, inverse_deviation);
  const Scored<T, Modulated<T>> token{
      token_data<const T>(args.probe_stack, place),
      args.probe_stack.plane_stride,
      static_cast<int>(args.planes),
      {hidden, token_data<const T>(args.shift, place), token_data<const T>(args.scale, place), mean,
       inverse_deviation},
      args.channels,
      vectors};
  const int32_t index = Choose<T, kPlanes>::row(team, args.metric, args.rows, token).index;
  if (team.thread == 0) args.index[team.token] = index;

  const auto base = [&]<typename V>(int64_t first) {
    return args.add ? hidden.template load<V>(first) : V{};
  };
  combine_onto<T, kPlanes == kAnyPlanes ? 4 : kPlanes>(
      team, token_data<const T>(args.residual_stack, place), args.residual_stack.plane_stride,
      kPlanes == kAnyPlanes ? args.planes : kPlanes, args.rows.data + index * args.rows.stride,
      base, args.channels, vectors, token_data<T>(args.out, place));
}

}  // namespace cuda

Status modulated_skip_step_cuda(const ModulatedSkipStepArgs& args, void* stream) {
  const bool vectors = cuda::vectors_allowed(args.dtype, args.probe_stack, args.hidden, args.shift,
                                             args.scale, args.residual_stack, args.out);
  return cuda::with_dtype_and_planes(args.dtype, args.planes, [&]<typename T, int kPlanes>() {
    return cuda::launch(cuda::ModulatedSkipStepKernel<T, kPlanes>, args.batches * args.tokens,
                        args.channels, args.dtype, stream, args, vectors);
  });
}

}  // namespace tap
