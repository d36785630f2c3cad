#pragma once
// A correlation of images with a bank of filters: what conv2d is, and what the gradient of its
// input is once the roles of the channels are exchanged. Terms in the order (input channel, tap
// row, tap column), canonical sums (gemm.h), then the bias and store_output. Four forms compute it,
// with the same bits:
//
//   conv_streamed.h       packs nothing: few pixels, weights whose channels or terms are contiguous
//   conv_channel_lanes.h  packs the weights: large layers
//   conv_pixel_lanes.h    packs the patches: 1x1 layers
//   conv_direct.h         packs nothing: few channels
#include "conv_patches.h"

namespace stableops {

template <class T>
struct Correlation {
    Axis h, w;
    std::ptrdiff_t images, in_channels, out_channels;
    const T* x;
    Strides4 x_stride;
    // Lanes: output channels. Terms: input channel, tap row, tap column.
    TermMatrix<T> weight;
    // Or not null: the same as packed panels (conv2d_shape.h), and weight.data is null.
    const Compute<T>* panels;
    const T* bias;
    std::ptrdiff_t bias_stride;
    T* y;
    Strides4 y_stride;
    // Places outside x: zeros, or (true) no terms at all, which differs where a weight is not
    // finite.
    bool outside_is_nothing;
    // None where outside_is_nothing.
    Epilogue epilogue{};

    [[gnu::always_inline]] inline std::ptrdiff_t terms() const {
        return in_channels * h.taps * w.taps;
    }
    // Term 0 of an output channel in the panels.
    [[gnu::always_inline]] inline const Compute<T>* panel_of(std::ptrdiff_t channel) const {
        constexpr std::ptrdiff_t lanes = panel_lanes<Compute<T>>;
        return panels + channel / lanes * lanes * terms() + channel % lanes;
    }
};

// A task's share: images [n, n + images) and so on.
struct Block {
    std::ptrdiff_t n, h, w, k;
    std::ptrdiff_t images, rows, columns, channels;
};

template <class C>
[[gnu::always_inline]] inline C* carve(char*& scratch, std::ptrdiff_t elements) {
    C* part = reinterpret_cast<C*>(scratch);
    scratch += (elements * static_cast<std::ptrdiff_t>(sizeof(C)) + 63) / 64 * 64;
    return part;
}

template <class Isa, class C>
[[gnu::always_inline]] inline C fma_one(C a, C b, C c) {
    if constexpr (sizeof(C) == 4) {
        return __builtin_fmaf(a, b, c);
    } else {
        return __builtin_fma(a, b, c);
    }
}

template <class Isa, class T>
Compute<T> widen_one(const T* p) {
    return load<Isa>(p, FirstLanes{1})[0];
}

// The last step of every form: what a lane holds of the sum and the bias, to y.
template <class Isa, class T, class Lanes>
[[gnu::always_inline]] inline void store_output(T* y, Vec<Isa, Compute<T>> v, Epilogue epilogue,
                                                Lanes lanes) {
    using V = Vec<Isa, Compute<T>>;
    if (epilogue.add) {
        if constexpr (!std::is_same_v<T, Compute<T>>) {
            T rounded[V::size];
            store(rounded, v, AllLanes{});
            v = load<Isa>(rounded, AllLanes{});
        }
        v = load<Isa>(y, lanes) + v;
    }
    if (epilogue.rectify) v = select(v <= V::zero(), V::zero(), v);
    store(y, v, lanes);
}

// The same, to places `step` apart.
template <class Isa, class T>
[[gnu::always_inline]] inline void store_output(T* y, std::ptrdiff_t step, Vec<Isa, Compute<T>> v,
                                                Epilogue epilogue, FirstLanes lanes) {
    if (step == 1) {
        store_output<Isa>(y, v, epilogue, lanes);
        return;
    }
    T line[Vec<Isa, Compute<T>>::size] = {};
    if (epilogue.add)
        for (int i = 0; i < lanes.count; ++i) line[i] = y[i * step];
    store_output<Isa>(line, v, epilogue, AllLanes{});
    for (int i = 0; i < lanes.count; ++i) y[i * step] = line[i];
}

template <class Isa, class T>
bool all_finite(const TermMatrix<T>& m, std::ptrdiff_t lane, std::ptrdiff_t lanes) {
    for (std::ptrdiff_t k = lane; k < lane + lanes; ++k)
        for (std::ptrdiff_t a = 0; a < m.count[0]; ++a)
            for (std::ptrdiff_t b = 0; b < m.count[1]; ++b)
                for (std::ptrdiff_t c = 0; c < m.count[2]; ++c)
                    if (widen_one<Isa>(m.data + k * m.lane_stride + a * m.stride[0] +
                                       b * m.stride[1] + c * m.stride[2]) *
                            0 !=
                        0)
                        return false;
    return true;
}

// The outputs of a block that reach outside x, again, one by one: a product with an infinite or NaN
// weight that does not exist counts as +0. (Products with finite weights are 0 anyway, and are
// added as the tiles add them, so that the sign of a zero agrees.) Called when some output is NaN,
// which a product of 0 and such a weight always makes it.
template <class Isa, class T>
void repair_borders(const Correlation<T>& p, const Block& b) {
    using C = Compute<T>;
    if (all_finite<Isa>(p.weight, b.k, b.channels)) return;
    for (std::ptrdiff_t n = b.n; n < b.n + b.images; ++n)
        for (std::ptrdiff_t oh = b.h; oh < b.h + b.rows; ++oh)
            for (std::ptrdiff_t ow = b.w; ow < b.w + b.columns; ++ow)
                for (std::ptrdiff_t k = b.k; k < b.k + b.channels; ++k) {
                    C total = 0;
                    C chain = 0;
                    bool complete = true;
                    const std::ptrdiff_t terms = p.terms();
                    for (std::ptrdiff_t t = 0; t < terms; ++t) {
                        const std::ptrdiff_t r = t / p.w.taps % p.h.taps;
                        const std::ptrdiff_t s = t % p.w.taps;
                        const std::ptrdiff_t c = t / (p.h.taps * p.w.taps);
                        const std::ptrdiff_t h = oh * p.h.stride + p.h.first + r * p.h.step;
                        const std::ptrdiff_t w = ow * p.w.stride + p.w.first + s * p.w.step;
                        C weight = widen_one<Isa>(p.weight.data + k * p.weight.lane_stride +
                                                  c * p.weight.stride[0] + r * p.weight.stride[1] +
                                                  s * p.weight.stride[2]);
                        C value = 0;
                        if (h >= 0 && h < p.h.in && w >= 0 && w < p.w.in) {
                            value = widen_one<Isa>(p.x + n * p.x_stride.n + c * p.x_stride.c +
                                                   h * p.x_stride.h + w * p.x_stride.w);
                        } else {
                            complete = false;
                            if (weight * 0 != 0) weight = 0;
                        }
                        chain = fma_one<Isa>(value, weight, chain);
                        if (t % block_terms == block_terms - 1 || t == terms - 1) {
                            total = t < block_terms ? chain : total + chain;
                            chain = 0;
                        }
                    }
                    if (complete) continue;
                    if (p.bias) total = total + widen_one<Isa>(p.bias + k * p.bias_stride);
                    store(p.y + n * p.y_stride.n + k * p.y_stride.c + oh * p.y_stride.h +
                              ow * p.y_stride.w,
                          Vec<Isa, C>::splat(total), FirstLanes{1});
                }
}

}  // namespace stableops
