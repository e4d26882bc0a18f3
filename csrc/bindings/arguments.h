#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

namespace tap::bindings {

/// The arguments of a call, to tell whether another has the same. Its twin, which says what is
/// compared, is ``ArgumentsPlainly`` in ``tap_ext/native.py``.
///
/// It holds plain values, weak references and the forms of tensors: nothing that could refer to it.
class Arguments {
 public:
  Arguments(const pybind11::list& names, const pybind11::dict& plain, const pybind11::dict& fixed,
            const pybind11::dict& moving);

  bool fit(const pybind11::dict& arguments) const;

 private:
  struct Apart {};  ///< Looked at by whoever asks.
  struct Plain {
    pybind11::object value;
  };
  struct Fixed {
    pybind11::object tensor;  ///< A weak reference.
    uintptr_t address;
    std::optional<uintptr_t> version;  ///< None of an inference tensor.
  };
  struct Moving {
    pybind11::object type;
    pybind11::object form;  ///< What ``form_of`` gives.
  };
  struct Entry {
    pybind11::object name;
    std::variant<Apart, Plain, Fixed, Moving> known;
  };

  static bool fits(const Apart& known, PyObject* value);
  static bool fits(const Plain& known, PyObject* value);
  static bool fits(const Fixed& known, PyObject* value);
  static bool fits(const Moving& known, PyObject* value);

  std::vector<Entry> entries_;
};

}  // namespace tap::bindings
