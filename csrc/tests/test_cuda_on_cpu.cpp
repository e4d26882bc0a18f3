#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/launch.h"
#include "cuda_runtime.h"  // of shim/: for the order of threads, and to plant an error
#include "kernels/args.h"
#include "kernels/kernels.h"
#include "tests/check.h"
#include "tests/data.h"
#include "tests/unread.h"

// Every CUDA kernel, executed thread by thread on the CPU (shim/), against double precision:
// storage types, S below and above what is unrolled, channels that fill no vector, one warp or a
// block per token, tensors that allow whole vectors and tensors that do not.

namespace {

using namespace tap::tests;
using tap::DType;
using tap::Metric;

/// Whether a tensor's tokens start at multiples of the widest access.
enum class Layout { kAligned, kOdd };

/// (P, B, N, D) tensor with NaN between tokens, batches and planes: a kernel that reads them spoils
/// its result, and one that writes them is seen.
template <typename T>
class Array {
 public:
  Array(Layout layout, int64_t planes, int64_t batches, int64_t tokens, int64_t channels)
      : shape_{planes, batches, tokens, channels} {
    const bool odd = layout == Layout::kOdd;
    const int64_t gap = odd ? 1 : 8;
    token_stride_ = odd ? channels + 3 : (channels + 7) / 8 * 8 + gap;
    batch_stride_ = tokens * token_stride_ + gap;
    plane_stride_ = batches * batch_stride_ + gap;
    data_.assign(planes * plane_stride_ + 8 + gap, tap::from_float<T>(NAN));
    // The stored values start where the layout says, wherever the vector's memory lies.
    const auto misplaced = reinterpret_cast<uintptr_t>(data_.data()) % tap::kVectorBytes;
    start_ = (misplaced ? (tap::kVectorBytes - misplaced) / sizeof(T) : 0) + (odd ? 1 : 0);
  }
  Array(const Array&) = delete;  // a copy might be aligned otherwise

  T& at(int64_t p, int64_t b, int64_t n, int64_t d) {
    return data_[start_ + p * plane_stride_ + b * batch_stride_ + n * token_stride_ + d];
  }
  double value(int64_t p, int64_t b, int64_t n, int64_t d) { return tap::to_float(at(p, b, n, d)); }
  template <typename Body>
  void each(Body body) {
    for (int64_t p = 0; p < shape_[0]; ++p) {
      for (int64_t b = 0; b < shape_[1]; ++b) {
        for (int64_t n = 0; n < shape_[2]; ++n) {
          for (int64_t d = 0; d < shape_[3]; ++d) body(p, b, n, d);
        }
      }
    }
  }
  template <typename Fill>
  void fill(Fill fill) {
    each([&](auto... i) { at(i...) = tap::from_float<T>(static_cast<float>(fill(i...))); });
  }
  void fill_normal() {
    fill([](auto...) { return normal(); });
  }
  void copy(Array& other) {
    fill([&](auto... i) { return other.value(i...); });
  }
  /// The bits of all values.
  std::vector<T> values() {
    std::vector<T> result;
    each([&](auto... i) { result.push_back(at(i...)); });
    return result;
  }
  /// Whether everything was written and nothing outside.
  bool only_inside_written() const {
    int64_t nans = 0;
    for (const T& x : data_) nans += std::isnan(tap::to_float(x));
    const int64_t inside = shape_[0] * shape_[1] * shape_[2] * shape_[3];
    return nans == static_cast<int64_t>(data_.size()) - inside;
  }
  tap::Features features() { return {data_.data() + start_, batch_stride_, token_stride_}; }
  tap::Stack stack() {
    return {data_.data() + start_, plane_stride_, batch_stride_, token_stride_};
  }

 private:
  int64_t shape_[4];
  int64_t token_stride_, batch_stride_, plane_stride_, start_;
  std::vector<T> data_;
};

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * sizeof(T)));
}

struct Case {
  int64_t planes, count, batches, tokens, channels;
  Layout layout;
  std::string text() const {
    return "S=" + std::to_string(planes) + " M=" + std::to_string(count) +
           " B=" + std::to_string(batches) + " N=" + std::to_string(tokens) +
           " D=" + std::to_string(channels) + (layout == Layout::kOdd ? " odd" : " aligned");
  }
};

