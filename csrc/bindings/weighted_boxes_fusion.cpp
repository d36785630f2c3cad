#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../kernels.h"
#include "detection.h"
#include "families.h"
#include "function.h"

namespace stableops {
namespace {

constexpr std::int64_t most_models = std::int64_t{1} << 24;

// One weight a model: `weights`, or 1 for each model that `model` names.
std::vector<double> model_weights(const py::object& weights_object,
                                  const Strided<std::int64_t>& model) {
    std::vector<double> weights;
    if (weights_object.is_none()) {
        std::int64_t last = 0;
        for (std::ptrdiff_t i = 0; i < model.count; ++i)
            last = std::max(last, model.data[i * model.stride]);
        if (last >= most_models)
            throw py::value_error("model has the id " + std::to_string(last) + "; at most " +
                                  std::to_string(most_models - 1) + " is allowed");
        weights.assign(static_cast<std::size_t>(last) + 1, 1.0);
        return weights;
    }
    FloatArray array = as_float_array(weights_object, "weights");
    if (array.ndim() != 1 || array.size() == 0)
        throw py::value_error("weights has shape " + shape_text(array) +
                              "; it must be (number of models,), at least one");
    cast_to(array, Dtype::float64);
    for (std::ptrdiff_t i = 0; i < array.size(); ++i) {
        const double weight = array.data<double>()[i * array.stride(0)];
        if (!(weight >= 0 && std::isfinite(weight)))
            throw py::value_error("weights[" + std::to_string(i) + "] is " +
                                  text_of(py::float_(weight)) +
                                  "; weights must be finite and not negative");
        weights.push_back(weight);
    }
    if (*std::max_element(weights.begin(), weights.end()) == 0)
        throw py::value_error("weights are all 0; at least one must be positive");
    return weights;
}

py::object weighted_boxes_fusion(const py::object& boxes_object, const py::object& scores_object,
                                 const py::object& idxs, const py::object& model_object,
                                 const py::object& iou_threshold, const py::object& skip_threshold,
                                 const py::object& weights_object, const py::object& conf_type,
                                 bool allows_overflow) {
    FloatArray boxes = as_boxes(boxes_object, "boxes");
    FloatArray scores = as_scores(scores_object, boxes);
    const Array classes = as_class_ids(idxs, boxes);
    const std::int64_t only_model = 0;
    Strided<std::int64_t> model = {&only_model, boxes.shape()[0], 0};
    Array model_array;
    if (!model_object.is_none()) {
        model_array = as_int64_array(model_object, "model");
        check_length(model_array, "model", boxes);
        model = strided<std::int64_t>(model_array);
    }
    const std::vector<double> weights = model_weights(weights_object, model);
    for (std::ptrdiff_t i = 0; i < model.count; ++i) {
        const std::int64_t id = model.data[i * model.stride];
        if (id < 0 || id >= static_cast<std::int64_t>(weights.size()))
            throw py::value_error("model[" + std::to_string(i) + "] is " + std::to_string(id) +
                                  "; it must be in [0, " + std::to_string(weights.size()) + ")");
    }
    double weight_sum = 0;
    for (const double weight : weights) weight_sum += weight;
    const FusionOptions options = {
        .iou_threshold = number_in(iou_threshold, "iou_threshold", 0.0, 1.0),
        .minimum =
            number_in(skip_threshold, "skip_threshold", 0.0, std::numeric_limits<double>::max()),
        .confidence = choice<FusedConfidence>(
            conf_type, "conf_type", {"avg", "max", "box_and_model_avg", "absent_model_aware_avg"}),
        .allows_overflow = allows_overflow,
        .weights = weights.data(),
        .models = static_cast<std::ptrdiff_t>(weights.size()),
        .weight_sum = weight_sum,
        .weight_max = *std::max_element(weights.begin(), weights.end()),
    };
    const Dtype box_dtype = boxes.dtype;
    const Dtype score_dtype = scores.dtype;
    cast_to(boxes, Dtype::float64);
    cast_to(scores, Dtype::float64);

    const std::ptrdiff_t n = boxes.shape()[0];
    const Block block(static_cast<std::size_t>(n) * 6 * sizeof(double));
    double* fused = block.as<double>();
    double* fused_scores = fused + 4 * n;
    std::int64_t* fused_classes = reinterpret_cast<std::int64_t*>(fused_scores + n);
    std::ptrdiff_t count = 0;
    run_kernel(64 * n, [&] {
        count = active_kernels().weighted_boxes_fusion.weighted_boxes_fusion(
            fused, fused_scores, fused_classes, box_rows<double>(boxes), strided<double>(scores),
            strided<std::int64_t>(classes), model, options);
    });
    const npy_intp shape[] = {count, 4};
    FloatArray result = new_array(Dtype::float64, 2, shape);
    FloatArray result_scores = new_array(Dtype::float64, 1, shape);
    std::copy(fused, fused + 4 * count, result.data<double>());
    std::copy(fused_scores, fused_scores + count, result_scores.data<double>());
    cast_to(result, box_dtype);
    cast_to(result_scores, score_dtype);
    return py::make_tuple(result.owner, result_scores.owner,
                          int64_vector(fused_classes, count).owner);
}

}  // namespace

void bind_weighted_boxes_fusion(py::module_& m) {
    def<weighted_boxes_fusion>(m, "weighted_boxes_fusion");
}

}  // namespace stableops
