#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "kernels/args.h"
#include "kernels/cpu/isa.h"
#include "kernels/kernels.h"
#include "tests/check.h"
#include "tests/data.h"
#include "tests/unread.h"

// Every op of every instruction set this machine has, against double precision: storage types,
// S below and above what is unrolled, channels that fill no vector, batches, padded strides.

namespace {

using namespace tap::tests;
using tap::DType;
using tap::Metric;
using tap::cpu::Kernels;

/// (P, B, N, D) tensor with gaps between tokens, batches and planes. The gaps hold NaN: a kernel
/// that reads them spoils its result, and one that writes them is seen.
template <typename T>
class Array {
 public:
  Array(int64_t planes, int64_t batches, int64_t tokens, int64_t channels)
      : token_stride_(channels + 3),
        batch_stride_(tokens * token_stride_ + 5),
        plane_stride_(batches * batch_stride_ + 7),
        shape_{planes, batches, tokens, channels},
        data_(planes * plane_stride_, tap::from_float<T>(NAN)) {}

  T& at(int64_t p, int64_t b, int64_t n, int64_t d) {
    return data_[p * plane_stride_ + b * batch_stride_ + n * token_stride_ + d];
  }
  double value(int64_t p, int64_t b, int64_t n, int64_t d) { return tap::to_float(at(p, b, n, d)); }
  template <typename Fill>
  Array& fill(Fill fill) {
    for (int64_t p = 0; p < shape_[0]; ++p) {
      for (int64_t b = 0; b < shape_[1]; ++b) {
        for (int64_t n = 0; n < shape_[2]; ++n) {
          for (int64_t d = 0; d < shape_[3]; ++d) {
            at(p, b, n, d) = tap::from_float<T>(fill(p, b, n, d));
          }
        }
      }
    }
    return *this;
  }
  Array& fill_normal() {
    return fill([](auto...) { return normal(); });
  }
  bool gaps_untouched() const {
    int64_t nans = 0;
    for (const T& x : data_) nans += std::isnan(tap::to_float(x));
    const int64_t inside = shape_[0] * shape_[1] * shape_[2] * shape_[3];
    return nans == static_cast<int64_t>(data_.size()) - inside;
  }
  tap::Features features() { return {data_.data(), batch_stride_, token_stride_}; }
  tap::Stack stack() { return {data_.data(), plane_stride_, batch_stride_, token_stride_}; }