template <typename Args>
void launch(tap::Status (*op)(const Args&, void*), const Args& args) {
  ++tap::shim::order;  // another order of threads each time
  const tap::Status status = op(args, nullptr);
  CHECK(status.error == nullptr, "%s", status.error);
}

/// Distance of the vectors that `u` and `v` yield per channel, and by how much float32 sums may
/// miss it.
template <typename U, typename V>
Distance defined_distance(Metric metric, int64_t channels, U u, V v) {
  const auto [uu, vv, uv, dd, absolute] = sums_of(channels, u, v);
  const double rounding = 1e-6;
  if (metric == Metric::kL1) return {static_cast<double>(absolute), rounding * channels};
  if (metric == Metric::kL2) return {static_cast<double>(dd), rounding * channels};
  if (uu == 0 || vv == 0) return {uu == vv ? 0. : 1., 0};
  // |u - v|^2 holds no more of the shorter vector than the longer one's rounding leaves.
  const double ratio = sqrtl(std::max(uu, vv) / std::min(uu, vv));
  return {static_cast<double>(1 - uv / (sqrtl(uu) * sqrtl(vv))), rounding * ratio * ratio};
}

template <typename T>
void test_stack_update(const Case& c, bool with_minus) {
  const auto [S, M, B, N, D, layout] = c;
  Array<T> stack(layout, S, B, N, D), old(layout, S, B, N, D);
  Array<T> feature(layout, 1, B, N, D), minus(layout, 1, B, N, D);
  std::vector<float> gaps(S);
  for (int64_t i = 0; i + 1 < S; ++i) gaps[i] = 0.5f + static_cast<float>(i);
  if (S > 2) gaps[S / 2] = INFINITY;  // for S > 2 this leaves plane S / 2 unread: let it be NaN
  gaps[S - 1] = NAN;                  // one more than is read
  old.fill([&](int64_t p, auto...) { return S > 2 && p == S / 2 ? NAN : normal(); });
  stack.copy(old);
  feature.fill_normal();
  minus.fill_normal();
  launch(tap::stack_update_cuda,
         tap::StackUpdateArgs{kDType<T>, S, B, N, D, stack.stack(), feature.features(),
                              with_minus ? minus.features() : tap::Features{}, gaps.data()});
  CHECK(stack.only_inside_written(), "%s", c.text().c_str());
  feature.each([&](int64_t, int64_t b, int64_t n, int64_t d) {
    double fresh = feature.value(0, b, n, d) - (with_minus ? minus.value(0, b, n, d) : 0);
    double size = 1;  // of what was rounded in float32 on the way to this plane
    for (int64_t s = 0; s < S; ++s) {
      const double got = stack.value(s, b, n, d);
      CHECK(tap::tests::close(got, fresh, 1e-6 * size, kRounding<T>), "%s: plane %d, %g not %g",
            c.text().c_str(), static_cast<int>(s), got, fresh);
      fresh = std::isinf(gaps[s]) ? 0 : (fresh - old.value(s, b, n, d)) / gaps[s];
      size = std::max(size, 2 * size / gaps[s]);
    }
  });
}

