#pragma once
// def<f>(m, name): f as a function of the module, of as many positional arguments as it has
// parameters.
//
// By CPython's own calling convention: pybind11's dispatcher, which looks for overloads and
// casters, takes as long as the rest of a small call. Parameters are objects or flags; settings.h
// makes numbers and words of objects, and names the argument when it cannot.
#include <string>
#include <type_traits>
#include <utility>

#include "array.h"

namespace stableops {

template <class T>
T argument(PyObject* x) {
    if constexpr (std::is_same_v<T, py::object>) {
        return py::reinterpret_borrow<py::object>(x);
    } else {
        static_assert(std::is_same_v<T, bool>);
        const int truth = x == Py_True ? 1 : x == Py_False ? 0 : PyObject_IsTrue(x);
        if (truth < 0) throw py::error_already_set();
        return truth != 0;
    }
}

// Turns the exception that is being handled into a Python one.
void raise_current_exception();

template <class Result, class... Parameters>
PyObject* call(Result (*f)(Parameters...), PyObject* const* arguments, Py_ssize_t count) {
    try {
        if (count != static_cast<Py_ssize_t>(sizeof...(Parameters)))
            throw py::type_error(std::to_string(sizeof...(Parameters)) +
                                 " positional arguments are needed, " + std::to_string(count) +
                                 " were given");
        return [&]<std::size_t... i>(std::index_sequence<i...>) {
            const auto result = [&] {
                return f(argument<std::remove_cvref_t<Parameters>>(arguments[i])...);
            };
            if constexpr (std::is_void_v<Result>) {
                result();
                return py::none().release().ptr();
            } else if constexpr (std::is_base_of_v<py::object, Result>) {
                return result().release().ptr();
            } else {
                return py::cast(result()).release().ptr();
            }
        }(std::index_sequence_for<Parameters...>());
    } catch (...) {
        raise_current_exception();
        return nullptr;
    }
}

// f is a function, or a lambda expression that captures nothing.
template <auto f>
void def(py::module_& m, const char* name) {
    static PyMethodDef method = {};
    method.ml_name = name;
    method.ml_flags = METH_FASTCALL;
    const auto enter = [](PyObject*, PyObject* const* arguments, Py_ssize_t count) {
        return call(+f, arguments, count);
    };
    using FastCall = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t);
    method.ml_meth = reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(FastCall(enter)));
    PyObject* function = PyCFunction_NewEx(&method, nullptr, m.attr("__name__").ptr());
    if (function == nullptr) throw py::error_already_set();
    m.add_object(name, py::reinterpret_steal<py::object>(function));
}

}  // namespace stableops