 private:
  int64_t token_stride_, batch_stride_, plane_stride_;
  int64_t shape_[4];
  std::vector<T> data_;
};

struct Shape {
  int64_t planes, count, batches, tokens, channels;
  std::string text() const {
    return "S=" + std::to_string(planes) + " M=" + std::to_string(count) +
           " B=" + std::to_string(batches) + " N=" + std::to_string(tokens) +
           " D=" + std::to_string(channels);
  }
};

/// Runs an op over all tokens in ranges that are not the same size.
template <typename Args>
void run(void (*op)(const Args&, int64_t, int64_t), const Args& args) {
  const int64_t total = args.batches * args.tokens;
  const int64_t cut = total / 3;
  op(args, cut, total);
  op(args, 0, cut);
}

/// Distance of the vectors that `u` and `v` yield per channel. float32 may be off by a part in 1e6
/// of the terms that it adds up, `size` being the sum of their norms. The cosine's norms come from
/// the same terms, so that its error grows with the square of how much longer these are.
template <typename U, typename V>
Distance defined_distance(Metric metric, int64_t channels, double size, U u, V v) {
  const auto [uu, vv, uv, dd, absolute] = sums_of(channels, u, v);
  const double slack = 1e-6 * size * size;
  if (metric == Metric::kL1) return {static_cast<double>(absolute), 1e-6 * size * channels};
  if (metric == Metric::kL2) return {static_cast<double>(dd), slack};
  const long double norms = sqrtl(uu) * sqrtl(vv);
  if (norms == 0) return {uu == vv ? 0.0 : 1.0, 0};
  return {static_cast<double>(1 - uv / norms), static_cast<double>(slack / std::min(uu, vv))};
}

template <typename T>
void test_stack_update(const Kernels& kernels, const Shape& shape, bool with_minus) {
  const auto [S, M, B, N, D] = shape;
  Array<T> stack(S, B, N, D), feature(1, B, N, D), minus(1, B, N, D);
  stack.fill_normal();
  feature.fill_normal();
  minus.fill_normal();
  Array<T> old = stack;
  std::vector<float> gaps(S);  // one more than is read
  for (int64_t i = 0; i + 1 < S; ++i) gaps[i] = 0.5f + i;
  if (S > 2) gaps[S / 2] = INFINITY;
  gaps[S - 1] = NAN;
  if (S > 2) {  // the plane that an infinite gap leaves unread
    stack.fill([&](int64_t p, int64_t b, int64_t n, int64_t d) {
      return p == S / 2 ? NAN : static_cast<float>(old.value(p, b, n, d));
    });
  }
  run(kernels.stack_update,
      tap::StackUpdateArgs{kDType<T>, S, B, N, D, stack.stack(), feature.features(),
                           with_minus ? minus.features() : tap::Features{}, gaps.data()});
  CHECK(stack.gaps_untouched(), "%s", shape.text().c_str());
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t n = 0; n < N; ++n) {
      for (int64_t d = 0; d < D; ++d) {
        double fresh = feature.value(0, b, n, d);
        if (with_minus) fresh -= minus.value(0, b, n, d);
        double size = 1;  // of what was rounded in float32 on the way to this plane
        for (int64_t s = 0; s < S; ++s) {
          const double got = stack.value(s, b, n, d);
          CHECK(tap::tests::close(got, fresh, 1e-6 * size, kRounding<T>), "%s: plane %d, %g not %g",
                shape.text().c_str(), static_cast<int>(s), got, fresh);
          fresh = std::isinf(gaps[s]) ? 0 : (fresh - old.value(s, b, n, d)) / gaps[s];
          size = std::max(size, 2 * size / gaps[s]);
        }
      }
    }
  }
}