template <typename T>
void test_rows(const Case& c) {
  const auto [S, M, B, N, D, layout] = c;
  const int64_t E = D > 100 ? D - 37 : D + 5;  // channels of the residual
  Array<T> stack(layout, S, B, N, D), target(layout, 1, B, N, D), candidates(layout, M, B, N, D);
  Array<T> residual(layout, S, B, N, E), hidden(layout, 1, B, N, E);
  stack.fill([](int64_t p, auto...) { return normal() / (1.0 + p); });
  target.fill([&](int64_t, int64_t b, int64_t n, int64_t d) {
    return stack.value(0, b, n, d) + 0.1 * normal();
  });
  residual.fill_normal();
  hidden.fill_normal();
  RowTable rows(M, S);

  launch(tap::predict_cuda,
         tap::PredictArgs{kDType<T>, S, B, N, D, stack.stack(), rows.view(), candidates.stack()});
  CHECK(candidates.only_inside_written(), "%s", c.text().c_str());
  candidates.each([&](int64_t m, int64_t b, int64_t n, int64_t d) {
    const double expected = candidate_value(stack, rows, m, b, n, d);
    CHECK(tap::tests::close(candidates.value(m, b, n, d), expected, 1e-6, kRounding<T>),
          "%s: predict %g, not %g", c.text().c_str(), candidates.value(m, b, n, d), expected);
  });

  for (const Metric metric : {Metric::kCosine, Metric::kL2, Metric::kL1}) {
    const std::string where = c.text() + " metric " + std::to_string(static_cast<int>(metric));
    const bool has_gram = metric != Metric::kL1;
    std::vector<int32_t> index(B * N, -1), near(B * N, -1), fused(B * N, -1);
    std::vector<float> distance(B * N, -1), near_distance(B * N, -1);
    launch(tap::cosine_argmin_cuda,
           tap::CosineArgminArgs{kDType<T>, metric, M, B, N, D, candidates.stack(),
                                 target.features(), near.data(), near_distance.data()});
    if (has_gram) {
      launch(tap::select_cuda,
             tap::SelectArgs{kDType<T>, metric, S, B, N, D, stack.stack(), target.features(),
                             rows.view(), index.data(), distance.data()});
    }
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t n = 0; n < N; ++n) {
        const auto u = [&](int64_t d) { return target.value(0, b, n, d); };
        std::vector<Distance> of_rows, of_candidates;
        for (int64_t m = 0; m < M; ++m) {
          of_rows.push_back(defined_distance(
              metric, D, u, [&](int64_t d) { return candidate_value(stack, rows, m, b, n, d); }));
          of_candidates.push_back(defined_distance(
              metric, D, u, [&](int64_t d) { return candidates.value(m, b, n, d); }));
        }
        const int64_t t = b * N + n;
        check_choice(of_candidates, near[t], near_distance[t], where + " cosine_argmin");
        if (has_gram) check_choice(of_rows, index[t], distance[t], where + " select");
      }
    }
    if (!has_gram) continue;

    Array<T> out(layout, 1, B, N, E), gathered(layout, 1, B, N, E);
    launch(tap::skip_step_cuda,
           tap::SkipStepArgs{kDType<T>, metric, S, B, N, D, E, stack.stack(), target.features(),
                             residual.stack(), hidden.features(), rows.view(), out.features(),
                             fused.data()});
    launch(tap::gather_rows_cuda,
           tap::GatherRowsArgs{kDType<T>, S, B, N, E, residual.stack(), rows.view(), index.data(),
                               hidden.features(), gathered.features()});
    CHECK(fused == index, "%s: skip_step and select differ", where.c_str());
    CHECK(out.only_inside_written() && gathered.only_inside_written(), "%s", where.c_str());
    out.each([&](int64_t, int64_t b, int64_t n, int64_t e) {
      const double expected =
          hidden.value(0, b, n, e) + candidate_value(residual, rows, index[b * N + n], b, n, e);
      for (Array<T>* got : {&out, &gathered}) {
        CHECK(tap::tests::close(got->value(0, b, n, e), expected, 2e-6, kRounding<T>),
              "%s: gathered %g, not %g", where.c_str(), got->value(0, b, n, e), expected);
      }
    });
  }
}

