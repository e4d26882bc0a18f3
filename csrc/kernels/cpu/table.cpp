#include "kernels/cpu/ops.h"

namespace tap::cpu::TAP_ISA {

extern const Kernels kKernels;
const Kernels kKernels{stack_update, predict,   cosine_argmin,      gather_rows,
                       select,       skip_step, modulated_skip_step};

}  // namespace tap::cpu::TAP_ISA
