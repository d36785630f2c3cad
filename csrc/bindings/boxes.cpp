#include "../kernels.h"
#include "detection.h"
#include "families.h"
#include "function.h"

namespace stableops {
namespace {

// Boxes of shape (..., 4) as rows: a view where the strides allow it.
FloatArray as_box_rows(const py::object& x, FloatArray& shaped) {
    shaped = as_float_array(x, "boxes");
    if (shaped.ndim() == 0 || shaped.shape()[shaped.ndim() - 1] != 4)
        throw py::value_error("boxes has shape " + shape_text(shaped) + "; it must be (..., 4)");
    if (shaped.ndim() == 2) return shaped;
    npy_intp rows_shape[] = {shaped.size() / 4, 4};
    PyArray_Dims dims = {rows_shape, 2};
    PyObject* rows = PyArray_Newshape(shaped.get(), &dims, NPY_CORDER);
    if (rows == nullptr) throw py::error_already_set();
    return {{py::reinterpret_steal<py::object>(rows)}, shaped.dtype};
}

py::object box_area(const py::object& boxes_object) {
    FloatArray shaped;
    const FloatArray boxes = as_box_rows(boxes_object, shaped);
    FloatArray area = new_array(boxes.dtype, shaped.ndim() - 1, shaped.shape());
    with_dtype(boxes.dtype, [&]<class T>(T) {
        const auto kernel = active_kernels().boxes.of<T>().box_area;
        run_kernel(boxes.size(), [&] { kernel(area.data<T>(), box_rows<T>(boxes)); });
    });
    return result_of(area);
}

BoxFormat format_of(const py::object& value, const char* name) {
    return choice<BoxFormat>(value, name, {"xyxy", "xywh", "cxcywh"});
}

py::object box_convert(const py::object& boxes_object, const py::object& in_fmt,
                       const py::object& out_fmt) {
    const BoxFormat from = format_of(in_fmt, "in_fmt");
    const BoxFormat to = format_of(out_fmt, "out_fmt");
    FloatArray shaped;
    const FloatArray boxes = as_box_rows(boxes_object, shaped);
    FloatArray converted = new_array(boxes.dtype, shaped.ndim(), shaped.shape());
    with_dtype(boxes.dtype, [&]<class T>(T) {
        const auto kernel = active_kernels().boxes.of<T>().box_convert;
        run_kernel(boxes.size(),
                   [&] { kernel(converted.data<T>(), box_rows<T>(boxes), from, to); });
    });
    return converted.owner;
}

// An (N, M) array of what the selected kernel says of N and M boxes.
template <auto select>
py::object pairwise(const py::object& boxes1, const py::object& boxes2) {
    FloatArray a = as_boxes(boxes1, "boxes1");
    FloatArray b = as_boxes(boxes2, "boxes2");
    const FloatArray* const both[] = {&a, &b};
    const Dtype dtype = promoted(both);
    cast_to(a, dtype);
    cast_to(b, dtype);
    const npy_intp shape[] = {a.shape()[0], b.shape()[0]};
    FloatArray measures = new_array(dtype, 2, shape);
    with_dtype(dtype, [&]<class T>(T) {
        const auto kernel = select(active_kernels().boxes.of<T>());
        run_kernel(measures.size(),
                   [&] { kernel(measures.data<T>(), box_rows<T>(a), box_rows<T>(b)); });
    });
    return measures.owner;
}

}  // namespace

void bind_boxes(py::module_& m) {
    def<box_area>(m, "box_area");
    def<box_convert>(m, "box_convert");
    def<pairwise<[](const auto& f) { return f.box_iou; }>>(m, "box_iou");
    def<pairwise<[](const auto& f) { return f.generalized_box_iou; }>>(m, "generalized_box_iou");
    def<pairwise<[](const auto& f) { return f.distance_box_iou; }>>(m, "distance_box_iou");
    def<pairwise<[](const auto& f) { return f.complete_box_iou; }>>(m, "complete_box_iou");
}

}  // namespace stableops
