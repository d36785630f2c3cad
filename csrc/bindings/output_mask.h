#pragma once
// The output_mask argument of backward functions: which of their gradients are wanted.
#include <array>

#include "array.h"

namespace stableops {

inline std::array<bool, 3> output_mask_of(const py::object& value) {
    const bool three =
        (PyTuple_Check(value.ptr()) || PyList_Check(value.ptr())) && py::len(value) == 3;
    std::array<bool, 3> mask{};
    for (int i = 0; i < 3; ++i) {
        const py::object item = three ? value.attr("__getitem__")(i) : py::none();
        if (!PyBool_Check(item.ptr()))
            throw py::type_error("output_mask=" + repr_of(value) +
                                 " is not allowed; three bools are");
        mask[static_cast<std::size_t>(i)] = item.ptr() == Py_True;
    }
    return mask;
}

}  // namespace stableops