template <typename T>
void test_rows(const Kernels& kernels, const Shape& shape) {
  const auto [S, M, B, N, D] = shape;
  Array<T> stack(S, B, N, D), target(1, B, N, D), base(1, B, N, D), out(1, B, N, D);
  Array<T> candidates(M, B, N, D);
  stack.fill_normal();
  target.fill([&](int64_t, int64_t b, int64_t n, int64_t d) {
    return static_cast<float>(stack.value(0, b, n, d)) + 0.1f * normal();
  });
  base.fill_normal();
  RowTable rows(M, S);

  run(kernels.predict,
      tap::PredictArgs{kDType<T>, S, B, N, D, stack.stack(), rows.view(), candidates.stack()});
  CHECK(candidates.gaps_untouched(), "%s", shape.text().c_str());

  for (const Metric metric : {Metric::kCosine, Metric::kL2, Metric::kL1}) {
    const std::string where = shape.text() + " metric " + std::to_string(static_cast<int>(metric));
    std::vector<int32_t> index(B * N, -1), near(B * N, -1), fused(B * N, -1);
    std::vector<float> distance(B * N, -1), near_distance(B * N, -1);
    run(kernels.cosine_argmin,
        tap::CosineArgminArgs{kDType<T>, metric, M, B, N, D, candidates.stack(), target.features(),
                              near.data(), near_distance.data()});
    if (metric != Metric::kL1) {
      run(kernels.select,
          tap::SelectArgs{kDType<T>, metric, S, B, N, D, stack.stack(), target.features(),
                          rows.view(), index.data(), distance.data()});
      run(kernels.skip_step, tap::SkipStepArgs{kDType<T>, metric, S, B, N, D, D, stack.stack(),
                                               target.features(), stack.stack(), base.features(),
                                               rows.view(), out.features(), fused.data()});
      CHECK(fused == index, "%s: skip_step and select differ", where.c_str());
    }
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t n = 0; n < N; ++n) {
        const auto u = [&](int64_t d) { return target.value(0, b, n, d); };
        const auto norm = [&](auto channel) {
          double sum = 0;
          for (int64_t d = 0; d < D; ++d) sum += channel(d) * channel(d);
          return std::sqrt(sum);
        };
        std::vector<Distance> of_rows, of_candidates;
        for (int64_t m = 0; m < M; ++m) {
          const auto row = [&](int64_t d) { return candidate_value(stack, rows, m, b, n, d); };
          const auto built = [&](int64_t d) { return candidates.value(m, b, n, d); };
          double size = norm(u);
          for (int64_t s = 0; s < S; ++s) {
            const double weight = std::fabs(rows.at(m, s));
            size += weight * norm([&](int64_t d) { return stack.value(s, b, n, d); });
          }
          of_rows.push_back(defined_distance(metric, D, size, u, row));
          of_candidates.push_back(defined_distance(metric, D, norm(u) + norm(built), u, built));
        }
        const int64_t token = b * N + n;
        check_choice(of_candidates, near[token], near_distance[token], where + " cosine_argmin");
        if (metric != Metric::kL1) {
          check_choice(of_rows, index[token], distance[token], where + " select");
        }
      }
    }
    if (metric == Metric::kL1) continue;
    Array<T> gathered(1, B, N, D);
    run(kernels.gather_rows,
        tap::GatherRowsArgs{kDType<T>, S, B, N, D, stack.stack(), rows.view(), index.data(),
                            base.features(), gathered.features()});
    CHECK(gathered.gaps_untouched() && out.gaps_untouched(), "%s", where.c_str());
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t n = 0; n < N; ++n) {
        for (int64_t d = 0; d < D; ++d) {
          const double expected =
              base.value(0, b, n, d) + candidate_value(stack, rows, index[b * N + n], b, n, d);
          const double got = gathered.value(0, b, n, d);
          CHECK(tap::tests::close(got, expected, 1e-5, kRounding<T>), "%s: gather %g, not %g",
                where.c_str(), got, expected);
          CHECK(got == out.value(0, b, n, d), "%s: skip_step and gather_rows differ",
                where.c_str());
        }
      }
    }
  }
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t n = 0; n < N; ++n) {
        for (int64_t d = 0; d < D; ++d) {
          const double expected = candidate_value(stack, rows, m, b, n, d);
          CHECK(tap::tests::close(candidates.value(m, b, n, d), expected, 1e-5, kRounding<T>),
                "%s: predict %g, not %g", shape.text().c_str(), candidates.value(m, b, n, d),
                expected);
        }
      }
    }
  }
}

