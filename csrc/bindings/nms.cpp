#include "../kernels.h"
#include "detection.h"
#include "families.h"
#include "function.h"

namespace stableops {
namespace {

py::object nms(const py::object& boxes, const py::object& scores, const py::object& iou_threshold,
               const py::object& max_output, const py::object& score_threshold) {
    const SuppressionArguments r(boxes, scores, iou_threshold, max_output, score_threshold);
    return r.run([&](std::int64_t* kept, const std::uint32_t* order, std::ptrdiff_t count) {
        return with_dtype(r.boxes.dtype, [&]<class T>(T) {
            return active_kernels().nms.of<T>().nms(kept, box_rows<T>(r.boxes), order, count,
                                                    r.threshold, r.max_output);
        });
    });
}

py::object batched_nms(const py::object& boxes, const py::object& scores, const py::object& idxs,
                       const py::object& iou_threshold, const py::object& max_output,
                       const py::object& score_threshold) {
    const SuppressionArguments r(boxes, scores, iou_threshold, max_output, score_threshold);
    const Array ids = as_class_ids(idxs, r.boxes);
    return r.run([&](std::int64_t* kept, const std::uint32_t* order, std::ptrdiff_t count) {
        return with_dtype(r.boxes.dtype, [&]<class T>(T) {
            return active_kernels().nms.of<T>().batched_nms(kept, box_rows<T>(r.boxes),
                                                            strided<std::int64_t>(ids), order,
                                                            count, r.threshold, r.max_output);
        });
    });
}

}  // namespace

void bind_nms(py::module_& m) {
    def<nms>(m, "nms");
    def<batched_nms>(m, "batched_nms");
}

}  // namespace stableops
