"""What is right: definitions in float64 or mpmath, written independently of csrc, and how to
measure an error against them."""

import functools
import math
from fractions import Fraction

import ml_dtypes
import mpmath
import numpy as np
from mpmath import mpf

# Tests add up references: with 53 bits the sum itself would be wrong by an ULP.
mpmath.mp.prec = max(mpmath.mp.prec, 300)


def ulp(x, dtype):
    """The unit in the last place of dtype at the magnitude of the float64 or longdouble x."""
    info = ml_dtypes.finfo(dtype)
    _, exponent = np.frexp(np.abs(np.asarray(x, np.float64)))
    lowest = np.frexp(np.float64(info.smallest_normal))[1]
    exponent = np.maximum(exponent, lowest)
    return np.ldexp(np.float64(1), exponent - info.nmant - 1)


def same_bits(a, b):
    """Whether two arrays or scalars have the same shape, dtype and bits; all NaNs are equal."""
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(np.all((_bits(a) == _bits(b)) | (np.isnan(a) & np.isnan(b))))


def _bits(x):
    return np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}").reshape(x.shape)


def relu(x):
    return np.where(np.isnan(x), x, np.maximum(x, 0)) + np.zeros((), np.asarray(x).dtype)


def relu_backward(grad_output, output):
    with np.errstate(invalid="ignore"):  # ml_dtypes warns of comparisons with NaN
        positive = output > 0
    return np.where(positive, grad_output, np.zeros((), np.asarray(grad_output).dtype))


# Elementwise functions at one number, to 60 digits (more than 300 where x is tiny).


def _precise(function):
    """Compute with enough bits for every digit of a float64 argument of any size."""

    @functools.wraps(function)
    def wrapper(*values):
        with mpmath.workprec(2400 if any(0 < abs(v) < 1e-30 for v in values) else 300):
            return function(*map(mpf, values))

    return wrapper


@_precise
def sigmoid(x):
    return 1 / (1 + mpmath.exp(-x))


@_precise
def softplus(x):
    return mpmath.log1p(mpmath.exp(x)) if x < 0 else x + mpmath.log1p(mpmath.exp(-x))


@_precise
def log_sigmoid(x):
    return -softplus(-x)


@_precise
def sigmoid_backward(grad_output, output):
    return grad_output * output * (1 - output)


@_precise
def softplus_backward(grad_output, x):
    return grad_output * sigmoid(x)


@_precise
def log_sigmoid_backward(grad_output, x):
    return grad_output * sigmoid(-x)


@_precise
def sigmoid_cross_entropy(x, y, weight=1.0, pos_weight=1.0):
    return weight * (pos_weight * y * softplus(-x) + (1 - y) * softplus(x))


@_precise
def sigmoid_cross_entropy_grad(x, y, weight=1.0, pos_weight=1.0):
    return weight * ((1 - y) * sigmoid(x) - pos_weight * y * sigmoid(-x))


def unit(exact, dtype):
    """The unit in the last place of dtype next to the mpf `exact`."""
    info = ml_dtypes.finfo(dtype)
    lowest = int(np.frexp(np.float64(info.smallest_normal))[1])
    exponent = max(int(mpmath.frexp(exact)[1]), lowest) if exact else lowest
    return mpmath.ldexp(mpf(1), exponent - info.nmant - 1)


def ulp_error(got, exact, dtype):
    """|got - exact| in units in the last place, a float; an overflowed result counts as 2^emax."""
    top = mpmath.ldexp(mpf(1), int(np.frexp(np.float64(ml_dtypes.finfo(dtype).max))[1]))
    got = float(got)
    value = mpf(got) if np.isfinite(got) else mpmath.sign(mpf(got)) * top
    with mpmath.workprec(300):
        return float(abs(value - exact) / unit(exact, dtype)) if not np.isnan(got) else np.inf


def worst_ulp_error(got, exact, dtype):
    """The largest error of an array against a list of mpf, and where it is."""
    errors = [ulp_error(g, e, dtype) for g, e in zip(np.ravel(got), exact, strict=True)]
    where = int(np.argmax(errors))
    return errors[where], where


def rounded(x, dtype):
    """The long double array x rounded to dtype once, to nearest even."""
    step = ulp(x, dtype).astype(np.longdouble)
    with np.errstate(over="ignore"):
        return (np.rint(x / step) * step).astype(np.float64).astype(dtype)


def exact_boxes(boxes):
    """Rows of Fractions; None for a row with a coordinate that is not finite."""
    return [
        [Fraction(float(v)) for v in row] if np.isfinite(row.astype(np.float64)).all() else None
        for row in np.asarray(boxes)
    ]


