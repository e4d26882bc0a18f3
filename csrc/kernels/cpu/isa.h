#pragma once

#include <cstdint>

#include "kernels/args.h"

namespace tap::cpu {

/// Instruction sets the CPU kernels are compiled for; the same sources, once each.
enum class Isa { kBaseline, kAvx2, kAvx512 };
inline constexpr int kIsaCount = 3;

const char* isa_name(Isa isa);

/// Whether this build contains the set and this processor and system can execute it.
bool isa_supported(Isa isa);

/// The best supported set: the one that the kernels run with.
Isa active_isa();

/// The ops of one instruction set; meaning as in kernels/kernels.h.
struct Kernels {
  void (*stack_update)(const StackUpdateArgs& args, int64_t begin, int64_t end);
  void (*predict)(const PredictArgs& args, int64_t begin, int64_t end);
  void (*cosine_argmin)(const CosineArgminArgs& args, int64_t begin, int64_t end);
  void (*gather_rows)(const GatherRowsArgs& args, int64_t begin, int64_t end);
  void (*select)(const SelectArgs& args, int64_t begin, int64_t end);
  void (*skip_step)(const SkipStepArgs& args, int64_t begin, int64_t end);
  void (*modulated_skip_step)(const ModulatedSkipStepArgs& args, int64_t begin, int64_t end);
};

/// Needs isa_supported(isa).
const Kernels& kernels_for(Isa isa);

}  // namespace tap::cpu
