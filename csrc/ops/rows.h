#pragma once
// How a reduction over any set of axes of any strided arrays reaches kernels that know only two
// shapes of data: a contiguous row, and a tile of rows stored [column][row] (simd/sum.h: Along and
// Across).
//
// A contiguous row of the compute type is read and written where it lies. Everything else, narrower
// types included, goes through scratch of bounded size: blocks of `sum_block` columns of a row, or
// tiles of 16 to 256 rows. A tile is gathered in runs along whichever axis is contiguous, so memory
// sees whole cache lines; it then stays in L1 for all passes. Rows of more than one block are
// gathered again for every pass. The input is never copied as a whole.
//
// Which way a row goes depends on layout and sizes and has no effect on its bits.
//
// An operation is a class `Op` with
//   inputs                          how many operands it reads (scratch is for these)
//   has_peak, emits                 whether it needs a maximum first, whether it writes elements
//   Row start(form, row, n)         what it knows of n rows from `row` on before reading them
//   D peak(form, n, in, row)        the largest value of a block
//   Sum sum(form, column, n, in, row)            the sums of a block that begins at `column`
//   void finish(form, first, n, sum, row)        constants of the rows; values a row has
//   void emit(form, column, n, out, in, row)     elements of a block
// where row.peak is filled in by the driver between peak() and sum(). Where row.scale.rescale(sum)
// says so (if there is such a thing), sum() is called again for all of a row.
//
// `keeps` says that a short row's exponentials are worth keeping (float64, where they are dear):
//   Sum sum_kept(form, column, n, in, row, hi, lo)   as sum(), and stores them
//   void emit_kept(form, column, n, out, hi, lo, row)
//
// An operation on float32 may also have a way in float32 lanes (float_sums.h), for the rows that it
// accepts; `float_lanes` says so, and then there are
//   float_emits                     whether elements are written in float32 lanes too
//   std::int64_t hole(row, lane)    the column that the sum leaves out, or -1 (if `has_holes`)
//   Mask accepts(sum, row)          the rows (lanes) whose results follow from this sum; may note
//                                   in row what finish_float() needs as well
//   void finish_float(form, first, n, sum, accepted, row)   as finish(), for the accepted rows:
//   what
//                                   emit() needs, with a peak of 0; row.factor; row.float_emit
//   void patch(column, n, out, stride, lane, row)           elements that are no such product
//
// A mask is the driver's affair: elements that it leaves out are -inf to the operation, and what
// has been emitted for them is replaced. Operations need not know, and rows without one do not pay.
#include <cstdint>

#include "../dtypes.h"
#include "../row_plan.h"
#include "../runtime/memory.h"
#include "../runtime/parallel.h"
#include "../simd/sum.h"
#include "../simd/transpose.h"
#include "float_sums.h"

