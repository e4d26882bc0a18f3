#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

namespace tap::bindings {

/// Counts how often modules were found other than at the last look.
///
/// Dozens of them are looked at before every replay; the loops are all that it is here for. It
/// holds no reference, which the garbage collector could not follow. Its twin is ``SeenPlainly`` in
/// ``tap_ext/native.py``.
class Seen {
 public:
  /// Looks at their children, how many attributes there are, which tensors, where these lie,
  /// whether there are hooks, and the mode.
  ///
  /// @param own the ``__dict__`` of every module
  /// @param address called with a tensor, gives where it lies; None: instead of all this, children
  /// and every attribute count, but for what stands around the forward
  /// @return how often this was not what it had been
  int64_t look(const pybind11::list& own, const pybind11::object& address);

 private:
  std::vector<uintptr_t> words_;
  int64_t changes_ = 0;
};

}  // namespace tap::bindings
