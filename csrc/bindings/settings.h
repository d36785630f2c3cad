#pragma once
// Arguments that are one number or one word.
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>

#include "array.h"

namespace stableops {

inline std::string refusal(const char* name, const py::handle& value) {
    return std::string(name) + "=" + repr_of(value) + " is not allowed; ";
}

inline double number(const py::object& value, const char* name) {
    if (PyFloat_CheckExact(value.ptr())) return PyFloat_AS_DOUBLE(value.ptr());
    const PyNumberMethods* const methods = Py_TYPE(value.ptr())->tp_as_number;
    const bool has_value = methods != nullptr && (methods->nb_float || methods->nb_index);
    if (has_value && !PyBool_Check(value.ptr())) {
        const double result = PyFloat_AsDouble(value.ptr());
        if (result != -1 || !PyErr_Occurred()) return result;
        const bool too_large = PyErr_ExceptionMatches(PyExc_OverflowError);
        PyErr_Clear();
        if (too_large) throw py::value_error(refusal(name, value) + "float64 cannot hold it");
    }
    throw py::type_error(refusal(name, value) + "a number is");
}

inline double number_in(const py::object& value, const char* name, double low, double high) {
    const double result = number(value, name);
    if (!(result >= low && result <= high))
        throw py::value_error(refusal(name, value) + "it must be in [" + text_of(py::float_(low)) +
                              ", " + text_of(py::float_(high)) + "]");
    return result;
}

// What has an __index__, saturated. An array has one, too, which raises unless it holds one
// integer.
inline std::ptrdiff_t whole_number(const py::handle& value) {
    const Py_ssize_t result = PyNumber_AsSsize_t(value.ptr(), nullptr);
    if (result == -1 && PyErr_Occurred()) throw py::error_already_set();
    return result;
}

constexpr std::ptrdiff_t no_least = std::numeric_limits<std::ptrdiff_t>::min();
constexpr std::ptrdiff_t no_most = std::numeric_limits<std::ptrdiff_t>::max();

// The int that `item` is, which is `value` or a part of it; `forms` says what the argument may be.
inline std::ptrdiff_t integer_in(const py::handle& item, const py::handle& value, const char* name,
                                 std::ptrdiff_t least, std::ptrdiff_t most,
                                 const char* forms = "an int is") {
    const bool allowed = PyIndex_Check(item.ptr()) && !PyBool_Check(item.ptr());
    const Py_ssize_t result = allowed ? PyNumber_AsSsize_t(item.ptr(), nullptr) : 0;
    if (!allowed || (result == -1 && PyErr_Occurred())) {
        PyErr_Clear();
        throw py::type_error(refusal(name, value) + forms);
    }
    // The ends of the range stand for what is beyond them, too.
    if (result >= least && result <= most && result != no_least && result != no_most) return result;
    std::string range = "within 63 bits";
    if (most != no_most)
        range = std::to_string(least) + " to " + std::to_string(most);
    else if (least != no_least)
        range = std::to_string(least) + " or more, " + range;
    throw py::value_error(refusal(name, value) + "it must be " + range);
}

// The value among `words` that the argument is, as an enum that counts them in this order.
template <class Enum>
Enum choice(const py::object& value, const char* name, std::initializer_list<const char*> words) {
    const bool is_word = PyUnicode_Check(value.ptr());
    const Py_UCS4 first = is_word ? PyUnicode_READ_CHAR(value.ptr(), 0) : 0;
    int i = 0;
    for (const char* word : words) {
        if (first == static_cast<Py_UCS4>(word[0]) &&
            PyUnicode_CompareWithASCIIString(value.ptr(), word) == 0)
            return static_cast<Enum>(i);
        ++i;
    }
    std::string text = refusal(name, value) + "it must be ";
    for (const char* word : words) {
        --i;
        text += "'" + std::string(word) + (i > 1 ? "', " : i == 1 ? "' or " : "'");
    }
    if (is_word) throw py::value_error(text);
    throw py::type_error(text);
}

inline Reduction reduction_of(const py::object& value) {
    return choice<Reduction>(value, "reduction", {"none", "sum", "mean"});
}

}  // namespace stableops