namespace stableops {

// Elements below which a task is not worth handing over.
constexpr std::ptrdiff_t task_elements = 16384;
// Results from this size on bypass the caches where whole lines are written.
constexpr std::ptrdiff_t stream_bytes = std::ptrdiff_t{32} << 20;
// Exponentials are kept for the second pass, in L3 if need be, because computing them again takes
// longer. Those of longer rows than any vocabulary are not: scratch stays within a few MB a thread.
constexpr std::ptrdiff_t kept_columns = std::ptrdiff_t{1} << 18;
// Rows at least this long are worked on along the row, if they are contiguous.
constexpr std::ptrdiff_t long_row = 96;

template <class Isa, class T>
[[gnu::always_inline]] constexpr T smaller(T a, T b) {
    return a < b ? a : b;
}
template <class Isa, class T>
[[gnu::always_inline]] constexpr T larger(T a, T b) {
    return a > b ? a : b;
}

template <class Isa>
std::ptrdiff_t element_bytes(Element type) {
    switch (type) {
        case Element::float64:
            return 8;
        case Element::float32:
            return 4;
        case Element::float16:
        case Element::bfloat16:
            return 2;
        default:
            return 1;
    }
}

template <class C>
constexpr Element storage_of = sizeof(C) == 8 ? Element::float64 : Element::float32;

// A walk over the elements of some axes in C order, in runs along the last of them.
struct Run {
    std::ptrdiff_t offset;
    std::ptrdiff_t length;
};
template <class Isa>
[[gnu::noinline]] Run run_at_any(int ndim, const std::ptrdiff_t* size, const std::ptrdiff_t* stride,
                                 std::ptrdiff_t index, std::ptrdiff_t left) {
    std::ptrdiff_t last = size[ndim - 1];
    std::ptrdiff_t at = index % last;
    std::ptrdiff_t offset = at * stride[ndim - 1];
    std::ptrdiff_t rest = index / last;
    for (int d = ndim - 2; d >= 0 && rest != 0; --d) {
        offset += rest % size[d] * stride[d];
        rest /= size[d];
    }
    return {offset, smaller<Isa>(last - at, left)};
}
template <class Isa>
[[gnu::always_inline]] inline Run run_at(int ndim, const std::ptrdiff_t* size,
                                         const std::ptrdiff_t* stride, std::ptrdiff_t index,
                                         std::ptrdiff_t left) {
    if (ndim == 1) return {index * stride[0], smaller<Isa>(size[0] - index, left)};
    return run_at_any<Isa>(ndim, size, stride, index, left);
}
template <class Isa>
std::ptrdiff_t row_offset(const RowShape& shape, const RowOperand& a, std::ptrdiff_t row) {
    return run_at<Isa>(shape.kept_ndim, shape.kept_size, a.kept_stride, row, 1).offset;
}

template <class Isa>
[[gnu::always_inline]] inline void store_wide(float* to, Vec<Isa, float> v) {
    storeu(to, v);
}
template <class Isa>
[[gnu::always_inline]] inline void store_wide(double* to, Vec<Isa, float> v) {
    storeu(to, widen_low(v));
    storeu(to + Vec<Isa, double>::size, widen_high(v));
}

// Elements of storage type T at any byte stride to contiguous C, and back (by way of float32, if T
// is narrower).
template <class Isa, class T, class C>
void read_line(C* to, const char* from, std::ptrdiff_t stride, std::ptrdiff_t n) {
    if constexpr (std::is_same_v<T, C>) {
        if (stride == sizeof(T)) {
            __builtin_memcpy(to, from, static_cast<std::size_t>(n) * sizeof(T));
        } else {
            for (std::ptrdiff_t i = 0; i < n; ++i)
                __builtin_memcpy(to + i, from + i * stride, sizeof(T));
        }
    } else if constexpr (std::is_same_v<T, bool>) {
        for (std::ptrdiff_t i = 0; i < n; ++i) to[i] = from[i * stride] != 0 ? C{1} : C{0};
    } else {
        constexpr int size = Vec<Isa, float>::size;
        std::ptrdiff_t i = 0;
        if (stride == sizeof(T)) {
            for (; i + size <= n; i += size)
                store_wide(to + i, load<Isa>(reinterpret_cast<const T*>(from) + i, AllLanes{}));
        }
        for (; i < n; i += size) {
            std::ptrdiff_t count = smaller<Isa, std::ptrdiff_t>(size, n - i);
            T narrow[size] = {};
            if (stride == sizeof(T)) {
                __builtin_memcpy(narrow, from + i * stride,
                                 static_cast<std::size_t>(count) * sizeof(T));
            } else {
                for (std::ptrdiff_t j = 0; j < count; ++j)
                    __builtin_memcpy(narrow + j, from + (i + j) * stride, sizeof(T));
            }
            Vec<Isa, float> wide = load<Isa>(narrow, AllLanes{});
            for (std::ptrdiff_t j = 0; j < count; ++j) to[i + j] = wide[static_cast<int>(j)];
        }
    }
}
template <class Isa, class T, class C>
void write_line(char* to, const C* from, std::ptrdiff_t stride, std::ptrdiff_t n) {
    if constexpr (std::is_same_v<T, C>) {
        if (stride == sizeof(T)) {
            __builtin_memcpy(to, from, static_cast<std::size_t>(n) * sizeof(T));
        } else {
            for (std::ptrdiff_t i = 0; i < n; ++i)
                __builtin_memcpy(to + i * stride, from + i, sizeof(T));
        }
    } else {
        constexpr int size = Vec<Isa, float>::size;
        std::ptrdiff_t i = 0;
        if constexpr (std::is_same_v<C, float>) {
            if (stride == sizeof(T)) {
                for (; i + size <= n; i += size)
                    store(reinterpret_cast<T*>(to) + i, loadu<Isa>(from + i), AllLanes{});
            }
        }
        for (; i < n; i += size) {
            std::ptrdiff_t count = smaller<Isa, std::ptrdiff_t>(size, n - i);
            float wide[size] = {};
            for (std::ptrdiff_t j = 0; j < count; ++j) wide[j] = static_cast<float>(from[i + j]);
            T narrow[size];
            store(narrow, loadu<Isa>(wide), AllLanes{});
            if (stride == sizeof(T)) {
                __builtin_memcpy(to + i * stride, narrow,
                                 static_cast<std::size_t>(count) * sizeof(T));
            } else {
                for (std::ptrdiff_t j = 0; j < count; ++j)
                    __builtin_memcpy(to + (i + j) * stride, narrow + j, sizeof(T));
            }
        }
    }
}

template <class Isa, class C>
void read_elements(C* to, Element type, const char* from, std::ptrdiff_t stride, std::ptrdiff_t n) {
    if (type == Element::float16) return read_line<Isa, float16>(to, from, stride, n);
    if (type == Element::bfloat16) return read_line<Isa, bfloat16>(to, from, stride, n);
    if (sizeof(C) == 8 && type == Element::float32)
        return read_line<Isa, float>(to, from, stride, n);
    if (type == Element::boolean) return read_line<Isa, bool>(to, from, stride, n);
    read_line<Isa, C>(to, from, stride, n);
}
template <class Isa, class C>
void write_elements(char* to, Element type, const C* from, std::ptrdiff_t stride,
                    std::ptrdiff_t n) {
    if (type == Element::float16) return write_line<Isa, float16>(to, from, stride, n);
    if (type == Element::bfloat16) return write_line<Isa, bfloat16>(to, from, stride, n);
    if (sizeof(C) == 8 && type == Element::float32)
        return write_line<Isa, float>(to, from, stride, n);
    write_line<Isa, C>(to, from, stride, n);
}

// One element.
template <class Isa, class C>
[[gnu::always_inline]] inline C read_element(const RowOperand& a, const char* at) {
    C value;
    if (a.type == storage_of<C>) {
        __builtin_memcpy(&value, at, sizeof(C));
    } else {
        read_elements<Isa>(&value, a.type, at, 0, 1);
    }
    return value;
}
template <class Isa, class C>
[[gnu::always_inline]] inline C read_element(const RowShape& shape, const RowOperand& a,
                                             std::ptrdiff_t row, std::ptrdiff_t column) {
    Run run = run_at<Isa>(shape.reduced_ndim, shape.reduced_size, a.reduced_stride, column, 1);
    return read_element<Isa, C>(a, a.data + row_offset<Isa>(shape, a, row) + run.offset);
}
// One value a row, for operands without columns.
template <class Isa, class C>
[[gnu::always_inline]] inline C read_row_value(const RowShape& shape, const RowOperand& a,
                                               std::ptrdiff_t row) {
    return read_element<Isa, C>(a, a.data + row_offset<Isa>(shape, a, row));
}
template <class Isa, class C>
[[gnu::always_inline]] inline void write_row_value(const RowShape& shape, const RowOperand& a,
                                                   std::ptrdiff_t row, C value) {
    char* at = a.data + row_offset<Isa>(shape, a, row);
    if (a.type == storage_of<C>) {
        __builtin_memcpy(at, &value, sizeof(C));
    } else {
        write_elements<Isa>(at, a.type, &value, 0, 1);
    }
}

// Columns [column, column + n) of one row.
template <class Isa, class C>
void gather_line(C* to, const RowShape& shape, const RowOperand& a, const char* row_data,
                 std::ptrdiff_t column, std::ptrdiff_t n) {
    while (n > 0) {
        Run run = run_at<Isa>(shape.reduced_ndim, shape.reduced_size, a.reduced_stride, column, n);
        read_elements<Isa>(to, a.type, row_data + run.offset,
                           a.reduced_stride[shape.reduced_ndim - 1], run.length);
        to += run.length;
        column += run.length;
        n -= run.length;
    }
}
template <class Isa, class C>
void scatter_line(const C* from, const RowShape& shape, const RowOperand& a, char* row_data,
                  std::ptrdiff_t column, std::ptrdiff_t n) {
    while (n > 0) {
        Run run = run_at<Isa>(shape.reduced_ndim, shape.reduced_size, a.reduced_stride, column, n);
        write_elements<Isa>(row_data + run.offset, a.type, from,
                            a.reduced_stride[shape.reduced_ndim - 1], run.length);
        from += run.length;
        column += run.length;
        n -= run.length;
    }
}

// A tile holds its rows in strips of `lanes`: element (row, column) at
// [row / lanes][column][row % lanes].
template <class Isa, class C>
struct Tile {
    static constexpr int lanes = Vec<Isa, C>::size;
    static constexpr int half = Vec<Isa, double>::size;
    static constexpr std::ptrdiff_t max_rows = 256;

