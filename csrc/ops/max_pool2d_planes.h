#pragma once
// max_pool2d where vectors are neighbouring outputs of a row.
#include <type_traits>

#include "../pool2d_shape.h"
#include "max_pool2d_pairs.h"
#include "max_pool2d_taps.h"

namespace stableops {

// A row of outputs from some rows of its windows: the state that earlier rows left in `y` and
// `offsets`, unless it `starts` here. Tap s of window ox is row[r][tap[s] + ox] (RowLayout).
template <class Isa, class C>
struct MaxPoolRow {
    static constexpr int most = 8;
    using I = typename MaxPoolTypes<Isa, C>::I;
    const C* row[most];
    int rows;
    bool starts;
    std::ptrdiff_t taps;
    const std::ptrdiff_t* tap;
    std::ptrdiff_t count;  // at least a vector, or there is room for one in all that is written
    C* y;
    // With indices: offsets of taps, in elements of the plane, from tap (0, 0) of their window.
    I* offsets;
    const I* first_column;  // of each window's first tap inside, along W
    std::ptrdiff_t first_row, row_offset, rows_apart, columns_apart;
};

template <class Isa, class C, bool with_indices>
[[gnu::noinline]] void max_pool_row(const MaxPoolRow<Isa, C>& in) {
    using Types = MaxPoolTypes<Isa, C>;
    using V = typename Types::V;
    using State = MaxPoolState<Isa, C>;
    using I = typename Types::I;
    using Offsets = typename Types::Offsets;
    // f(row, offset) of the first tap of each row, from left to right.
    const auto each_tap = [&](auto&& f) __attribute__((always_inline)) {
        std::ptrdiff_t row_offset = in.row_offset;
        for (int r = 0; r < in.rows; ++r, row_offset += in.rows_apart) {
            std::ptrdiff_t offset = row_offset;
            for (std::ptrdiff_t s = 0; s < in.taps; ++s, offset += in.columns_apart)
                f(in.row[r] + in.tap[s], offset);
        }
    };
    const auto start_at = [&](std::ptrdiff_t ox) __attribute__((always_inline)) {
        State start = {V::splat(Types::lowest()), {}};
        if (!in.starts) start.value = loadu<Isa>(in.y + ox);
        if constexpr (with_indices)
            start.offset = in.starts ? loadu<Isa>(in.first_column + ox) +
                                           Offsets::splat(static_cast<I>(in.first_row))
                                     : loadu<Isa>(in.offsets + ox);
        return start;
    };
    // Two vectors share the loops. They may overlap, with each other and with those before: doing
    // an output twice changes nothing.
    const auto pool_two = [&](std::ptrdiff_t a, std::ptrdiff_t b) __attribute__((always_inline)) {
        State best_a = start_at(a), best_b = start_at(b);
        V sum_a = V::zero(), sum_b = V::zero();
        each_tap([&](const C* tap, std::ptrdiff_t offset) __attribute__((always_inline)) {
            take_number<Isa, C, with_indices>(best_a, sum_a, loadu<Isa>(tap + a), offset);
            take_number<Isa, C, with_indices>(best_b, sum_b, loadu<Isa>(tap + b), offset);
        });
        if constexpr (Types::has_nan) {
            if (any(is_nan(sum_a) | is_nan(sum_b))) [[unlikely]] {
                best_a = start_at(a);
                best_b = start_at(b);
                each_tap([&](const C* tap, std::ptrdiff_t offset) __attribute__((always_inline)) {
                    take_tap<Isa, C, with_indices>(best_a, loadu<Isa>(tap + a), offset);
                    take_tap<Isa, C, with_indices>(best_b, loadu<Isa>(tap + b), offset);
                });
            }
        }
        storeu(in.y + a, best_a.value);
        storeu(in.y + b, best_b.value);
        if constexpr (with_indices) {
            storeu(in.offsets + a, best_a.offset);
            storeu(in.offsets + b, best_b.offset);
        }
    };
    const std::ptrdiff_t last = larger<Isa>(0, in.count - V::size);
    std::ptrdiff_t ox = 0;
    for (; ox < last; ox += 2 * V::size) pool_two(ox, smaller<Isa>(ox + V::size, last));
    if (ox < in.count) pool_two(last, last);
}

// indices[ox] = base + ox * stride + offsets[ox]
template <class Isa, class I>
[[gnu::noinline]] void write_indices(std::int64_t* indices, const I* offsets, std::ptrdiff_t base,
                                     std::ptrdiff_t stride, std::ptrdiff_t count) {
    for (std::ptrdiff_t ox = 0; ox < count; ++ox) indices[ox] = base + ox * stride + offsets[ox];
}

// All that the rows of a plane have in common.
template <class Isa, class C>
struct MaxPoolPlanes {
    using Row = MaxPoolRow<Isa, C>;
    using I = typename Row::I;
    using Ring = RowRing<Isa, C>;
    static constexpr int most = Row::most;

