#include "array.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "../runtime/memory.h"
#include "settings.h"

namespace stableops {
namespace {

// Results from this size on come from the block cache: below it malloc keeps its pages anyway.
constexpr std::size_t block_bytes = std::size_t{1} << 18;

[[noreturn]] void refuse_dtype(const char* name, PyArray_Descr* descr, const char* allowed) {
    throw py::type_error(std::string(name) + " has dtype " +
                         text_of(reinterpret_cast<PyObject*>(descr)) + "; allowed are " + allowed);
}

constexpr const char* float_dtypes =
    "float64, float32, float16, bfloat16, integers and bool (computed in float64)";

// The descriptor of ml_dtypes.bfloat16, kept for new arrays once an array of it has been seen.
// NumPy gives such dtypes their number at run time, so the type object's name identifies it. Atomic
// for interpreters without a global lock.
std::atomic<PyArray_Descr*> bfloat16_descr = nullptr;

bool is_bfloat16(PyArray_Descr* descr) {
    if (descr == bfloat16_descr) return true;
    if (descr->type_num < NPY_USERDEF) return false;
    const char* name = descr->typeobj->tp_name;
    const char* dot = std::strrchr(name, '.');
    if (std::strcmp(dot ? dot + 1 : name, "bfloat16") != 0) return false;
    PyArray_Descr* none = nullptr;
    Py_INCREF(descr);
    if (!bfloat16_descr.compare_exchange_strong(none, descr)) Py_DECREF(descr);
    return true;
}

bool float_dtype(PyArray_Descr* descr, Dtype& dtype) {
    switch (descr->type_num) {
        case NPY_DOUBLE:
            dtype = Dtype::float64;
            return true;
        case NPY_FLOAT:
            dtype = Dtype::float32;
            return true;
        case NPY_HALF:
            dtype = Dtype::float16;
            return true;
        default:
            if (!is_bfloat16(descr)) return false;
            dtype = Dtype::bfloat16;
            return true;
    }
}

// A new reference.
PyArray_Descr* descr_of(Dtype dtype) {
    switch (dtype) {
        case Dtype::float64:
            return PyArray_DescrFromType(NPY_DOUBLE);
        case Dtype::float32:
            return PyArray_DescrFromType(NPY_FLOAT);
        case Dtype::float16:
            return PyArray_DescrFromType(NPY_HALF);
        default: {
            PyArray_Descr* const descr = bfloat16_descr;
            Py_INCREF(descr);
            return descr;
        }
    }
}

bool whole_element_strides(PyArrayObject* array) {
    const npy_intp item = PyArray_ITEMSIZE(array);
    for (int d = 0; d < PyArray_NDIM(array); ++d)
        if (PyArray_STRIDE(array, d) % item != 0 && PyArray_DIM(array, d) > 1) return false;
    return true;
}

bool directly_usable(PyArrayObject* array) {
    return PyArray_ISALIGNED(array) && PyArray_ISNOTSWAPPED(array) && whole_element_strides(array);
}

py::object take(PyObject* owned) {
    if (owned == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(owned);
}

void refuse_masked(const py::object& x, const char* name) {
    if (py::isinstance(x, py::module_::import("numpy.ma").attr("MaskedArray")))
        throw py::type_error(std::string(name) +
                             " is a masked array; pass its data, and a mask as where= if the "
                             "operation has it");
}

// An ndarray for any array-like; one that exports DLPack is not copied.
py::object any_array(const py::object& x, const char* name) {
    if (PyArray_CheckExact(x.ptr())) return x;
    if (PyArray_Check(x.ptr())) {
        refuse_masked(x, name);
        return take(PyArray_FROM_OF(x.ptr(), NPY_ARRAY_ENSUREARRAY));
    }
    if (py::hasattr(x, "__dlpack__")) {
        try {
            return py::module_::import("numpy").attr("from_dlpack")(x);
        } catch (py::error_already_set& error) {
            // Objects that cannot be exported as they are (gradient tracking, another device) say
            // why; what NumPy cannot take by DLPack it may take as an array.
            if (!py::hasattr(x, "__array__"))
                throw py::type_error(std::string(name) +
                                     " cannot be read through DLPack: " + text_of(error.value()));
        }
    }
    PyObject* array = PyArray_FROM_O(x.ptr());
    if (array == nullptr) {
        py::error_already_set error;
        throw py::type_error(std::string(name) + " is no array: " + text_of(error.value()));
    }
    return py::reinterpret_steal<py::object>(array);
}

// A copy with native byte order, alignment and C order, cast to descr (stolen).
py::object converted(const py::object& array, PyArray_Descr* descr) {
    return take(
        PyArray_FromArray(reinterpret_cast<PyArrayObject*>(array.ptr()), descr,
                          NPY_ARRAY_CARRAY_RO | NPY_ARRAY_NOTSWAPPED | NPY_ARRAY_FORCECAST));
}

Array as_array_of(const py::object& x, const char* name, int type_num, bool (*takes)(int),
                  const char* allowed) {
    py::object array = any_array(x, name);
    PyArrayObject* a = reinterpret_cast<PyArrayObject*>(array.ptr());
    if (PyArray_TYPE(a) == type_num && directly_usable(a)) return {std::move(array)};
    if (!takes(PyArray_TYPE(a))) refuse_dtype(name, PyArray_DESCR(a), allowed);
    return {converted(array, PyArray_DescrFromType(type_num))};
}

// Strides of a new array of `shape` in the order of like's strides, or C order.
void k_order_strides(int ndim, const npy_intp* shape, npy_intp item, const Array* like,
                     npy_intp* strides) {
    int order[max_dims];
    for (int d = 0; d < ndim; ++d) order[d] = d;
    if (like != nullptr)
        order_dimensions(order, ndim, [&](int a, int b) {
            return std::abs(like->stride(a)) > std::abs(like->stride(b));
        });
    npy_intp stride = item;
    for (int i = ndim - 1; i >= 0; --i) {
        strides[order[i]] = stride;
        stride *= std::max<npy_intp>(shape[order[i]], 1);
    }
}

py::object new_array_of(PyArray_Descr* descr, int ndim, const npy_intp* shape, const Array* like) {
    const npy_intp item = PyDataType_ELSIZE(descr);
    std::size_t bytes = static_cast<std::size_t>(item);
    for (int d = 0; d < ndim; ++d)
        if (shape[d] == 0) {
            bytes = 0;
            break;
        } else if (__builtin_mul_overflow(bytes, static_cast<std::size_t>(shape[d]), &bytes) ||
                   bytes > static_cast<std::size_t>(PTRDIFF_MAX)) {
            Py_DECREF(descr);
            throw py::value_error("a result of shape " + shape_text(ndim, shape) +
                                  " does not fit the address space");
        }
    // What NumPy lays out as it would without being told takes a third of the time.
    if (bytes < block_bytes && (like == nullptr || PyArray_IS_C_CONTIGUOUS(like->get())))
        return take(
            PyArray_NewFromDescr(&PyArray_Type, descr, ndim, shape, nullptr, nullptr, 0, nullptr));
    npy_intp strides[max_dims];
    k_order_strides(ndim, shape, item, like, strides);
    if (bytes < block_bytes)
        return take(
            PyArray_NewFromDescr(&PyArray_Type, descr, ndim, shape, strides, nullptr, 0, nullptr));
    void* block;
    try {
        block = acquire_block(bytes);
    } catch (...) {
        Py_DECREF(descr);
        throw;
    }
    PyObject* capsule = PyCapsule_New(
        block, nullptr, [](PyObject* self) { release_block(PyCapsule_GetPointer(self, nullptr)); });
    if (capsule == nullptr) {
        release_block(block);
        Py_DECREF(descr);
        throw py::error_already_set();
    }
    py::object owner = py::reinterpret_steal<py::object>(capsule);
    py::object array = take(PyArray_NewFromDescr(&PyArray_Type, descr, ndim, shape, strides, block,
                                                 NPY_ARRAY_WRITEABLE | NPY_ARRAY_ALIGNED, nullptr));
    PyArray_SetBaseObject(reinterpret_cast<PyArrayObject*>(array.ptr()), owner.release().ptr());
    return array;
}

// The bytes [first, last) that an array's elements lie in.
void extent(PyArrayObject* array, const char*& first, const char*& last) {
    first = static_cast<const char*>(PyArray_DATA(array));
    last = first + PyArray_ITEMSIZE(array);
    for (int d = 0; d < PyArray_NDIM(array); ++d) {
        const npy_intp span = (PyArray_DIM(array, d) - 1) * PyArray_STRIDE(array, d);
        (span < 0 ? first : last) += span;
    }
}

bool same_elements(PyArrayObject* a, PyArrayObject* b) {
    if (PyArray_DATA(a) != PyArray_DATA(b) || PyArray_NDIM(a) != PyArray_NDIM(b) ||
        PyArray_ITEMSIZE(a) != PyArray_ITEMSIZE(b))
        return false;
    for (int d = 0; d < PyArray_NDIM(a); ++d)
        if (PyArray_DIM(a, d) != PyArray_DIM(b, d) ||
            (PyArray_DIM(a, d) > 1 && PyArray_STRIDE(a, d) != PyArray_STRIDE(b, d)))
            return false;
    return true;
}

// Whether writing to `out` in any order could change an element of `in` before it is read. By
// extents: two interleaved arrays count as overlapping, which costs a temporary, not an error.
bool may_clobber(PyArrayObject* out, PyArrayObject* in, bool in_place) {
    if (PyArray_SIZE(out) == 0 || PyArray_SIZE(in) == 0 || (in_place && same_elements(out, in)))
        return false;
    const char *out_first, *out_last, *in_first, *in_last;
    extent(out, out_first, out_last);
    extent(in, in_first, in_last);
    return out_first < in_last && in_first < out_last;
}

bool overlaps_itself(PyArrayObject* array) {
    for (int d = 0; d < PyArray_NDIM(array); ++d)
        if (PyArray_STRIDE(array, d) == 0 && PyArray_DIM(array, d) > 1) return true;
    return false;
}

template <class Print>
std::string printed(const py::handle& value, const Print& print) {
    try {
        return print(value);
    } catch (const py::error_already_set&) {
        // An int of more digits than Python prints, for one.
        return std::string("<") + Py_TYPE(value.ptr())->tp_name + ">";
    }
}

}  // namespace

std::string text_of(const py::handle& value) {
    return printed(value, [](const py::handle& v) { return std::string(py::str(v)); });
}

std::string repr_of(const py::handle& value) {
    return printed(value, [](const py::handle& v) { return std::string(py::repr(v)); });
}

std::string shape_text(int ndim, const npy_intp* shape) {
    std::string text = "(";
    for (int d = 0; d < ndim; ++d) text += (d > 0 ? ", " : "") + std::to_string(shape[d]);
    return text + (ndim == 1 ? ",)" : ")");
}

std::string shape_text(const Array& array) { return shape_text(array.ndim(), array.shape()); }

Array as_array(const py::object& x, const char* name) { return {any_array(x, name)}; }

FloatArray as_float_array(const py::object& x, const char* name) {
    py::object array = any_array(x, name);
    PyArrayObject* a = reinterpret_cast<PyArrayObject*>(array.ptr());
    Dtype dtype;
    if (float_dtype(PyArray_DESCR(a), dtype)) {
        if (!directly_usable(a)) array = converted(array, descr_of(dtype));
        return {{std::move(array)}, dtype};
    }
    if (!PyTypeNum_ISINTEGER(PyArray_TYPE(a)) && !PyTypeNum_ISBOOL(PyArray_TYPE(a)))
        refuse_dtype(name, PyArray_DESCR(a), float_dtypes);
    return {{converted(array, PyArray_DescrFromType(NPY_DOUBLE))}, Dtype::float64, true};
}

Array as_int64_array(const py::object& any, const char* name, bool allow_bool) {
    py::object x = any_array(any, name);
    // NumPy makes float64 of an empty list.
    PyArrayObject* a = reinterpret_cast<PyArrayObject*>(x.ptr());
    if (PyArray_SIZE(a) == 0) x = converted(x, PyArray_DescrFromType(NPY_INT64));
    if (allow_bool)
        return as_array_of(
            x, name, NPY_INT64,
            [](int type) { return PyTypeNum_ISINTEGER(type) || PyTypeNum_ISBOOL(type); },
            "integers and bool");
    return as_array_of(
        x, name, NPY_INT64, [](int type) { return bool(PyTypeNum_ISINTEGER(type)); }, "integers");
}

Array as_bool_array(const py::object& x, const char* name) {
    return as_array_of(
        x, name, NPY_BOOL, [](int type) { return bool(PyTypeNum_ISBOOL(type)); }, "bool");
}

Dtype promoted(std::span<const FloatArray* const> arrays) {
    Dtype dtype = arrays[0]->dtype;
    for (const FloatArray* array : arrays.subspan(1)) {
        if (array->dtype == dtype) continue;
        PyArray_Descr* a = descr_of(dtype);
        PyArray_Descr* b = descr_of(array->dtype);
        PyArray_Descr* common = PyArray_PromoteTypes(a, b);
        Py_DECREF(a);
        Py_DECREF(b);
        if (common != nullptr) {
            float_dtype(common, dtype);
            Py_DECREF(common);
        } else {
            // NumPy knows no common dtype of float16 and bfloat16, the only such pair.
            PyErr_Clear();
            dtype = Dtype::float32;
        }
    }
    return dtype;
}

void cast_to(FloatArray& array, Dtype dtype) {
    if (array.dtype == dtype) return;
    array.owner = converted(array.owner, descr_of(dtype));
    array.dtype = dtype;
}

std::vector<int> normalized_axes(const py::object& axis, int ndim, const char* name) {
    std::vector<int> axes;
    if (axis.is_none()) {
        for (int d = 0; d < ndim; ++d) axes.push_back(d);
        return axes;
    }
    auto add = [&](const py::handle& item) {
        if (!PyIndex_Check(item.ptr()) || PyBool_Check(item.ptr()))
            throw py::type_error("axis=" + text_of(axis) +
                                 " is not allowed; an int, a tuple of "
                                 "ints or None is");
        const Py_ssize_t value = whole_number(item);
        if (ndim == 0 && (value == 0 || value == -1)) return;  // a scalar is its only element
        if (value < -ndim || value >= ndim) {
            const std::string text = "axis=" + text_of(item) + " is out of bounds for " + name +
                                     " of " + std::to_string(ndim) + " dimensions" +
                                     (ndim > 0 ? "; allowed are " + std::to_string(-ndim) + " to " +
                                                     std::to_string(ndim - 1)
                                               : std::string("; allowed are -1, 0, () and None"));
            PyErr_SetString(py::module_::import("numpy.exceptions").attr("AxisError").ptr(),
                            text.c_str());
            throw py::error_already_set();
        }
        const int normal = static_cast<int>(value < 0 ? value + ndim : value);
        if (std::find(axes.begin(), axes.end(), normal) != axes.end())
            throw py::value_error("axis=" + text_of(axis) + " names axis " +
                                  std::to_string(normal) + " twice");
        axes.push_back(normal);
    };
    if (PyTuple_Check(axis.ptr()) || PyList_Check(axis.ptr())) {
        for (const py::handle& item : axis) add(item);
        std::sort(axes.begin(), axes.end());
    } else {
        add(axis);
    }
    return axes;
}

void check_same_shape(const Array& a, const char* a_name, const Array& b, const char* b_name) {
    if (a.ndim() == b.ndim() && std::equal(a.shape(), a.shape() + a.ndim(), b.shape())) return;
    throw py::value_error(std::string(a_name) + " has shape " + shape_text(a) + " and " + b_name +
                          " has shape " + shape_text(b) + "; they must be the same");
}

FloatArray new_array(Dtype dtype, int ndim, const npy_intp* shape, const Array* like) {
    return {{new_array_of(descr_of(dtype), ndim, shape, like)}, dtype};
}

py::object result_of(const Array& array) {
    return take(PyArray_Return(reinterpret_cast<PyArrayObject*>(array.owner.inc_ref().ptr())));
}

py::object scalar_of(Dtype dtype, AnyElement& value) {
    PyArray_Descr* const descr = descr_of(dtype);
    PyObject* const scalar = PyArray_Scalar(value.bytes, descr, nullptr);
    Py_DECREF(descr);
    return take(scalar);
}

Array new_int64_array(int ndim, const npy_intp* shape, const Array* like) {
    return {new_array_of(PyArray_DescrFromType(NPY_INT64), ndim, shape, like)};
}

Output::Output(const py::object& out, Dtype dtype, int ndim, const npy_intp* shape,
               const Array& like, std::span<const Array* const> inputs, bool in_place) {
    const Array* order = like.ndim() == ndim ? &like : nullptr;
    if (out.is_none()) {
        target_ = new_array(dtype, ndim, shape, order);
        return;
    }
    if (!PyArray_Check(out.ptr()))
        throw py::type_error("out is of type " + text_of(py::type::of(out).attr("__name__")) +
                             "; it must be a numpy array");
    if (!PyArray_CheckExact(out.ptr())) refuse_masked(out, "out");
    PyArrayObject* a = reinterpret_cast<PyArrayObject*>(out.ptr());
    PyArray_Descr* wanted = descr_of(dtype);
    Dtype out_dtype;
    if (!float_dtype(PyArray_DESCR(a), out_dtype) || out_dtype != dtype) {
        const std::string text = "out has dtype " + text_of((PyObject*)PyArray_DESCR(a)) +
                                 "; it must be " + text_of((PyObject*)wanted);
        Py_DECREF(wanted);
        throw py::type_error(text);
    }
    Py_DECREF(wanted);
    if (PyArray_NDIM(a) != ndim || !std::equal(shape, shape + ndim, PyArray_DIMS(a)))
        throw py::value_error("out has shape " + shape_text(PyArray_NDIM(a), PyArray_DIMS(a)) +
                              "; it must be " + shape_text(ndim, shape));
    if (!PyArray_ISWRITEABLE(a)) throw py::value_error("out is read-only; it must be writeable");
    out_ = out;
    bool direct = directly_usable(a) && !overlaps_itself(a);
    for (const Array* input : inputs) direct = direct && !may_clobber(a, input->get(), in_place);
    if (direct) {
        target_ = {{out}, dtype};
    } else {
        target_ = new_array(dtype, ndim, shape, order);
    }
}

py::object Output::finish() {
    if (!out_) return result_of(target_);
    if (target_.owner.ptr() != out_.ptr() &&
        PyArray_CopyInto(reinterpret_cast<PyArrayObject*>(out_.ptr()), target_.get()) < 0)
        throw py::error_already_set();
    return out_;
}

bool plan_dimensions(std::span<const Array* const> arrays, Order keep, int& ndim,
                     std::ptrdiff_t* size, std::ptrdiff_t (*stride)[max_dims],
                     std::ptrdiff_t* offset) {
    const int operands = static_cast<int>(arrays.size());
    const Array& lead = *arrays[0];
    for (int k = 0; k < operands; ++k) offset[k] = 0;

    int order[max_dims];
    int used = 0;
    for (int d = 0; d < lead.ndim(); ++d) {
        if (lead.shape()[d] == 0) return false;
        if (lead.shape()[d] > 1) order[used++] = d;
    }
    // The dimension of the smallest stride goes innermost; operand 0 decides, then the next.
    if (keep == Order::memory)
        order_dimensions(order, used, [&](int a, int b) {
            for (int k = 0; k < operands; ++k) {
                const std::ptrdiff_t sa = std::abs(arrays[k]->stride(a));
                const std::ptrdiff_t sb = std::abs(arrays[k]->stride(b));
                if (sa != sb) return sa > sb;
            }
            return false;
        });
    ndim = 0;
    for (int i = 0; i < used; ++i) {
        const int d = order[i];
        const std::ptrdiff_t n = lead.shape()[d];
        bool backwards = keep == Order::memory;
        for (int k = 0; k < operands; ++k) backwards = backwards && arrays[k]->stride(d) < 0;
        bool merges = ndim > 0;
        std::ptrdiff_t step[max_dims];
        for (int k = 0; k < operands; ++k) {
            step[k] = backwards ? -arrays[k]->stride(d) : arrays[k]->stride(d);
            if (backwards) offset[k] -= (n - 1) * step[k];
            merges = merges && stride[k][ndim - 1] == n * step[k];
        }
        if (!merges) size[ndim++] = 1;
        size[ndim - 1] *= n;
        for (int k = 0; k < operands; ++k) stride[k][ndim - 1] = step[k];
    }
    if (ndim == 0) {
        ndim = 1;
        size[0] = 1;
        for (int k = 0; k < operands; ++k) stride[k][0] = 1;
    }
    return true;
}

}  // namespace stableops