def exact_area(box):
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def exact_intersection(a, b):
    """Area of the intersection of two boxes, 0 if either has none."""
    if exact_area(a) == 0 or exact_area(b) == 0:
        return Fraction(0)
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def exact_iou(a, b):
    """Intersection over union of two rows of exact_boxes; 0 for a row that is not finite."""
    if a is None or b is None:
        return Fraction(0)
    intersection = exact_intersection(a, b)
    return intersection and intersection / (exact_area(a) + exact_area(b) - intersection)


def nms(
    boxes, scores, iou_threshold, idxs=None, max_output=None, score_threshold=None, iou=exact_iou
):
    """Greedy suppression as it is defined, in exact rational arithmetic."""
    boxes = exact_boxes(boxes)
    scores = [float(score) for score in scores]
    candidates = [i for i, s in enumerate(scores) if score_threshold is None or s > score_threshold]
    candidates.sort(key=lambda i: (np.isnan(scores[i]), 0 if np.isnan(scores[i]) else -scores[i]))
    threshold = Fraction(float(iou_threshold))
    kept = []
    for i in candidates:
        if len(kept) == max_output:
            break
        rivals = [j for j in kept if idxs is None or idxs[i] == idxs[j]]
        if all(iou(boxes[i], boxes[j]) <= threshold for j in rivals):
            kept.append(i)
    return kept


def exact_hull(a, b):
    """The smallest box around all corners of two rows of exact_boxes."""
    x, y = [a[0], a[2], b[0], b[2]], [a[1], a[3], b[1], b[3]]
    return [min(x), min(y), max(x), max(y)]


def generalized_box_iou(a, b):
    """Of two rows of exact_boxes, as a Fraction."""
    hull = exact_area(exact_hull(a, b))
    whole = exact_area(a) + exact_area(b) - exact_intersection(a, b)
    return exact_iou(a, b) - ((hull - whole) / hull if hull else 0)