    C* data;
    std::ptrdiff_t cols;

    // The part of a strip that a register of doubles holds.
    [[gnu::always_inline]] inline C* strip(std::ptrdiff_t s) const {
        constexpr std::ptrdiff_t halves = lanes / half;
        return data + s / halves * cols * lanes + s % halves * half;
    }
    [[gnu::always_inline]] inline C* at(std::ptrdiff_t row, std::ptrdiff_t column) const {
        return data + (row / lanes * cols + column) * lanes + row % lanes;
    }
};

// A rectangle of a tile from or to memory: by whole runs of rows where these are neighbours in
// memory (images and axis 1), by square transposes where columns are (short rows), else element by
// element.
template <class Isa, class C, bool gather>
void move_rectangle(const Tile<Isa, C>& tile, Element type, char* data, std::ptrdiff_t row,
                    std::ptrdiff_t rows, std::ptrdiff_t row_stride, std::ptrdiff_t column,
                    std::ptrdiff_t cols, std::ptrdiff_t column_stride, bool streams) {
    constexpr std::ptrdiff_t lanes = Tile<Isa, C>::lanes;
    constexpr std::ptrdiff_t size = sizeof(C);
    using V = Vec<Isa, C>;
    bool own_type = type == storage_of<C>;
    if (row_stride == element_bytes<Isa>(type)) {
        for (std::ptrdiff_t c = 0; c < cols; ++c) {
            char* memory = data + c * column_stride;
            for (std::ptrdiff_t r = 0; r < rows;) {
                std::ptrdiff_t n = smaller<Isa>(lanes - (row + r) % lanes, rows - r);
                C* t = tile.at(row + r, column + c);
                char* at = memory + r * row_stride;
                if (own_type && n == lanes) {
                    if constexpr (gather) {
                        __builtin_memcpy(t, at, lanes * size);
                    } else if (streams && reinterpret_cast<std::uintptr_t>(at) % Isa::bytes == 0) {
                        stream(reinterpret_cast<C*>(at), loadu<Isa>(t));
                    } else {
                        __builtin_memcpy(at, t, lanes * size);
                    }
                } else if constexpr (gather) {
                    read_elements<Isa>(t, type, at, row_stride, n);
                } else {
                    write_elements<Isa>(at, type, t, row_stride, n);
                }
                r += n;
            }
        }
        return;
    }
    std::ptrdiff_t r = 0;
    if (own_type && column_stride == size && row_stride % size == 0 && row % lanes == 0) {
        std::ptrdiff_t pitch = row_stride / size;
        C* memory = reinterpret_cast<C*>(data);
        for (; r + lanes <= rows; r += lanes) {
            // A square that reaches beyond the columns may read neighbouring rows, but nothing
            // beyond the last of the rectangle.
            bool narrow_rows = cols < lanes;
            if (narrow_rows && gather &&
                (pitch < cols || (r + lanes - 1) * pitch + lanes > (rows - 1) * pitch + cols))
                break;
            C* t = tile.at(row + r, column);
            for (std::ptrdiff_t c = 0; c < cols; c += lanes) {
                // The last square overlaps the one before it.
                if (c + lanes > cols && !narrow_rows) c = cols - lanes;
                V square[lanes];
                if constexpr (gather) {
                    transpose<Isa>(memory + r * pitch + c, pitch, square);
                    for (std::ptrdiff_t j = 0; j < lanes && c + j < cols; ++j)
                        storeu(t + (c + j) * lanes, square[j]);
                } else {
                    C rest[lanes * lanes];
                    const C* from = t + c * lanes;
                    if (narrow_rows) {
                        for (std::ptrdiff_t j = 0; j < lanes; ++j)
                            storeu(rest + j * lanes,
                                   j < cols ? loadu<Isa>(t + j * lanes) : V::zero());
                        from = rest;
                    }
                    transpose<Isa>(from, lanes, square);
                    for (std::ptrdiff_t j = 0; j < lanes; ++j) {
                        if (narrow_rows) {
                            store_first(memory + (r + j) * pitch, square[j],
                                        static_cast<int>(cols));
                        } else {
                            storeu(memory + (r + j) * pitch + c, square[j]);
                        }
                    }
                }
            }
        }
    }
    for (; r < rows; ++r) {
        constexpr std::ptrdiff_t chunk = 64;
        C line[chunk];
        for (std::ptrdiff_t c = 0; c < cols; c += chunk) {
            std::ptrdiff_t n = smaller<Isa>(chunk, cols - c);
            char* memory = data + r * row_stride + c * column_stride;
            C* t = tile.at(row + r, column + c);
            if constexpr (gather) {
                read_elements<Isa>(line, type, memory, column_stride, n);
                for (std::ptrdiff_t i = 0; i < n; ++i) t[i * lanes] = line[i];
            } else {
                for (std::ptrdiff_t i = 0; i < n; ++i) line[i] = t[i * lanes];
                write_elements<Isa>(memory, type, line, column_stride, n);
            }
        }
    }
}

template <class Isa, class C, bool gather>
void move_tile(const Tile<Isa, C>& tile, const RowShape& shape, const RowOperand& a,
               std::ptrdiff_t first_row, std::ptrdiff_t rows, std::ptrdiff_t column) {
    bool streams = !gather && shape.rows * shape.cols * element_bytes<Isa>(a.type) >= stream_bytes;
    for (std::ptrdiff_t r = 0; r < rows;) {
        Run kept =
            run_at<Isa>(shape.kept_ndim, shape.kept_size, a.kept_stride, first_row + r, rows - r);
        for (std::ptrdiff_t c = 0; c < tile.cols;) {
            Run reduced = run_at<Isa>(shape.reduced_ndim, shape.reduced_size, a.reduced_stride,
                                      column + c, tile.cols - c);
            move_rectangle<Isa, C, gather>(tile, a.type, a.data + kept.offset + reduced.offset, r,
                                           kept.length, a.kept_stride[shape.kept_ndim - 1], c,
                                           reduced.length, a.reduced_stride[shape.reduced_ndim - 1],
                                           streams);
            c += reduced.length;
        }
        r += kept.length;
    }
    if (streams) stream_fence<Isa>();
}

// Puts `absent` where `keep` is 0.
template <class Isa, class C>
void leave_out(C* values, const C* keep, std::ptrdiff_t n, double absent) {
    for (std::ptrdiff_t i = 0; i < n; ++i)
        values[i] = keep[i] == 0 ? static_cast<C>(absent) : values[i];
}

// Memory that tasks share.
template <class Isa>
struct SharedBlock {
    void* data;

