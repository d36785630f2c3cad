#include "packed_weight.h"

#include <limits>

#include "../kernels.h"

namespace stableops {
namespace {

// Set when the module is made; the type lives as long as the module.
PyTypeObject* packed_type = nullptr;

const PackedWeight* as_packed(const py::object& weight) {
    return Py_TYPE(weight.ptr()) == packed_type ? weight.cast<const PackedWeight*>() : nullptr;
}

py::tuple shape_tuple(const std::vector<npy_intp>& shape) {
    py::tuple tuple(shape.size());
    for (std::size_t d = 0; d < shape.size(); ++d) tuple[d] = shape[d];
    return tuple;
}

void make_read_only(const FloatArray& array) {
    PyArray_CLEARFLAGS(array.get(), NPY_ARRAY_WRITEABLE);
}

Conv2dShape sizes_of(const std::vector<npy_intp>& shape, std::ptrdiff_t groups) {
    Conv2dShape sizes{};
    sizes.groups = groups;
    sizes.out_channels = shape[0];
    sizes.in_channels = shape[1] * groups;
    sizes.kernel_h = shape.size() == 4 ? shape[2] : 1;
    sizes.kernel_w = shape.size() == 4 ? shape[3] : 1;
    return sizes;
}

// Whether a weight of this shape is kept in so many elements.
bool fits(const std::vector<npy_intp>& shape, std::ptrdiff_t groups, bool panels,
          std::ptrdiff_t size, Dtype dtype) {
    constexpr std::ptrdiff_t most = std::numeric_limits<std::int32_t>::max();
    if ((shape.size() != 2 && shape.size() != 4) || groups < 1 || groups > most) return false;
    double elements = 1;
    for (const npy_intp extent : shape) {
        if (extent < 0 || extent > most) return false;
        elements *= static_cast<double>(extent);
    }
    const Conv2dShape sizes = sizes_of(shape, groups);
    if (shape[0] % groups != 0 || sizes.kernel_h < 1 || sizes.kernel_w < 1 ||
        elements > static_cast<double>(size) || panels != wants_panels(sizes))
        return false;
    if (!panels) return elements == static_cast<double>(size);
    return size ==
           (dtype == Dtype::float64 ? panels_size<double>(sizes) : panels_size<float>(sizes));
}

}  // namespace

PackedWeight::PackedWeight(const FloatArray& weight, const Conv2dShape& sizes)
    : shape(weight.shape(), weight.shape() + weight.ndim()),
      groups(sizes.groups),
      dtype_object(weight.owner.attr("dtype")),
      dtype(weight.dtype),
      panels(wants_panels(sizes)) {
    if (panels) {
        const bool wide = dtype == Dtype::float64;
        const npy_intp size = wide ? panels_size<double>(sizes) : panels_size<float>(sizes);
        values = new_array(wide ? Dtype::float64 : Dtype::float32, 1, &size);
        with_dtype(dtype, [&]<class T>(T) {
            const auto pack = active_kernels().conv2d.of<T>().pack_weight;
            run_kernel(size,
                       [&] { pack(values.data<Compute<T>>(), weight.data<const T>(), sizes); });
        });
    } else {
        PyObject* copy = PyArray_NewCopy(weight.get(), NPY_CORDER);
        if (copy == nullptr) throw py::error_already_set();
        values = {{py::reinterpret_steal<py::object>(copy)}, dtype};
    }
    make_read_only(values);
}

PackedWeight::PackedWeight(const py::tuple& state) {
    for (const py::handle size : state[0]) shape.push_back(size.cast<npy_intp>());
    groups = state[1].cast<std::ptrdiff_t>();
    dtype_object = py::object(state[2]);
    dtype =
        as_float_array(py::module_::import("numpy").attr("empty")(0, dtype_object), "dtype").dtype;
    panels = state[3].cast<bool>();
    const FloatArray saved = as_float_array(py::object(state[4]), "values");
    const Dtype stored = !panels                   ? dtype
                         : dtype == Dtype::float64 ? Dtype::float64
                                                   : Dtype::float32;
    if (!fits(shape, groups, panels, saved.size(), dtype) || saved.dtype != stored)
        throw py::value_error("this is not the state of a packed weight");
    PyObject* copy = PyArray_NewCopy(saved.get(), NPY_CORDER);
    if (copy == nullptr) throw py::error_already_set();
    values = {{py::reinterpret_steal<py::object>(copy)}, stored};
    make_read_only(values);
}

py::tuple PackedWeight::state() const {
    return py::make_tuple(shape_tuple(shape), groups, dtype_object, panels, values.owner);
}

std::string PackedWeight::text() const {
    return "<packed weight of shape " + shape_text(static_cast<int>(shape.size()), shape.data()) +
           ", " + (shape.size() == 4 ? "groups " + std::to_string(groups) + ", " : "") +
           text_of(dtype_object) + ">";
}

WeightArgument::WeightArgument(const py::object& weight, int ndim, const char* packer)
    : owner_(weight), packed_(as_packed(weight)) {
    if (packed_ == nullptr) {
        array_ = as_float_array(weight, "weight");
        return;
    }
    if (static_cast<int>(packed_->shape.size()) != ndim)
        throw py::type_error("weight is " + packed_->text() + "; an array is allowed, or what " +
                             packer + " returns");
    array_ = packed_->values;
    array_.dtype = packed_->dtype;
}

std::ptrdiff_t WeightArgument::stride(int axis) const {
    if (!packed_) return array_.stride(axis);
    std::ptrdiff_t stride = 1;
    for (std::size_t d = packed_->shape.size() - 1; d > static_cast<std::size_t>(axis); --d)
        stride *= packed_->shape[d];
    return stride;
}

void WeightArgument::cast(Dtype dtype) {
    if (!packed_) return cast_to(array_, dtype);
    if (dtype != packed_->dtype)
        throw py::type_error("weight is " + packed_->text() +
                             ", and the other arrays make the result another dtype; pack the "
                             "weight in that dtype");
}

FloatArray unpacked_weight(const py::object& weight, const char* function) {
    if (const PackedWeight* packed = as_packed(weight))
        throw py::type_error("weight is " + packed->text() + "; " + function +
                             " takes the array that it was packed from");
    return as_float_array(weight, "weight");
}

void bind_packed_weight(py::module_& m) {
    // A plain type, as the stub says.
    py::class_<PackedWeight> type(m, "PackedWeight",
                                  py::metaclass(reinterpret_cast<PyObject*>(&PyType_Type)));
    packed_type = reinterpret_cast<PyTypeObject*>(type.ptr());
    // What Python makes without content would be no weight.
    packed_type->tp_new = nullptr;
    type.def_property_readonly("shape", [](const PackedWeight& w) { return shape_tuple(w.shape); })
        .def_property_readonly("groups", [](const PackedWeight& w) { return w.groups; })
        .def_property_readonly("dtype", [](const PackedWeight& w) { return w.dtype_object; })
        .def_property_readonly("nbytes",
                               [](const PackedWeight& w) { return w.values.owner.attr("nbytes"); })
        .def_property_readonly("state", &PackedWeight::state)
        .def("__repr__", &PackedWeight::text);
    m.def("packed_weight_of", [](const py::tuple& state) { return PackedWeight(state); });
}

}  // namespace stableops
