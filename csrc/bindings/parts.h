#pragma once

#include <pybind11/pybind11.h>

namespace tap::bindings {

/// What a replay takes for granted of modules, as words to be compared.
///
/// Called before every replay over some sixty modules; the loops are all that it is here for. Its
/// twin is ``tap_ext/graphs/guard.py``.
///
/// @param own the ``__dict__`` of every module
/// @param address called with a tensor, gives where it lies
/// @return bytes of the children's identities, and bytes of all else: how many attributes there
///         are, which tensors, where they lie, whether there are hooks, the mode
pybind11::tuple look(const pybind11::list& own, const pybind11::object& address);

}  // namespace tap::bindings
