#pragma once
// The typed table between bindings and kernels: one pointer per operation and pass, per storage
// type and SIMD level. Kernels trust their arguments; the bindings have checked them.
#include <cstddef>
#include <cstdint>

#include "conv2d_shape.h"
#include "cross_entropy_plan.h"
#include "detection.h"
#include "dtypes.h"
#include "elementwise_plan.h"
#include "isa/levels.h"
#include "norm_plan.h"
#include "pool2d_shape.h"
#include "reduction.h"
#include "resize_shape.h"
#include "row_plan.h"

namespace stableops {

struct LinearCrossEntropyArguments;

template <Storage T>
struct ElementwiseKernels {
    void (*relu)(const ElementwisePlan<2>& plan, T* y, const T* x);
    void (*relu_backward)(const ElementwisePlan<3>& plan, T* grad_x, const T* grad_y, const T* y);
    void (*sigmoid)(const ElementwisePlan<2>& plan, T* y, const T* x);
    void (*sigmoid_backward)(const ElementwisePlan<3>& plan, T* grad_x, const T* grad_y,
                             const T* y);
    void (*log_sigmoid)(const ElementwisePlan<2>& plan, T* y, const T* x);
    void (*log_sigmoid_backward)(const ElementwisePlan<3>& plan, T* grad_x, const T* grad_y,
                                 const T* x);
    void (*softplus)(const ElementwisePlan<2>& plan, T* y, const T* x);
    void (*softplus_backward)(const ElementwisePlan<3>& plan, T* grad_x, const T* grad_y,
                              const T* x);
    void (*leaky_relu)(const ElementwisePlan<2>& plan, T* y, const T* x, double negative_slope);
    void (*leaky_relu_backward)(const ElementwisePlan<3>& plan, T* grad_x, const T* grad_y,
                                const T* x, double negative_slope);
    void (*prelu)(const ElementwisePlan<3>& plan, T* y, const T* x, const T* weight);
    void (*prelu_backward)(const ElementwisePlan<4>& plan, T* grad_x, const T* grad_y, const T* x,
                           const T* weight);
    // mask: booleans, in bytes.
    void (*dropout)(const ElementwisePlan<3>& plan, T* y, const T* x, const std::uint8_t* mask,
                    double scale);
};

// Loss and gradient in one pass; ops/sigmoid_cross_entropy.h tells what may be null.
template <Storage T>
struct SigmoidCrossEntropyKernels {
    void (*sigmoid_cross_entropy)(const ElementwisePlan<6>& plan, T* loss, T* grad, LongSum* sums,
                                  const T* logits, const T* labels, const T* weight,
                                  const T* pos_weight, bool negatives, Reduction reduction);
};

// Arrays start at element (0, 0, 0, 0). `bias` may be null; that of grad_input, which a transposed
// convolution has, is added to grad_x. Linear layers are convolutions too: their
// rows are the pixels, their features the channels of a 1x1 kernel.
template <Storage T>
struct Conv2dKernels {
    // panels: panels_size<Compute<T>>(shape) elements.
    void (*pack_weight)(Compute<T>* panels, const T* weight, const Conv2dShape& shape);
    // Either weight or panels is null.
    void (*conv2d)(T* y, const T* x, const T* weight, const Compute<T>* panels, const T* bias,
                   const Conv2dShape& shape);
    void (*grad_input)(T* grad_x, const T* grad_y, const T* weight, const T* bias,
                       const Conv2dShape& shape);
    // add: to what is there, whose rows must be contiguous.
    void (*grad_weight)(T* grad_weight, const T* grad_y, const T* x, const Conv2dShape& shape,
                        bool add);
    void (*grad_bias)(T* grad_bias, const T* grad_y, const Conv2dShape& shape);
};

// Candidates are positions in boxes and scores; 32 bits hold them (the bindings refuse more).
template <Storage T>
struct NmsKernels {
    std::ptrdiff_t (*descending_order)(std::uint32_t* order, Strided<T> scores, ScoreCut cut);
    std::ptrdiff_t (*nms)(std::int64_t* kept, BoxRows<T> boxes, const std::uint32_t* order,
                          std::ptrdiff_t count, double threshold, std::ptrdiff_t max_output);
    std::ptrdiff_t (*batched_nms)(std::int64_t* kept, BoxRows<T> boxes,
                                  Strided<std::int64_t> classes, const std::uint32_t* order,
                                  std::ptrdiff_t count, double threshold,
                                  std::ptrdiff_t max_output);
};

template <Storage T>
struct SoftNmsKernels {
    std::ptrdiff_t (*soft_nms)(std::int64_t* indices, double* decayed_scores, BoxRows<T> boxes,
                               const double* scores, const std::uint32_t* order,
                               std::ptrdiff_t count, const SoftNmsOptions& options);
};

template <Storage T>
struct BoxesRotatedKernels {
    void (*box_iou_rotated)(T* iou, BoxRows<T> a, BoxRows<T> b);
    std::ptrdiff_t (*nms_rotated)(std::int64_t* kept, BoxRows<T> boxes, const std::uint32_t* order,
                                  std::ptrdiff_t count, double threshold,
                                  std::ptrdiff_t max_output);
};

struct WeightedBoxesFusionKernels {
    std::ptrdiff_t (*weighted_boxes_fusion)(double* fused_boxes, double* fused_scores,
                                            std::int64_t* fused_classes, BoxRows<double> boxes,
                                            Strided<double> scores, Strided<std::int64_t> classes,
                                            Strided<std::int64_t> models,
                                            const FusionOptions& options);
};

template <Storage T>
struct BoxesKernels {
    // Rows of four elements, or one element a row.
    void (*box_area)(T* area, BoxRows<T> boxes);
    void (*box_convert)(T* converted, BoxRows<T> boxes, BoxFormat from, BoxFormat to);
    // An element for every row of a and b, those of b next to each other.
    void (*box_iou)(T* measures, BoxRows<T> a, BoxRows<T> b);
    void (*generalized_box_iou)(T* measures, BoxRows<T> a, BoxRows<T> b);
    void (*distance_box_iou)(T* measures, BoxRows<T> a, BoxRows<T> b);
    void (*complete_box_iou)(T* measures, BoxRows<T> a, BoxRows<T> b);
};

// Results are contiguous in the order that shape.channels_last names; strides are those of inputs.
template <Storage T>
struct Pool2dKernels {
    // indices may be nullptr: not wanted.
    void (*max_pool2d)(const Pool2dShape& shape, T* y, std::int64_t* indices, const T* x,
                       const ImageStrides& stride);
    // The flat position, in (N, C, H, W) order, of the first index outside the image, or -1;
    // grad_x is of no use then.
    std::ptrdiff_t (*max_pool2d_backward)(const Pool2dShape& shape, T* grad_x, const T* grad_y,
                                          const ImageStrides& grad_stride,
                                          const std::int64_t* indices,
                                          const ImageStrides& index_stride);
    void (*avg_pool2d)(const Pool2dShape& shape, const AvgPool2dRule& rule, T* y, const T* x,
                       const ImageStrides& stride);
    void (*avg_pool2d_backward)(const Pool2dShape& shape, const AvgPool2dRule& rule, T* grad_x,
                                const T* grad_y, const ImageStrides& stride);
};

template <Storage T>
struct InterpolateKernels {
    void (*nearest)(T* y, const T* x, const ResizeShape& shape);
    void (*nearest_backward)(T* grad_x, const T* grad_y, const ResizeShape& shape);
    void (*bilinear)(T* y, const T* x, const ResizeShape& shape);
    void (*bilinear_backward)(T* grad_x, const T* grad_y, const ResizeShape& shape);
};

// Maxima of integers are taken in integers.
struct IntegerPool2dKernels {
    void (*max_pool2d)(const Pool2dShape& shape, std::int64_t* y, std::int64_t* indices,
                       const std::int64_t* x, const ImageStrides& stride);
};

// One family of kernels for every storage type.
template <template <Storage> class Family>
struct PerDtype {
    Family<double> float64;
    Family<float> float32;
    Family<float16> half;
    Family<bfloat16> brain;