/// skip_step on the probe that the hidden state would have, which no op was given.
template <typename T>
void test_modulated(const Kernels& kernels, const Shape& shape, bool add) {
  const auto [S, M, B, N, D] = shape;
  constexpr double kEps = 1e-6;
  Array<T> stack(S, B, N, D), residual(S, B, N, D), hidden(1, B, N, D), out(1, B, N, D);
  Array<T> shift(1, B, 1, D), scale(1, B, 1, D);
  hidden.fill([](auto...) { return 3 + 2 * normal(); });
  shift.fill_normal();
  scale.fill_normal();
  residual.fill_normal();
  const auto probe_of = [&](int64_t b, int64_t n) {
    return modulated(
        D, kEps, [&](int64_t d) { return hidden.value(0, b, n, d); },
        [&](int64_t d) { return shift.value(0, b, 0, d); },
        [&](int64_t d) { return scale.value(0, b, 0, d); });
  };
  std::vector<std::vector<double>> probes;
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t n = 0; n < N; ++n) probes.push_back(probe_of(b, n));
  }
  stack.fill([&](int64_t p, int64_t b, int64_t n, int64_t d) {
    return p == 0 ? static_cast<float>(probes[b * N + n][d]) + 0.3f * normal() : normal();
  });
  RowTable rows(M, S);
  for (const Metric metric : {Metric::kCosine, Metric::kL2}) {
    const std::string where = shape.text() + " modulated " + (metric == Metric::kL2 ? "l2" : "cos");
    std::vector<int32_t> index(B * N, -1);
    tap::Features shifts = shift.features(), scales = scale.features();
    shifts.token_stride = scales.token_stride = 0;
    run(kernels.modulated_skip_step,
        tap::ModulatedSkipStepArgs{kDType<T>, metric, S, B, N, D, stack.stack(), hidden.features(),
                                   shifts, scales, residual.stack(), rows.view(), kEps, add,
                                   out.features(), index.data()});
    CHECK(out.gaps_untouched(), "%s", where.c_str());
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t n = 0; n < N; ++n) {
        const int64_t token = b * N + n;
        const auto u = [&](int64_t d) { return probes[token][d]; };
        const auto norm = [&](auto channel) {
          double sum = 0;
          for (int64_t d = 0; d < D; ++d) sum += channel(d) * channel(d);
          return std::sqrt(sum);
        };
        std::vector<Distance> distances;
        for (int64_t m = 0; m < M; ++m) {
          double size = norm(u);
          for (int64_t s = 0; s < S; ++s) {
            const double weight = std::fabs(rows.at(m, s));
            size += weight * norm([&](int64_t d) { return stack.value(s, b, n, d); });
          }
          distances.push_back(defined_distance(metric, D, size, u, [&](int64_t d) {
            return candidate_value(stack, rows, m, b, n, d);
          }));
        }
        const int32_t chosen = std::clamp<int32_t>(index[token], 0, M - 1);
        check_choice(distances, index[token], distances[chosen].value, where);
        for (int64_t d = 0; d < D; ++d) {
          const double expected = (add ? hidden.value(0, b, n, d) : 0) +
                                  candidate_value(residual, rows, chosen, b, n, d);
          CHECK(tap::tests::close(out.value(0, b, n, d), expected, 2e-5, kRounding<T>),
                "%s: %g, not %g", where.c_str(), out.value(0, b, n, d), expected);
        }
      }
    }
  }
}

/// A NaN in one token's hidden state leaves it row 0, and every other token as it was.
template <typename T>
void test_modulated_nan(const Kernels& kernels) {
  constexpr int64_t S = 2, M = 5, D = 37, N = 5;
  Array<T> stack(S, 1, N, D), hidden(1, 1, N, D), shift(1, 1, 1, D), out(1, 1, N, D);
  stack.fill_normal();
  hidden.fill_normal();
  shift.fill_normal();
  RowTable rows(M, S);
  std::vector<int32_t> clean(N), index(N);
  tap::ModulatedSkipStepArgs args{kDType<T>,
                                  Metric::kCosine,
                                  S,
                                  1,
                                  N,
                                  D,
                                  stack.stack(),
                                  hidden.features(),
                                  shift.features(),
                                  shift.features(),
                                  stack.stack(),
                                  rows.view(),
                                  1e-6,
                                  false,
                                  out.features(),
                                  clean.data()};
  args.shift.token_stride = args.scale.token_stride = 0;
  run(kernels.modulated_skip_step, args);
  hidden.at(0, 0, 1, D - 1) = tap::from_float<T>(NAN);
  args.index = index.data();
  run(kernels.modulated_skip_step, args);
  for (int n = 0; n < N; ++n) {
    CHECK(index[n] == (n == 1 ? 0 : clean[n]), "token %d takes row %d", n, index[n]);
  }
}

