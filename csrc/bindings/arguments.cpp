#include "bindings/arguments.h"

#include "bindings/python.h"

namespace py = pybind11;

namespace tap::bindings {
namespace {

bool equal(PyObject* left, PyObject* right) {
  const int found = PyObject_RichCompareBool(left, right, Py_EQ);  // an object equals itself
  if (found < 0) throw py::error_already_set();
  return found == 1;
}

uintptr_t address_of(PyObject* tensor) {
  static PyObject* const kDataPtr = interned("data_ptr");
  return to_word(PyObject_CallMethodNoArgs(tensor, kDataPtr));
}

uintptr_t version_of(PyObject* tensor) {
  static PyObject* const kVersion = interned("_version");
  return to_word(PyObject_GetAttr(tensor, kVersion));
}

/// What another tensor must have in common with this one.
py::object form_of(PyObject* tensor) {
  static PyObject* const kNames[] = {interned("shape"), interned("dtype"), interned("device"),
                                     interned("requires_grad")};
  static PyObject* const kStride = interned("stride");

  py::tuple form(5);
  for (size_t i = 0; i < 4; ++i) form[i] = owned(PyObject_GetAttr(tensor, kNames[i]));
  form[4] = owned(PyObject_CallMethodNoArgs(tensor, kStride));
  return form;
}

/// A value of a dict; none where there is no such name.
py::object value_in(const py::dict& dict, const py::handle& name) {
  PyObject* const value = PyDict_GetItemWithError(dict.ptr(), name.ptr());
  if (value == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return py::reinterpret_borrow<py::object>(value);
}

}  // namespace

Arguments::Arguments(const py::list& names, const py::dict& plain, const py::dict& fixed,
                     const py::dict& moving) {
  for (const py::handle& name : names) {
    Entry entry{py::reinterpret_borrow<py::object>(name), {}, {}, {}};
    if (const py::object value = value_in(plain, name)) entry.plain = Plain{value};
    if (const py::object tensor = value_in(fixed, name)) {
      entry.fixed = Fixed{owned(PyWeakref_NewRef(tensor.ptr(), nullptr)), address_of(tensor.ptr()),
                          std::nullopt};
      if (!tensor.attr("is_inference")().cast<bool>()) {
        entry.fixed->version = version_of(tensor.ptr());
      }
    }
    if (const py::object tensor = value_in(moving, name)) {
      entry.moving = Moving{py::type::of(tensor), form_of(tensor.ptr())};
    }
    entries_.push_back(std::move(entry));
  }
}

bool Arguments::fit(const py::dict& arguments) const {
  if (arguments.size() != entries_.size()) return false;
  PyObject* name = nullptr;
  PyObject* value = nullptr;
  Py_ssize_t position = 0;
  for (const Entry& entry : entries_) {
    if (PyDict_Next(arguments.ptr(), &position, &name, &value) == 0) return false;
    // Python runs in here: so with references held.
    const py::object held = py::reinterpret_borrow<py::object>(value);
    if (!equal(name, entry.name.ptr()) || !fits(entry, held.ptr())) return false;
  }
  return true;
}

bool Arguments::fits(const Entry& entry, PyObject* value) {
  if (entry.plain) {
    PyObject* const known = entry.plain->value.ptr();
    return value == known || (Py_TYPE(value) == Py_TYPE(known) && equal(value, known));
  }
  if (entry.fixed) {
    const Fixed& fixed = *entry.fixed;
    if (value == Py_None) return false;  // which a reference to what is gone gives, too
    return owned(PyObject_CallNoArgs(fixed.tensor.ptr())).ptr() == value &&
           address_of(value) == fixed.address &&
           (!fixed.version || version_of(value) == *fixed.version);
  }
  if (entry.moving) {
    const Moving& moving = *entry.moving;
    return reinterpret_cast<PyObject*>(Py_TYPE(value)) == moving.type.ptr() &&
           equal(form_of(value).ptr(), moving.form.ptr());
  }
  return true;
}

}  // namespace tap::bindings
