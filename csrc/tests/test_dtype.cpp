#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <random>

#include "core/dtype.h"
#include "tests/check.h"

namespace {

/// Value of a storage format from its definition: sign, exponent and mantissa fields.
double defined_value(uint16_t bits, int mantissa_bits, int exponent_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return mantissa ? NAN : sign * INFINITY;
  const double fraction = std::ldexp(mantissa, -mantissa_bits);
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias);
  return sign * std::ldexp(1 + fraction, exponent - bias);
}

/// All 65536 values: read as defined, and written back to the same bits.
template <typename T>
void test_every_value(int mantissa_bits, int exponent_bits) {
  for (uint32_t pattern = 0; pattern < 65536; ++pattern) {
    const T stored{static_cast<uint16_t>(pattern)};
    const double expected = defined_value(stored.bits, mantissa_bits, exponent_bits);
    const float value = tap::to_float(stored);
    CHECK(tap::tests::close(value, expected, 0), "bits %04x", pattern);
    CHECK(std::signbit(value) == ((pattern & 0x8000) != 0), "bits %04x", pattern);
    const T back = tap::from_float<T>(value);
    if (std::isnan(value)) {
      CHECK(std::isnan(tap::to_float(back)), "bits %04x", pattern);
    } else {
      CHECK(back.bits == stored.bits, "bits %04x became %04x", pattern, back.bits);
    }
  }
}

/// Between two neighbours: below the middle goes down, above it up, the middle to the even one.
template <typename T>
void test_rounding(uint16_t largest) {
  for (uint32_t pattern = 0; pattern < largest; ++pattern) {
    const T low{static_cast<uint16_t>(pattern)};
    const T high{static_cast<uint16_t>(pattern + 1)};
    const double middle = (static_cast<double>(tap::to_float(low)) + tap::to_float(high)) / 2;
    const float tie = static_cast<float>(middle);
    if (tie != middle) continue;  // the smallest bfloat16 have no middle in float32
    const uint16_t even = pattern % 2 ? high.bits : low.bits;
    for (const uint16_t sign : {0x0000, 0x8000}) {
      const auto round = [&](float value) {
        return tap::from_float<T>(sign ? -value : value).bits;
      };
      CHECK(round(tie) == (even | sign), "tie above %04x", pattern);
      CHECK(round(std::nextafter(tie, 0.0f)) == (low.bits | sign), "below tie above %04x", pattern);
      CHECK(round(std::nextafter(tie, INFINITY)) == (high.bits | sign), "above tie above %04x",
            pattern);
    }
  }
}

/// Every NaN stays one, whatever bits it carries; what is too large becomes infinite.
template <typename T>
void test_not_numbers() {
  std::mt19937 random(1);
  for (int i = 0; i < 10000; ++i) {
    const uint32_t bits = 0x7f800000u | (random() & 0x807fffffu) | 1u << (random() % 23);
    const float nan = tap::bit_cast<float>(bits);
    CHECK(std::isnan(tap::to_float(tap::from_float<T>(nan))), "NaN %08x", bits);
  }
  const float largest = std::numeric_limits<float>::max();
  CHECK(std::isinf(tap::to_float(tap::from_float<T>(largest))), "largest float");
  CHECK(tap::to_float(tap::from_float<T>(-INFINITY)) == -INFINITY, "-inf");
}

}  // namespace

int main() {
  test_every_value<tap::BFloat16>(7, 8);
  test_every_value<tap::Float16>(10, 5);
  test_rounding<tap::BFloat16>(0x7f7f);
  test_rounding<tap::Float16>(0x7bff);
  test_not_numbers<tap::BFloat16>();
  test_not_numbers<tap::Float16>();
  return tap::tests::failures() != 0;
}