    explicit SharedBlock(std::size_t bytes) : data(bytes == 0 ? nullptr : acquire_block(bytes)) {}
    ~SharedBlock() {
        if (data != nullptr) release_block(data);
    }
    SharedBlock(const SharedBlock&) = delete;
    SharedBlock& operator=(const SharedBlock&) = delete;
};

template <class Isa, class Sum, class Row>
[[gnu::always_inline]] inline bool must_sum_again(const Sum& sum, Row& row) {
    if constexpr (requires { row.scale.rescale(sum); }) {
        return row.scale.rescale(sum);
    } else {
        return false;
    }
}

template <class Isa, class C, class Op>
struct RowDriver {
    using D = Vec<Isa, double>;
    static constexpr int inputs = Op::inputs;
    static constexpr bool float_emits = [] {
        if constexpr (Op::float_lanes && Op::emits) {
            return Op::float_emits;
        } else {
            return false;
        }
    }();

    const RowShape& shape;
    const Op& op;
    const RowOperand* out;  // nullptr: no elements are written
    const RowOperand* in[inputs];
    std::ptrdiff_t first = 0;  // the rows to work on: [first, first + count)
    std::ptrdiff_t count = shape.rows;
    const RowOperand* mask = nullptr;  // booleans: which elements of operand 0 count
    double absent = 0;                 // what the others get

    [[gnu::always_inline]] inline bool contiguous(const RowOperand& a) const {
        return shape.reduced_ndim == 1 &&
               (a.reduced_stride[0] == element_bytes<Isa>(a.type) || shape.cols == 1);
    }
    [[gnu::always_inline]] inline bool in_place(const RowOperand& a) const {
        return a.type == storage_of<C> && contiguous(a);
    }

    void run() const {
        if (count == 0 || shape.cols == 0) return;
        // A row by itself would leave most lanes of a tile empty.
        bool alone = count == 1 && shape.cols > 1;
        bool whole_rows = contiguous(*in[0]) && (shape.cols >= long_row || alone);
        if (!whole_rows && (count >= 4 || shape.cols < long_row)) return run_across();
        if (count < 2 * num_threads() && shape.cols >= 8 * sum_block) return run_split();
        std::ptrdiff_t per_task = larger<Isa, std::ptrdiff_t>(1, task_elements / shape.cols);
        parallel_for<Isa>((count + per_task - 1) / per_task, [&](std::ptrdiff_t task) {
            Lines lines = this->lines(keeps_exponentials());
            std::ptrdiff_t end = smaller<Isa>(count, (task + 1) * per_task);
            for (std::ptrdiff_t r = task * per_task; r < end; ++r) along(lines, first + r);
        });
    }

  private:
    // Where blocks of one row come from and go to.
    struct Lines {
        C* scratch[inputs + 1];  // the last one is for results
        C* keep;
        // Of exponentials that are kept: what rounding left of them (nullptr: none are kept), and
        // they themselves (nullptr: they lie where the results go).
        C* rests;
        C* values;
        std::ptrdiff_t held_row;
        std::ptrdiff_t held_column;
    };

    // Exponentials can lie where the results go, unless that is over the operand, which a row
    // that the float32 lanes do not accept is read from again, or on the way past the caches.
    [[gnu::noinline]] bool keeps_in_out() const {
        return float_emits && shape.cols > sum_block && in_place(*out) &&
               out->data != in[0]->data && !streams();
    }
    [[gnu::noinline]] bool keeps_exponentials() const {
        if (!(float_emits && mask == nullptr) && !(Op::keeps && Op::emits)) return false;
        if (out == nullptr) return false;
        return shape.cols <= (keeps_in_out() ? kept_columns : sum_block);
    }

    [[gnu::always_inline]] inline std::ptrdiff_t rests_length() const {
        return (shape.cols + 15) / 16 * 16;
    }

    [[gnu::noinline]] Lines lines(bool keeps) const {
        std::ptrdiff_t length = smaller<Isa>(shape.cols, sum_block);
        length = (length + 15) / 16 * 16;
        std::ptrdiff_t kept = keeps ? rests_length() : 0;
        std::ptrdiff_t kept_beside = keeps && !keeps_in_out() ? kept : 0;
        std::ptrdiff_t kept_from = (inputs + (mask == nullptr ? 1 : 2)) * length;
        C* scratch = static_cast<C*>(
            thread_scratch(static_cast<std::size_t>(kept_from + kept + kept_beside) * sizeof(C)));
        Lines lines;
        for (int k = 0; k <= inputs; ++k) lines.scratch[k] = scratch + k * length;
        lines.keep = scratch + (inputs + 1) * length;
        lines.rests = keeps ? scratch + kept_from : nullptr;
        lines.values = kept_beside > 0 ? scratch + kept_from + kept : nullptr;
        lines.held_row = -1;
        lines.held_column = -1;
        return lines;
    }

