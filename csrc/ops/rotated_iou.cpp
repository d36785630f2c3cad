// Box b is carried into the frame of box a, where a is [-X, X] x [-Y, Y]: its corners are
//     d +- w_b / 2 (c, s) +- h_b / 2 (-s, c),   c, s = cosine and sine of the difference of angles.
// This quadrilateral is clipped at the four lines x = +-X, y = +-Y, one after the other (Sutherland
// & Hodgman 1974); a cut has that coordinate exactly and lies between the ends of the edge, also
// where the edge is nearly parallel to the line. The area is summed over triangles from the first
// corner.
//
// Error in float64 (u = 2^-53): corners and cuts are within 6 u M, M the largest coordinate, which
// moves the outline of the intersection, of length P, and so its area by at most 6 u M P; the sum
// of triangles adds less than 2 u M P. Where 16 u M P is not below 2^-41 of the area (slivers,
// boxes that just touch), the same steps run in double-length arithmetic, whose u is 2^-102: that
// leaves 1e-12 as long as area / P, about half the width of the intersection, is above 2^-58 M.
#include "rotated_iou.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace stableops {
namespace {

// Error-free sum and product (Knuth, Dekker); the operations are within a few 2^-104.
DoubleLength exact_sum(double a, double b) {
    double sum = a + b;
    double b_part = sum - a;
    return {sum, (a - (sum - b_part)) + (b - b_part)};
}
DoubleLength normalized(double high, double low) {
    double sum = high + low;
    return {sum, low - (sum - high)};
}
DoubleLength operator+(DoubleLength a, DoubleLength b) {
    DoubleLength high = exact_sum(a.high, b.high);
    DoubleLength low = exact_sum(a.low, b.low);
    DoubleLength sum = normalized(high.high, high.low + low.high);
    return normalized(sum.high, sum.low + low.low);
}
// The sum where |a| > |b|.
DoubleLength large_and_small(DoubleLength a, DoubleLength b) {
    DoubleLength high = normalized(a.high, b.high);
    return normalized(high.high, high.low + (a.low + b.low));
}
DoubleLength operator-(DoubleLength a) { return {-a.high, -a.low}; }
DoubleLength operator-(DoubleLength a, DoubleLength b) { return a + -b; }
DoubleLength operator*(DoubleLength a, DoubleLength b) {
    double product = a.high * b.high;
    double error = std::fma(a.high, b.high, -product);
    return normalized(product, error + (a.high * b.low + a.low * b.high));
}
DoubleLength operator/(DoubleLength a, DoubleLength b) {
    double first = a.high / b.high;
    DoubleLength rest = a - b * DoubleLength{first, 0};
    double second = rest.high / b.high;
    rest = rest - b * DoubleLength{second, 0};
    return normalized(first, second + rest.high / b.high);
}
bool operator<(DoubleLength a, DoubleLength b) {
    return a.high < b.high || (a.high == b.high && a.low < b.low);
}

double real(double value, double) { return value; }
DoubleLength real(double value, DoubleLength) { return {value, 0}; }
double value_of(double x) { return x; }
double value_of(DoubleLength x) { return x.high; }

// Taylor's series without their first terms: c[0] + c[1] z + ..., of which `tail` is below 2^-50.
template <int terms, int tail_terms>
DoubleLength series(DoubleLength z, const DoubleLength (&c)[terms],
                    const double (&tail)[tail_terms]) {
    double rest = tail[tail_terms - 1];
    for (int k = tail_terms - 2; k >= 0; --k) rest = rest * z.high + tail[k];
    DoubleLength sum = real(rest, DoubleLength{});
    for (int k = terms - 1; k >= 0; --k) sum = large_and_small(c[k], sum * z);
    return sum;
}
// -1/3!, 1/5!, -1/7! ... and -1/2!, 1/4!, -1/6! ...: up to 2^-106 for pi / 4.
constexpr DoubleLength sine_terms[] = {
    {-0x1.5555555555555p-3, -0x1.5555555555555p-57},
    {0x1.1111111111111p-7, 0x1.1111111111111p-63},
    {-0x1.a01a01a01a01ap-13, -0x1.a01a01a01a01ap-73},
    {0x1.71de3a556c734p-19, -0x1.c154f8ddc6c00p-73},
    {-0x1.ae64567f544e4p-26, 0x1.c062e06d1f209p-80},
    {0x1.6124613a86d09p-33, 0x1.f28e0cc748ebep-87},
    {-0x1.ae7f3e733b81fp-41, -0x1.1d8656b0ee8cbp-97},
};
constexpr double sine_tail[] = {
    0x1.952c77030ad4ap-49, -0x1.2f49b46814157p-57, 0x1.71b8ef6dcf572p-66,  -0x1.761b41316381ap-75,
    0x1.3f3ccdd165fa9p-84, -0x1.d1ab1c2dccea3p-94, 0x1.259f98b4358adp-103,
};
constexpr DoubleLength cosine_terms[] = {
    {-0x1.0000000000000p-1, 0x0.0p+0},
    {0x1.5555555555555p-5, 0x1.5555555555555p-59},
    {-0x1.6c16c16c16c17p-10, 0x1.f49f49f49f49fp-65},
    {0x1.a01a01a01a01ap-16, 0x1.a01a01a01a01ap-76},
    {-0x1.27e4fb7789f5cp-22, -0x1.cbbc05b4fa99ap-76},
    {0x1.1eed8eff8d898p-29, -0x1.2aec959e14c06p-83},
    {-0x1.93974a8c07c9dp-37, -0x1.05d6f8a2efd1fp-92},
    {0x1.ae7f3e733b81fp-45, 0x1.1d8656b0ee8cbp-101},
};
constexpr double cosine_tail[] = {
    -0x1.6827863b97d97p-53, 0x1.e542ba4020225p-62, -0x1.0ce396db7f853p-70,  0x1.f2cf01972f578p-80,
    -0x1.88e85fc6a4e5ap-89, 0x1.0a18a2635085dp-98, -0x1.3932c5047d60ep-108,
};

// Sine and cosine of degrees. The angle less a multiple of 90 is exact.
void sine_and_cosine(double degrees, DoubleLength& sine, DoubleLength& cosine) {
    double turn = std::abs(degrees) < 360.0 ? degrees : std::fmod(degrees, 360.0);
    // To the nearest integer: no more digits than those fit beside the constant.
    double quarters = (turn / 90.0 + 0x1.8p52) - 0x1.8p52;
    constexpr DoubleLength radians_per_degree = {0x1.1df46a2529d39p-6, 0x1.5c1d8becdd291p-62};
    DoubleLength angle = real(turn - 90.0 * quarters, DoubleLength{}) * radians_per_degree;
    const DoubleLength z = angle * angle;
    const DoubleLength sum_sine =
        large_and_small(angle, angle * (z * series(z, sine_terms, sine_tail)));
    const DoubleLength sum_cosine =
        large_and_small(real(1, DoubleLength{}), z * series(z, cosine_terms, cosine_tail));
    int quadrant = static_cast<int>(quarters) & 3;
    sine = quadrant & 1 ? sum_cosine : sum_sine;
    cosine = quadrant & 1 ? sum_sine : sum_cosine;
    if (quadrant & 2) sine = -sine;
    if (quadrant == 1 || quadrant == 2) cosine = -cosine;
}

template <class Real>
struct Point {
    Real x, y;
};

// A convex polygon: a quadrilateral clipped at four lines has at most eight corners.
template <class Real>
struct Polygon {
    int count = 0;
    Point<Real> corner[9];

