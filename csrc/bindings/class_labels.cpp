#include "class_labels.h"

#include <vector>

namespace stableops {
namespace {

// "labels[3, 5]", or "labels" for a single one.
std::string position_text(const Array& labels, std::ptrdiff_t flat) {
    if (labels.ndim() == 0) return "labels";
    std::vector<std::ptrdiff_t> index(static_cast<std::size_t>(labels.ndim()));
    for (int d = labels.ndim() - 1; d >= 0; --d) {
        index[static_cast<std::size_t>(d)] = flat % labels.shape()[d];
        flat /= labels.shape()[d];
    }
    std::string text = "labels[";
    for (std::size_t d = 0; d < index.size(); ++d)
        text += (d > 0 ? ", " : "") + std::to_string(index[d]);
    return text + "]";
}

}  // namespace

void check_indices(const Array& labels, bool were_unsigned, std::ptrdiff_t classes,
                   std::int64_t ignore_index) {
    const std::int64_t* k = labels.data<const std::int64_t>();
    for (std::ptrdiff_t i = 0; i < labels.size(); ++i) {
        if (k[i] >= 0 && k[i] < classes) continue;
        const bool wrapped = were_unsigned && k[i] < 0;
        if (k[i] == ignore_index && !wrapped) continue;
        throw py::index_error(
            position_text(labels, i) + " is " +
            (wrapped ? std::to_string(static_cast<std::uint64_t>(k[i])) : std::to_string(k[i])) +
            "; allowed are 0 to " + std::to_string(classes - 1) +
            " and ignore_index=" + std::to_string(ignore_index));
    }
}

Array contiguous(const Array& array) {
    if (PyArray_IS_C_CONTIGUOUS(array.get())) return array;
    PyObject* c = PyArray_FROM_OF(array.owner.ptr(), NPY_ARRAY_CARRAY_RO);
    if (c == nullptr) throw py::error_already_set();
    return {py::reinterpret_steal<py::object>(c)};
}

}  // namespace stableops
