#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "core/dtype.h"
#include "kernels/args.h"
#include "tests/check.h"
#include "tests/data.h"

// Planes of weight zero are not read: a NaN would not show a read whose value is thrown away, so
// here they cannot be read at all.

namespace tap::tests {

/// (P, B, 1, D) tensor, each of whose tokens has a page of memory of its own, from element `first`
/// of the page on.
template <typename T>
class Pages {
 public:
  Pages(int64_t planes, int64_t batches, int64_t first)
      : batches_(batches), first_(first), bytes_(planes * batches * page()) {
    void* memory =
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    data_ = static_cast<T*>(memory);
  }
  ~Pages() { munmap(data_, bytes_); }
  Pages(const Pages&) = delete;

  T* token(int64_t p, int64_t b) { return data_ + (p * batches_ + b) * stride() + first_; }
  /// From now on, whoever reads this token or writes it ends the test.
  void forbid(int64_t p, int64_t b) {
    if (mprotect(token(p, b) - first_, page(), PROT_NONE) != 0) std::abort();
  }
  Features features() { return {token(0, 0), stride(), stride()}; }
  Stack stack() { return {token(0, 0), batches_ * stride(), stride(), stride()}; }

 private:
  static int64_t page() { return sysconf(_SC_PAGESIZE); }
  static int64_t stride() { return page() / static_cast<int64_t>(sizeof(T)); }

  int64_t batches_, first_, bytes_;
  T* data_;
};

/// Those of one device that leave planes of weight zero unread.
struct ReadersOfPlanes {
  std::function<void(const PredictArgs&)> predict;
  std::function<void(const GatherRowsArgs&)> gather_rows;
  std::function<void(const SkipStepArgs&)> skip_step;
  std::function<void(const ModulatedSkipStepArgs&)> modulated_skip_step;
};

inline const char* reading = "nothing";  // the op that runs

/// What a read of a forbidden page comes to.
inline void forbidden(int) {
  const auto say = [](const char* text) { return write(STDERR_FILENO, text, strlen(text)); };
  const bool said = say(reading) > 0 && say(" touched a plane of weight zero\n") > 0;
  _exit(said ? 1 : 2);
}

/// Every token takes another row, and what that leaves out is forbidden. All values are small whole
/// numbers, so that sums are exact in every storage type.
template <typename T>
void test_unread_planes(const ReadersOfPlanes& ops, int64_t planes, int64_t channels,
                        int64_t first) {
  constexpr int64_t B = 4;  // as many rows: token b takes row b
  const int64_t S = planes, D = channels;
  const auto weight = [](int64_t m, int64_t s) { return static_cast<float>(m >> s % 2 & 1); };
  const auto plane = [](int64_t s, int64_t b, int64_t d) { return 1 + s + (b + d) % 4; };
  const auto row_of = [&](int64_t b, int64_t d) {
    float sum = 0;
    for (int64_t s = 0; s < S; ++s) sum += weight(b, s) * static_cast<float>(plane(s, b, d));
    return sum;
  };

  Pages<T> residual(S, B, first), probes(S, B, first), probe(1, B, first), hidden(1, B, first);
  Pages<T> minus_one(1, B, first), out(1, B, first);
  float rows[B][16] = {};
  int32_t index[B];
  for (int64_t b = 0; b < B; ++b) {
    index[b] = static_cast<int32_t>(b);
    for (int64_t s = 0; s < S; ++s) rows[b][s] = weight(b, s);
    for (int64_t d = 0; d < D; ++d) {
      for (int64_t s = 0; s < S; ++s) {
        const T value = from_float<T>(static_cast<float>(plane(s, b, d)));
        residual.token(s, b)[d] = probes.token(s, b)[d] = value;
      }
      probe.token(0, b)[d] = from_float<T>(row_of(b, d));
      hidden.token(0, b)[d] = from_float<T>(static_cast<float>(d % 8));
      minus_one.token(0, b)[d] = from_float<T>(-1);
    }
    for (int64_t s = 0; s < S; ++s) {
      if (weight(b, s) == 0) residual.forbid(s, b);
    }
  }
  const Rows table{rows[0], B, 16};
  const auto check = [&](int64_t b, bool with_hidden) {
    for (int64_t d = 0; d < D; ++d) {
      const float expected = row_of(b, d) + (with_hidden ? static_cast<float>(d % 8) : 0);
      const float got = to_float(out.token(0, b)[d]);
      CHECK(got == expected, "%s S=%d D=%d: %g, not %g", reading, static_cast<int>(S),
            static_cast<int>(D), got, expected);
    }
  };
  const auto check_all = [&] {
    for (int64_t b = 0; b < B; ++b) {
      CHECK(index[b] == b, "%s: row %d for token %d", reading, index[b], static_cast<int>(b));
      check(b, true);
    }
  };

  const auto before = signal(SIGSEGV, forbidden);
  reading = "predict";
  for (int64_t b = 0; b < B; ++b) {  // its rows are for all tokens: one token, one row
    Stack stack = residual.stack(), candidate = out.stack();
    stack.data = residual.token(0, b);
    candidate.data = out.token(0, b);
    ops.predict({kDType<T>, S, 1, 1, D, stack, {rows[b], 1, 16}, candidate});
    check(b, false);
  }
  reading = "gather_rows";
  ops.gather_rows(
      {kDType<T>, S, B, 1, D, residual.stack(), table, index, hidden.features(), out.features()});
  check_all();
  // The probe is what one row predicts, which makes the choice sure.
  reading = "skip_step";
  memset(index, -1, sizeof(index));
  ops.skip_step({kDType<T>, Metric::kL2, S, B, 1, D, D, probes.stack(), probe.features(),
                 residual.stack(), hidden.features(), table, out.features(), index});
  check_all();
  // The normalised hidden state times 1 + scale = 0, plus a shift that is the probe.
  reading = "modulated_skip_step";
  memset(index, -1, sizeof(index));
  ops.modulated_skip_step({kDType<T>, Metric::kL2, S, B, 1, D, probes.stack(), hidden.features(),
                           probe.features(), minus_one.features(), residual.stack(), table, 1e-6f,
                           true, out.features(), index});
  check_all();
  signal(SIGSEGV, before);
}

/// S unrolled and not, a warp and a block per token, whole vectors and single channels.
template <typename T>
void test_unread_planes(const ReadersOfPlanes& ops) {
  for (const int64_t planes : {2, 3, 7}) {
    for (const int64_t channels : {64, 333, 1001}) {
      for (const int64_t first : {0, 1}) test_unread_planes<T>(ops, planes, channels, first);
    }
  }
}

}  // namespace tap::tests
