#include <cstdint>
#include <functional>
#include <vector>

#include "cuda_runtime.h"  // of shim/: for the order of threads, and to leave a barrier out
#include "kernels/args.h"
#include "kernels/kernels.h"
#include "tests/check.h"
#include "tests/data.h"

// That the shim would show a missing barrier: one after the other is taken out of the CUDA kernels,
// and each time what they write is another in some order of the threads. With all of them it is the
// same in every order; that it is also right is what test_cuda_on_cpu says.

namespace {

using namespace tap::tests;
using tap::DType;
using tap::Metric;

constexpr int64_t kTokens = 3;
constexpr int64_t kAllTokens = 2 * kTokens;
constexpr int64_t kWide = 1001;  // channels: a block of eight warps per token
constexpr int64_t kNarrow = 64;  // one warp
constexpr uint64_t kOrders = 16;

/// (P, 1, kAllTokens, D), every token of another size: one that is taken for another shows.
class Array {
 public:
  Array(int64_t planes, int64_t channels)
      : channels_(channels), data_(planes * kAllTokens * channels) {
    for (int64_t i = 0; i < static_cast<int64_t>(data_.size()); ++i) {
      data_[i] = static_cast<float>(1 + i / channels % kAllTokens) * normal();
    }
  }
  float& at(int64_t p, int64_t n, int64_t d) { return data_[(p * kAllTokens + n) * channels_ + d]; }
  tap::Features features(int64_t first) { return {&at(0, first, 0), 0, channels_}; }
  tap::Stack stack(int64_t first) {
    return {&at(0, first, 0), kAllTokens * channels_, 0, channels_};
  }

 private:
  int64_t channels_;
  std::vector<float> data_;
};

/// What an op writes for kTokens tokens from `first` on.
using Run = std::function<std::vector<float>(int64_t first)>;

template <typename Args>
void launch(tap::Status (*op)(const Args&, void*), const Args& args) {
  const tap::Status status = op(args, nullptr);
  CHECK(status.error == nullptr, "%s", status.error);
}

/// `run` comes to `count` barriers, of which those from `begin` to `end` are needed.
void check_barriers(const char* name, int count, int begin, int end, const Run& run) {
  const auto after_other_tokens = [&](int left_out) {
    run(kTokens);  // lest shared memory hold the right values already
    tap::shim::left_out = left_out;
    const std::vector<float> written = run(0);
    tap::shim::left_out = -1;
    return written;
  };
  const std::vector<float> expected = run(0);
  CHECK(tap::shim::reached[0] == count, "%s: %d barriers, not %d", name, tap::shim::reached[0],
        count);
  for (int barrier = begin; barrier < end; ++barrier) {
    bool seen = false;
    for (uint64_t order = 0; order < kOrders && !seen; ++order) {
      tap::shim::order = order * kAllTokens;
      CHECK(after_other_tokens(-1) == expected, "%s depends on the order of threads", name);
      seen = after_other_tokens(barrier) != expected;
    }
    CHECK(seen, "%s: barrier %d is missing, and nothing shows it", name, barrier);
  }
}

/// Row 1 of two is the nearer one and uses every entry of the Gram matrix; thread 0, which writes
/// that matrix where S is not unrolled, scores row 0.
void test_select(const char* name, int64_t planes, int64_t channels, int count, int begin) {
  Array stack(planes, channels), target(1, channels);
  RowTable rows(2, planes);
  for (int64_t s = 0; s < planes; ++s) {
    rows.at(0, s) = 100;
    rows.at(1, s) = 0.5f;
  }
  check_barriers(name, count, begin, count, [&](int64_t first) {
    std::vector<int32_t> index(kTokens);
    std::vector<float> distance(kTokens);
    launch(tap::select_cuda, tap::SelectArgs{DType::kFloat32, Metric::kL2, planes, 1, kTokens,
                                             channels, stack.stack(first), target.features(first),
                                             rows.view(), index.data(), distance.data()});
    distance.insert(distance.end(), index.begin(), index.end());
    return distance;
  });
}

/// The distance told is that of the nearest candidate, so each has to be it once.
void test_cosine_argmin() {
  Array candidates(2, kWide), target(1, kWide);
  for (int nearest = 0; nearest < 2; ++nearest) {
    for (int64_t n = 0; n < kAllTokens; ++n) {
      for (int64_t d = 0; d < kWide; ++d) {
        candidates.at(nearest, n, d) = target.at(0, n, d) + 0.1f * normal();
        candidates.at(1 - nearest, n, d) = normal();
      }
    }
    // Two for each candidate; after the last one nothing follows that would have to wait.
    check_barriers("cosine_argmin", 4, 2 * nearest, 2 + nearest, [&](int64_t first) {
      std::vector<int32_t> index(kTokens);
      std::vector<float> distance(kTokens);
      launch(tap::cosine_argmin_cuda,
             tap::CosineArgminArgs{DType::kFloat32, Metric::kL2, 2, 1, kTokens, kWide,
                                   candidates.stack(first), target.features(first), index.data(),
                                   distance.data()});
      distance.insert(distance.end(), index.begin(), index.end());
      return distance;
    });
  }
}

/// Rows are so many multiples of the newest plane that the choice measures mean and deviation.
void test_modulated() {
  constexpr int64_t S = 2, M = 300;
  Array stack(S, kWide), hidden(1, kWide), out(1, kWide);
  std::vector<float> zeros(kWide);
  for (int64_t n = 0; n < kAllTokens; ++n) {
    for (int64_t d = 0; d < kWide; ++d) {
      stack.at(0, n, d) = hidden.at(0, n, d);
      hidden.at(0, n, d) += static_cast<float>(10 * n);
    }
  }
  RowTable rows(M, S);
  for (int64_t m = 0; m < M; ++m) {
    rows.at(m, 0) = 0.005f * static_cast<float>(m);
    rows.at(m, 1) = 0;
  }
  check_barriers("modulated_skip_step", 4, 0, 4, [&](int64_t first) {
    std::vector<int32_t> index(kTokens);
    launch(tap::modulated_skip_step_cuda, tap::ModulatedSkipStepArgs{DType::kFloat32,
                                                                     Metric::kL2,
                                                                     S,
                                                                     1,
                                                                     kTokens,
                                                                     kWide,
                                                                     stack.stack(first),
                                                                     hidden.features(first),
                                                                     {zeros.data(), 0, 0},
                                                                     {zeros.data(), 0, 0},
                                                                     stack.stack(first),
                                                                     rows.view(),
                                                                     1e-6f,
                                                                     true,
                                                                     out.features(first),
                                                                     index.data()});
    std::vector<float> written(&out.at(0, first, 0), &out.at(0, first + kTokens - 1, kWide - 1));
    written.insert(written.end(), index.begin(), index.end());
    return written;
  });
}

}  // namespace

int main() {
  generator.seed(11);
  test_select("select of 2 planes", 2, kWide, 1, 0);
  test_select("select of 7 planes", 7, kWide, 24, 0);
  // A warp meets at its shuffles too; only what thread 0 writes last has nothing else to wait for.
  test_select("select of 7 planes by a warp", 7, kNarrow, 12, 11);
  test_cosine_argmin();
  test_modulated();
  return tap::tests::failures() != 0;
}