    // What goes for columns [column, column + n) of the row to its place, from where it is or from
    // scratch.
    template <class Emit>
    [[gnu::always_inline]] inline void deliver(Lines& lines, std::ptrdiff_t row,
                                               std::ptrdiff_t column, std::ptrdiff_t n,
                                               const Emit& emit) const {
        char* row_data = out->data + row_offset<Isa>(shape, *out, row);
        bool direct = in_place(*out);
        C* to = direct ? reinterpret_cast<C*>(row_data) + column : lines.scratch[inputs];
        emit(to, direct);
        if (mask != nullptr) leave_out<Isa>(to, lines.keep, n, absent);
        if (!direct) scatter_line<Isa>(to, shape, *out, row_data, column, n);
    }

    // Whether results that lie in place are written past the caches; over the operand, their lines
    // are in the caches already.
    [[gnu::always_inline]] inline bool streams() const {
        return out->data != in[0]->data &&
               shape.rows * shape.cols * static_cast<std::ptrdiff_t>(sizeof(C)) >= stream_bytes;
    }

    // Points `data` at columns [column, column + n) of the row, gathering what is not in place.
    [[gnu::always_inline]] inline void fetch(Lines& lines, std::ptrdiff_t row,
                                             std::ptrdiff_t column, std::ptrdiff_t n,
                                             const C* (&data)[inputs]) const {
        bool held = lines.held_row == row && lines.held_column == column;
        for (int k = 0; k < inputs; ++k) {
            const char* row_data = in[k]->data + row_offset<Isa>(shape, *in[k], row);
            if (in_place(*in[k]) && (k > 0 || mask == nullptr)) {
                data[k] = reinterpret_cast<const C*>(row_data) + column;
            } else {
                data[k] = lines.scratch[k];
                if (!held) gather_line<Isa>(lines.scratch[k], shape, *in[k], row_data, column, n);
            }
        }
        if (mask != nullptr && !held) {
            const char* row_data = mask->data + row_offset<Isa>(shape, *mask, row);
            gather_line<Isa>(lines.keep, shape, *mask, row_data, column, n);
            leave_out<Isa>(lines.scratch[0], lines.keep, n, -__builtin_inf());
        }
        lines.held_row = row;
        lines.held_column = column;
    }

    using Form = Along<Isa, C>;
    using Row = typename Op::Row;
    using Sum = typename Op::Sum;

    [[gnu::always_inline]] inline std::ptrdiff_t block_length(std::ptrdiff_t column) const {
        return smaller<Isa>(sum_block, shape.cols - column);
    }

    [[gnu::noinline]] D peak_of_block(Lines& lines, std::ptrdiff_t row, std::ptrdiff_t column,
                                      const Row& state) const {
        const C* data[inputs];
        std::ptrdiff_t n = block_length(column);
        fetch(lines, row, column, n, data);
        return op.peak(Form{}, n, data, state);
    }
    [[gnu::noinline]] Sum sum_of_block(Lines& lines, std::ptrdiff_t row, std::ptrdiff_t column,
                                       const Row& state) const {
        const C* data[inputs];
        std::ptrdiff_t n = block_length(column);
        fetch(lines, row, column, n, data);
        return op.sum(Form{}, column, n, data, state);
    }
    [[gnu::noinline]] void emit_block(Lines& lines, std::ptrdiff_t row, std::ptrdiff_t column,
                                      const Row& state) const {
        const C* data[inputs];
        std::ptrdiff_t n = block_length(column);
        fetch(lines, row, column, n, data);
        deliver(lines, row, column, n, [&](C* to, bool) __attribute__((always_inline)) {
            op.emit(Form{}, column, n, to, data, state);
        });
    }

    [[gnu::noinline]] FloatSum<Isa> float_sum_of_block(Lines& lines, std::ptrdiff_t row,
                                                       std::ptrdiff_t column,
                                                       const Row& state) const {
        const C* data[inputs];
        std::ptrdiff_t n = block_length(column);
        fetch(lines, row, column, n, data);
        std::ptrdiff_t hole = -1;
        if constexpr (Op::has_holes) hole = op.hole(state, 0) - column;
        const float* destination = nullptr;
        if (out != nullptr && shape.cols <= sum_block && in_place(*out) && !streams())
            destination =
                reinterpret_cast<const float*>(out->data + row_offset<Isa>(shape, *out, row));
        if constexpr (float_emits) {
            if (lines.rests != nullptr)
                return AlongFloat<Isa>::template block<true>(data[0], n, hole,
                                                             kept_values(lines, row) + column,
                                                             lines.rests + column, destination);
        }
        return AlongFloat<Isa>::template block<false>(data[0], n, hole, nullptr, nullptr,
                                                      destination);
    }
    [[gnu::always_inline]] inline C* kept_values(const Lines& lines, std::ptrdiff_t row) const {
        return lines.values != nullptr
                   ? lines.values
                   : reinterpret_cast<C*>(out->data + row_offset<Isa>(shape, *out, row));
    }
    [[gnu::noinline]] void float_emit_block(Lines& lines, std::ptrdiff_t row, std::ptrdiff_t column,
                                            const Row& state) const {
        std::ptrdiff_t n = block_length(column);
        deliver(lines, row, column, n, [&](C* to, bool direct) __attribute__((always_inline)) {
            bool streams = direct && this->streams();
            if (lines.rests != nullptr) {
                AlongFloat<Isa>::emit(to, n, kept_values(lines, row) + column, lines.rests + column,
                                      state.factor[0], streams);
            } else {
                const C* data[inputs];
                fetch(lines, row, column, n, data);
                AlongFloat<Isa>::emit(to, n, data[0], state.factor[0], streams);
            }
            if (streams) stream_fence<Isa>();
            op.patch(column, n, to, 1, 0, state);
        });
    }
    // False: the row goes the other way.
    bool along_float(Lines& lines, std::ptrdiff_t row, Row& state) const {
        FloatSum<Isa> sum = float_sum_of_block(lines, row, 0, state);
        for (std::ptrdiff_t c = sum_block; c < shape.cols; c += sum_block)
            sum = plus(sum, float_sum_of_block(lines, row, c, state));
        Mask<Isa, double> accepted = op.accepts(sum, state);
        if (accepted[0] == 0) return false;
        op.finish_float(Form{}, row, 1, sum, accepted, state);
        if constexpr (Op::emits) {
            if (out == nullptr) return true;
            for (std::ptrdiff_t c = 0; c < shape.cols; c += sum_block)
                emit_either(lines, row, c, state);
        }
        return true;
    }
    [[gnu::always_inline]] inline void emit_either(Lines& lines, std::ptrdiff_t row,
                                                   std::ptrdiff_t column, const Row& state) const {
        if constexpr (float_emits) {
            if (state.float_emit[0] != 0) return float_emit_block(lines, row, column, state);
        }
        emit_block(lines, row, column, state);
    }