def distance_box_iou(a, b):
    """Of two rows of exact_boxes, as a Fraction."""
    x1, y1, x2, y2 = exact_hull(a, b)
    diagonal = (x2 - x1) ** 2 + (y2 - y1) ** 2
    offset = (a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2
    return exact_iou(a, b) - (offset / 4 / diagonal if diagonal else 0)


def complete_box_iou(a, b):
    """Of two rows of exact_boxes, as an mpf."""

    def angle(box):
        width, height = (max(box[i + 2] - box[i], 0) for i in (0, 1))
        return mpmath.atan2(to_mpf(width), to_mpf(height)) if width or height else mpmath.mpf(0)

    with mpmath.workprec(200):
        v = 4 / mpmath.pi**2 * (angle(a) - angle(b)) ** 2
        alpha = v / (1 - to_mpf(exact_iou(a, b)) + v) if v else 0
        return to_mpf(distance_box_iou(a, b)) - alpha * v


def to_mpf(fraction):
    return mpmath.mpf(fraction.numerator) / fraction.denominator


def box_convert(box, in_fmt, out_fmt):
    """One row of exact_boxes in another format."""
    a, b, c, d = box
    if in_fmt == "xywh":
        c, d = a + c, b + d
    elif in_fmt == "cxcywh":
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    if out_fmt == "xywh":
        c, d = c - a, d - b
    elif out_fmt == "cxcywh":
        a, b, c, d = (a + c) / 2, (b + d) / 2, c - a, d - b
    return [a, b, c, d]


def window_starts(size, kernel, stride, padding, dilation, ceil_mode):
    """Where the windows of an axis start, in coordinates of the image without padding."""
    extent = (kernel - 1) * dilation + 1
    starts = []
    start = -padding
    while start + extent <= size + padding:
        starts.append(start)
        start += stride
    if ceil_mode and start - stride + extent < size + padding and start < size:
        starts.append(start)
    return starts


def max_pool2d(x, kernel, stride, padding, dilation, ceil_mode):
    """Values and positions of the maxima of an (N, C, H, W) array; arguments are pairs."""
    x = np.asarray(x)
    height, width = x.shape[2:]
    wide = x if x.dtype.kind in "iub" else x.astype(np.float64)
    rows = [
        [r for r in range(s, s + kernel[0] * dilation[0], dilation[0]) if 0 <= r < height]
        for s in window_starts(height, kernel[0], stride[0], padding[0], dilation[0], ceil_mode)
    ]
    cols = [
        [c for c in range(s, s + kernel[1] * dilation[1], dilation[1]) if 0 <= c < width]
        for s in window_starts(width, kernel[1], stride[1], padding[1], dilation[1], ceil_mode)
    ]
    y = np.empty((*x.shape[:2], len(rows), len(cols)), x.dtype)
    indices = np.empty(y.shape, np.int64)
    for i, r in enumerate(rows):
        for j, c in enumerate(cols):
            positions = np.add.outer(np.array(r) * width, np.array(c)).ravel()
            window = wide.reshape(*x.shape[:2], -1)[..., positions]
            best = positions[np.argmax(window, axis=-1)]  # NaN is the largest, and the first wins
            indices[..., i, j] = best
            flat = x.reshape(*x.shape[:2], -1)
            y[..., i, j] = np.take_along_axis(flat, best[..., None], axis=-1)[..., 0]
    return y, indices


def max_pool2d_backward(grad_output, indices, input_shape):
    """Adds in row-major order of the windows, in float32 for the types narrower than that."""
    grad_output = np.asarray(grad_output)
    compute = np.float64 if grad_output.dtype == np.float64 else np.float32
    grad = np.zeros((*input_shape[:2], input_shape[2] * input_shape[3]), compute)
    for n, c, i, j in np.ndindex(grad_output.shape):
        grad[n, c, indices[n, c, i, j]] += compute(grad_output[n, c, i, j])
    return grad.reshape(input_shape).astype(grad_output.dtype)


def average_windows(size, kernel, stride, padding, ceil_mode):
    """(elements inside the image, elements inside the padded image) of each window of an axis."""
    starts = window_starts(size, kernel, stride, padding, 1, ceil_mode)
    return [
        (
            range(max(s, 0), min(s + kernel, size)),
            min(s + kernel, size + padding) - s,
        )
        for s in starts
    ]


def adaptive_windows(size, windows):
    spans = [range(i * size // windows, -(-(i + 1) * size // windows)) for i in range(windows)]
    return [(span, len(span)) for span in spans]


def window_divisors(rows, cols, count_include_pad=True, divisor_override=None):
    """Divisor of each window of a grid."""
    divisors = np.empty((len(rows), len(cols)), object)
    for i, (r, r_count) in enumerate(rows):
        for j, (c, c_count) in enumerate(cols):
            divisors[i, j] = r_count * c_count if count_include_pad else len(r) * len(c)
            if divisor_override is not None:
                divisors[i, j] = divisor_override
    return divisors


def exact_integers(x):
    """Finite floats as Python integers, in units of 2^-1074."""

    def one(value):
        numerator, denominator = float(value).as_integer_ratio()
        return numerator * (2**1074 // denominator)

    return np.vectorize(one, otypes=[object])(x)


def average_error(y, x, rows, cols, divisors):
    """The largest error of means y of windows of x, in units of eps * mean(abs(x))."""
    y_exact, x_exact = exact_integers(y), exact_integers(x)
    terms = {
        (i, j): x_exact[:, :, r.start : r.stop, c.start : c.stop].reshape(*x.shape[:2], -1)
        for i, (r, _) in enumerate(rows)
        for j, (c, _) in enumerate(cols)
    }
    worst = 0.0
    for (i, j), window in terms.items():
        error = abs(y_exact[:, :, i, j] * divisors[i, j] - window.sum(axis=-1))
        worst = max(worst, _worst(error, abs(window).sum(axis=-1), divisors[i, j], y.dtype))
    return worst


def average_backward_error(grad_x, grad_y, rows, cols, divisors):
    """The same for the gradient: an element adds grad_y / divisor of the windows that hold it."""
    got, grads = exact_integers(grad_x), exact_integers(grad_y)
    most = np.zeros(grad_x.shape[2:], int)
    common = int(np.lcm.reduce(np.abs(divisors.astype(np.int64)).ravel()))
    total = np.zeros(grad_x.shape, object)
    size = np.zeros(grad_x.shape, object)
    for i, (r, _) in enumerate(rows):
        for j, (c, _) in enumerate(cols):
            term = grads[:, :, i, j] * (common // divisors[i, j])
            total[:, :, r.start : r.stop, c.start : c.stop] += term[..., None, None]
            size[:, :, r.start : r.stop, c.start : c.stop] += abs(term)[..., None, None]
            most[r.start : r.stop, c.start : c.stop] += 1
    # Each contribution may be rounded to a subnormal.
    return _worst(abs(got * common - total), size, common, grad_x.dtype, int(most.max()) + 1)


def _worst(error, size, divisor, dtype, terms=1):
    """max of error / (eps * size); 0.51 of the smallest subnormal a term counts as nothing."""
    info = ml_dtypes.finfo(dtype)
    tiny = int(exact_integers(info.smallest_subnormal)) * abs(divisor) * terms
    eps = 2**info.nmant
    excess = [
        float(Fraction(int(e) * eps, int(s))) if s else float("inf")
        for e, s in zip(np.ravel(error), np.ravel(size), strict=True)
        if 100 * e > 51 * tiny
    ]
    return max(excess, default=0.0)


def soft_nms(boxes, scores, iou_threshold, method, sigma, score_threshold):
    """Soft suppression as it is defined, IoU in exact arithmetic, scores in float64."""
    boxes = exact_boxes(boxes)
    alive = {i: float(s) for i, s in enumerate(scores) if s > score_threshold}
    selected = []
    while alive:
        best = min(alive, key=lambda i: (-alive[i], i))
        selected.append((best, alive.pop(best)))
        for i in list(alive):
            iou = exact_iou(boxes[best], boxes[i])
            if method == "gaussian":
                alive[i] *= math.exp(-(float(iou) ** 2) / sigma)
            elif iou > Fraction(float(iou_threshold)):
                alive[i] *= 1 - float(iou)
            if not alive[i] > score_threshold:
                del alive[i]
    return selected


def rotated_corners(box):
    """The corners of a row (x, y, width, height, degrees) in order, as pairs of mpf."""
    x, y, width, height, degrees = (mpmath.mpf(float(v)) for v in box)
    cosine = mpmath.cospi(degrees / 180)
    sine = mpmath.sinpi(degrees / 180)
    return [
        (
            x + (i * width * cosine + j * height * sine) / 2,
            y + (j * height * cosine - i * width * sine) / 2,
        )
        for i, j in ((1, 1), (-1, 1), (-1, -1), (1, -1))
    ]


def box_iou_rotated(a, b):
    """Of two rows (x, y, width, height, degrees), an mpf: one clipped at the other's sides."""
    with mpmath.workdps(80):
        areas = [mpmath.mpf(float(box[2])) * mpmath.mpf(float(box[3])) for box in (a, b)]
        if not all(float(size) > 0 for box in (a, b) for size in box[2:4]):
            return mpmath.mpf(0)
        polygon = rotated_corners(a)
        sides = rotated_corners(b)
        orientation = mpmath.sign(cross(sides[0], sides[1], sides[2]))
        for p, q in zip(sides, sides[1:] + sides[:1], strict=True):
            inside = [orientation * cross(p, q, r) for r in polygon]
            clipped = []
            for i, r in enumerate(polygon):
                if inside[i - 1] * inside[i] < 0:
                    part = inside[i - 1] / (inside[i - 1] - inside[i])
                    before = polygon[i - 1]
                    clipped.append([u + part * (v - u) for u, v in zip(before, r, strict=True)])
                if inside[i] >= 0:
                    clipped.append(r)
            polygon = clipped
        area = sum(
            polygon[i - 1][0] * polygon[i][1] - polygon[i][0] * polygon[i - 1][1]
            for i in range(len(polygon))
        )
        area = abs(area) / 2
        return area / (sum(areas) - area)


def cross(p, q, r):
    """Twice the signed area of a triangle."""
    return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])


def weighted_boxes_fusion(boxes, scores, idxs, model, iou_threshold, skip_threshold, weights):
    """Fused boxes, scores (of conf_type "avg") and classes, as lists."""
    weighted = [float(s) * weights[m] for s, m in zip(scores, model, strict=True)]
    order = sorted(
        (i for i in range(len(boxes)) if scores[i] >= skip_threshold), key=lambda i: -weighted[i]
    )
    clusters = []
    for i in order:
        best, best_iou = None, iou_threshold
        for cluster in clusters:
            if cluster["class"] == idxs[i]:
                iou = float(exact_iou(*exact_boxes(np.array([boxes[i], cluster["box"]]))))
                if iou > best_iou:
                    best, best_iou = cluster, iou
        if best is None:
            best = {"class": idxs[i], "members": [], "box": boxes[i]}
            clusters.append(best)
        best["members"].append(i)
        total = sum(weighted[j] for j in best["members"])
        if total > 0 and len(best["members"]) > 1:
            best["box"] = sum(weighted[j] * boxes[j] for j in best["members"]) / total
    for cluster in clusters:
        n = len(cluster["members"])
        mean = sum(weighted[j] for j in cluster["members"]) / n
        cluster["score"] = mean * min(n, len(weights)) / sum(weights)
    clusters.sort(key=lambda cluster: -cluster["score"])
    return tuple([cluster[key] for cluster in clusters] for key in ("box", "score", "class"))
