#pragma once
// The boundary of reductions: from arrays and an `axis` argument to the rows and operands of
// row_plan.h.
#include <initializer_list>

#include "../kernels.h"
#include "array.h"

namespace stableops {

struct Shape {
    int ndim = 0;
    npy_intp size[max_dims];
};

// The axes that an operation reduces over. A 0-d array counts as one of a single element.
struct ReducedAxes {
    int ndim;
    bool reduced[max_dims];

    ReducedAxes(const py::object& axis, const Array& x, const char* name);
    // One axis, 0 <= axis < x.ndim().
    ReducedAxes(int axis, const Array& x);

    // The shape that is left, without the reduced axes or with size 1 in their place.
    Shape kept_shape(const Array& x, bool keepdims) const;
};

// An array of the operation, and the operand to fill in. It has the shape of x, or one value a row
// (the kept shape, with or without axes of size 1 in place of the reduced ones).
struct RowArray {
    const Array* array;
    Element type;
    RowOperand* operand;
};

// Merges neighbouring axes that all arrays traverse as one. The first array has the full shape and
// decides the order of rows in memory; `c_order` numbers rows in C order of the kept axes instead.
void plan_rows(const ReducedAxes& axes, RowShape& shape, std::initializer_list<RowArray> arrays,
               bool c_order = false);

Element element_of(Dtype dtype);

// Picks the kernels that compute in float64 or in float32.
template <class Family>
const Family& kernels_for(const PerCompute<Family>& family, Dtype dtype) {
    return dtype == Dtype::float64 ? family.float64 : family.float32;
}

// `where` broadcast to the shape of x; no array for None.
Array as_mask(const py::object& where, const Array& x);

// `b` broadcast to the shape of x.
py::object broadcast_to(const py::object& array, const Array& x, const char* name);

}  // namespace stableops
