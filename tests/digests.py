"""Prints a digest of the bits of every operation's results on fixed inputs, as JSON.

test_reproducibility.py runs it in processes of their own, one a SIMD level and number of threads,
and compares. A family adds its operations as functions marked @case. Sizes are chosen so that
several threads take part.
"""

import hashlib
import json

import ml_dtypes
import numpy as np

import stableops as so
from stableops import models, nn

CASES = {}


def case(function):
    """Registers a function of a seeded generator that returns arrays, under its name."""
    CASES[function.__name__] = function
    return function


@case
def conv2d(rng):
    x = rng.standard_normal((3, 40, 30, 33)).astype(np.float32)
    w = rng.standard_normal((50, 20, 3, 3)).astype(np.float32)
    b = rng.standard_normal(50).astype(np.float32)
    settings = {"stride": (1, 2), "padding": ((1, 0), (2, 1)), "dilation": (2, 1), "groups": 2}
    y = so.conv2d(x, w, b, **settings)
    packed = so.conv2d(x, so.pack_conv2d_weight(w, 2), b, **settings)
    return [y, packed, *so.conv2d_backward(y / 100, x, w, **settings)]


@case
def linear(rng):
    x, w = rng.standard_normal((300, 500)), rng.standard_normal((170, 500))
    y = so.linear(x, w)
    return [y, so.linear(x, so.pack_linear_weight(w)), *so.linear_backward(y, x, w)]


@case
def linear_cross_entropy(rng):
    results = []
    for dtype in ROW_DTYPES:
        x, w, b = (rng.standard_normal(s).astype(dtype) for s in ((300, 40), (1000, 40), (1000,)))
        labels = rng.integers(0, 1000, 300)
        for smoothing in (0, 0.1):
            loss, grads = so.linear_cross_entropy(
                x, w, labels, b, label_smoothing=smoothing, return_grad=True
            )
            results += [loss, *grads]
    return results


def crowd(rng, n, dtype=np.float32):
    """Boxes and scores as a detector makes them: n boxes around n / 10 objects."""
    objects = max(1, n // 10)
    size = np.exp(rng.normal(4, 0.8, (objects, 2)))
    centre = rng.uniform(0, [1333, 800], (objects, 2))
    of = rng.integers(0, objects, n)
    centre = centre[of] + rng.normal(0, 0.12, (n, 2)) * size[of]
    size = size[of] * np.exp(rng.normal(0, 0.12, (n, 2)))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    return boxes.astype(dtype), rng.random(n).astype(dtype)


def logits(rng, dtype):
    return (rng.standard_normal((5, 67, 301)) * 9).astype(dtype)


ROW_FUNCTIONS = (so.softmax, so.log_softmax, so.logsumexp)
ROW_DTYPES = (np.float32, np.float64)
DTYPES = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)


@case
def softmax_and_logsumexp(rng):
    axes = (0, 1, 2, (0, 2))
    return [f(logits(rng, t), axis) for f in ROW_FUNCTIONS for t in ROW_DTYPES for axis in axes]


@case
def softmax_of_long_rows(rng):
    rows = rng.standard_normal((2, 100_003)) * 9
    return [f(rows.astype(dtype)) for f in ROW_FUNCTIONS for dtype in ROW_DTYPES]


@case
def logsumexp_next_to_0(rng):
    return [so.logsumexp(so.log_softmax(logits(rng, dtype))) for dtype in ROW_DTYPES]


@case
def softmax_backward(rng):
    results = []
    for dtype in ROW_DTYPES:
        g, x = logits(rng, dtype), logits(rng, dtype)
        results += [
            so.softmax_backward(g, so.softmax(x)),
            so.log_softmax_backward(g, so.log_softmax(x)),
            so.logsumexp_backward(g[..., 0], x, so.logsumexp(x)),
        ]
    return results


@case
def softmax_cross_entropy(rng):
    results = []
    for dtype in ROW_DTYPES:
        for smoothing in (0, 0.1):
            x, labels = logits(rng, dtype), rng.integers(0, 67, (5, 301))
            settings = {"axis": 1, "label_smoothing": smoothing, "return_grad": True}
            results += so.softmax_cross_entropy(x, labels, **settings)
    return results