    const Pool2dShape& shape;
    Ring ring;    // of the image
    Ring maxima;  // of the image's rows, each reduced to the maxima of its windows
    RowWriter<Isa, C> writer;
    std::ptrdiff_t line;
    std::ptrdiff_t* taps;
    I* first_column;
    I* offsets;
    std::int64_t* index_line;
    std::ptrdiff_t single_tap = 0;

    static std::ptrdiff_t extent(std::ptrdiff_t kernel, std::ptrdiff_t dilation) {
        return (kernel - 1) * dilation + 1;
    }
    // Not where padding and strides are far larger than the image.
    static bool fits(const Pool2dShape& shape) {
        const RowLayout row = layout(shape, {});
        return row.phases * row.phase_length <= 4 * shape.width + 4096;
    }
    static RowLayout layout(const Pool2dShape& shape, const ImageStrides& stride) {
        const std::ptrdiff_t reach = extent(shape.kernel_w, shape.dilation_w);
        RowLayout result = {shape.width,
                            stride.w,
                            shape.pad_w,
                            shape.stride_w,
                            smaller<Isa>(shape.stride_w, reach),
                            shape.out_w + quotient<Isa>(reach - 1, shape.stride_w)};
        result.width =
            smaller<Isa>(result.width, result.phase_length * result.stride - result.left);
        // Vectors of too few windows read on.
        if (shape.out_w < Vec<Isa, C>::size) result.phase_length += Vec<Isa, C>::size;
        return result;
    }
    MaxPoolPlanes(const Pool2dShape& shape, const ImageStrides& stride,
                  const PlaneAccess<C>& access, bool with_indices)
        : shape(shape),
          ring(access, layout(shape, stride), stride.h),
          maxima(access, {shape.out_w, 2, 0, 1, 1, shape.out_w + Vec<Isa, C>::size}, 0),
          writer{access,
                 shape.batch * shape.channels * shape.out_h * shape.out_w *
                         (access.element_size + (with_indices ? 8 : 0)) >=
                     pool_stream_bytes,
                 shape.out_w < Vec<Isa, C>::size},
          line(larger<Isa>(shape.out_w, Vec<Isa, C>::size)) {}

