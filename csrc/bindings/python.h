#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace tap::bindings {

/// A string to look up attributes by. Not a ``py::str``, which would be destroyed when the
/// interpreter is gone.
inline PyObject* interned(const char* name) { return PyUnicode_InternFromString(name); }

/// What a call returned, as an object of our own; throws what it raised.
inline pybind11::object owned(PyObject* result) {
  if (result == nullptr) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(result);
}

/// The int that a call returned; throws what it raised.
inline uintptr_t to_word(PyObject* result) {
  const size_t value = PyLong_AsSize_t(owned(result).ptr());
  if (PyErr_Occurred() != nullptr) throw pybind11::error_already_set();
  return value;
}

}  // namespace tap::bindings
