#pragma once
// The boundary: the one place where Python objects become pointers, sizes and strides, and where
// arguments are refused. Behind it there are no checks.
//
// Functions take py::object and read arrays through the NumPy C-API, which costs nanoseconds where
// py::array costs hundreds.
#include <pybind11/pybind11.h>

#define PY_ARRAY_UNIQUE_SYMBOL stableops_numpy_api
#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define NPY_TARGET_VERSION NPY_2_0_API_VERSION
#ifndef STABLEOPS_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "../dtypes.h"
#include "../elementwise_plan.h"
#include "../reduction.h"
#include "../runtime/float_environment.h"

namespace py = pybind11;

namespace stableops {

enum class Dtype { float64, float32, float16, bfloat16 };

// Calls f(T{}) with the storage type of dtype.
template <class F>
decltype(auto) with_dtype(Dtype dtype, F&& f) {
    switch (dtype) {
        case Dtype::float64:
            return f(double{});
        case Dtype::float32:
            return f(float{});
        case Dtype::float16:
            return f(float16{});
        default:
            return f(bfloat16{});
    }
}

// A checked array: native byte order, aligned, strides that are whole elements.
struct Array {
    py::object owner;

    PyArrayObject* get() const { return reinterpret_cast<PyArrayObject*>(owner.ptr()); }
    int ndim() const { return PyArray_NDIM(get()); }
    const npy_intp* shape() const { return PyArray_DIMS(get()); }
    std::ptrdiff_t size() const { return PyArray_SIZE(get()); }
    std::ptrdiff_t stride(int axis) const {
        return PyArray_STRIDE(get(), axis) / PyArray_ITEMSIZE(get());
    }
    template <class T>
    T* data() const {
        return static_cast<T*>(PyArray_DATA(get()));
    }
};

struct FloatArray : Array {
    Dtype dtype;
    bool was_integral = false;  // integers or bools, which have no say in the dtype of the result
};

// Any array-like as an array of whatever dtype. TypeError for masked arrays.
Array as_array(const py::object& x, const char* name);

// Any array-like as an array of one of the four float types; integers and bools become float64.
// TypeError for masked arrays and for complex, object, string, longdouble and other dtypes. Copies
// where the dtype, the byte order or the alignment leaves no other way, and only there.
FloatArray as_float_array(const py::object& x, const char* name);

// Any array-like of integers (bools included if allowed), widened or narrowed to int64; one without
// elements may have any dtype.
Array as_int64_array(const py::object& x, const char* name, bool allow_bool = false);

// Any array-like of bools.
Array as_bool_array(const py::object& x, const char* name);

// NumPy's promotion of the dtypes of several arrays (float32 for float16 with bfloat16), and a cast
// to it (a copy if it differs).
Dtype promoted(std::span<const FloatArray* const> arrays);
void cast_to(FloatArray& array, Dtype dtype);

// x as it is; true for None.
bool is_none(const py::object& x);

// What a function returns of an array: the array, or a NumPy scalar if it is 0-d.
py::object result_of(const Array& array);

// Room for one element of any dtype, 0 at first: cheaper than an array without axes.
struct AnyElement {
    alignas(8) char bytes[8] = {};

    template <class T>
    T* data() {
        return reinterpret_cast<T*>(bytes);
    }
};
py::object scalar_of(Dtype dtype, AnyElement& value);

// "(2, 3)", for messages.
std::string shape_text(int ndim, const npy_intp* shape);
std::string shape_text(const Array& array);
// str and repr; never an exception.
std::string text_of(const py::handle& value);
std::string repr_of(const py::handle& value);

// Axes of an `axis` argument (int, tuple of ints, None for all), non-negative, ascending.
std::vector<int> normalized_axes(const py::object& axis, int ndim, const char* name);

// ValueError unless the two have the same shape.
void check_same_shape(const Array& a, const char* a_name, const Array& b, const char* b_name);

// Where results go: a new array laid out like `like` (K order), or the caller's `out`.
class Output {
  public:
    // out is None or an array of exactly this shape and dtype (ValueError, TypeError). `inputs` are
    // what the kernel reads: if out overlaps one of them, the kernel writes to a temporary that
    // finish() copies. The very same elements in the same places do not count where the kernel
    // reads of an input only what stands where it writes next (`in_place`).
    Output(const py::object& out, Dtype dtype, int ndim, const npy_intp* shape, const Array& like,
           std::span<const Array* const> inputs, bool in_place = true);

    const FloatArray& array() const { return target_; }

    // The object to return: `out` itself, or the new array (a NumPy scalar if it is 0-d).
    py::object finish();

  private:
    FloatArray target_;
    py::object out_;
};

// A new array in K order of `like` (same ndim) or C order (like == nullptr). Large ones come from
// the block cache of runtime/memory.h.
FloatArray new_array(Dtype dtype, int ndim, const npy_intp* shape, const Array* like = nullptr);
Array new_int64_array(int ndim, const npy_intp* shape, const Array* like = nullptr);

// Sorts the first `count` dimensions, of which there are few, stably: std::stable_sort allocates.
template <class Before>
void order_dimensions(int* order, int count, const Before& before) {
    for (int i = 1; i < count; ++i) {
        const int d = order[i];
        int at = i;
        for (; at > 0 && before(d, order[at - 1]); --at) order[at] = order[at - 1];
        order[at] = d;
    }
}

// Merges and orders the common dimensions of arrays of one shape (operand 0 leads): no dimensions
// of size 1, neighbours that all operands traverse as one are one, the smallest strides come last,
// and none runs backwards in all operands. At least one dimension is left. False if there are no
// elements. With Order::c the elements stay in C order: dimensions are merged only.
enum class Order { memory, c };
bool plan_dimensions(std::span<const Array* const> arrays, Order keep, int& ndim,
                     std::ptrdiff_t* size, std::ptrdiff_t (*stride)[max_dims],
                     std::ptrdiff_t* offset);

// How an elementwise kernel is to walk over arrays of one shape, output first.
template <int operands>
struct PlannedElementwise {
    ElementwisePlan<operands> plan;
    std::ptrdiff_t offset[operands];  // of the first element, where dimensions were turned round
    bool any;

    explicit PlannedElementwise(const Array* const (&arrays)[operands],
                                Order order = Order::memory) {
        any = plan_dimensions(arrays, order, plan.ndim, plan.size, plan.stride, offset);
    }
};

// Elements below which a call keeps the GIL: releasing and taking it back costs more than it lets
// others gain.
constexpr std::ptrdiff_t release_gil_elements = 16384;

// Runs a kernel in the default floating-point environment, without the GIL unless the call is tiny.
template <class F>
void run_kernel(std::ptrdiff_t elements, F&& f) {
    if (elements < release_gil_elements) {
        DefaultFloatEnvironment environment;
        f();
    } else {
        py::gil_scoped_release release;
        DefaultFloatEnvironment environment;
        f();
    }
}

}  // namespace stableops