    void along_kept(Lines& lines, std::ptrdiff_t row, Row& state) const {
        const C* data[inputs];
        std::ptrdiff_t n = shape.cols;
        fetch(lines, row, 0, n, data);
        state.peak = op.peak(Form{}, n, data, state);
        Sum sum = op.sum_kept(Form{}, 0, n, data, state, lines.values, lines.rests);
        op.finish(Form{}, row, 1, sum, state);
        deliver(lines, row, 0, n, [&](C* to, bool) __attribute__((always_inline)) {
            op.emit_kept(Form{}, 0, n, to, lines.values, lines.rests, state);
        });
    }

    void along(Lines& lines, std::ptrdiff_t row) const {
        Row state = op.start(Form{}, row, 1);
        if constexpr (Op::float_lanes) {
            if (mask == nullptr && along_float(lines, row, state)) return;
        }
        if constexpr (Op::keeps) {
            if (lines.rests != nullptr) return along_kept(lines, row, state);
        }
        if constexpr (Op::has_peak) {
            D peak = peak_of_block(lines, row, 0, state);
            for (std::ptrdiff_t c = sum_block; c < shape.cols; c += sum_block)
                peak = max(peak, peak_of_block(lines, row, c, state));
            state.peak = peak;
        }
        Sum sum;
        do {
            sum = sum_of_block(lines, row, 0, state);
            for (std::ptrdiff_t c = sum_block; c < shape.cols; c += sum_block)
                sum = plus(sum, sum_of_block(lines, row, c, state));
        } while (must_sum_again<Isa>(sum, state));
        op.finish(Form{}, row, 1, sum, state);
        if constexpr (Op::emits) {
            if (out == nullptr) return;
            for (std::ptrdiff_t c = 0; c < shape.cols; c += sum_block)
                emit_block(lines, row, c, state);
        }
    }

    // Few and long rows: every pass is a parallel region of its own, a block a task.
    void run_split() const {
        std::ptrdiff_t blocks = (shape.cols + sum_block - 1) / sum_block;
        std::size_t tasks = static_cast<std::size_t>(count * blocks);
        constexpr std::size_t partial =
            sizeof(Sum) > sizeof(FloatSum<Isa>) ? sizeof(Sum) : sizeof(FloatSum<Isa>);
        // A block's results may be another thread's task than its sum.
        const bool keeps = float_emits && keeps_exponentials() && keeps_in_out();
        SharedBlock<Isa> shared(
            static_cast<std::size_t>(count) * (sizeof(Row) + sizeof(D)) + tasks * partial +
            (keeps ? static_cast<std::size_t>(count * rests_length()) * sizeof(C) : 0));
        char* memory = static_cast<char*>(shared.data);
        Row* states = reinterpret_cast<Row*>(memory);
        D* done = reinterpret_cast<D*>(states + count);
        void* partials = done + count;
        Sum* sums = static_cast<Sum*>(partials);
        D* peaks = static_cast<D*>(partials);
        FloatSum<Isa>* float_sums = static_cast<FloatSum<Isa>*>(partials);
        C* rests = reinterpret_cast<C*>(static_cast<char*>(partials) + tasks * partial);
        // Calls work for every block of every row that is not done.
        auto each_block = [&](const auto& work) {
            parallel_for<Isa>(static_cast<std::ptrdiff_t>(tasks), [&](std::ptrdiff_t task) {
                std::ptrdiff_t r = task / blocks;
                Lines lines = this->lines(false);
                if (keeps) lines.rests = rests + r * rests_length();
                work(lines, task, r, first + r, task % blocks * sum_block);
            });
        };
        auto combined = [&](auto* parts, std::ptrdiff_t r, const auto& combine) {
            auto value = parts[r * blocks];
            for (std::ptrdiff_t b = 1; b < blocks; ++b)
                value = combine(value, parts[r * blocks + b]);
            return value;
        };
        bool all_done = Op::float_lanes && mask == nullptr;
        for (std::ptrdiff_t r = 0; r < count; ++r) {
            states[r] = op.start(Form{}, first + r, 1);
            done[r] = D::zero();
        }
        if constexpr (Op::float_lanes) {
            if (mask == nullptr) {
                each_block([&](Lines& lines, std::ptrdiff_t task, std::ptrdiff_t r,
                               std::ptrdiff_t row, std::ptrdiff_t column) {
                    float_sums[task] = float_sum_of_block(lines, row, column, states[r]);
                });
                for (std::ptrdiff_t r = 0; r < count; ++r) {
                    FloatSum<Isa> sum = combined(float_sums, r, Plus{});
                    Mask<Isa, double> accepted = op.accepts(sum, states[r]);
                    if (accepted[0] != 0) {
                        op.finish_float(Form{}, first + r, 1, sum, accepted, states[r]);
                        done[r] = D::splat(1);
                    } else {
                        all_done = false;
                    }
                }
            }
        }
        if (!all_done) {
            if constexpr (Op::has_peak) {
                each_block([&](Lines& lines, std::ptrdiff_t task, std::ptrdiff_t r,
                               std::ptrdiff_t row, std::ptrdiff_t column) {
                    if (done[r][0] == 0) peaks[task] = peak_of_block(lines, row, column, states[r]);
                });
                for (std::ptrdiff_t r = 0; r < count; ++r)
                    if (done[r][0] == 0) states[r].peak = combined(peaks, r, Larger{});
            }
            bool again;
            do {
                each_block([&](Lines& lines, std::ptrdiff_t task, std::ptrdiff_t r,
                               std::ptrdiff_t row, std::ptrdiff_t column) {
                    if (done[r][0] == 0) sums[task] = sum_of_block(lines, row, column, states[r]);
                });
                again = false;
                for (std::ptrdiff_t r = 0; r < count; ++r)
                    if (done[r][0] == 0)
                        again |= must_sum_again<Isa>(combined(sums, r, Plus{}), states[r]);
            } while (again);
            for (std::ptrdiff_t r = 0; r < count; ++r)
                if (done[r][0] == 0)
                    op.finish(Form{}, first + r, 1, combined(sums, r, Plus{}), states[r]);
        }
        if constexpr (Op::emits) {
            if (out == nullptr) return;
            each_block([&](Lines& lines, std::ptrdiff_t, std::ptrdiff_t r, std::ptrdiff_t row,
                           std::ptrdiff_t column) {
                if (done[r][0] != 0) {
                    emit_either(lines, row, column, states[r]);
                } else {
                    emit_block(lines, row, column, states[r]);
                }
            });
        }
    }