/// skip_step on the probe that the hidden state would have, which no op was given.
template <typename T>
void test_modulated(const Case& c, bool add) {
  const auto [S, M, B, N, D, layout] = c;
  constexpr double kEps = 1e-6;
  Array<T> stack(layout, S, B, N, D), residual(layout, S, B, N, D);
  Array<T> hidden(layout, 1, B, N, D), out(layout, 1, B, N, D);
  Array<T> shift(layout, 1, B, 1, D), scale(layout, 1, B, 1, D);
  hidden.fill([](auto...) { return 3 + 2 * normal(); });
  shift.fill([](auto...) { return 0.3 * normal(); });
  scale.fill([](auto...) { return 0.3 * normal(); });
  residual.fill_normal();
  std::vector<std::vector<double>> probes;
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t n = 0; n < N; ++n) {
      probes.push_back(modulated(
          D, kEps, [&](int64_t d) { return hidden.value(0, b, n, d); },
          [&](int64_t d) { return shift.value(0, b, 0, d); },
          [&](int64_t d) { return scale.value(0, b, 0, d); }));
    }
  }
  stack.fill([&](int64_t p, int64_t b, int64_t n, int64_t d) {
    return p == 0 ? probes[b * N + n][d] + 0.1 * normal() : normal() / (1.0 + p);
  });
  RowTable rows(M, S);
  for (const Metric metric : {Metric::kCosine, Metric::kL2}) {
    const std::string where = c.text() + " modulated " + (metric == Metric::kL2 ? "l2" : "cos");
    std::vector<int32_t> index(B * N, -1);
    tap::Features shifts = shift.features(), scales = scale.features();
    shifts.token_stride = scales.token_stride = 0;
    launch(tap::modulated_skip_step_cuda,
           tap::ModulatedSkipStepArgs{kDType<T>, metric, S, B, N, D, stack.stack(),
                                      hidden.features(), shifts, scales, residual.stack(),
                                      rows.view(), kEps, add, out.features(), index.data()});
    CHECK(out.only_inside_written(), "%s", where.c_str());
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t n = 0; n < N; ++n) {
        const int64_t t = b * N + n;
        std::vector<Distance> distances;
        for (int64_t m = 0; m < M; ++m) {
          distances.push_back(defined_distance(
              metric, D, [&](int64_t d) { return probes[t][d]; },
              [&](int64_t d) { return candidate_value(stack, rows, m, b, n, d); }));
        }
        const int32_t chosen = std::clamp<int32_t>(index[t], 0, M - 1);
        check_choice(distances, index[t], distances[chosen].value, where);
        for (int64_t d = 0; d < D; ++d) {
          const double expected = (add ? hidden.value(0, b, n, d) : 0) +
                                  candidate_value(residual, rows, chosen, b, n, d);
          CHECK(tap::tests::close(out.value(0, b, n, d), expected, 2e-6, kRounding<T>),
                "%s: %g, not %g", where.c_str(), out.value(0, b, n, d), expected);
        }
      }
    }
  }
}

/// Equal rows give the lowest of them, wherever in the warp they are scored.
template <typename T>
void test_ties(int64_t planes, int64_t channels) {
  constexpr int64_t N = 9;
  Array<T> stack(Layout::kAligned, planes, 1, N, channels);
  Array<T> target(Layout::kAligned, 1, 1, N, channels);
  stack.fill_normal();
  target.fill_normal();
  for (const int64_t count : {1, 2, 32, 33, 64}) {
    // From `first` on all rows are equal, and nearer than the ones before.
    for (const int64_t first : {int64_t{0}, count / 2}) {
      RowTable rows(count, planes);
      for (int64_t m = 0; m < count; ++m) {
        for (int64_t s = 0; s < planes; ++s) rows.at(m, s) = m < first ? 1e3f : 0.01f;
      }
      std::vector<int32_t> index(N, -1);
      launch(tap::select_cuda,
             tap::SelectArgs{kDType<T>, Metric::kL2, planes, 1, N, channels, stack.stack(),
                             target.features(), rows.view(), index.data(), nullptr});
      for (const int32_t i : index) CHECK(i == first, "%d, not %d", i, static_cast<int>(first));
    }
  }
}

/// NaN in one token's target leaves row 0 and NaN there, and every other token as it was. NaN in a
/// plane takes out the rows that use it, and no others.
template <typename T>
void test_nan(int64_t planes, int64_t channels) {
  constexpr int64_t N = 5;
  Array<T> stack(Layout::kAligned, planes, 1, N, channels);
  Array<T> target(Layout::kAligned, 1, 1, N, channels), out(Layout::kAligned, 1, 1, N, channels);
  stack.fill_normal();
  target.fill_normal();
  RowTable rows(2, planes);
  rows.at(0, planes - 1) = 0.5f;  // row 0 uses the last plane, row 1 does not
  std::vector<int32_t> clean(N), index(N);
  std::vector<float> clean_distance(N), distance(N);
  tap::SelectArgs args{kDType<T>,
                       Metric::kCosine,
                       planes,
                       1,
                       N,
                       channels,
                       stack.stack(),
                       target.features(),
                       rows.view(),
                       clean.data(),
                       clean_distance.data()};
  launch(tap::select_cuda, args);
  target.at(0, 0, 1, channels - 1) = tap::from_float<T>(NAN);
  stack.at(planes - 1, 0, 3, 0) = tap::from_float<T>(NAN);
  args.index = index.data();
  args.distance = distance.data();
  launch(tap::select_cuda, args);
  for (int n = 0; n < N; ++n) {
    if (n == 1) {
      CHECK(index[n] == 0 && std::isnan(distance[n]), "row %d at %g", index[n], distance[n]);
    } else if (n == 3) {
      CHECK(index[n] == 1 && std::isfinite(distance[n]), "row %d at %g", index[n], distance[n]);
    } else {
      CHECK(index[n] == clean[n] && distance[n] == clean_distance[n], "token %d", n);
    }
  }
  index[1] = 1;  // so that every token's row leaves the NaN out
  const tap::GatherRowsArgs gather{kDType<T>, planes,        1,           N,
                                   channels,  stack.stack(), rows.view(), index.data(),
                                   {},        out.features()};
  launch(tap::gather_rows_cuda, gather);
  CHECK(!std::isnan(out.value(0, 0, 3, 0)), "a plane of weight zero was read");
  for (const int32_t outside : {-1, static_cast<int32_t>(rows.view().count)}) {
    index[0] = outside;
    launch(tap::gather_rows_cuda, gather);
    CHECK(std::isnan(out.value(0, 0, 0, 0)), "index %d is no row", outside);
    CHECK(std::isnan(out.value(0, 0, 0, channels - 1)), "index %d is no row", outside);
    CHECK(!std::isnan(out.value(0, 0, 3, 0)), "index %d reached another token", outside);
  }
}

