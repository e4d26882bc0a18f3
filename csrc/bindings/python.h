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

/// A value of a dict, borrowed; null where there is no such key. Throws what comparing keys raised.
inline PyObject* value_in(PyObject* dict, PyObject* key) {
  PyObject* const value = PyDict_GetItemWithError(dict, key);
  if (value == nullptr && PyErr_Occurred() != nullptr) throw pybind11::error_already_set();
  return value;
}

/// The int that a call returned; throws what it raised.
inline uintptr_t to_word(PyObject* result) {
  const size_t value = PyLong_AsSize_t(owned(result).ptr());
  if (PyErr_Occurred() != nullptr) throw pybind11::error_already_set();
  return value;
}

}  // namespace tap::bindings
