#pragma once

#include <cstdint>
#include <functional>

// Cooperative threads: the threads of one CUDA block, interleaved on one CPU thread at the points
// where they wait for each other.

namespace tap::shim {

/// Runs body() on `count` stacks at once, this_fiber() being 0..count-1, until all have returned.
/// Every `group` of them runs on as far as it gets before the next has its turn: what a group does
/// too early, because a barrier is missing, the others see. `order` seeds the order of turns.
/// Throws std::runtime_error when all that are left wait for what none of them can bring about.
void run_fibers(int count, int group, uint64_t order, const std::function<void()>& body);

int this_fiber();

/// How many fibers have not returned yet.
int live_fibers();

/// Lets the other fibers run.
void yield();

/// Tells that the calling fiber is not stuck.
void progress();

template <typename Condition>
void wait_until(Condition condition) {
  progress();
  while (!condition()) yield();
  progress();
}

}  // namespace tap::shim
