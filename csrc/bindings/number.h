#pragma once
// Settings that are numbers.
#include "array.h"

namespace stableops {

inline double number(const py::object& value, const char* name) {
    const bool allowed = (PyFloat_Check(value.ptr()) || PyIndex_Check(value.ptr()) ||
                          PyArray_IsScalar(value.ptr(), Floating)) &&
                         !PyBool_Check(value.ptr());
    if (!allowed)
        throw py::type_error(std::string(name) + "=" + text_of(py::repr(value)) +
                             " is not allowed; a float is");
    const double result = PyFloat_AsDouble(value.ptr());
    if (result == -1 && PyErr_Occurred()) throw py::error_already_set();
    return result;
}

// What has an __index__, saturated. An array has one too, which raises unless it holds one integer.
inline std::ptrdiff_t whole_number(const py::handle& value) {
    const Py_ssize_t result = PyNumber_AsSsize_t(value.ptr(), nullptr);
    if (result == -1 && PyErr_Occurred()) throw py::error_already_set();
    return result;
}

}  // namespace stableops