    void run_across() const {
        std::ptrdiff_t cols = smaller<Isa>(shape.cols, sum_block);
        // 8 KB of tile: the lines that it comes from and goes to pass through L1 beside it.
        std::ptrdiff_t tiles_held = inputs + (mask == nullptr ? 0 : 1);
        std::ptrdiff_t tile_rows =
            8192 / (tiles_held * cols * static_cast<std::ptrdiff_t>(sizeof(C))) / 16 * 16;
        tile_rows = smaller<Isa, std::ptrdiff_t>(Tile<Isa, C>::max_rows,
                                                 larger<Isa, std::ptrdiff_t>(16, tile_rows));
        std::ptrdiff_t tiles = (count + tile_rows - 1) / tile_rows;
        std::ptrdiff_t per_task =
            larger<Isa, std::ptrdiff_t>(1, task_elements / (tile_rows * shape.cols));
        parallel_for<Isa>((tiles + per_task - 1) / per_task, [&](std::ptrdiff_t task) {
            std::size_t tile_size = static_cast<std::size_t>(tile_rows * cols);
            C* scratch = static_cast<C*>(
                thread_scratch(static_cast<std::size_t>(tiles_held) * tile_size * sizeof(C)));
            std::ptrdiff_t end = smaller<Isa>(tiles, (task + 1) * per_task);
            for (std::ptrdiff_t t = task * per_task; t < end; ++t)
                across(scratch, tile_size, first + t * tile_rows,
                       smaller<Isa>(tile_rows, count - t * tile_rows));
        });
    }

    void across(C* scratch, std::size_t tile_size, std::ptrdiff_t first_row,
                std::ptrdiff_t rows) const {
        using Form = Across<Isa, C>;
        constexpr std::ptrdiff_t lanes = Form::lanes;
        constexpr int max_strips = Tile<Isa, C>::max_rows / lanes;
        constexpr std::ptrdiff_t tile_lanes = Tile<Isa, C>::lanes;
        std::ptrdiff_t strips = (rows + lanes - 1) / lanes;
        bool one_block = shape.cols <= sum_block;
        std::ptrdiff_t padded_rows = (rows + tile_lanes - 1) / tile_lanes * tile_lanes;
        Tile<Isa, C> tile[inputs];
        Tile<Isa, C> keep = {};
        Row states[max_strips];
        Sum sums[max_strips];

        auto gather_operand = [&](Tile<Isa, C>& t, int k, const RowOperand& from,
                                  std::ptrdiff_t column) {
            t = {scratch + static_cast<std::size_t>(k) * tile_size, block_length(column)};
            if (rows % tile_lanes != 0) {
                // The lanes without a row compute on zeros.
                C* last = t.at(rows / tile_lanes * tile_lanes, 0);
                for (std::ptrdiff_t i = 0; i < t.cols * tile_lanes; ++i) last[i] = 0;
            }
            move_tile<Isa, C, true>(t, shape, from, first_row, rows, column);
        };
        auto gather = [&](std::ptrdiff_t column) {
            for (int k = 0; k < inputs; ++k) gather_operand(tile[k], k, *in[k], column);
            if (mask == nullptr) return;
            gather_operand(keep, inputs, *mask, column);
            leave_out<Isa>(tile[0].data, keep.data, padded_rows * keep.cols, -__builtin_inf());
        };
        auto each_strip = [&](const auto& work) {
            for (std::ptrdiff_t c = 0; c < shape.cols; c += sum_block) {
                if (!one_block) gather(c);
                for (std::ptrdiff_t s = 0; s < strips; ++s) {
                    const C* data[inputs];
                    for (int k = 0; k < inputs; ++k) data[k] = tile[k].strip(s);
                    work(s, c, data);
                }
            }
        };
        auto rows_of = [&](std::ptrdiff_t s) { return smaller<Isa>(lanes, rows - s * lanes); };

        if (one_block) gather(0);
        for (std::ptrdiff_t s = 0; s < strips; ++s)
            states[s] = op.start(Form{}, first_row + s * lanes, rows_of(s));
        Row float_states[Op::float_lanes ? max_strips : 1];
        Mask<Isa, double> accepted[Op::float_lanes ? max_strips : 1];
        bool all_accepted = false;
        bool tries_float = Op::float_lanes && mask == nullptr;
        if constexpr (Op::float_lanes) {
            if (tries_float) {
                FloatSum<Isa> float_sums[max_strips + 1];
                for (std::ptrdiff_t c = 0; c < shape.cols; c += sum_block) {
                    if (!one_block) gather(c);
                    for (std::ptrdiff_t s = 0; s < strips; s += 2) {
                        FloatSum<Isa> both[2];
                        if constexpr (Op::has_holes) {
                            std::int32_t holes[2 * lanes];
                            for (int j = 0; j < 2 * lanes; ++j) {
                                std::ptrdiff_t own = s + j / lanes;
                                holes[j] = own < strips ? static_cast<std::int32_t>(
                                                              op.hole(states[own], j % lanes) - c)
                                                        : -1;
                            }
                            AcrossFloat<Isa>::template block<true>(tile[0].strip(s), tile[0].cols,
                                                                   holes, both);
                        } else {
                            AcrossFloat<Isa>::template block<false>(tile[0].strip(s), tile[0].cols,
                                                                    nullptr, both);
                        }
                        for (int h = 0; h < 2; ++h)
                            float_sums[s + h] = c == 0 ? both[h] : plus(float_sums[s + h], both[h]);
                    }
                }
                all_accepted = true;
                for (std::ptrdiff_t s = 0; s < strips; ++s) {
                    accepted[s] = op.accepts(float_sums[s], states[s]);
                    all_accepted = all_accepted && !any(~accepted[s]);
                    float_states[s] = states[s];
                }
                // Its finish() writes results of all rows, so those of the accepted ones come
                // after.
                if (!all_accepted)
                    general_sums(each_strip, rows_of, first_row, strips, tile, states, sums);
                for (std::ptrdiff_t s = 0; s < strips; ++s) {
                    op.finish_float(Form{}, first_row + s * lanes, rows_of(s), float_sums[s],
                                    accepted[s], float_states[s]);
                    states[s] = all_accepted ? float_states[s]
                                             : blend(accepted[s], float_states[s], states[s]);
                    // Lanes without a row are no reason to look at lanes one by one.
                    if constexpr (float_emits)
                        states[s].float_emit =
                            states[s].float_emit |
                            (lane_numbers<Isa>() >= D::splat(static_cast<double>(rows_of(s))));
                }
            }
        }
        if (!tries_float) general_sums(each_strip, rows_of, first_row, strips, tile, states, sums);
        if constexpr (Op::emits) {
            if (out == nullptr) return;
            for (std::ptrdiff_t c = 0; c < shape.cols; c += sum_block) {
                if (!one_block) gather(c);
                for (std::ptrdiff_t s = 0; s < strips; s += Tile<Isa, C>::lanes / lanes)
                    emit_strip(tile, s, strips, c, states);
                if (mask != nullptr)
                    leave_out<Isa>(tile[0].data, keep.data, padded_rows * keep.cols, absent);
                move_tile<Isa, C, false>(tile[0], shape, *out, first_row, rows, c);
            }
        }
    }

