#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "kernels/args.h"
#include "kernels/cpu/isa.h"

// Bytes become the arguments of one op: sizes, strides, storage type, metric, what is null, how the
// tokens are split, and the values, infinities and NaN among them. Every buffer is exactly as long
// as its strides reach, so that a sanitizer sees a read beyond it. Besides, for every instruction
// set: a choice names a row, finite input of moderate size gives finite output, outputs between the
// tokens stay untouched, and where the tokens are split changes no bit.

namespace {

using tap::DType;
using tap::Metric;
using tap::cpu::Isa;
using tap::cpu::Kernels;

/// Takes numbers from the front of the input; zeros when it is used up.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  uint8_t byte() { return at_ < size_ ? data_[at_++] : 0; }
  int64_t between(int64_t low, int64_t high) {
    const int64_t drawn = byte() | (high - low > 255 ? byte() << 8 : 0);
    return low + drawn % (high - low + 1);
  }
  bool chance() { return byte() & 1; }

  /// Mostly numbers of moderate size, else any float at all.
  float value(bool any) {
    if (any && byte() % 16 == 0) {
      const uint32_t bits = byte() | byte() << 8 | byte() << 16 | uint32_t{byte()} << 24;
      return tap::bit_cast<float>(bits);
    }
    return static_cast<float>(static_cast<int8_t>(byte())) / 32;
  }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
};

[[noreturn]] void fail(const char* what, const char* op, Isa isa) {
  std::fprintf(stderr, "%s: %s (%s)\n", op, what, tap::cpu::isa_name(isa));
  std::abort();
}

/// (P, B, N, D) in one exactly fitting allocation; what lies between the tokens holds a marker.
class Array {
 public:
  Array(Bytes& bytes, DType dtype, int64_t planes, int64_t batches, int64_t tokens,
        int64_t channels, bool any)
      : dtype_(dtype), shape_{planes, batches, tokens, channels} {
    token_stride_ = channels + bytes.between(0, 3);
    batch_stride_ = tokens * token_stride_ + bytes.between(0, 3);
    plane_stride_ = batches * batch_stride_ + bytes.between(0, 3);
    const bool empty = planes * batches * tokens == 0;
    const int64_t last = (planes - 1) * plane_stride_ + (batches - 1) * batch_stride_ +
                         (tokens - 1) * token_stride_ + channels;
    bytes_.resize((empty ? 0 : last) * tap::element_size(dtype), kMarker);
    bytes_.shrink_to_fit();
    for_each([&](int64_t at) { put(at, bytes.value(any)); });
  }

  tap::Features features() { return {bytes_.data(), batch_stride_, token_stride_}; }
  tap::Stack stack() { return {bytes_.data(), plane_stride_, batch_stride_, token_stride_}; }

  /// Whether nothing was written between the tokens.
  bool between_untouched() {
    std::vector<bool> inside(bytes_.size(), false);
    const int64_t size = tap::element_size(dtype_);
    for_each([&](int64_t at) { std::fill_n(inside.begin() + at * size, size, true); });
    for (size_t k = 0; k < bytes_.size(); ++k) {
      if (!inside[k] && bytes_[k] != kMarker) return false;
    }
    return true;
  }
  bool finite() {
    bool all = true;
    for_each([&](int64_t at) { all = all && std::isfinite(get(at)); });
    return all;
  }
  bool same(const Array& other) const { return bytes_ == other.bytes_; }

 private:
  static constexpr uint8_t kMarker = 0x5a;

