#include "../kernels.h"
#include "detection.h"
#include "families.h"
#include "function.h"

namespace stableops {
namespace {

py::object box_iou_rotated(const py::object& boxes1, const py::object& boxes2) {
    FloatArray a = as_boxes(boxes1, "boxes1", 5);
    FloatArray b = as_boxes(boxes2, "boxes2", 5);
    const FloatArray* const both[] = {&a, &b};
    const Dtype dtype = promoted(both);
    cast_to(a, dtype);
    cast_to(b, dtype);
    const npy_intp shape[] = {a.shape()[0], b.shape()[0]};
    FloatArray iou = new_array(dtype, 2, shape);
    with_dtype(dtype, [&]<class T>(T) {
        const auto kernel = active_kernels().boxes_rotated.of<T>().box_iou_rotated;
        run_kernel(64 * iou.size(), [&] { kernel(iou.data<T>(), box_rows<T>(a), box_rows<T>(b)); });
    });
    return iou.owner;
}

py::object nms_rotated(const py::object& boxes, const py::object& scores,
                       const py::object& iou_threshold, const py::object& max_output,
                       const py::object& score_threshold) {
    const SuppressionArguments r(boxes, scores, iou_threshold, max_output, score_threshold, 5);
    return r.run([&](std::int64_t* kept, const std::uint32_t* order, std::ptrdiff_t count) {
        return with_dtype(r.boxes.dtype, [&]<class T>(T) {
            return active_kernels().boxes_rotated.of<T>().nms_rotated(
                kept, box_rows<T>(r.boxes), order, count, r.threshold, r.max_output);
        });
    });
}

}  // namespace

void bind_boxes_rotated(py::module_& m) {
    def<box_iou_rotated>(m, "box_iou_rotated");
    def<nms_rotated>(m, "nms_rotated");
}

}  // namespace stableops
