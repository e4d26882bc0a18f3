#pragma once

// Every function of core is compiled into host and device code alike. On the host it is always
// inlined: the CPU kernels are compiled once per instruction set, and an out-of-line copy shared
// between them could be the one that an older processor cannot execute.
#if defined(__CUDACC__)
#define TAP_HOST_DEVICE __host__ __device__ __forceinline__
#define TAP_UNROLL _Pragma("unroll")
#else
#define TAP_HOST_DEVICE inline __attribute__((always_inline))
#define TAP_UNROLL _Pragma("GCC unroll 32")
#endif