  template <typename Do>
  void for_each(Do act) {
    for (int64_t p = 0; p < shape_[0]; ++p) {
      for (int64_t b = 0; b < shape_[1]; ++b) {
        for (int64_t n = 0; n < shape_[2]; ++n) {
          for (int64_t d = 0; d < shape_[3]; ++d) {
            act(p * plane_stride_ + b * batch_stride_ + n * token_stride_ + d);
          }
        }
      }
    }
  }
  template <typename T>
  void store(int64_t at, T value) {
    std::memcpy(bytes_.data() + at * sizeof(T), &value, sizeof(T));
  }
  template <typename T>
  T load(int64_t at) const {
    T value;
    std::memcpy(&value, bytes_.data() + at * sizeof(T), sizeof(T));
    return value;
  }
  void put(int64_t at, float value) {
    if (dtype_ == DType::kFloat32) store(at, value);
    if (dtype_ == DType::kBFloat16) store(at, tap::from_float<tap::BFloat16>(value));
    if (dtype_ == DType::kFloat16) store(at, tap::from_float<tap::Float16>(value));
  }
  float get(int64_t at) const {
    if (dtype_ == DType::kFloat32) return load<float>(at);
    if (dtype_ == DType::kBFloat16) return tap::to_float(load<tap::BFloat16>(at));
    return tap::to_float(load<tap::Float16>(at));
  }

  DType dtype_;
  int64_t shape_[4];
  int64_t token_stride_, batch_stride_, plane_stride_;
  std::vector<uint8_t> bytes_;
};

/// (M, S) weights with a stride of their own, exactly as long as is read.
struct RowTable {
  int64_t count, stride;
  std::vector<float> data;

  RowTable(Bytes& bytes, int64_t count, int64_t planes, bool any)
      : count(count), stride(planes + bytes.between(0, 2)), data((count - 1) * stride + planes) {
    for (float& weight : data) weight = bytes.value(any);
    data.shrink_to_fit();
  }
  tap::Rows view() const { return {data.data(), count, stride}; }
};

/// The whole of an op, then again in two parts.
template <typename Args>
void run(void (*op)(const Args&, int64_t, int64_t), const Args& args, int64_t cut) {
  const int64_t total = args.batches * args.tokens;
  op(args, std::min(cut, total), total);
  op(args, 0, std::min(cut, total));
}

bool within(const std::vector<int32_t>& index, int64_t count) {
  return std::all_of(index.begin(), index.end(), [&](int32_t m) { return m >= 0 && m < count; });
}

bool all_finite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * 4));
}

struct Sizes {
  DType dtype;
  bool any;  ///< values of any kind
  int64_t planes, count, batches, tokens, channels, cut;
};

void stack_update(Bytes bytes, const Sizes& z, const Kernels& kernels, Isa isa) {
  Array stack(bytes, z.dtype, z.planes, z.batches, z.tokens, z.channels, z.any);
  Array feature(bytes, z.dtype, 1, z.batches, z.tokens, z.channels, z.any);
  Array minus(bytes, z.dtype, 1, z.batches, z.tokens, z.channels, z.any);
  const bool with_minus = bytes.chance();
  std::vector<float> gaps(z.planes - 1);
  for (float& gap : gaps) {
    gap = bytes.value(z.any);
    if (!z.any) gap = gap == 0 ? INFINITY : std::copysign(std::max(std::fabs(gap), 0.5f), gap);
  }
  gaps.shrink_to_fit();
  Array whole = stack;
  const tap::Features subtracted = with_minus ? minus.features() : tap::Features{};
  auto args = [&](Array& to) {
    return tap::StackUpdateArgs{z.dtype,    z.planes,           z.batches,  z.tokens,   z.channels,
                                to.stack(), feature.features(), subtracted, gaps.data()};
  };
  run(kernels.stack_update, args(stack), z.cut);
  run(kernels.stack_update, args(whole), 0);
  if (!stack.same(whole)) fail("depends on the split", "stack_update", isa);
  if (!stack.between_untouched()) fail("writes between tokens", "stack_update", isa);
  if (!z.any && z.planes <= 6 && !stack.finite()) fail("not finite", "stack_update", isa);
}

