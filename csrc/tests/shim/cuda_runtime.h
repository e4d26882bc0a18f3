#pragma once

// As much of CUDA as the kernels use, for a host compiler: blocks run one after the other, the
// threads of a block as fibers, in an order that tests shuffle. Says nothing about speed or about
// memory ordering on a device; does execute every thread, barrier and shuffle.

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "fibers.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static  // one block at a time

struct __attribute__((may_alias, aligned(16))) uint4 {
  unsigned x, y, z, w;
};

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  explicit dim3(unsigned x, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidConfiguration };

namespace tap::shim {

constexpr int kLanes = 32;

/// Points at which all lanes of a warp meet, each with a value.
struct Warp {
  uint64_t values[2][kLanes];  // of this meeting and of the last, which some may still be reading
  const void* meeting;         // which operation the lanes that have arrived are at
  int lanes = 0;
  uint64_t meetings = 0;
};

inline dim3 block_index, block_size;
inline std::vector<Warp> warps;
inline int barrier_threads;
inline uint64_t barriers;
inline uint64_t order;            // seeds the order of threads; set by tests
inline std::vector<int> reached;  // how many barriers each thread of the block has come to
inline int left_out = -1;         // the one of them that tests have taken out of the kernel
inline cudaError_t last_error = cudaSuccess;

inline dim3 thread_index() {
  const unsigned thread = this_fiber();
  return dim3(thread % block_size.x, thread / block_size.x);
}

/// Whether the barrier that the calling thread has come to is none.
inline bool is_left_out() { return reached[this_fiber()]++ == left_out; }

/// The value that lane (own ^ lane_mask) of the calling thread's warp brings.
inline uint64_t exchange(const void* meeting, unsigned mask, uint64_t value, int lane_mask) {
  if (mask != 0xffffffffu) throw std::runtime_error("only whole warps are implemented");
  Warp& warp = warps[this_fiber() / kLanes];
  const int lane = this_fiber() % kLanes;
  const uint64_t now = warp.meetings;
  if (warp.lanes == 0) warp.meeting = meeting;
  // On another operation than the others: never completes, and so is reported as a deadlock.
  if (warp.meeting != meeting) wait_until([] { return false; });
  warp.values[now % 2][lane] = value;
  if (++warp.lanes == kLanes) {
    warp.lanes = 0;
    ++warp.meetings;
  }
  wait_until([&] { return warp.meetings != now; });
  return warp.values[now % 2][lane ^ lane_mask];
}

template <typename Kernel, typename... Args>
void launch(Kernel kernel, dim3 grid, dim3 block, const Args&... args) {
  const unsigned threads = block.x * block.y;
  if (grid.x == 0 || threads == 0 || threads > 1024) {
    last_error = cudaErrorInvalidConfiguration;
    return;
  }
  block_size = block;
  for (unsigned index = 0; index < grid.x; ++index) {
    block_index = dim3(index);
    warps.assign((threads + kLanes - 1) / kLanes, Warp());
    reached.assign(threads, 0);
    barrier_threads = 0;
    run_fibers(static_cast<int>(threads), kLanes, order + index, [&] { kernel(args...); });
  }
}

}  // namespace tap::shim

#define TAP_LAUNCH(kernel, grid, block, stream, ...) \
  (static_cast<void>(stream), tap::shim::launch(kernel, grid, block, __VA_ARGS__))

#define threadIdx (tap::shim::thread_index())
#define blockIdx (tap::shim::block_index)
#define blockDim (tap::shim::block_size)

inline void __syncthreads() {
  using namespace tap::shim;
  if (is_left_out()) return;
  const uint64_t now = barriers;
  ++barrier_threads;
  wait_until([&] {
    if (barriers == now && barrier_threads == live_fibers()) {
      barrier_threads = 0;
      ++barriers;
    }
    return barriers != now;
  });
}

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  if (tap::shim::is_left_out()) return;
  static const char kMeeting = 0;
  tap::shim::exchange(&kMeeting, mask, 0, 0);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  static const char kMeeting = 0;
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = tap::shim::exchange(&kMeeting, mask, bits, lane_mask);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline cudaError_t cudaGetLastError() {
  const cudaError_t error = tap::shim::last_error;
  tap::shim::last_error = cudaSuccess;
  return error;
}

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid configuration argument";
}
