#include "bindings/arguments.h"

#include <utility>

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

}  // namespace

Arguments::Arguments(const py::list& names, const py::dict& plain, const py::dict& fixed,
                     const py::dict& moving) {
  for (const py::handle& name : names) {
    Entry entry{py::reinterpret_borrow<py::object>(name), Apart{}};
    if (PyObject* const value = value_in(plain.ptr(), name.ptr())) {
      entry.known = Plain{py::reinterpret_borrow<py::object>(value)};
    } else if (PyObject* const tensor = value_in(fixed.ptr(), name.ptr())) {
      Fixed known{owned(PyWeakref_NewRef(tensor, nullptr)), address_of(tensor), std::nullopt};
      if (!py::handle(tensor).attr("is_inference")().cast<bool>()) {
        known.version = version_of(tensor);
      }
      entry.known = std::move(known);
    } else if (PyObject* const tensor = value_in(moving.ptr(), name.ptr())) {
      entry.known = Moving{py::type::of(tensor), form_of(tensor)};
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
    if (!equal(name, entry.name.ptr())) return false;
    const auto fits_now = [&](const auto& known) { return fits(known, held.ptr()); };
    if (!std::visit(fits_now, entry.known)) return false;
  }
  return true;
}

bool Arguments::fits(const Apart&, PyObject*) { return true; }

bool Arguments::fits(const Plain& known, PyObject* value) {
  PyObject* const expected = known.value.ptr();
  return value == expected || (Py_TYPE(value) == Py_TYPE(expected) && equal(value, expected));
}

bool Arguments::fits(const Fixed& known, PyObject* value) {
  if (value == Py_None) return false;  // which a reference to what is gone gives, too
  return owned(PyObject_CallNoArgs(known.tensor.ptr())).ptr() == value &&
         address_of(value) == known.address &&
         (!known.version || version_of(value) == *known.version);
}

bool Arguments::fits(const Moving& known, PyObject* value) {
  return reinterpret_cast<PyObject*>(Py_TYPE(value)) == known.type.ptr() &&
         equal(form_of(value).ptr(), known.form.ptr());
}

}  // namespace tap::bindings
