#pragma once

#include <cstdint>

#include "kernels/args.h"

namespace tap {

// ---- CPU: tokens [begin, end) of the flattened (B, N) axis, on the calling thread. Each token's
// result depends on that token alone, so how a range is split over threads changes no bit.

void stack_update_range(const StackUpdateArgs& args, int64_t begin, int64_t end);
void predict_range(const PredictArgs& args, int64_t begin, int64_t end);
void cosine_argmin_range(const CosineArgminArgs& args, int64_t begin, int64_t end);
void gather_rows_range(const GatherRowsArgs& args, int64_t begin, int64_t end);
void select_range(const SelectArgs& args, int64_t begin, int64_t end);
void skip_step_range(const SkipStepArgs& args, int64_t begin, int64_t end);
void modulated_skip_step_range(const ModulatedSkipStepArgs& args, int64_t begin, int64_t end);

// ---- CUDA: the whole op, enqueued on `stream` (a cudaStream_t) of the current device. Nothing is
// allocated, synchronised or read back.

/// Outcome of a launch: `error` is null on success, else a sentence with static lifetime.
struct Status {
  const char* error = nullptr;
};

Status stack_update_cuda(const StackUpdateArgs& args, void* stream);
Status predict_cuda(const PredictArgs& args, void* stream);
Status cosine_argmin_cuda(const CosineArgminArgs& args, void* stream);
Status gather_rows_cuda(const GatherRowsArgs& args, void* stream);
Status select_cuda(const SelectArgs& args, void* stream);
Status skip_step_cuda(const SkipStepArgs& args, void* stream);
Status modulated_skip_step_cuda(const ModulatedSkipStepArgs& args, void* stream);

}  // namespace tap
