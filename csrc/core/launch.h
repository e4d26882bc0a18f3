#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/macros.h"

namespace tap {

inline constexpr int kWarpThreads = 32;
inline constexpr int kMaxBlockThreads = 256;
inline constexpr int kVectorBytes = 16;  // the widest load of one thread
inline constexpr int64_t kMaxGridBlocks = (int64_t{1} << 31) - 1;

/// Channels that one thread loads and stores at once.
TAP_HOST_DEVICE constexpr int64_t vector_channels(DType dtype) {
  return kVectorBytes / element_size(dtype);
}

/// Shape of a CUDA launch. Each token is the work of one team of threads, which stride over its
/// channels in vectors. A team is one warp, and shares its block with other teams, or, where there
/// are many channels, a block of its own. Its size follows from the number of channels alone, so
/// that the order in which a token's channels are added depends on nothing else: neither on the
/// other tokens nor on how the tensors lie in memory.
struct LaunchPlan {
  int64_t blocks;    ///< grid size; 0 when there is nothing to do
  int team_threads;  ///< threads per token, whole warps
  int block_teams;   ///< tokens per block; 1 unless a team is one warp
};

/// Plans a launch over `tokens` of `channels` elements.
TAP_HOST_DEVICE LaunchPlan plan_launch(int64_t tokens, int64_t channels, DType dtype) {
  constexpr int64_t kWarpVectors = 2 * kWarpThreads;  // beyond these a warp alone is too slow
  const int64_t vectors = (channels + vector_channels(dtype) - 1) / vector_channels(dtype);
  LaunchPlan plan{};
  if (vectors <= kWarpVectors) {
    plan.team_threads = kWarpThreads;
    plan.block_teams = kMaxBlockThreads / kWarpThreads;
  } else {
    // As few rounds as a full block needs, then as few threads as do in those rounds: none idles.
    const int64_t rounds = (vectors + kMaxBlockThreads - 1) / kMaxBlockThreads;
    const int64_t threads = (vectors + rounds - 1) / rounds;
    plan.team_threads =
        static_cast<int>((threads + kWarpThreads - 1) / kWarpThreads * kWarpThreads);
    plan.block_teams = 1;
  }
  plan.blocks = (tokens + plan.block_teams - 1) / plan.block_teams;
  return plan;
}

/// Tells whether vectors may be accessed whole: collects the byte addresses and byte strides of
/// all tensors, and looks at the low bits that they share.
struct Alignment {
  uint64_t bits = 0;

  TAP_HOST_DEVICE void add(const void* pointer) {
    bits |= static_cast<uint64_t>(reinterpret_cast<uintptr_t>(pointer));
  }
  TAP_HOST_DEVICE void add(int64_t elements, DType dtype) {
    bits |= static_cast<uint64_t>(elements * element_size(dtype));
  }
  TAP_HOST_DEVICE bool vectors() const { return bits % kVectorBytes == 0; }
};

}  // namespace tap
