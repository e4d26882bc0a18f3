#pragma once

#include <cstdint>

#include "core/macros.h"

namespace tap {

/// Storage type of planes and features. Arithmetic is in float32 whatever the storage.
enum class DType : int32_t { kFloat32, kBFloat16, kFloat16 };

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

TAP_HOST_DEVICE constexpr int64_t element_size(DType dtype) {
  return dtype == DType::kFloat32 ? 4 : 2;
}

template <typename To, typename From>
TAP_HOST_DEVICE constexpr To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  return __builtin_bit_cast(To, value);
}

// The conversions, on bits held in 32 of them: `Float` and `Bits` are float and uint32_t, or SIMD
// vectors of these, for which a condition selects lane by lane.

template <typename Float, typename Bits>
TAP_HOST_DEVICE constexpr Float float_of_bfloat16(Bits bits) {
  return bit_cast<Float>(bits << 16);
}

/// To nearest, ties to even; a NaN stays one.
template <typename Bits, typename Float>
TAP_HOST_DEVICE constexpr Bits bfloat16_of_float(Float value) {
  const Bits bits = bit_cast<Bits>(value);
  const Bits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return value == value ? rounded : Bits{} + 0x7fc0u;
}

template <typename Float, typename Bits>
TAP_HOST_DEVICE constexpr Float float_of_float16(Bits bits) {
  const Bits sign = (bits & 0x8000u) << 16;
  const Bits fields = (bits & 0x7fffu) << 13;  // exponent and mantissa, where a float has them
  const Bits infinite = fields | 0x7f800000u;  // or NaN
  const Bits normal = fields + (112u << 23);
  // Zero and subnormals: (2^-14 + x) - 2^-14 is exact and, unlike a scaled subnormal, does not
  // depend on whether the thread flushes subnormals to zero.
  const Bits subnormal = bit_cast<Bits>(bit_cast<Float>(fields + (113u << 23)) - 0x1p-14f);
  const Bits finite = fields < (1u << 23) ? subnormal : normal;
  return bit_cast<Float>(sign | (fields >= (31u << 23) ? infinite : finite));
}

/// To nearest, ties to even; a NaN stays one.
template <typename Bits, typename Float>
TAP_HOST_DEVICE constexpr Bits float16_of_float(Float value) {
  const Bits bits = bit_cast<Bits>(value);
  const Bits sign = (bits >> 16) & 0x8000u;
  const Bits magnitude = bits & 0x7fffffffu;
  // Below 2^-14 the result is subnormal: adding 0.5 aligns its last bit with that of the float, so
  // that the adder itself rounds to nearest even.
  const Bits subnormal =
      bit_cast<Bits>(bit_cast<Float>(magnitude) + 0.5f) - bit_cast<uint32_t>(0.5f);
  const Bits normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
  const Bits finite = magnitude < (113u << 23) ? subnormal : normal;
  const Bits infinite = Bits{} + 0x7c00u;
  const Bits number = magnitude < (143u << 23) ? finite : infinite;  // 2^16 and above
  return sign | (value == value ? number : Bits{} + 0x7e00u);
}

TAP_HOST_DEVICE constexpr float to_float(float value) { return value; }

TAP_HOST_DEVICE constexpr float to_float(BFloat16 value) {
  return float_of_bfloat16<float>(uint32_t{value.bits});
}

TAP_HOST_DEVICE constexpr float to_float(Float16 value) {
  return float_of_float16<float>(uint32_t{value.bits});
}

/// Rounds a float32 to the storage type, once: to nearest, ties to even; a NaN stays one.
template <typename T>
TAP_HOST_DEVICE constexpr T from_float(float value);

template <>
TAP_HOST_DEVICE constexpr float from_float<float>(float value) {
  return value;
}

template <>
TAP_HOST_DEVICE constexpr BFloat16 from_float<BFloat16>(float value) {
  return {static_cast<uint16_t>(bfloat16_of_float<uint32_t>(value))};
}

template <>
TAP_HOST_DEVICE constexpr Float16 from_float<Float16>(float value) {
  return {static_cast<uint16_t>(float16_of_float<uint32_t>(value))};
}

}  // namespace tap
