#pragma once
// softmax_cross_entropy(linear(x, W, b), labels) and its gradients, without the logits in memory.
//
// Tokens are taken in chunks whose logits fit `logits_bytes`, by the kernels of the two operations
// (conv2d.h, softmax_cross_entropy.h): logits, then losses and, in place of the logits, their
// gradients G, then
//
//     grad_x = G W,   grad_W += G^T x,   grad_b += sum of G over the chunk's tokens
//
// so nothing is computed twice: 2 N D V multiply-adds for the loss of N tokens, D features and V
// classes, 6 N D V with all gradients. W is read once a chunk for the logits and once for grad_x,
// and grad_W is read and written. Losses and grad_x of a token have the bits that
// the two operations give it. grad_W and grad_b are sums over chunks, in order, of what
// linear_backward gives for a chunk; chunks depend on V alone.
#include "../kernels.h"
#include "../linear_cross_entropy_plan.h"
#include "softmax_cross_entropy.h"

namespace stableops {

constexpr std::ptrdiff_t logits_bytes = std::ptrdiff_t{48} << 20;
// A segment of grad_weight (conv_weight_grad.h), and a whole number of its chains.
constexpr std::ptrdiff_t most_tokens = 4096;
constexpr std::ptrdiff_t chain_tokens = 128;

template <class Isa, class C>
std::ptrdiff_t chunk_tokens(std::ptrdiff_t classes) {
    const std::ptrdiff_t fit = logits_bytes / static_cast<std::ptrdiff_t>(sizeof(C)) / classes;
    if (fit >= most_tokens) return most_tokens;
    return fit >= chain_tokens ? fit / chain_tokens * chain_tokens
                               : larger<Isa, std::ptrdiff_t>(fit, 1);
}

template <class Isa, class C>
void add_or_copy(C* to, const C* from, std::ptrdiff_t n, bool add) {
    for_each_vec<Isa, Vec<Isa, C>::size>(n, [&](std::ptrdiff_t i, auto lanes) {
        const Vec<Isa, C> v = load<Isa>(from + i, lanes);
        store(to + i, add ? load<Isa>(to + i, lanes) + v : v, lanes);
    });
}

template <class Isa, class C>
void linear_cross_entropy(const LinearCrossEntropyArguments& a, const Conv2dKernels<C>& layer,
                          double scale = 1) {
    using P = Pair<Isa>;
    constexpr std::ptrdiff_t size = sizeof(C);
    const bool wants_grad = a.grad_x || a.grad_weight || a.grad_bias;
    const std::ptrdiff_t chunk =
        smaller<Isa>(chunk_tokens<Isa, C>(a.classes), larger<Isa, std::ptrdiff_t>(a.tokens, 1));
    const SharedBlock<Isa> logits_block(static_cast<std::size_t>(chunk * a.classes * size));
    C* logits = static_cast<C*>(logits_block.data);
    const SharedBlock<Isa> bias_block(static_cast<std::size_t>(a.grad_bias ? a.classes * size : 1));
    C* bias_part = static_cast<C*>(bias_block.data);
    const bool reduced = a.reduction != Reduction::none;
    const SharedBlock<Isa> loss_block(2 * sizeof(double) *
                                      static_cast<std::size_t>(reduced ? a.tokens + 1 : 1));
    double* hi = static_cast<double*>(loss_block.data);
    double* lo = hi + a.tokens;

    Conv2dShape sizes{};
    sizes.batch = sizes.in_h = sizes.out_h = 1;
    sizes.in_channels = a.features;
    sizes.out_channels = a.classes;
    sizes.kernel_h = sizes.kernel_w = sizes.stride_h = sizes.stride_w = 1;
    sizes.dilation_h = sizes.dilation_w = sizes.groups = 1;
    sizes.y = {0, 1, 0, a.classes};
    sizes.bias = a.bias_stride;

    RowShape shape{};
    shape.kept_ndim = shape.reduced_ndim = 1;
    shape.rows = shape.kept_size[0] = a.tokens;
    shape.cols = shape.reduced_size[0] = a.classes;
    RowOperand rows{};
    rows.data = static_cast<char*>(logits_block.data);
    rows.type = storage_of<C>;
    rows.kept_stride[0] = a.classes * size;
    rows.reduced_stride[0] = size;
    RowOperand losses{};
    losses.data = static_cast<char*>(a.losses);
    losses.type = storage_of<C>;
    losses.kept_stride[0] = reduced ? 0 : size;
    CrossEntropyArguments loss_arguments{};
    loss_arguments.shape = &shape;
    loss_arguments.x = rows;
    loss_arguments.indices = a.indices;
    loss_arguments.ignore_index = a.ignore_index;
    loss_arguments.smoothing = a.smoothing;
    loss_arguments.reduction = a.reduction;
    loss_arguments.losses = losses;
    loss_arguments.grad = wants_grad ? &rows : nullptr;
    const CrossEntropy<Isa, C> loss{loss_arguments, scale};
    const P divisor = loss.divisor();
    const P gradient_scale = div(splat<Isa>(1, 0), divisor);

    const C* weight = static_cast<const C*>(a.weight.data);
    for (std::ptrdiff_t first = 0; first < a.tokens; first += chunk) {
        const std::ptrdiff_t count = smaller<Isa>(chunk, a.tokens - first);
        const C* x = static_cast<const C*>(a.x.data) + first * a.x.row;
        const Strides4 x_stride{0, a.x.column, 0, a.x.row};
        const Strides4 weight_stride{a.weight.row, a.weight.column, 0, 0};
        sizes.in_w = sizes.out_w = count;
        sizes.x = x_stride;
        sizes.weight = weight_stride;
        layer.conv2d(logits, x, weight, nullptr, static_cast<const C*>(a.bias), sizes);

        shape.rows = shape.kept_size[0] = count;
        loss_arguments.indices = a.indices + first;
        if (!reduced) loss_arguments.losses.data = losses.data + first * size;
        loss.run_rows(gradient_scale, reduced ? LossSlab{hi + first, lo + first, 0} : LossSlab{}, 0,
                      count);

        if (a.grad_x) {
            sizes.x = {0, 1, 0, a.features};
            layer.grad_input(static_cast<C*>(a.grad_x) + first * a.features, logits, weight,
                             nullptr, sizes);
            sizes.x = x_stride;
        }
        if (a.grad_weight) {
            sizes.weight = {a.features, 1, 0, 0};
            layer.grad_weight(static_cast<C*>(a.grad_weight), logits, x, sizes, first > 0);
        }
        if (a.grad_bias) {
            sizes.bias = 1;
            layer.grad_bias(bias_part, logits, sizes);
            sizes.bias = a.bias_stride;
            add_or_copy<Isa>(static_cast<C*>(a.grad_bias), bias_part, a.classes, first > 0);
        }
    }
    if (!reduced) return;
    P total = splat<Isa>(0, 0);
    for (std::ptrdiff_t b = 0; b < a.tokens; b += sum_block)
        total = plus(total, CrossEntropy<Isa, C>::sum_of(hi + b, lo + b,
                                                         smaller<Isa>(sum_block, a.tokens - b)));
    if (loss.overflows(total, divisor)) return linear_cross_entropy<Isa, C>(a, layer, rescue_scale);
    *static_cast<C*>(a.losses) = loss.reduced(total, divisor);
}

}  // namespace stableops