void predict(Bytes bytes, const Sizes& z, const Kernels& kernels, Isa isa) {
  Array stack(bytes, z.dtype, z.planes, z.batches, z.tokens, z.channels, z.any);
  RowTable rows(bytes, z.count, z.planes, z.any);
  Bytes none(nullptr, 0);
  Array out(none, z.dtype, z.count, z.batches, z.tokens, z.channels, false);
  Array whole = out;
  auto args = [&](Array& to) {
    return tap::PredictArgs{z.dtype,    z.planes,      z.batches,   z.tokens,
                            z.channels, stack.stack(), rows.view(), to.stack()};
  };
  run(kernels.predict, args(out), z.cut);
  run(kernels.predict, args(whole), 0);
  if (!out.same(whole)) fail("depends on the split", "predict", isa);
  if (!out.between_untouched()) fail("writes between tokens", "predict", isa);
  if (!z.any && !out.finite()) fail("not finite", "predict", isa);
}

void cosine_argmin(Bytes bytes, const Sizes& z, const Kernels& kernels, Isa isa) {
  Array candidates(bytes, z.dtype, z.count, z.batches, z.tokens, z.channels, z.any);
  Array target(bytes, z.dtype, 1, z.batches, z.tokens, z.channels, z.any);
  const Metric metric = static_cast<Metric>(bytes.between(0, 2));
  std::vector<int32_t> index(z.batches * z.tokens, -1), whole_index = index;
  std::vector<float> distance(index.size(), -1), whole_distance = distance;
  auto args = [&](std::vector<int32_t>& to, std::vector<float>& far) {
    return tap::CosineArgminArgs{z.dtype,
                                 metric,
                                 z.count,
                                 z.batches,
                                 z.tokens,
                                 z.channels,
                                 candidates.stack(),
                                 target.features(),
                                 to.data(),
                                 far.data()};
  };
  run(kernels.cosine_argmin, args(index, distance), z.cut);
  run(kernels.cosine_argmin, args(whole_index, whole_distance), 0);
  if (index != whole_index || !same_bits(distance, whole_distance)) {
    fail("depends on the split", "cosine_argmin", isa);
  }
  if (!within(index, z.count)) fail("no such row", "cosine_argmin", isa);
  if (!z.any && !all_finite(distance)) fail("not finite", "cosine_argmin", isa);
}

void gather_rows(Bytes bytes, const Sizes& z, const Kernels& kernels, Isa isa) {
  Array stack(bytes, z.dtype, z.planes, z.batches, z.tokens, z.channels, z.any);
  Array base(bytes, z.dtype, 1, z.batches, z.tokens, z.channels, z.any);
  RowTable rows(bytes, z.count, z.planes, z.any);
  const bool with_base = bytes.chance();
  std::vector<int32_t> index(z.batches * z.tokens);
  for (int32_t& chosen : index) chosen = static_cast<int32_t>(bytes.between(0, z.count - 1));
  Bytes none(nullptr, 0);
  Array out(none, z.dtype, 1, z.batches, z.tokens, z.channels, false);
  Array whole = out;
  const tap::Features added = with_base ? base.features() : tap::Features{};
  auto args = [&](Array& to) {
    return tap::GatherRowsArgs{z.dtype,       z.planes,    z.batches,    z.tokens, z.channels,
                               stack.stack(), rows.view(), index.data(), added,    to.features()};
  };
  run(kernels.gather_rows, args(out), z.cut);
  run(kernels.gather_rows, args(whole), 0);
  if (!out.same(whole)) fail("depends on the split", "gather_rows", isa);
  if (!out.between_untouched()) fail("writes between tokens", "gather_rows", isa);
  if (!z.any && !out.finite()) fail("not finite", "gather_rows", isa);
}