/// The cosine with a zero vector is 0, and 1 between two.
template <typename T>
void test_zero_vectors(int64_t channels) {
  constexpr int64_t S = 2, N = 3;
  Array<T> stack(Layout::kAligned, S, 1, N, channels), target(Layout::kAligned, 1, 1, N, channels);
  stack.fill([](int64_t, int64_t, int64_t n, int64_t) { return n == 0 ? normal() : 0; });
  target.fill([](int64_t, int64_t, int64_t n, int64_t) { return n == 1 ? normal() : 0; });
  RowTable rows(1, S);
  std::vector<int32_t> index(N, -1);
  std::vector<float> distance(N, -1);
  launch(tap::select_cuda,
         tap::SelectArgs{kDType<T>, Metric::kCosine, S, 1, N, channels, stack.stack(),
                         target.features(), rows.view(), index.data(), distance.data()});
  CHECK(distance == std::vector<float>({1, 1, 0}), "%g %g %g", distance[0], distance[1],
        distance[2]);
}

/// A token's bits depend neither on the order of threads, nor on the other tokens, nor on how the
/// tensors lie in memory.
template <typename T>
void test_bits(int64_t planes, int64_t channels) {
  constexpr int64_t M = 11, B = 2, N = 5;
  RowTable rows(M, planes);
  Array<T> stack(Layout::kAligned, planes, B, N, channels);
  Array<T> target(Layout::kAligned, 1, B, N, channels);
  stack.fill_normal();
  target.fill_normal();
  const auto run = [&](Layout layout, int64_t first, int64_t tokens, std::vector<T>& values,
                       std::vector<float>& distance) {
    Array<T> planes_here(layout, planes, 1, tokens, channels);
    Array<T> target_here(layout, 1, 1, tokens, channels), out(layout, 1, 1, tokens, channels);
    const auto source = [&](Array<T>& array) {
      return [&, first](int64_t p, int64_t, int64_t n, int64_t d) {
        return array.value(p, (first + n) / N, (first + n) % N, d);
      };
    };
    planes_here.fill(source(stack));
    target_here.fill(source(target));
    std::vector<int32_t> index(tokens);
    distance.assign(tokens, 0);
    launch(tap::select_cuda, tap::SelectArgs{kDType<T>, Metric::kCosine, planes, 1, tokens,
                                             channels, planes_here.stack(), target_here.features(),
                                             rows.view(), index.data(), distance.data()});
    launch(tap::skip_step_cuda,
           tap::SkipStepArgs{kDType<T>, Metric::kCosine, planes, 1, tokens, channels, channels,
                             planes_here.stack(), target_here.features(), planes_here.stack(),
                             target_here.features(), rows.view(), out.features(), index.data()});
    values = out.values();
    Array<T> shift(layout, 1, 1, 1, channels);
    shift.fill([&](int64_t, int64_t, int64_t, int64_t d) { return target.value(0, 0, 0, d); });
    tap::Features row = shift.features();
    row.token_stride = 0;
    launch(tap::modulated_skip_step_cuda,
           tap::ModulatedSkipStepArgs{kDType<T>, Metric::kCosine, planes, 1, tokens, channels,
                                      planes_here.stack(), target_here.features(), row, row,
                                      planes_here.stack(), rows.view(), 1e-6f, true, out.features(),
                                      index.data()});
    for (const T& value : out.values()) values.push_back(value);
  };
  std::vector<T> all, values;
  std::vector<float> all_distances, distance;
  run(Layout::kAligned, 0, B * N, all, all_distances);
  for (const Layout layout : {Layout::kAligned, Layout::kOdd}) {
    run(layout, 0, B * N, values, distance);
    CHECK(same_bits(values, all) && same_bits(distance, all_distances), "S=%d D=%d",
          static_cast<int>(planes), static_cast<int>(channels));
    run(layout, 6, 1, values, distance);
    std::vector<T> expected(all.begin() + 6 * channels, all.begin() + 7 * channels);
    const auto modulated_token = all.begin() + (B * N + 6) * channels;
    expected.insert(expected.end(), modulated_token, modulated_token + channels);
    CHECK(same_bits(values, expected) && distance[0] == all_distances[6], "S=%d D=%d alone",
          static_cast<int>(planes), static_cast<int>(channels));
  }
}