/// Rows that are equal, or equally far, give the lowest of them; at the head of a vector, in its
/// tail, and beyond.
template <typename T>
void test_ties(const Kernels& kernels) {
  constexpr int64_t S = 3, D = 70, N = 9;
  Array<T> stack(S, 1, N, D), target(1, 1, N, D);
  stack.fill_normal();
  target.fill_normal();
  for (const int64_t count : {1, 2, 16, 17, 64, 100}) {
    RowTable rows(count, S);
    for (int64_t m = 1; m < count; ++m) {
      for (int64_t s = 0; s < S; ++s) rows.at(m, s) = rows.at(0, s);
    }
    std::vector<int32_t> index(N, -1);
    run(kernels.select, tap::SelectArgs{kDType<T>, Metric::kCosine, S, 1, N, D, stack.stack(),
                                        target.features(), rows.view(), index.data(), nullptr});
    CHECK(std::all_of(index.begin(), index.end(), [](int32_t i) { return i == 0; }), "M=%d",
          static_cast<int>(count));
  }
}

/// NaN in one token's target leaves row 0 and NaN there, and every other token as it was. NaN in
/// a plane takes out the rows that use it and no others.
template <typename T>
void test_nan(const Kernels& kernels) {
  constexpr int64_t S = 2, D = 37, N = 5;
  Array<T> stack(S, 1, N, D), target(1, 1, N, D), out(1, 1, N, D);
  stack.fill_normal();
  target.fill_normal();
  RowTable rows(2, S);  // row 0 uses both planes, row 1 the first alone
  rows.at(0, 1) = 0.5;
  const auto select = [&](std::vector<int32_t>& index, std::vector<float>& distance) {
    run(kernels.select,
        tap::SelectArgs{kDType<T>, Metric::kCosine, S, 1, N, D, stack.stack(), target.features(),
                        rows.view(), index.data(), distance.data()});
  };
  std::vector<int32_t> clean(N), index(N);
  std::vector<float> clean_distance(N), distance(N);
  select(clean, clean_distance);
  target.at(0, 0, 1, D - 1) = tap::from_float<T>(NAN);
  stack.at(1, 0, 3, 0) = tap::from_float<T>(NAN);
  select(index, distance);
  for (int n = 0; n < N; ++n) {
    if (n == 1) {
      CHECK(index[n] == 0 && std::isnan(distance[n]), "row %d at %g", index[n], distance[n]);
    } else if (n == 3) {
      CHECK(index[n] == 1 && std::isfinite(distance[n]), "row %d at %g", index[n], distance[n]);
    } else {
      CHECK(index[n] == clean[n] && distance[n] == clean_distance[n], "token %d", n);
    }
  }
  const tap::GatherRowsArgs gather{
      kDType<T>,     S, 1, N, D, stack.stack(), rows.view(), index.data(), tap::Features{},
      out.features()};
  run(kernels.gather_rows, gather);
  CHECK(out.gaps_untouched(), "a plane of weight zero was read");
}

/// Each token alone and in a range gives the same bits.
template <typename T>
void test_tokens_are_independent(const Kernels& kernels) {
  constexpr int64_t S = 3, M = 11, B = 2, N = 7, D = 1000;
  Array<T> stack(S, B, N, D), target(1, B, N, D);
  stack.fill_normal();
  target.fill_normal();
  RowTable rows(M, S);
  std::vector<int32_t> index(B * N), alone(B * N);
  std::vector<float> distance(B * N), distance_alone(B * N);
  tap::SelectArgs args{
      kDType<T>,    Metric::kCosine, S, B, N, D, stack.stack(), target.features(), rows.view(),
      index.data(), distance.data()};
  kernels.select(args, 0, B * N);
  args.index = alone.data();
  args.distance = distance_alone.data();
  for (int64_t token = B * N; token-- > 0;) kernels.select(args, token, token + 1);
  CHECK(index == alone && distance == distance_alone, "select");
}

