"""Find faces on a photograph with MTCNN (Zhang et al. 2016): three small networks in a row.

    pip install --no-deps facenet-pytorch==2.6.0
    pip install scikit-image
    python examples/mtcnn_faces.py [--image PATH] [--output PATH]

facenet-pytorch brings the weights, which are read here without PyTorch, and scikit-image the photo.
P-Net looks at every place of an image pyramid, R-Net and O-Net at what the one before them let
through. Everything is computed by stableops: conv2d, linear, max_pool2d with ceil_mode, softmax,
nms, box_convert, and adaptive_avg_pool2d, which resizes images by averaging areas.
"""

from __future__ import annotations

import argparse
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from classify_photo import as_rgb, read_photo

import stableops as F
from stableops._png import write_png
from stableops.nn import load_weights

MIN_FACE = 20
PYRAMID_FACTOR = 0.709
THRESHOLDS = (0.6, 0.7, 0.7)


# The networks


@dataclass
class Network:
    """Convolutions with PReLU, each but the last with a pooling, then dense layers or 1x1 heads."""

    weights: dict[str, np.ndarray]
    pools: tuple[int, ...]  # window after each convolution, 0 for none
    dense: str  # name of the hidden dense layer, or ""
    heads: tuple[str, ...]  # face probability first

    def __call__(self, x):
        w = self.weights
        for i, window in enumerate(self.pools, start=1):
            x = F.conv2d(x, w[f"conv{i}.weight"], w[f"conv{i}.bias"])
            x = F.prelu(x, w[f"prelu{i}.weight"])
            if window:
                x = F.max_pool2d(x, window, 2, ceil_mode=True)
        layer = F.conv2d
        if self.dense:
            layer = F.linear
            weight = w[f"dense{self.dense}.weight"]
            x = x.transpose(0, 3, 2, 1).reshape(len(x), weight.shape[1])
            x = layer(x, weight, w[f"dense{self.dense}.bias"])
            x = F.prelu(x, w[f"prelu{self.dense}.weight"])
        outputs = [layer(x, w[f"{head}.weight"], w[f"{head}.bias"]) for head in self.heads]
        return F.softmax(outputs[0], 1)[:, 1], *outputs[1:]


def load_networks(folder):
    settings = {
        "pnet": ((2, 0, 0), "", ("conv4_1", "conv4_2")),
        "rnet": ((3, 3, 0), "4", ("dense5_1", "dense5_2")),
        "onet": ((3, 3, 2, 0), "5", ("dense6_1", "dense6_2", "dense6_3")),
    }
    return [Network(load_weights(folder / f"{name}.pt"), *rest) for name, rest in settings.items()]


# The three stages. Boxes are (x1, y1, x2, y2) in pixels of the photo.


def resized(image, height, width):
    """(C, H, W) in [0, 255] to (1, C, height, width) in [-1, 1]."""
    return (F.adaptive_avg_pool2d(image, (height, width))[None] - 127.5) / 128


def propose(image, net):
    """Boxes, scores and corrections of all places of the pyramid that may be a face."""
    _, height, width = image.shape
    # A picture smaller than the smallest face has none.
    found = [(np.empty((0, 4)), np.empty(0, np.float32), np.empty((0, 4), np.float32))]
    scale = 12 / MIN_FACE
    while min(height, width) * scale >= 12:
        x = resized(image, int(height * scale + 1), int(width * scale + 1))
        scores, shifts = net(x)
        row, column = np.nonzero(scores[0] >= THRESHOLDS[0])
        corner = np.stack([column, row], axis=1) * 2.0
        boxes = np.floor(np.concatenate([corner + 1, corner + 12], axis=1) / scale)
        scores, shifts = scores[0, row, column], shifts[0, :, row, column]
        kept = F.nms(boxes, scores, 0.5)
        found.append((boxes[kept], scores[kept], shifts[kept]))
        scale *= PYRAMID_FACTOR
    return [np.concatenate(arrays) for arrays in zip(*found, strict=True)]


def squared(boxes):
    """Boxes with the longer side on both axes, around the same centre."""
    boxes = F.box_convert(boxes, "xyxy", "cxcywh")
    boxes[:, 2:] = boxes[:, 2:].max(axis=1, keepdims=True)
    return F.box_convert(boxes, "cxcywh", "xyxy")