void select(Bytes bytes, const Sizes& z, const Kernels& kernels, Isa isa) {
  Array stack(bytes, z.dtype, z.planes, z.batches, z.tokens, z.channels, z.any);
  Array target(bytes, z.dtype, 1, z.batches, z.tokens, z.channels, z.any);
  RowTable rows(bytes, z.count, z.planes, z.any);
  const Metric metric = bytes.chance() ? Metric::kL2 : Metric::kCosine;
  const bool wanted = bytes.chance();
  std::vector<int32_t> index(z.batches * z.tokens, -1), whole_index = index;
  std::vector<float> distance(index.size(), 0), whole_distance = distance;
  auto args = [&](std::vector<int32_t>& to, std::vector<float>& far) {
    return tap::SelectArgs{z.dtype,
                           metric,
                           z.planes,
                           z.batches,
                           z.tokens,
                           z.channels,
                           stack.stack(),
                           target.features(),
                           rows.view(),
                           to.data(),
                           wanted ? far.data() : nullptr};
  };
  run(kernels.select, args(index, distance), z.cut);
  run(kernels.select, args(whole_index, whole_distance), 0);
  if (index != whole_index || !same_bits(distance, whole_distance)) {
    fail("depends on the split", "select", isa);
  }
  if (!within(index, z.count)) fail("no such row", "select", isa);
  if (!z.any && !all_finite(distance)) fail("not finite", "select", isa);
}

void skip_step(Bytes bytes, const Sizes& z, const Kernels& kernels, Isa isa) {
  const int64_t wide = bytes.between(1, 80);
  Array probes(bytes, z.dtype, z.planes, z.batches, z.tokens, z.channels, z.any);
  Array probe(bytes, z.dtype, 1, z.batches, z.tokens, z.channels, z.any);
  Array residuals(bytes, z.dtype, z.planes, z.batches, z.tokens, wide, z.any);
  Array hidden(bytes, z.dtype, 1, z.batches, z.tokens, wide, z.any);
  RowTable rows(bytes, z.count, z.planes, z.any);
  const Metric metric = bytes.chance() ? Metric::kL2 : Metric::kCosine;
  const bool with_hidden = bytes.chance();
  Bytes none(nullptr, 0);
  Array out(none, z.dtype, 1, z.batches, z.tokens, wide, false);
  Array gathered = out;
  std::vector<int32_t> index(z.batches * z.tokens, -1), chosen = index;
  const tap::Features added = with_hidden ? hidden.features() : tap::Features{};
  run(kernels.skip_step,
      tap::SkipStepArgs{z.dtype, metric, z.planes, z.batches, z.tokens, z.channels, wide,
                        probes.stack(), probe.features(), residuals.stack(), added, rows.view(),
                        out.features(), index.data()},
      z.cut);
  if (!within(index, z.count)) fail("no such row", "skip_step", isa);
  if (!out.between_untouched()) fail("writes between tokens", "skip_step", isa);
  if (!z.any && !out.finite()) fail("not finite", "skip_step", isa);
  run(kernels.select,
      tap::SelectArgs{z.dtype, metric, z.planes, z.batches, z.tokens, z.channels, probes.stack(),
                      probe.features(), rows.view(), chosen.data(), nullptr},
      0);
  if (index != chosen) fail("chooses otherwise than select", "skip_step", isa);
  run(kernels.gather_rows,
      tap::GatherRowsArgs{z.dtype, z.planes, z.batches, z.tokens, wide, residuals.stack(),
                          rows.view(), chosen.data(), added, gathered.features()},
      0);
  if (!out.same(gathered)) fail("makes other values than gather_rows", "skip_step", isa);
}

