#include "bindings/seen.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <string>

#include "bindings/python.h"

namespace py = pybind11;

namespace tap::bindings {
namespace {

using Words = std::vector<uintptr_t>;

uintptr_t identity(PyObject* object) { return reinterpret_cast<uintptr_t>(object); }

/// A borrowed value of a module's ``__dict__``.
PyObject* attribute(PyObject* own, PyObject* name) {
  PyObject* const value = value_in(own, name);
  if (value != nullptr) return value;
  PyErr_SetObject(PyExc_KeyError, name);
  throw py::error_already_set();
}

PyObject* dict_of(PyObject* own, PyObject* name) {
  PyObject* value = attribute(own, name);
  if (!PyDict_Check(value)) throw py::type_error(std::string(py::str(name)) + " must be a dict");
  return value;
}

/// Adds how many values a dict has, so that none can pass for a neighbour's, and their identities.
void add_values(PyObject* dict, Words& words) {
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  Py_ssize_t position = 0;
  words.push_back(static_cast<uintptr_t>(PyDict_GET_SIZE(dict)));
  while (PyDict_Next(dict, &position, &key, &value) != 0) words.push_back(identity(value));
}

/// Adds a module's attributes, by identity, but for what stands around its forward; its children.
void add_attributes(PyObject* own, Words& words) {
  static PyObject* const kModules = interned("_modules");
  static PyObject* const kAround[] = {interned("forward"), interned("_old_forward"),
                                      interned("_compiled_call_impl"), interned("_hf_hook"),
                                      interned("_diffusers_hook")};

  PyObject* key = nullptr;
  PyObject* value = nullptr;
  Py_ssize_t position = 0;
  while (PyDict_Next(own, &position, &key, &value) != 0) {
    if (std::find(std::begin(kAround), std::end(kAround), key) == std::end(kAround)) {
      words.push_back(identity(value));
    }
  }
  add_values(dict_of(own, kModules), words);
}

void add_module(PyObject* own, Words& words, std::vector<py::object>& tensors) {
  static PyObject* const kModules = interned("_modules");
  static PyObject* const kParameters = interned("_parameters");
  static PyObject* const kBuffers = interned("_buffers");
  static PyObject* const kHooks = interned("_forward_hooks");
  static PyObject* const kPreHooks = interned("_forward_pre_hooks");
  static PyObject* const kTraining = interned("training");

  add_values(dict_of(own, kModules), words);
  words.push_back(identity(attribute(own, kTraining)));
  for (PyObject* const name : {kParameters, kBuffers}) {
    const size_t before = words.size() + 1;
    add_values(dict_of(own, name), words);
    for (size_t i = before; i < words.size(); ++i) {
      PyObject* const tensor = reinterpret_cast<PyObject*>(words[i]);
      if (tensor != Py_None) tensors.push_back(py::reinterpret_borrow<py::object>(tensor));
    }
  }
  words.push_back(static_cast<uintptr_t>(PyDict_GET_SIZE(own)));
  words.push_back(PyDict_GET_SIZE(dict_of(own, kHooks)) > 0);
  words.push_back(PyDict_GET_SIZE(dict_of(own, kPreHooks)) > 0);
}

}  // namespace

int64_t Seen::look(const py::list& own, const py::object& address) {
  Words now;
  now.reserve(words_.size());
  std::vector<py::object> tensors;
  for (const py::handle& module : own) {
    if (!PyDict_Check(module.ptr())) throw py::type_error("own must hold dicts");
    if (address.is_none()) {
      add_attributes(module.ptr(), now);
    } else {
      add_module(module.ptr(), now, tensors);
    }
  }
  // Python may run from here on, and edit a dict: so after the loop, with references held.
  for (const py::object& tensor : tensors) {
    now.push_back(to_word(PyObject_CallOneArg(address.ptr(), tensor.ptr())));
  }
  if (now != words_) {  // and no more Python: another thread must not see the one without the other
    words_.swap(now);
    ++changes_;
  }
  return changes_;
}

}  // namespace tap::bindings