    void add(Point<Real> p) { corner[count++] = p; }
};

// The part where sign * coordinate <= limit; the coordinate is x, or y if `vertical`.
template <bool vertical, class Real>
Polygon<Real> clipped(const Polygon<Real>& polygon, double sign, Real limit) {
    Polygon<Real> result;
    const Real s = real(sign, Real{});
    for (int i = 0; i < polygon.count; ++i) {
        const Point<Real>& p = polygon.corner[i];
        const Point<Real>& q = polygon.corner[i + 1 < polygon.count ? i + 1 : 0];
        Real p_across = s * (vertical ? p.y : p.x);
        Real q_across = s * (vertical ? q.y : q.x);
        bool p_inside = !(limit < p_across);
        bool q_inside = !(limit < q_across);
        if (p_inside) result.add(p);
        if (p_inside == q_inside) continue;
        // From the end inside, so that an edge gives one cut in either direction.
        const Point<Real>& from = p_inside ? p : q;
        const Point<Real>& to = p_inside ? q : p;
        Real from_across = p_inside ? p_across : q_across;
        Real to_across = p_inside ? q_across : p_across;
        Real part = (limit - from_across) / (to_across - from_across);
        Real from_along = vertical ? from.x : from.y;
        Real to_along = vertical ? to.x : to.y;
        Real along = from_along + part * (to_along - from_along);
        Real across = s * limit;
        result.add(vertical ? Point<Real>{along, across} : Point<Real>{across, along});
    }
    return result;
}

// Sizes and the offset of the centres, scaled by a power of two so that the largest size is near 1.
struct Scene {
    double width_a, height_a, width_b, height_b;
    DoubleLength offset_x, offset_y;
};

template <class Real>
struct Overlap {
    Real area;
    double perimeter;
    double extent;  // largest coordinate
};

DoubleLength convert(DoubleLength x, DoubleLength) { return x; }
double convert(DoubleLength x, double) { return x.high; }

template <class Real>
Overlap<Real> overlap_of(const RotatedBox& a, const RotatedBox& b, const Scene& scene) {
    const Real half = real(0.5, Real{});
    const Real sine_a = convert(a.sine, Real{}), cosine_a = convert(a.cosine, Real{});
    const Real sine_b = convert(b.sine, Real{}), cosine_b = convert(b.cosine, Real{});
    const Real c = cosine_a * cosine_b + sine_a * sine_b;
    const Real s = sine_a * cosine_b - cosine_a * sine_b;
    const Real x = convert(scene.offset_x, Real{}), y = convert(scene.offset_y, Real{});
    const Real dx = x * cosine_a - y * sine_a;
    const Real dy = x * sine_a + y * cosine_a;
    const Real w = half * real(scene.width_b, Real{}), h = half * real(scene.height_b, Real{});
    const Real right = half * real(scene.width_a, Real{}),
               top = half * real(scene.height_a, Real{});

    Polygon<Real> polygon;
    const Real wc = w * c, ws = w * s, hc = h * c, hs = h * s;
    polygon.add({dx + wc - hs, dy + ws + hc});
    polygon.add({dx - wc - hs, dy - ws + hc});
    polygon.add({dx - wc + hs, dy - ws - hc});
    polygon.add({dx + wc + hs, dy + ws - hc});
    double extent = std::max(value_of(right), value_of(top));
    for (int i = 0; i < 4; ++i)
        extent = std::max({extent, std::abs(value_of(polygon.corner[i].x)),
                           std::abs(value_of(polygon.corner[i].y))});
    const Polygon<Real> below_right = clipped<false>(polygon, 1, right);
    const Polygon<Real> between_sides = clipped<false>(below_right, -1, right);
    const Polygon<Real> below_top = clipped<true>(between_sides, 1, top);
    const Polygon<Real> common = clipped<true>(below_top, -1, top);

    Real twice_area = real(0, Real{});
    double perimeter = 0;
    for (int i = 0; i < common.count; ++i) {
        const Point<Real>& p = common.corner[i];
        const Point<Real>& q = common.corner[i + 1 < common.count ? i + 1 : 0];
        const Point<Real>& o = common.corner[0];
        twice_area = twice_area + ((p.x - o.x) * (q.y - o.y) - (p.y - o.y) * (q.x - o.x));
        perimeter += std::abs(value_of(q.x - p.x)) + std::abs(value_of(q.y - p.y));
    }
    return {half * twice_area, perimeter, extent};
}

// Whether some side of a box separates the two by more than rounding can hide.
bool clearly_apart(const RotatedBox& a, const RotatedBox& b, const Scene& scene) {
    double c = std::abs(a.cosine.high * b.cosine.high + a.sine.high * b.sine.high);
    double s = std::abs(a.sine.high * b.cosine.high - a.cosine.high * b.sine.high);
    double x = scene.offset_x.high, y = scene.offset_y.high;
    double margin = 0x1p-48 * (scene.width_a + scene.height_a + scene.width_b + scene.height_b +
                               std::abs(x) + std::abs(y));
    auto apart = [&](double along, double own, double width, double height) {
        return 2 * std::abs(along) > own + width + height + margin;
    };
    return apart(x * a.cosine.high - y * a.sine.high, scene.width_a, scene.width_b * c,
                 scene.height_b * s) ||
           apart(x * a.sine.high + y * a.cosine.high, scene.height_a, scene.width_b * s,
                 scene.height_b * c) ||
           apart(x * b.cosine.high - y * b.sine.high, scene.width_b, scene.width_a * c,
                 scene.height_a * s) ||
           apart(x * b.sine.high + y * b.cosine.high, scene.height_b, scene.width_a * s,
                 scene.height_a * c);
}

// x * 2^exponent, without a call where 2^exponent is a normal number.
double scaled(double x, int exponent) {
    if (exponent < -1022 || exponent > 1023) return std::ldexp(x, exponent);
    return x * std::bit_cast<double>(static_cast<std::uint64_t>(exponent + 1023) << 52);
}

// (high - low) * 2^exponent, exact but for underflow.
DoubleLength scaled_difference(double high, double low, int exponent) {
    DoubleLength difference = exact_sum(high, -low);
    if (std::isinf(difference.high)) {
        difference = exact_sum(0.5 * high, -0.5 * low);
        ++exponent;
    }
    return {scaled(difference.high, exponent), scaled(difference.low, exponent)};
}

}  // namespace