void modulated_skip_step(Bytes bytes, const Sizes& z, const Kernels& kernels, Isa isa) {
  Array probes(bytes, z.dtype, z.planes, z.batches, z.tokens, z.channels, z.any);
  Array residuals(bytes, z.dtype, z.planes, z.batches, z.tokens, z.channels, z.any);
  Array hidden(bytes, z.dtype, 1, z.batches, z.tokens, z.channels, z.any);
  Array shift(bytes, z.dtype, 1, z.batches, 1, z.channels, z.any);
  Array scale(bytes, z.dtype, 1, z.batches, 1, z.channels, z.any);
  RowTable rows(bytes, z.count, z.planes, z.any);
  const Metric metric = bytes.chance() ? Metric::kL2 : Metric::kCosine;
  const bool add = bytes.chance();
  const float eps = bytes.chance() ? 1e-6f : 0.0f;
  Bytes none(nullptr, 0);
  Array out(none, z.dtype, 1, z.batches, z.tokens, z.channels, false);
  Array gathered = out, whole = out;
  std::vector<int32_t> index(z.batches * z.tokens, -1), whole_index = index;
  tap::Features shifts = shift.features(), scales = scale.features();
  shifts.token_stride = scales.token_stride = 0;
  auto args = [&](Array& to, std::vector<int32_t>& chosen) {
    return tap::ModulatedSkipStepArgs{z.dtype,  metric,     z.planes,          z.batches,
                                      z.tokens, z.channels, probes.stack(),    hidden.features(),
                                      shifts,   scales,     residuals.stack(), rows.view(),
                                      eps,      add,        to.features(),     chosen.data()};
  };
  run(kernels.modulated_skip_step, args(out, index), z.cut);
  run(kernels.modulated_skip_step, args(whole, whole_index), 0);
  if (index != whole_index || !out.same(whole)) {
    fail("depends on the split", "modulated_skip_step", isa);
  }
  if (!within(index, z.count)) fail("no such row", "modulated_skip_step", isa);
  if (!out.between_untouched()) fail("writes between tokens", "modulated_skip_step", isa);
  if (!z.any && !out.finite()) fail("not finite", "modulated_skip_step", isa);
  run(kernels.gather_rows,
      tap::GatherRowsArgs{z.dtype, z.planes, z.batches, z.tokens, z.channels, residuals.stack(),
                          rows.view(), index.data(), add ? hidden.features() : tap::Features{},
                          gathered.features()},
      0);
  if (!out.same(gathered)) fail("makes other values than gather_rows", "modulated_skip_step", isa);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using Op = void (*)(Bytes, const Sizes&, const Kernels&, Isa);
  constexpr Op kOps[] = {stack_update, predict,   cosine_argmin,      gather_rows,
                         select,       skip_step, modulated_skip_step};
  Bytes bytes(data, size);
  const Op op = kOps[bytes.between(0, 6)];
  Sizes z;
  z.dtype = static_cast<DType>(bytes.between(0, 2));
  z.any = bytes.chance();
  z.planes = bytes.between(1, bytes.chance() ? 4 : tap::kMaxScoredPlanes);
  z.count = bytes.between(1, bytes.chance() ? 4 : 70);
  z.batches = bytes.between(0, 3);
  z.tokens = bytes.between(0, 5);
  z.channels = bytes.between(1, 80);
  z.cut = bytes.between(0, 15);
  for (int k = 0; k < tap::cpu::kIsaCount; ++k) {
    const Isa isa = static_cast<Isa>(k);
    if (tap::cpu::isa_supported(isa)) op(bytes, z, tap::cpu::kernels_for(isa), isa);
  }
  return 0;
}

#if defined(TAP_FUZZ_MAIN)
/// Without a fuzzing engine: inputs at random, for the seconds given (default 10).
int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 10;
  const auto start = std::chrono::steady_clock::now();
  std::mt19937 generator(0);
  std::vector<uint8_t> input(2048);
  int64_t runs = 0;
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() <
         seconds) {
    for (uint8_t& byte : input) byte = static_cast<uint8_t>(generator());
    LLVMFuzzerTestOneInput(input.data(), generator() % input.size());
    ++runs;
  }
  std::printf("%lld random inputs, no finding\n", static_cast<long long>(runs));
  return 0;
}
#endif