@case
def weighted_rows(rng):
    """Weights that nearly cancel, masks, class weights, soft labels."""
    results = []
    for dtype in DTYPES:
        x, w = logits(rng, dtype), rng.standard_normal((5, 67, 301)).astype(dtype)
        y = so.softmax(logits(rng, dtype), axis=1)
        for axis in (1, 2):
            results += so.logsumexp(x, axis=axis, b=w, return_sign=True)
            results.append(so.logsumexp(x, axis=axis, where=w > 0))
        labels = rng.integers(0, 67, (5, 301))
        for target in (labels, y):
            results += so.softmax_cross_entropy(
                x, target, axis=1, weight=abs(w[0, :, 0]), label_smoothing=0.1, return_grad=True
            )
    return results


@case
def narrow_rows(rng):
    return [f(logits(rng, t), axis) for f in ROW_FUNCTIONS for t in DTYPES[2:] for axis in (1, 2)]


@case
def box_measures(rng):
    boxes1, boxes2 = crowd(rng, 333)[0], crowd(rng, 1001)[0]
    return [
        so.box_iou(boxes1, boxes2),
        so.generalized_box_iou(boxes1, boxes2),
        so.distance_box_iou(boxes1, boxes2),
        so.complete_box_iou(boxes1, boxes2),
    ]


@case
def box_convert(rng):
    return [
        so.box_convert(crowd(rng, 999)[0], "xyxy", "cxcywh"),
        so.box_area(crowd(rng, 999, np.float64)[0]),
    ]


@case
def nms(rng):
    return [so.nms(*crowd(rng, 5000), 0.5)]


@case
def batched_nms(rng):
    return [so.batched_nms(*crowd(rng, 30_000, np.float64), rng.integers(0, 9, 30_000), 0.5)]


@case
def relu(rng):
    return [so.relu(rng.standard_normal((300, 1001)).astype(np.float32))]


@case
def relu_backward(rng):
    return [so.relu_backward(rng.standard_normal((300, 1001)), rng.standard_normal((1001, 300)).T)]