RotatedBox make_rotated_box(double x, double y, double width, double height,
                            double degrees) noexcept {
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    constexpr double largest = std::numeric_limits<double>::max();
    RotatedBox box = {x, y, width, height, {nan, nan}, {nan, nan}, {nan, nan, nan, nan}};
    if (!std::isfinite(x) || !std::isfinite(y) || !std::isfinite(width) || !std::isfinite(height) ||
        !std::isfinite(degrees))
        return box;
    sine_and_cosine(degrees, box.sine, box.cosine);
    double c = std::abs(box.cosine.high), s = std::abs(box.sine.high);
    double half_x = (0.5 * width * c + 0.5 * height * s) * (1 + 0x1p-48);
    double half_y = (0.5 * width * s + 0.5 * height * c) * (1 + 0x1p-48);
    half_x += 0x1p-50 * std::abs(x) + std::numeric_limits<double>::min();
    half_y += 0x1p-50 * std::abs(y) + std::numeric_limits<double>::min();
    box.hull = {std::max(x - half_x, -largest), std::max(y - half_y, -largest),
                std::min(x + half_x, largest), std::min(y + half_y, largest)};
    return box;
}

double rotated_iou(const RotatedBox& a, const RotatedBox& b) noexcept {
    if (std::isnan(a.hull.x1) || std::isnan(b.hull.x1))
        return std::numeric_limits<double>::quiet_NaN();
    if (!(a.width > 0 && a.height > 0 && b.width > 0 && b.height > 0)) return 0;
    int exponent;
    std::frexp(std::max({a.width, a.height, b.width, b.height}), &exponent);
    Scene scene;
    scene.width_a = scaled(a.width, -exponent);
    scene.height_a = scaled(a.height, -exponent);
    scene.width_b = scaled(b.width, -exponent);
    scene.height_b = scaled(b.height, -exponent);
    scene.offset_x = scaled_difference(b.x, a.x, -exponent);
    scene.offset_y = scaled_difference(b.y, a.y, -exponent);
    // Centres further apart than twice the largest size; also keeps infinities out of what follows.
    if (!(std::abs(scene.offset_x.high) < 2 && std::abs(scene.offset_y.high) < 2)) return 0;
    if (clearly_apart(a, b, scene)) return 0;

    double area_a = scene.width_a * scene.height_a;
    double area_b = scene.width_b * scene.height_b;
    Overlap<double> quick = overlap_of<double>(a, b, scene);
    double area = quick.area;
    if (!(0x1p-49 * quick.extent * quick.perimeter < 0x1p-41 * area)) {
        Overlap<DoubleLength> precise = overlap_of<DoubleLength>(a, b, scene);
        area = precise.area.high;
        // Nothing, or no more than the error.
        if (!(area > 0x1p-96 * precise.extent * precise.perimeter)) return 0;
    }
    area = std::min({area, area_a, area_b});
    return area / (area_a + area_b - area);
}

}  // namespace stableops