    std::size_t scratch_size() const {
        const auto size = [](std::ptrdiff_t count, std::size_t each) {
            return ScratchParts<Isa>::aligned(static_cast<std::size_t>(count) * each);
        };
        return ring.scratch_size() + maxima.scratch_size() +
               size(shape.kernel_w, sizeof(std::ptrdiff_t)) + 2 * size(line, sizeof(I)) +
               size(line, sizeof(C)) + size(line, sizeof(std::int64_t));
    }
    void use_scratch(ScratchParts<Isa>& parts) {
        ring.use_scratch(parts, MaxPoolTypes<Isa, C>::lowest());
        maxima.use_scratch(parts, MaxPoolTypes<Isa, C>::lowest());
        taps = parts.template take<std::ptrdiff_t>(shape.kernel_w);
        first_column = parts.template take<I>(line);
        offsets = parts.template take<I>(line);
        writer.line = parts.template take<C>(line);
        index_line = parts.template take<std::int64_t>(line);
        for (std::ptrdiff_t s = 0; s < shape.kernel_w; ++s) {
            const std::ptrdiff_t column = s * shape.dilation_w;
            const std::ptrdiff_t window = quotient<Isa>(column, shape.stride_w);
            taps[s] = (column - window * shape.stride_w) * ring.layout.phase_length + window;
        }
        for (std::ptrdiff_t ox = 0; ox < line; ++ox) {
            const Taps inside = taps_inside<Isa>(ox * shape.stride_w - shape.pad_w, shape.kernel_w,
                                                 shape.dilation_w, shape.width);
            first_column[ox] = static_cast<I>(inside.first * shape.dilation_w);
        }
    }
    std::ptrdiff_t start(std::ptrdiff_t oy) const { return oy * shape.stride_h - shape.pad_h; }

    // max_pool2d_pairs.h will do.
    static constexpr bool has_pairs = std::is_same_v<C, float> && Isa::bytes > 16;
    bool in_pairs() const {
        return has_pairs && shape.kernel_w == 3 && shape.stride_w == 2 && shape.dilation_w == 1 &&
               shape.pad_w <= 1 && shape.kernel_h <= MaxPoolPairs<C>::most &&
               ring.access.stored_as_is && ring.layout.memory_step == 1;
    }
    void pool_pairs(std::ptrdiff_t plane, std::ptrdiff_t begin, std::ptrdiff_t end, char* y) {
        MaxPoolPairs<C> row = {{}, shape.width, -shape.pad_w, shape.out_w, nullptr};
        for (std::ptrdiff_t oy = begin; oy < end; ++oy) {
            const Taps inside =
                taps_inside<Isa>(start(oy), shape.kernel_h, shape.dilation_h, shape.height);
            for (std::ptrdiff_t r = inside.first; r < inside.end; ++r)
                row.row[r - inside.first] =
                    reinterpret_cast<const C*>(ring.source(start(oy) + r * shape.dilation_h));
            char* const to =
                y + (plane * shape.out_h + oy) * shape.out_w * ring.access.element_size;
            row.y = writer.begin(to);
            if constexpr (has_pairs) max_pool_pairs<Isa>(row, inside.end - inside.first);
            writer.end(to, row.y, shape.out_w);
        }
    }

