#include "row_arrays.h"

#include <algorithm>

#include "settings.h"

namespace stableops {
namespace {

std::ptrdiff_t byte_stride(const Array& array, int axis) {
    return PyArray_STRIDE(array.get(), axis);
}

// The stride of `array` along axis `d` of x: an array without the reduced axes has fewer.
std::ptrdiff_t stride_along(const ReducedAxes& axes, const Array& array, int d) {
    if (array.ndim() == axes.ndim) return byte_stride(array, d);
    int own = 0;
    for (int e = 0; e < d; ++e) own += axes.reduced[e] ? 0 : 1;
    return byte_stride(array, own);
}

}  // namespace

ReducedAxes::ReducedAxes(const py::object& axis, const Array& x, const char* name)
    : ndim(x.ndim()), reduced{} {
    if (ndim == 0 && PyLong_Check(axis.ptr())) {
        const std::ptrdiff_t value = whole_number(axis);
        if (value == 0 || value == -1) return;
    }
    // The common case without a vector.
    if (PyLong_CheckExact(axis.ptr())) {
        const std::ptrdiff_t value = whole_number(axis);
        if (value >= -ndim && value < ndim) {
            reduced[value < 0 ? value + ndim : value] = true;
            return;
        }
    }
    for (int d : normalized_axes(axis, ndim, name)) reduced[d] = true;
}

ReducedAxes::ReducedAxes(int axis, const Array& x) : ndim(x.ndim()), reduced{} {
    reduced[axis] = true;
}

Shape ReducedAxes::kept_shape(const Array& x, bool keepdims) const {
    Shape shape;
    for (int d = 0; d < ndim; ++d) {
        if (!reduced[d]) {
            shape.size[shape.ndim++] = x.shape()[d];
        } else if (keepdims) {
            shape.size[shape.ndim++] = 1;
        }
    }
    return shape;
}

void plan_rows(const ReducedAxes& axes, RowShape& shape, std::initializer_list<RowArray> arrays,
               bool c_order) {
    const Array& x = *arrays.begin()->array;
    shape.rows = shape.cols = 1;
    shape.kept_ndim = shape.reduced_ndim = 0;
    for (const RowArray& a : arrays) {
        a.operand->data = static_cast<char*>(PyArray_DATA(a.array->get()));
        a.operand->type = a.type;
    }
    int order[max_dims];
    int used = 0;
    for (int d = 0; d < axes.ndim; ++d) {
        (axes.reduced[d] ? shape.cols : shape.rows) *= x.shape()[d];
        if (x.shape()[d] != 1) order[used++] = d;
    }
    if (!c_order) {
        // Kept axes by falling stride, so that neighbours in memory become one run; the reduced
        // ones stay in the order of their columns.
        order_dimensions(order, used, [&](int a, int b) {
            if (axes.reduced[a] != axes.reduced[b]) return axes.reduced[a];
            if (axes.reduced[a]) return false;
            return std::abs(byte_stride(x, a)) > std::abs(byte_stride(x, b));
        });
    }
    for (int i = 0; i < used; ++i) {
        const int d = order[i];
        const bool reduced = axes.reduced[d];
        int& ndim = reduced ? shape.reduced_ndim : shape.kept_ndim;
        std::ptrdiff_t* size = reduced ? shape.reduced_size : shape.kept_size;
        bool merges = ndim > 0;
        std::ptrdiff_t step[8];
        int k = 0;
        for (const RowArray& a : arrays) {
            const bool per_row =
                a.array->ndim() != axes.ndim || a.array->shape()[d] != x.shape()[d];
            step[k] = reduced && per_row ? 0 : stride_along(axes, *a.array, d);
            const std::ptrdiff_t* stride =
                reduced ? a.operand->reduced_stride : a.operand->kept_stride;
            merges = merges && stride[ndim - 1] == x.shape()[d] * step[k];
            ++k;
        }
        if (!merges) size[ndim++] = 1;
        size[ndim - 1] *= x.shape()[d];
        k = 0;
        for (const RowArray& a : arrays)
            (reduced ? a.operand->reduced_stride : a.operand->kept_stride)[ndim - 1] = step[k++];
    }
    for (const bool reduced : {false, true}) {
        int& ndim = reduced ? shape.reduced_ndim : shape.kept_ndim;
        if (ndim > 0) continue;
        ndim = 1;
        (reduced ? shape.reduced_size : shape.kept_size)[0] = 1;
        for (const RowArray& a : arrays)
            (reduced ? a.operand->reduced_stride : a.operand->kept_stride)[0] = 0;
    }
}

Element element_of(Dtype dtype) {
    switch (dtype) {
        case Dtype::float64:
            return Element::float64;
        case Dtype::float32:
            return Element::float32;
        case Dtype::float16:
            return Element::float16;
        default:
            return Element::bfloat16;
    }
}

py::object broadcast_to(const py::object& array, const Array& x, const char* name) {
    PyArrayObject* a = reinterpret_cast<PyArrayObject*>(array.ptr());
    if (PyArray_NDIM(a) == x.ndim() && std::equal(x.shape(), x.shape() + x.ndim(), PyArray_DIMS(a)))
        return array;
    const int extra = x.ndim() - PyArray_NDIM(a);
    bool fits = extra >= 0;
    for (int d = 0; fits && d < PyArray_NDIM(a); ++d)
        fits = PyArray_DIM(a, d) == 1 || PyArray_DIM(a, d) == x.shape()[extra + d];
    if (!fits)
        throw py::value_error(std::string(name) + " has shape " +
                              shape_text(PyArray_NDIM(a), PyArray_DIMS(a)) +
                              "; it must be broadcastable to " + shape_text(x));
    py::tuple shape(x.ndim());
    for (int d = 0; d < x.ndim(); ++d) shape[d] = py::int_(x.shape()[d]);
    return py::module_::import("numpy").attr("broadcast_to")(array, shape);
}

Array as_mask(const py::object& where, const Array& x) {
    if (where.is_none()) return {};
    return {broadcast_to(as_bool_array(where, "where").owner, x, "where")};
}

}  // namespace stableops
