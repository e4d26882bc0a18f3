#pragma once

#include <cstdint>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "core/dtype.h"

// A SIMD vector of float32 lanes on the compiler's own vector types: arithmetic is written with
// operators (and contracted to fused multiply-adds where the instruction set has them), so one
// source serves every instruction set.

namespace tap::cpu::TAP_ISA {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef uint32_t VecBits __attribute__((vector_size(kLanes * 4)));
typedef uint16_t VecHalf __attribute__((vector_size(kLanes * 2)));
typedef float VecLow __attribute__((vector_size(kLanes * 2)));    // half of the lanes
typedef double VecWide __attribute__((vector_size(kLanes * 4)));  // half of the lanes, widened

#define TAP_INLINE inline __attribute__((always_inline))
#define TAP_INLINE_LAMBDA __attribute__((always_inline))

// 16-bit elements in the low halves of the lanes. The compiler's own conversion between the widths
// splits wide vectors and joins them again.

TAP_INLINE VecBits load_bits(const void* source) {
#if defined(__AVX512F__)
  return reinterpret_cast<VecBits>(
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(source))));
#elif defined(__AVX2__)
  return reinterpret_cast<VecBits>(
      _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(source))));
#else
  VecHalf half;
  __builtin_memcpy(&half, source, sizeof(half));
  // Each followed by a zero: on a little-endian machine, widened.
  return reinterpret_cast<VecBits>(
      __builtin_shufflevector(half, VecHalf{}, 0, 4, 1, 5, 2, 6, 3, 7));
#endif
}

TAP_INLINE void store_bits(void* target, VecBits bits) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(static_cast<__m256i*>(target),
                      _mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(bits)));
#else
  const VecHalf half = __builtin_convertvector(bits, VecHalf);
  __builtin_memcpy(target, &half, sizeof(half));
#endif
}

TAP_INLINE Vec load(const float* source) {
  Vec value;
  __builtin_memcpy(&value, source, sizeof(value));
  return value;
}

TAP_INLINE Vec load(const BFloat16* source) { return float_of_bfloat16<Vec>(load_bits(source)); }

TAP_INLINE Vec load(const Float16* source) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
#elif defined(__AVX2__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
#else
  return float_of_float16<Vec>(load_bits(source));
#endif
}

TAP_INLINE void store(float* target, Vec value) { __builtin_memcpy(target, &value, sizeof(value)); }

TAP_INLINE void store(BFloat16* target, Vec value) {
  store_bits(target, bfloat16_of_float<VecBits>(value));
}

TAP_INLINE void store(Float16* target, Vec value) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target),
                      _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__AVX2__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target),
                   _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  store_bits(target, float16_of_float<VecBits>(value));
#endif
}

/// Loads, and prefetches what will be loaded some vectors later. A token's planes are several
/// streams that cross pages sooner than the processor's own prefetching follows: 15 % of a select.
template <typename T>
TAP_INLINE Vec load_ahead(const T* source) {
  constexpr int kBytesAhead = 1024;
  __builtin_prefetch(reinterpret_cast<const char*>(source) + kBytesAhead);
  return load(source);
}

/// The first `count` <= kLanes elements; the other lanes are zero.
template <typename T>
TAP_INLINE Vec load_part(const T* source, int64_t count) {
  T padded[kLanes] = {};
  __builtin_memcpy(padded, source, count * sizeof(T));
  return load(padded);
}

template <typename T>
TAP_INLINE void store_part(T* target, Vec value, int64_t count) {
  T padded[kLanes];
  store(padded, value);
  __builtin_memcpy(target, padded, count * sizeof(T));
}

/// Adds the lanes, in double, to the lanes of `total`.
TAP_INLINE void add_wide(VecWide& total, Vec value) {
  VecLow parts[2];
  __builtin_memcpy(parts, &value, sizeof(value));
  total += __builtin_convertvector(parts[0], VecWide);
  total += __builtin_convertvector(parts[1], VecWide);
}

TAP_INLINE double sum_lanes(VecWide value) {
  double sum = 0;
  for (int lane = 0; lane < kLanes / 2; ++lane) sum += value[lane];
  return sum;
}

}  // namespace tap::cpu::TAP_ISA