    template <Storage T>
    const Family<T>& of() const {
        if constexpr (std::is_same_v<T, double>) {
            return float64;
        } else if constexpr (std::is_same_v<T, float>) {
            return float32;
        } else if constexpr (std::is_same_v<T, float16>) {
            return half;
        } else {
            return brain;
        }
    }
};

// Reductions over rows. An operand carries its storage type, so there is one kernel for float64 and
// one for everything that is computed in float32. The output may be an input itself.
struct SoftmaxKernels {
    // mask: booleans, or nullptr.
    void (*softmax)(const RowShape& shape, const RowOperand& y, const RowOperand& x,
                    const RowOperand* mask);
    void (*log_softmax)(const RowShape& shape, const RowOperand& y, const RowOperand& x,
                        const RowOperand* mask);
    void (*softmax_backward)(const RowShape& shape, const RowOperand& grad_x,
                             const RowOperand& grad_y, const RowOperand& y);
    void (*log_softmax_backward)(const RowShape& shape, const RowOperand& grad_x,
                                 const RowOperand& grad_y, const RowOperand& y);
};

struct LogSumExpKernels {
    // y and sign have one value a row. sign may be nullptr; b are weights (or booleans), or
    // nullptr.
    void (*logsumexp)(const RowShape& shape, const RowOperand& y, const RowOperand* sign,
                      const RowOperand& x, const RowOperand* b);
    void (*logsumexp_backward)(const RowShape& shape, const RowOperand& grad_x,
                               const RowOperand& grad_y, const RowOperand& x);
};

struct CrossEntropyKernels {
    void (*softmax_cross_entropy)(const CrossEntropyArguments& arguments);
    void (*linear_cross_entropy)(const LinearCrossEntropyArguments& arguments);
};

// mean, rstd and variance have a value a row, in the order (sample, group). The result may not be
// an input.
struct NormKernels {
    // Statistics of the rows, and y = (x - mean) rstd weight + bias. variance (biased) may be
    // nullptr.
    void (*normalize)(const NormShape& shape, const NormOperand& y, const NormOperand& x,
                      const NormAffine& affine, double eps, double* mean, double* rstd,
                      double* variance);
    // The same with known statistics, for one sample.
    void (*transform)(const NormShape& shape, const NormOperand& y, const NormOperand& x,
                      const NormAffine& affine, double eps, const double* mean,
                      const double* variance);
    // Gradients through normalize, or (constant) through transform. grad_x may be nullptr, and
    // grad_weight and grad_bias, which have affine.count elements.
    void (*backward)(const NormShape& shape, const NormOperand* grad_x, const NormOperand& grad_y,
                     const NormOperand& x, const NormAffine& affine, const double* mean,
                     const double* rstd, bool constant, double* grad_weight, double* grad_bias);
    // The sum of grad_y x over the elements of each row that are not positive: prelu's grad_weight.
    void (*negative_sums)(const NormShape& shape, const NormOperand& grad_y, const NormOperand& x,
                          double* sums);
    // running += momentum (factor statistic - running).
    void (*update_running)(std::ptrdiff_t count, double* running, const double* statistic,
                           double factor, double momentum);
    // Windows along the groups.
    void (*local_response_norm)(const NormShape& shape, const NormOperand& y, const NormOperand& x,
                                const LocalResponse& rule);
    void (*local_response_norm_backward)(const NormShape& shape, const NormOperand& grad_x,
                                         const NormOperand& grad_y, const NormOperand& x,
                                         const LocalResponse& rule);
};

// One family of row kernels for each type that is computed in.
template <class Family>
struct PerCompute {
    Family float64;
    Family float32;
};

// The kernels of one family at one level, defined in isa/<family>.cpp and constant-initialised:
// nothing compiled for a level may run before the CPU has been asked for it.
template <class Isa, class Family>
struct KernelTable {
    static const Family kernels;
};

struct Kernels {
    const char* level;
    const PerDtype<ElementwiseKernels>& elementwise;
    const PerDtype<SigmoidCrossEntropyKernels>& sigmoid_cross_entropy;
    const PerCompute<SoftmaxKernels>& softmax;
    const PerCompute<LogSumExpKernels>& logsumexp;
    const PerCompute<CrossEntropyKernels>& softmax_cross_entropy;
    const PerDtype<Conv2dKernels>& conv2d;
    const PerDtype<NmsKernels>& nms;
    const PerDtype<BoxesKernels>& boxes;
    const PerDtype<SoftNmsKernels>& soft_nms;
    const PerDtype<BoxesRotatedKernels>& boxes_rotated;
    const WeightedBoxesFusionKernels& weighted_boxes_fusion;
    const PerDtype<Pool2dKernels>& pool2d;
    const IntegerPool2dKernels& integer_pool2d;
    const PerCompute<NormKernels>& norm;
    const PerDtype<InterpolateKernels>& interpolate;
};

// The table in use: the best level of this CPU, or the one that STABLEOPS_ISA names.
// Throws std::invalid_argument on first use if STABLEOPS_ISA names none that can run here.
const Kernels& active_kernels();

// The levels that this build has and this CPU runs, lowest first; returns how many.
int available_levels(const char* names[], int capacity);

// Switches to a level by name; false if there is none of that name here.
bool set_active_level(const char* name);

}  // namespace stableops
