#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/score.h"

// What a kernel is told: one plain struct per op. All pointers of one struct live on one device,
// `rows` and `gaps` included. Strides count elements; the last axis (D channels) is contiguous.
// Kernels assume what the bindings have checked: D, M, S >= 1, S <= kMaxScoredPlanes where rows
// are scored, outputs that overlap nothing, `batches * tokens` possibly zero.

namespace tap {

/// Limit on S where all rows are scored from a Gram matrix (select, skip_step).
inline constexpr int kMaxScoredPlanes = 16;

/// (B, N, D) features.
struct Features {
  void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t token_stride = 0;
};

/// (S, B, N, D): S planes of features, newest first. Also (M, B, N, D): M candidates.
struct Stack {
  void* data = nullptr;
  int64_t plane_stride = 0;
  int64_t batch_stride = 0;
  int64_t token_stride = 0;
};

/// (M, S) float32 weights, one row per candidate.
struct Rows {
  const float* data = nullptr;
  int64_t count = 0;   ///< M
  int64_t stride = 0;  ///< elements from one row to the next
};

/// D_0' = feature - minus; D_i' = (D_{i-1}' - D_{i-1}) / gaps[i-1], i = 1..S-1.
struct StackUpdateArgs {
  DType dtype;
  int64_t planes, batches, tokens, channels;
  Stack stack;                  ///< read and written
  Features feature;             ///< read
  Features minus;               ///< read; data is null for zero
  const float* gaps = nullptr;  ///< (S-1,); an infinite gap writes zeros and reads no plane
};

/// candidates[m] = sum_s rows[m, s] * stack[s].
struct PredictArgs {
  DType dtype;
  int64_t planes, batches, tokens, channels;
  Stack stack;       ///< read
  Rows rows;         ///< read
  Stack candidates;  ///< (M, B, N, D), written
};

/// index = argmin_m distance(candidates[m], target), per token.
struct CosineArgminArgs {
  DType dtype;
  Metric metric;  ///< any
  int64_t count;  ///< M
  int64_t batches, tokens, channels;
  Stack candidates;           ///< (M, B, N, D), read
  Features target;            ///< read
  int32_t* index = nullptr;   ///< (B, N) contiguous, written
  float* distance = nullptr;  ///< (B, N) contiguous, written
};

/// out = base + sum_s rows[index, s] * stack[s]; planes of weight zero are not read. An index
/// outside [0, M) is refused by the CPU binding; the CUDA binding cannot look without waiting for
/// the device, so the CUDA kernel fills such a token with NaN.
struct GatherRowsArgs {
  DType dtype;
  int64_t planes, batches, tokens, channels;
  Stack stack;                     ///< read
  Rows rows;                       ///< read
  const int32_t* index = nullptr;  ///< (B, N) contiguous, read
  Features base;                   ///< read; data is null for zero
  Features out;                    ///< written
};

/// index = argmin_m distance(sum_s rows[m, s] * stack[s], target), per token.
struct SelectArgs {
  DType dtype;
  Metric metric;  ///< kCosine or kL2
  int64_t planes, batches, tokens, channels;
  Stack stack;                ///< read
  Features target;            ///< read
  Rows rows;                  ///< read
  int32_t* index = nullptr;   ///< (B, N) contiguous, written
  float* distance = nullptr;  ///< (B, N) contiguous, written; null where it is not wanted
};

/// select on the probe, then gather_rows on the residual, token by token.
struct SkipStepArgs {
  DType dtype;
  Metric metric;  ///< kCosine or kL2
  int64_t planes, batches, tokens;
  int64_t probe_channels;     ///< D of probe and probe_stack
  int64_t residual_channels;  ///< D of hidden, out and residual_stack
  Stack probe_stack;          ///< read
  Features probe;             ///< read
  Stack residual_stack;       ///< read
  Features hidden;            ///< read; data is null for zero
  Rows rows;                  ///< read
  Features out;               ///< written
  int32_t* index = nullptr;   ///< (B, N) contiguous, written
};

/// skip_step whose probe is made of the hidden state as it is needed, and never written:
/// probe = (hidden - mean) / sqrt(variance + eps) * (1 + scale) + shift, in float32, with mean and
/// (biased) variance over a token's channels.
struct ModulatedSkipStepArgs {
  DType dtype;
  Metric metric;  ///< kCosine or kL2
  int64_t planes, batches, tokens, channels;
  Stack probe_stack;         ///< read
  Features hidden;           ///< read
  Features shift;            ///< (B, D), read: the same for all tokens, its token_stride is 0
  Features scale;            ///< (B, D), read; likewise
  Stack residual_stack;      ///< read
  Rows rows;                 ///< read
  float eps = 0;             ///< at least 0
  bool add = true;           ///< out = hidden + the prediction; else the prediction alone
  Features out;              ///< written
  int32_t* index = nullptr;  ///< (B, N) contiguous, written
};

}  // namespace tap
