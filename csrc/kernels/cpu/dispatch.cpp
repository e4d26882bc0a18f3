#include "kernels/cpu/isa.h"
#include "kernels/kernels.h"

namespace tap {
namespace cpu {

namespace baseline {
extern const Kernels kKernels;
}
#if defined(TAP_X86_ISAS)
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}
#endif

const Kernels& kernels_for(Isa isa) {
#if defined(TAP_X86_ISAS)
  if (isa == Isa::kAvx512) return avx512::kKernels;
  if (isa == Isa::kAvx2) return avx2::kKernels;
#endif
  (void)isa;
  return baseline::kKernels;
}

}  // namespace cpu

namespace {
const cpu::Kernels& kernels() {
  static const cpu::Kernels& active = cpu::kernels_for(cpu::active_isa());
  return active;
}
}  // namespace

void stack_update_range(const StackUpdateArgs& args, int64_t begin, int64_t end) {
  kernels().stack_update(args, begin, end);
}

void predict_range(const PredictArgs& args, int64_t begin, int64_t end) {
  kernels().predict(args, begin, end);
}

void cosine_argmin_range(const CosineArgminArgs& args, int64_t begin, int64_t end) {
  kernels().cosine_argmin(args, begin, end);
}

void gather_rows_range(const GatherRowsArgs& args, int64_t begin, int64_t end) {
  kernels().gather_rows(args, begin, end);
}

void select_range(const SelectArgs& args, int64_t begin, int64_t end) {
  kernels().select(args, begin, end);
}

void skip_step_range(const SkipStepArgs& args, int64_t begin, int64_t end) {
  kernels().skip_step(args, begin, end);
}

void modulated_skip_step_range(const ModulatedSkipStepArgs& args, int64_t begin, int64_t end) {
  kernels().modulated_skip_step(args, begin, end);
}

}  // namespace tap
