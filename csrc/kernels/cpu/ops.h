#pragma once

#include <cstdint>

#include "kernels/args.h"
#include "kernels/cpu/isa.h"

// Everything below this header is compiled once per instruction set, into a namespace of its own:
// TAP_ISA is baseline, avx2 or avx512, given by the build together with the compiler's flags.
// Nothing there may have a name that two instruction sets share, for the linker would keep either.

namespace tap::cpu::TAP_ISA {

void stack_update(const StackUpdateArgs& args, int64_t begin, int64_t end);
void predict(const PredictArgs& args, int64_t begin, int64_t end);
void cosine_argmin(const CosineArgminArgs& args, int64_t begin, int64_t end);
void gather_rows(const GatherRowsArgs& args, int64_t begin, int64_t end);
void select(const SelectArgs& args, int64_t begin, int64_t end);
void skip_step(const SkipStepArgs& args, int64_t begin, int64_t end);
void modulated_skip_step(const ModulatedSkipStepArgs& args, int64_t begin, int64_t end);

}  // namespace tap::cpu::TAP_ISA
