#include "bindings/parts.h"

#include <cstdint>
#include <string>
#include <vector>

namespace py = pybind11;

namespace tap::bindings {
namespace {

using Words = std::vector<uintptr_t>;

uintptr_t identity(PyObject* object) { return reinterpret_cast<uintptr_t>(object); }

/// A borrowed value of a module's ``__dict__``.
PyObject* attribute(PyObject* own, PyObject* name) {
  PyObject* value = PyDict_GetItemWithError(own, name);
  if (value != nullptr) return value;
  if (PyErr_Occurred() == nullptr) PyErr_SetObject(PyExc_KeyError, name);
  throw py::error_already_set();
}

PyObject* dict_of(PyObject* own, PyObject* name) {
  PyObject* value = attribute(own, name);
  if (!PyDict_Check(value)) throw py::type_error(std::string(py::str(name)) + " must be a dict");
  return value;
}

/// Adds the identities of a dict's values.
void add_values(PyObject* dict, Words& words) {
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  Py_ssize_t position = 0;
  while (PyDict_Next(dict, &position, &key, &value) != 0) words.push_back(identity(value));
}

py::bytes packed(const Words& words) {
  return {reinterpret_cast<const char*>(words.data()), words.size() * sizeof(uintptr_t)};
}

}  // namespace

py::tuple look(const py::list& own, const py::object& address) {
  // Not py::str, which would be destroyed when the interpreter is gone.
  static PyObject* const kModules = PyUnicode_InternFromString("_modules");
  static PyObject* const kParameters = PyUnicode_InternFromString("_parameters");
  static PyObject* const kBuffers = PyUnicode_InternFromString("_buffers");
  static PyObject* const kHooks = PyUnicode_InternFromString("_forward_hooks");
  static PyObject* const kPreHooks = PyUnicode_InternFromString("_forward_pre_hooks");
  static PyObject* const kTraining = PyUnicode_InternFromString("training");

  Words children;
  Words words;
  Words tensors;
  for (const py::handle& entry : own) {
    PyObject* module = entry.ptr();
    if (!PyDict_Check(module)) throw py::type_error("own must hold dicts");
    add_values(dict_of(module, kModules), children);
    const size_t before = tensors.size();
    add_values(dict_of(module, kParameters), tensors);
    add_values(dict_of(module, kBuffers), tensors);
    words.push_back(tensors.size() - before);  // so that none can pass for a neighbour's
    words.push_back(static_cast<uintptr_t>(PyDict_Size(module)));
    words.push_back(PyDict_Size(dict_of(module, kHooks)) > 0);
    words.push_back(PyDict_Size(dict_of(module, kPreHooks)) > 0);
    words.push_back(identity(attribute(module, kTraining)));
  }
  // Python may run from here on, and edit a dict: so after the loop, with references held.
  std::vector<py::object> held;
  held.reserve(tensors.size());
  for (const uintptr_t tensor : tensors) {
    held.push_back(py::reinterpret_borrow<py::object>(reinterpret_cast<PyObject*>(tensor)));
  }
  for (const py::object& tensor : held) {
    words.push_back(identity(tensor.ptr()));
    words.push_back(tensor.is_none() ? 0 : address(tensor).cast<uintptr_t>());
  }
  return py::make_tuple(packed(children), packed(words));
}

}  // namespace tap::bindings
