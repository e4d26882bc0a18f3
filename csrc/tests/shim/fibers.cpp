#include "fibers.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#error "the context switch below is written for x86-64 only"
#endif

// Saves the callee-saved registers and the stack pointer to *from, and takes over those of `to`.
extern "C" void tap_shim_switch(void** from, void* to);
asm(R"(
.pushsection .text
.globl tap_shim_switch
.type tap_shim_switch, @function
tap_shim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size tap_shim_switch, .-tap_shim_switch
.popsection
)");

namespace tap::shim {
namespace {

constexpr size_t kStackWords = size_t{1} << 14;  // 128 KiB: sanitizers make frames large

struct Context {
  void* stack_pointer = nullptr;
  const void* stack_bottom = nullptr;  // of the stack that it runs on
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
};

struct Fiber {
  Context context;
  std::vector<uint64_t> stack = std::vector<uint64_t>(kStackWords);
  bool done = false;
};

Context scheduler;
std::vector<Fiber> fibers;
const std::function<void()>* body;
int running;
int live;
uint64_t progress_made;

void arrived([[maybe_unused]] Context& here, [[maybe_unused]] Context* from) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(here.fake_stack, from ? &from->stack_bottom : nullptr,
                                  from ? &from->stack_bytes : nullptr);
#endif
}

void switch_to([[maybe_unused]] bool last, Context& from, Context& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(last ? nullptr : &from.fake_stack, to.stack_bottom,
                                 to.stack_bytes);
#endif
  tap_shim_switch(&from.stack_pointer, to.stack_pointer);
  arrived(from, nullptr);
}

void enter() {
  Fiber& fiber = fibers[running];
  arrived(fiber.context, &scheduler);
  (*body)();
  fiber.done = true;
  --live;
  progress();
  switch_to(true, fiber.context, scheduler);
}

/// Lays the stack out as tap_shim_switch leaves one, with `enter` to return to.
void prepare(Fiber& fiber) {
  fiber.done = false;
  uint64_t* top = fiber.stack.data() + kStackWords;
  top -= reinterpret_cast<uintptr_t>(top) % 16 / sizeof(uint64_t);
  *--top = 0;  // where `enter` would return to; also aligns its frame
  *--top = reinterpret_cast<uint64_t>(&enter);
  for (int saved = 0; saved < 6; ++saved) *--top = 0;
  fiber.context = {top, fiber.stack.data(), kStackWords * sizeof(uint64_t), nullptr};
}

}  // namespace

void run_fibers(int count, int group, uint64_t order, const std::function<void()>& run) {
  if (fibers.size() < static_cast<size_t>(count)) fibers.resize(count);
  for (int i = 0; i < count; ++i) prepare(fibers[i]);
  std::mt19937_64 generator(order);
  std::vector<std::vector<int>> groups((count + group - 1) / group);
  for (int i = 0; i < count; ++i) groups[i / group].push_back(i);
  for (std::vector<int>& members : groups) std::shuffle(members.begin(), members.end(), generator);
  std::shuffle(groups.begin(), groups.end(), generator);

  body = &run;
  live = count;
  while (live > 0) {
    const uint64_t before = progress_made;
    for (const std::vector<int>& members : groups) {
      uint64_t before_turn;
      do {
        before_turn = progress_made;
        for (const int member : members) {
          if (fibers[member].done) continue;
          running = member;
          switch_to(false, scheduler, fibers[member].context);
        }
      } while (progress_made != before_turn);
    }
    if (progress_made == before) {
      throw std::runtime_error("deadlock: divergent barrier or warp operation");
    }
  }
}

int this_fiber() { return running; }
int live_fibers() { return live; }
void yield() { switch_to(false, fibers[running].context, scheduler); }
void progress() { ++progress_made; }

}  // namespace tap::shim