/// The choice agrees with float64 on real-sized tokens: the reason for sums in blocks.
void test_choices_agree_with_float64(const Kernels& kernels) {
  constexpr int64_t S = 3, M = 11, N = 64, D = 3072;
  Array<float> stack(S, 1, N, D), target(1, 1, N, D);
  stack.fill([](int64_t p, auto...) { return std::pow(0.3f, p) * normal(); });
  target.fill([&](int64_t, int64_t, int64_t n, int64_t d) {
    return static_cast<float>(stack.value(0, 0, n, d) + 1.2 * stack.value(1, 0, n, d) +
                              0.7 * stack.value(2, 0, n, d)) +
           0.05f * normal();
  });
  RowTable rows(M, S);
  for (int64_t m = 0; m < M; ++m) {
    const float k = 0.9f + 0.06f * m;
    rows.at(m, 0) = 1;
    rows.at(m, 1) = k;
    rows.at(m, 2) = k * k / 2;
  }
  std::vector<int32_t> index(N);
  std::vector<float> distance(N);
  run(kernels.select,
      tap::SelectArgs{DType::kFloat32, Metric::kCosine, S, 1, N, D, stack.stack(),
                      target.features(), rows.view(), index.data(), distance.data()});
  for (int64_t n = 0; n < N; ++n) {
    std::vector<double> distances;
    for (int64_t m = 0; m < M; ++m) {
      const auto u = [&](int64_t d) { return target.value(0, 0, n, d); };
      const auto v = [&](int64_t d) { return candidate_value(stack, rows, m, 0, n, d); };
      distances.push_back(defined_distance(Metric::kCosine, D, 0, u, v).value);
    }
    const double least = *std::min_element(distances.begin(), distances.end());
    CHECK(distances[index[n]] - least <= 1e-5 * least, "token %d: regret %g of %g",
          static_cast<int>(n), distances[index[n]] - least, least);
    CHECK(tap::tests::close(distance[n], distances[index[n]], 0, 1e-5), "token %d: %.9g, not %.9g",
          static_cast<int>(n), distance[n], distances[index[n]]);
  }
}

template <typename T>
void test_dtype(const Kernels& kernels) {
  for (const int64_t planes : {1, 2, 3, 4, 5, 6, 7, 16}) {
    for (const int64_t channels : {1, 3, 4, 15, 16, 17, 64, 111, 263, 515}) {
      const Shape shape{planes, 5, 2, 3, channels};
      test_stack_update<T>(kernels, shape, channels % 2);
      test_rows<T>(kernels, shape);
      test_modulated<T>(kernels, shape, channels % 2);
    }
  }
  test_modulated<T>(kernels, {3, 2, 1, 0, 8}, true);
  test_modulated_nan<T>(kernels);
  test_stack_update<T>(kernels, {3, 1, 0, 4, 8}, true);
  test_rows<T>(kernels, {3, 2, 1, 0, 8});
  test_rows<T>(kernels, {3, 70, 1, 2, 33});
  test_ties<T>(kernels);
  test_nan<T>(kernels);
  test_tokens_are_independent<T>(kernels);
  test_unread_planes<T>({[&](const auto& args) { run(kernels.predict, args); },
                         [&](const auto& args) { run(kernels.gather_rows, args); },
                         [&](const auto& args) { run(kernels.skip_step, args); },
                         [&](const auto& args) { run(kernels.modulated_skip_step, args); }});
}

}  // namespace

int main() {
  generator.seed(5);
  for (int i = 0; i < tap::cpu::kIsaCount; ++i) {
    const auto isa = static_cast<tap::cpu::Isa>(i);
    if (!tap::cpu::isa_supported(isa)) continue;
    std::printf("%s\n", tap::cpu::isa_name(isa));
    const Kernels& kernels = tap::cpu::kernels_for(isa);
    test_dtype<float>(kernels);
    test_dtype<tap::BFloat16>(kernels);
    test_dtype<tap::Float16>(kernels);
    test_choices_agree_with_float64(kernels);
  }
  CHECK(tap::cpu::isa_supported(tap::cpu::active_isa()), "active set");
  return tap::tests::failures() != 0;
}