def crops(image, boxes, side):
    """The parts of the image in the boxes, as a batch of side x side."""
    _, height, width = image.shape
    whole = np.trunc(boxes).astype(int)
    left, top = np.maximum(whole[:, :2], 1).T - 1
    right, bottom = np.minimum(whole[:, 2:], [width, height]).T
    inside = (right > left) & (bottom > top)
    parts = [
        resized(image[:, y1:y2, x1:x2], side, side)
        for x1, y1, x2, y2, ok in zip(left, top, right, bottom, inside, strict=True)
        if ok
    ]
    return np.concatenate(parts or [np.empty((0, 3, side, side), np.float32)]), inside


def corrected(boxes, shifts, extra=1):
    """Corners moved by the network's shifts, which are in units of the box."""
    size = boxes[:, 2:] - boxes[:, :2] + extra
    return boxes + shifts * np.tile(size, 2)


def refine(image, boxes, net, side, threshold):
    """What a network lets through: boxes, scores, and its other outputs."""
    x, inside = crops(image, boxes, side)
    scores, *outputs = net(x)
    passed = scores > threshold
    return boxes[inside][passed], scores[passed], *[output[passed] for output in outputs]


def detect(image, networks, stage):
    """Faces of a (3, H, W) image: boxes, probabilities and landmarks (N, 5, 2)."""
    pnet, rnet, onet = networks
    with stage("P-Net"):
        boxes, scores, shifts = propose(image, pnet)
        kept = F.nms(boxes, scores, 0.7)
        boxes = squared(corrected(boxes[kept], shifts[kept], extra=0))
    with stage("R-Net"):
        boxes, scores, shifts = refine(image, boxes, rnet, 24, THRESHOLDS[1])
        kept = F.nms(boxes, scores, 0.7)
        boxes = squared(corrected(boxes[kept], shifts[kept]))
    with stage("O-Net"):
        boxes, scores, shifts, points = refine(image, boxes, onet, 48, THRESHOLDS[2])
        size = boxes[:, 2:] - boxes[:, :2] + 1
        points = points.reshape(-1, 2, 5) * size[:, :, None] + boxes[:, :2, None] - 1
        boxes = corrected(boxes, shifts)
        kept = F.nms(boxes, scores, 0.4)
    return boxes[kept], scores[kept], points[kept].transpose(0, 2, 1)


# The picture


def drawn(image, boxes, landmarks):
    picture = np.ascontiguousarray(image.transpose(1, 2, 0), dtype=np.uint8)
    height, width, _ = picture.shape

    def fill(x1, y1, x2, y2, colour):
        x1, x2 = np.clip([x1, x2], 0, width).astype(int)
        y1, y2 = np.clip([y1, y2], 0, height).astype(int)
        picture[y1:y2, x1:x2] = colour

    for x1, y1, x2, y2 in np.rint(boxes):
        for bar in (
            (x1, y1, x2, y1 + 2),
            (x1, y2 - 2, x2, y2),
            (x1, y1, x1 + 2, y2),
            (x2 - 2, y1, x2, y2),
        ):
            fill(*bar, (80, 255, 80))
    for x, y in np.rint(landmarks.reshape(-1, 2)):
        fill(x - 1, y - 1, x + 2, y + 2, (255, 40, 40))
    return picture


def weights_folder():
    found = find_spec("facenet_pytorch")
    if found is None:
        raise SystemExit("no weights: pip install --no-deps facenet-pytorch==2.6.0")
    return Path(found.submodule_search_locations[0]) / "data"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=Path, help="instead of scikit-image's astronaut")
    parser.add_argument("--output", type=Path, default=Path("mtcnn-faces.png"))
    options = parser.parse_args()

    if options.image:
        image = read_photo(options.image)
    else:
        from skimage.data import astronaut

        image = as_rgb(astronaut())
    networks = load_networks(weights_folder())

    @contextmanager
    def stage(name):
        start = time.perf_counter()
        yield
        print(f"{name}  {1000 * (time.perf_counter() - start):7.1f} ms")

    boxes, probabilities, landmarks = detect(image, networks, stage)
    for box, probability in zip(boxes, probabilities, strict=True):
        x1, y1, x2, y2 = np.rint(box).astype(int)
        print(f"face with probability {probability:.5f} at ({x1}, {y1}) to ({x2}, {y2})")
    print(f"{len(boxes)} found")
    write_png(options.output, drawn(image, boxes, landmarks))
    print(f"{options.output} shows them")


if __name__ == "__main__":
    main()