/// A launch that fails says so; one without tokens is none.
void test_status() {
  tap::GatherRowsArgs args{DType::kFloat32, 1, 1, 0, 8, {}, {}, nullptr, {}, {}};
  tap::shim::last_error = cudaErrorInvalidConfiguration;
  CHECK(tap::gather_rows_cuda(args, nullptr).error == nullptr, "launched without tokens");
  float value = 0, row = 1;
  int32_t index = 0;
  args.tokens = args.channels = 1;
  args.stack.data = args.out.data = &value;
  args.rows = {&row, 1, 1};
  args.index = &index;
  CHECK(tap::gather_rows_cuda(args, nullptr).error != nullptr, "the runtime's error was lost");
  CHECK(tap::gather_rows_cuda(args, nullptr).error == nullptr, "an old error came back");
  args.tokens = int64_t{1} << 36;
  CHECK(tap::gather_rows_cuda(args, nullptr).error != nullptr, "more blocks than a grid holds");
}

template <typename T>
void test_dtype() {
  for (const Layout layout : {Layout::kAligned, Layout::kOdd}) {
    for (const int64_t planes : {1, 2, 3, 4, 5, 6, 7}) {
      for (const int64_t channels : {1, 7, 64, 333}) {
        test_rows<T>({planes, 11, 2, 3, channels, layout});
        test_modulated<T>({planes, 11, 2, 3, channels, layout}, channels % 2);
        test_stack_update<T>({planes, 0, 2, 3, channels, layout}, channels % 2);
      }
      for (const int64_t channels : {1536, 3072, 3073}) {
        test_rows<T>({planes, 11, 2, 1, channels, layout});
        test_modulated<T>({planes, 11, 2, 1, channels, layout}, channels % 2);
        test_stack_update<T>({planes, 0, 2, 1, channels, layout}, channels % 2);
      }
    }
    for (const int64_t count : {1, 64, 100}) test_rows<T>({3, count, 1, 3, 64, layout});
    test_rows<T>({16, 3, 1, 2, 333, layout});
    test_modulated<T>({3, 5, 1, 1, 6200, layout}, true);  // more than is kept in shared memory
    test_stack_update<T>({16, 0, 1, 2, 333, layout}, true);
  }
  test_rows<T>({3, 2, 1, 0, 8, Layout::kAligned});
  test_modulated<T>({3, 2, 1, 0, 8, Layout::kAligned}, true);
  test_stack_update<T>({3, 0, 0, 4, 8, Layout::kAligned}, true);
  for (const int64_t planes : {2, 7}) {
    for (const int64_t channels : {70, 1001}) {
      test_ties<T>(planes, channels);
      test_nan<T>(planes, channels);
      test_bits<T>(planes, channels);
    }
  }
  test_zero_vectors<T>(70);
  test_zero_vectors<T>(1001);
  test_unread_planes<T>({[](const auto& args) { launch(tap::predict_cuda, args); },
                         [](const auto& args) { launch(tap::gather_rows_cuda, args); },
                         [](const auto& args) { launch(tap::skip_step_cuda, args); },
                         [](const auto& args) { launch(tap::modulated_skip_step_cuda, args); }});
}

}  // namespace

int main() {
  generator.seed(7);
  test_status();
  test_dtype<float>();
  test_dtype<tap::BFloat16>();
  test_dtype<tap::Float16>();
  return tap::tests::failures() != 0;
}
