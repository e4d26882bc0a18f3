#include <cstdint>
#include <initializer_list>

#include "core/launch.h"
#include "tests/check.h"

namespace {

using tap::DType;

void test_plans_cover_all_tokens() {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const int64_t tokens :
         {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{4096}, int64_t{3} << 32}) {
      for (const int64_t channels : {1, 3, 64, 111, 512, 513, 1536, 3072, 3073, 65536}) {
        const tap::LaunchPlan plan = tap::plan_launch(tokens, channels, dtype);
        const long long d = channels;
        CHECK(plan.team_threads % tap::kWarpThreads == 0 && plan.team_threads > 0, "D=%lld", d);
        CHECK(plan.team_threads * plan.block_teams <= tap::kMaxBlockThreads, "D=%lld", d);
        CHECK(plan.block_teams == 1 || plan.team_threads == tap::kWarpThreads, "D=%lld", d);
        CHECK(plan.blocks * plan.block_teams >= tokens, "D=%lld", d);
        CHECK((plan.blocks - 1) * plan.block_teams < tokens, "D=%lld", d);
      }
    }
  }
}

/// The order of a token's sum may depend on D and on nothing else.
void test_team_depends_on_channels_alone() {
  const tap::LaunchPlan one = tap::plan_launch(1, 3072, DType::kBFloat16);
  const tap::LaunchPlan many = tap::plan_launch(1 << 20, 3072, DType::kBFloat16);
  CHECK(one.team_threads == many.team_threads, "%d, %d", one.team_threads, many.team_threads);
}

void test_alignment() {
  alignas(16) const char memory[32] = {};
  const auto allowed = [&](const char* pointer, int64_t stride, DType dtype) {
    tap::Alignment alignment;
    alignment.add(pointer);
    alignment.add(stride, dtype);
    return alignment.vectors();
  };
  CHECK(allowed(memory, 3072, DType::kBFloat16), "aligned");
  CHECK(allowed(memory, 4, DType::kFloat32), "one vector of float32");
  CHECK(!allowed(memory, 4, DType::kFloat16), "half a vector of float16");
  CHECK(!allowed(memory + 2, 3072, DType::kBFloat16), "pointer off by one element");
  CHECK(!allowed(memory, 3073, DType::kFloat32), "stride off by one element");
}

}  // namespace

int main() {
  test_plans_cover_all_tokens();
  test_team_depends_on_channels_alone();
  test_alignment();
  return tap::tests::failures() != 0;
}
