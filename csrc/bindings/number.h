#pragma once
// Settings that are real numbers.
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

}  // namespace stableops