def last(x):
    """The same array with channels fastest in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def pooling(x):
    y, indices = so.max_pool2d(x, 3, 2, 1, return_indices=True)
    mean = so.avg_pool2d(x, 3, 2, 1)
    adaptive = so.adaptive_avg_pool2d(x, (7, 5))
    return [
        y,
        indices,
        mean,
        adaptive,
        so.max_pool2d(x, 3, 2, 1),
        so.max_pool2d(x, (5, 4), 1, 2),
        so.max_pool2d_backward(y, indices, x.shape),
        so.avg_pool2d_backward(mean, x.shape, 3, 2, 1),
        so.adaptive_avg_pool2d_backward(adaptive, x.shape),
    ]


@case
def pool2d(rng):
    results = []
    for dtype in DTYPES:
        x = rng.standard_normal((3, 40, 57, 61)).astype(dtype)
        results += [*pooling(x), *pooling(last(x))]
    return results


@case
def logistic_family(rng):
    results = []
    for dtype in DTYPES:
        x, g = (rng.standard_normal((2, 300, 1001)) * 9).astype(dtype)
        for f in (so.sigmoid, so.log_sigmoid, so.softplus):
            results.append(f(x))
        results += [
            so.sigmoid_backward(g, results[-3]),
            so.log_sigmoid_backward(g, x),
            so.softplus_backward(g, x),
        ]
    return results


@case
def sigmoid_cross_entropy(rng):
    results = []
    for dtype in ROW_DTYPES:
        x, y, w = (rng.random((3, 70, 3001)) * 18 - 9).astype(dtype)
        for reduction in ("none", "mean"):
            results += so.sigmoid_cross_entropy(
                x, y, weight=w, pos_weight=abs(w), reduction=reduction, return_grad=True
            )
    return results


def rotated(rng, n):
    """A crowd of boxes (centre, size, degrees)."""
    boxes = so.box_convert(crowd(rng, n, np.float64)[0], "xyxy", "cxcywh")
    return np.concatenate([boxes, rng.uniform(-180, 180, (n, 1))], axis=1)


@case
def boxes_rotated(rng):
    return [
        so.box_iou_rotated(rotated(rng, 300), rotated(rng, 200)),
        so.nms_rotated(rotated(rng, 2000), rng.random(2000), 0.4),
    ]


@case
def soft_nms(rng):
    results = []
    for dtype in ROW_DTYPES:
        boxes, scores = crowd(rng, 2000, dtype)
        for method in ("linear", "gaussian"):
            results += so.soft_nms(boxes, scores, method=method)
    return results


@case
def weighted_boxes_fusion(rng):
    boxes, scores = crowd(rng, 2000)
    idxs, model = rng.integers(0, 3, 2000), rng.integers(0, 4, 2000)
    return so.weighted_boxes_fusion(boxes, scores, idxs, model)


@case
def training_steps(rng):
    """Two steps of a small network of each family, in training and evaluation mode."""
    images, labels = rng.random((6, 1, 28, 28), np.float32), np.arange(6)
    arrays = []
    for name in (
        "lenet5",
        "small_vgg",
        "small_nin",
        "small_inception",
        "small_resnet",
        "small_densenet",
    ):
        net = models.NETWORKS[name][0](rng=np.random.Generator(np.random.Philox(0)))
        optimizer = nn.Adam(net, 1e-3) if name == "small_nin" else nn.SGD(net, 0.05, 0.9)
        for _ in range(2):
            nn.train_step(net, images, labels, optimizer, nn.CrossEntropyLoss())
        arrays += [*net.state_dict().values(), net.eval()(images), net.compile()(images)]
    return arrays


@case
def a_training_from_start_to_end(rng):
    """Initial weights, order, dropout, learning rates, optimiser; gone on with after an epoch."""
    images, labels = rng.random((50, 1, 28, 28), np.float32), np.arange(50) % 10
    net = nn.Sequential(
        conv=nn.Conv2d(1, 8, 5, stride=2),
        relu=nn.ReLU(),
        flatten=nn.Flatten(),
        dropout=nn.Dropout(0.2),
        # Large enough that several threads take part in a step of the optimiser.
        fc1=nn.Linear(1152, 1000),
        fc2=nn.Linear(1000, 10),
    ).initialize(np.random.Generator(np.random.Philox(0)))
    optimizer = nn.SGD(net, 0.05, momentum=0.9, weight_decay=1e-4)
    settings = {"rng": lambda i: np.random.Generator(np.random.Philox([1, i])), "batch_size": 16}
    for step in nn.fit(net, images, labels, optimizer, epochs=3, **settings):
        if step.epoch == 2:
            break
    losses = [
        step.loss
        for step in nn.fit(net, images, labels, optimizer, epochs=3, first_epoch=2, **settings)
    ]
    return [*net.state_dict().values(), nn.predict(net, images), np.array(losses)]


@case
def optimizers(rng):
    """Steps on a layer of more than a million weights, which are divided among threads."""
    arrays = []
    for make in (lambda n: nn.Adam(n, 1e-3), lambda n: nn.SGD(n, 0.05, 0.9, weight_decay=1e-4)):
        net = nn.Sequential(fc=nn.Linear(1100, 1000)).initialize(
            np.random.Generator(np.random.Philox(0))
        )
        optimizer = make(net)
        for _ in range(2):
            x, labels = rng.random((4, 1100), np.float32), np.arange(4)
            nn.train_step(net, x, labels, optimizer, nn.CrossEntropyLoss())
        arrays += net.state_dict().values()
    return arrays


@case
def alexnet_and_its_head(rng):
    """Local response normalisation, auxiliary heads, dropout, and the layers of 1998."""
    net = nn.Sequential(
        conv=nn.Conv2d(3, 8, 7, stride=2),
        norm=nn.LocalResponseNorm(5),
        relu=nn.ReLU(),
        aux=nn.AuxiliaryHead(flatten=nn.Flatten(), fc=nn.Linear(8 * 13 * 13, 4)),
        pool=nn.MaxPool2d(3, stride=2),
        flatten=nn.Flatten(),
        dropout=nn.Dropout(0.5),
        fc=nn.Linear(8 * 6 * 6, 4),
    ).initialize(np.random.Generator(np.random.Philox(0)))
    images, labels = rng.random((4, 3, 32, 32), np.float32), np.arange(4)
    old = models.lenet5_1998(rng=np.random.Generator(np.random.Philox(0)))
    for network, pictures in ((net, images), (old, images[:, :1])):
        optimizer = nn.SGD(network, 1e-3, 0.9)
        for _ in range(2):
            nn.train_step(network, pictures, labels, optimizer, nn.CrossEntropyLoss())
    return [*net.state_dict().values(), *old.state_dict().values()]


@case
def nms_in_batches(rng):
    return [so.nms(*crowd(rng, 120_000), 0.5)]


@case
def normalisation(rng):
    results = []
    for dtype in DTYPES:
        x, g = (rng.standard_normal((2, 3, 24, 70, 71)) + 5).astype(dtype)
        w, b = rng.standard_normal((2, 24)).astype(dtype)
        for image in (x, last(x)):
            batch = so.batch_norm(image, None, None, w, b, True, return_stats=True)
            group = so.group_norm(image, 6, w, b, return_stats=True)
            results += [*batch, *group, so.batch_norm(image, *batch[1:], w, b)]
            results += so.batch_norm_backward(g, image, w, *batch[1:])
            results += so.group_norm_backward(g, image, 6, w, *group[1:])
    return results


@case
def layer_norm(rng):
    results = []
    for dtype in DTYPES:
        x, g = rng.standard_normal((2, 500, 333)).astype(dtype)
        w, b = rng.standard_normal((2, 333)).astype(dtype)
        y, *stats = so.layer_norm(x, 333, w, b, return_stats=True)
        results += [y, *stats, *so.layer_norm_backward(g, x, 333, w, *stats)]
        results += so.batch_norm(x, training=True, return_stats=True)
    return results


@case
def local_response_norm(rng):
    results = []
    for dtype in DTYPES:
        x, g = (rng.standard_normal((2, 2, 20, 30, 31)) * 9).astype(dtype)
        results += [
            so.local_response_norm(x, 5, 0.1, 0.75, 2.0),
            so.local_response_norm_backward(g, x, 5, 0.1, 0.75, 2.0),
        ]
    return results


@case
def rectifiers_and_dropout(rng):
    results = []
    for dtype in DTYPES:
        x, g = rng.standard_normal((2, 5, 7, 90, 91)).astype(dtype)
        w = rng.standard_normal(7).astype(dtype)
        for image in (x, last(x)):
            y, mask = so.dropout(image, 0.3, rng=1, return_mask=True)
            results += [
                so.leaky_relu(image),
                so.leaky_relu_backward(g, image),
                so.prelu(image, w),
                y,
                mask,
            ]
            results += [*so.prelu_backward(g, image, w), so.dropout_backward(g, mask, 0.3)]
    return results


@case
def conv_transpose2d(rng):
    x = rng.standard_normal((2, 40, 20, 21)).astype(np.float32)
    w = rng.standard_normal((40, 30, 4, 3)).astype(np.float32)
    settings = {"stride": 2, "padding": 1, "output_padding": (0, 1), "groups": 2, "dilation": 1}
    y = so.conv_transpose2d(x, w, rng.standard_normal(60).astype(np.float32), **settings)
    return [y, *so.conv_transpose2d_backward(y / 100, x, w, **settings)]


@case
def interpolate(rng):
    results = []
    for dtype in DTYPES:
        x = rng.standard_normal((2, 9, 60, 61)).astype(dtype)
        for image in (x, last(x)):
            for mode in ("nearest", "bilinear"):
                y = so.interpolate(image, (99, 150), mode=mode)
                results += [y, so.interpolate_backward(y, image.shape, mode)]
    return results


def digest(arrays):
    sha = hashlib.sha256()
    for array in arrays:
        array = np.asarray(array)
        sha.update(f"{array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def main():
    print(json.dumps({name: digest(f(np.random.default_rng(1))) for name, f in CASES.items()}))


if __name__ == "__main__":
    main()