    template <class EachStrip, class RowsOf>
    [[gnu::always_inline]] inline void general_sums(const EachStrip& each_strip,
                                                    const RowsOf& rows_of, std::ptrdiff_t first_row,
                                                    std::ptrdiff_t strips,
                                                    const Tile<Isa, C> (&tile)[inputs], Row* states,
                                                    Sum* sums) const {
        using Form = Across<Isa, C>;
        constexpr std::ptrdiff_t lanes = Form::lanes;
        if constexpr (Op::has_peak) {
            each_strip([&](std::ptrdiff_t s, std::ptrdiff_t c, const C*(&data)[inputs]) {
                D peak = op.peak(Form{}, tile[0].cols, data, states[s]);
                states[s].peak = c == 0 ? peak : max(states[s].peak, peak);
            });
        }
        bool again;
        do {
            each_strip([&](std::ptrdiff_t s, std::ptrdiff_t c, const C*(&data)[inputs]) {
                Sum sum = op.sum(Form{}, c, tile[0].cols, data, states[s]);
                sums[s] = c == 0 ? sum : plus(sums[s], sum);
            });
            again = false;
            for (std::ptrdiff_t s = 0; s < strips; ++s)
                again |= must_sum_again<Isa>(sums[s], states[s]);
        } while (again);
        for (std::ptrdiff_t s = 0; s < strips; ++s)
            op.finish(Form{}, first_row + s * lanes, rows_of(s), sums[s], states[s]);
    }

    // Lane by lane a or b; a Row is nothing but registers of doubles.
    [[gnu::always_inline]] static inline Row blend(Mask<Isa, double> mask, const Row& a,
                                                   const Row& b) {
        static_assert(sizeof(Row) % sizeof(D) == 0);
        Row r;
        const char* from_a = reinterpret_cast<const char*>(&a);
        const char* from_b = reinterpret_cast<const char*>(&b);
        char* to = reinterpret_cast<char*>(&r);
        for (std::size_t i = 0; i < sizeof(Row); i += sizeof(D)) {
            D va, vb;
            __builtin_memcpy(&va, from_a + i, sizeof(D));
            __builtin_memcpy(&vb, from_b + i, sizeof(D));
            D v = select(mask, va, vb);
            __builtin_memcpy(to + i, &v, sizeof(D));
        }
        return r;
    }

    // The strips that lie side by side in a tile from s on.
    [[gnu::always_inline]] inline void emit_strip(const Tile<Isa, C> (&tile)[inputs],
                                                  std::ptrdiff_t s, std::ptrdiff_t strips,
                                                  std::ptrdiff_t column, const Row* states) const {
        using Form = Across<Isa, C>;
        constexpr std::ptrdiff_t lanes = Form::lanes;
        constexpr int beside = Tile<Isa, C>::lanes / lanes;
        std::ptrdiff_t n = tile[0].cols;
        auto general = [&](std::ptrdiff_t h, std::ptrdiff_t i, std::ptrdiff_t cols, C* to) {
            const C* data[inputs];
            for (int k = 0; k < inputs; ++k) data[k] = tile[k].strip(h) + i * Form::stride;
            op.emit(Form{}, column + i, cols, to, data, states[h]);
        };
        if constexpr (float_emits) {
            const Row& first = states[s];
            const Row& second = states[s + 1 < strips ? s + 1 : s];
            bool some = any(first.float_emit) || any(second.float_emit);
            bool every = !any(~first.float_emit) && !any(~second.float_emit);
            if (some) {
                typename AcrossFloat<Isa>::Factor factor(first.factor, second.factor);
                C* x = tile[0].strip(s);
                if (every) {
                    AcrossFloat<Isa>::emit(x, n, x, factor);
                } else {
                    for (std::ptrdiff_t i = 0; i < n; ++i) {
                        C fast[Form::stride], slow[Form::stride];
                        AcrossFloat<Isa>::emit(fast, 1, x + i * Form::stride, factor);
                        for (int h = 0; h < beside && s + h < strips; ++h)
                            general(s + h, i, 1, slow + h * lanes);
                        for (int j = 0; j < Form::stride; ++j) {
                            if (s + j / lanes >= strips) break;
                            bool use = states[s + j / lanes].float_emit[j % lanes] != 0;
                            x[i * Form::stride + j] = use ? fast[j] : slow[j];
                        }
                    }
                }
                for (int j = 0; j < Form::stride; ++j) {
                    if (s + j / lanes >= strips) break;
                    const Row& row = states[s + j / lanes];
                    if (row.float_emit[j % lanes] != 0)
                        op.patch(column, n, x + j, Form::stride, j % lanes, row);
                }
                return;
            }
        }
        for (int h = 0; h < beside && s + h < strips; ++h)
            general(s + h, 0, n, tile[0].strip(s + h));
    }
};

}  // namespace stableops