    // Rows [begin, end) of the outputs of plane number `plane`; `indices` may be nullptr.
    void pool(std::ptrdiff_t plane, std::ptrdiff_t begin, std::ptrdiff_t end, char* y,
              std::int64_t* indices) {
        const std::ptrdiff_t group = smaller<Isa>(shape.kernel_h, most);
        // Rows of one group, and of the windows below that share them, fit the ring.
        const bool reuse = (group - 1) * shape.dilation_h < Ring::slots;
        // Rows are laid out for the next row of outputs, while there is room for both.
        const bool ahead = !ring.direct && shape.dilation_h == 1 && group == shape.kernel_h &&
                           shape.kernel_h + shape.stride_h <= Ring::slots;
        std::ptrdiff_t laid_out = 0;
        const auto lay_out = [&](std::ptrdiff_t oy) {
            const std::ptrdiff_t row_end = smaller<Isa>(shape.height, start(oy) + shape.kernel_h);
            for (laid_out = larger<Isa>(laid_out, start(oy)); laid_out < row_end; ++laid_out)
                ring.row(laid_out);
        };
        if (ahead) lay_out(begin);
        const bool separable = indices == nullptr && shape.kernel_h > shape.stride_h &&
                               shape.kernel_h * shape.kernel_w > 9 && reuse;
        Row row;
        row.offsets = offsets;
        row.first_column = first_column;
        row.columns_apart = shape.dilation_w;
        row.rows_apart = shape.dilation_h * shape.width;
        row.count = shape.out_w;
        const auto use_taps = [&](bool all) {
            row.taps = all ? shape.kernel_w : 1;
            row.tap = all ? taps : &single_tap;
        };
        const auto reduce = [&](std::ptrdiff_t h) {
            const std::ptrdiff_t slot = Ring::slot_of(h);
            if (maxima.held[slot] == h) return;
            maxima.held[slot] = h;
            use_taps(true);
            row.row[0] = ring.row(h);
            row.rows = 1;
            row.starts = true;
            row.y = maxima.copies + slot * maxima.pitch;
            max_pool_row<Isa, C, false>(row);
            use_taps(false);
        };
        use_taps(!separable);
        for (std::ptrdiff_t oy = begin; oy < end; ++oy) {
            if (ahead && oy + 1 < end) lay_out(oy + 1);
            const Taps inside =
                taps_inside<Isa>(start(oy), shape.kernel_h, shape.dilation_h, shape.height);
            const std::ptrdiff_t at = (plane * shape.out_h + oy) * shape.out_w;
            char* y_row = y + at * ring.access.element_size;
            C* const values = writer.begin(y_row);
            row.first_row = inside.first * row.rows_apart;
            for (std::ptrdiff_t r = inside.first; r < inside.end; r += most) {
                const int rows = static_cast<int>(smaller<Isa>(inside.end - r, most));
                const std::ptrdiff_t first = start(oy) + r * shape.dilation_h;
                if (separable)
                    for (int k = 0; k < rows; ++k) reduce(first + k * shape.dilation_h);
                for (int k = 0; k < rows; ++k) {
                    const std::ptrdiff_t h = first + k * shape.dilation_h;
                    const std::ptrdiff_t slot = reuse ? Ring::slot_of(h) : k;
                    row.row[k] = separable ? maxima.laid_out(h)
                                 : ahead   ? ring.laid_out(h)
                                           : ring.row_in_slot(h, slot);
                }
                row.rows = rows;
                row.starts = r == inside.first;
                row.y = values;
                row.row_offset = r * row.rows_apart;
                indices ? max_pool_row<Isa, C, true>(row) : max_pool_row<Isa, C, false>(row);
            }
            writer.end(y_row, values, shape.out_w);
            if (indices == nullptr) continue;
            std::int64_t* const to = writer.streams ? index_line : indices + at;
            write_indices<Isa>(to, offsets, start(oy) * shape.width - shape.pad_w, shape.stride_w,
                               shape.out_w);
            if (writer.streams)
                stream_bytes<Isa>(reinterpret_cast<char*>(indices + at),
                                  reinterpret_cast<const char*>(to), shape.out_w * 8);
        }
    }
};

template <class Isa, class C>
[[gnu::noinline]] void max_pool_planes(const Pool2dShape& shape, void* y, std::int64_t* indices,
                                       const void* x, const ImageStrides& stride,
                                       const PlaneAccess<C>& access) {
    for_row_blocks<Isa>(
        shape.batch, shape.channels, shape.out_h,
        shape.out_w * shape.kernel_h * shape.kernel_w + 64, [&](RowRange<Isa> range) {
            MaxPoolPlanes<Isa, C> planes(shape, stride, access, indices != nullptr);
            ScratchParts<Isa> parts{static_cast<char*>(thread_scratch(planes.scratch_size()))};
            planes.use_scratch(parts);
            const bool pairs = indices == nullptr && planes.in_pairs();
            while (range.next_plane()) {
                planes.ring.set_plane(static_cast<const char*>(x) +
                                      (range.outer * stride.n + range.inner * stride.c) *
                                          access.element_size);
                planes.maxima.set_plane(nullptr);
                if (pairs) {
                    planes.pool_pairs(range.plane(), range.first, range.last,
                                      static_cast<char*>(y));
                } else {
                    planes.pool(range.plane(), range.first, range.last, static_cast<char*>(y),
                                indices);
                }
            }
            planes.writer.end_task();
        });
}

}  // namespace stableops
