#pragma once

#include <cmath>
#include <cstdio>

// The least that a test needs: CHECK reports and counts, main() returns `failures() != 0`.

namespace tap::tests {

inline int& failures() {
  static int count = 0;
  return count;
}

inline bool close(double got, double expected, double absolute, double relative = 0) {
  if (std::isnan(expected)) return std::isnan(got);
  if (std::isinf(expected)) return got == expected;
  return std::fabs(got - expected) <= absolute + relative * std::fabs(expected);
}

}  // namespace tap::tests

/// CHECK(condition, format, ...): the rest says for which case.
#define CHECK(condition, ...)                                                       \
  do {                                                                              \
    if (!(condition) && ++tap::tests::failures() <= 20) {                           \
      std::fprintf(stderr, "%s:%d: %s is false: ", __FILE__, __LINE__, #condition); \
      std::fprintf(stderr, __VA_ARGS__);                                            \
      std::fputc('\n', stderr);                                                     \
    }                                                                               \
  } while (false)
