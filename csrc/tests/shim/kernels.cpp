// The CUDA kernels as they are, compiled by the host compiler against this directory's headers.
#include "kernels/cuda/cosine_argmin.cu"        // NOLINT(bugprone-suspicious-include)
#include "kernels/cuda/gather_rows.cu"          // NOLINT(bugprone-suspicious-include)
#include "kernels/cuda/modulated_skip_step.cu"  // NOLINT(bugprone-suspicious-include)
#include "kernels/cuda/predict.cu"              // NOLINT(bugprone-suspicious-include)
#include "kernels/cuda/select.cu"               // NOLINT(bugprone-suspicious-include)
#include "kernels/cuda/skip_step.cu"            // NOLINT(bugprone-suspicious-include)
#include "kernels/cuda/stack_update.cu"         // NOLINT(bugprone-suspicious-include)
