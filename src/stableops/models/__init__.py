"""Networks from LeNet to DenseNet, one short file a family.

Where torchvision has the network, parameters have its names, so that its weights load. `NETWORKS`
lists all of them with the shape of the images that they take.
"""

from stableops.models.alexnet import alexnet
from stableops.models.densenet import densenet121, densenet161, densenet169, densenet201
from stableops.models.googlenet import googlenet, inception_v1
from stableops.models.lenet import lenet5
from stableops.models.lenet1998 import lenet5_1998
from stableops.models.nin import nin
from stableops.models.resnet import resnet18, resnet34, resnet50, resnet101, resnet152
from stableops.models.small import (
    small_densenet,
    small_inception,
    small_nin,
    small_resnet,
    small_vgg,
)
from stableops.models.vgg import (
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)

__all__ = [
    "NETWORKS",
    "alexnet",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "googlenet",
    "inception_v1",
    "lenet5",
    "lenet5_1998",
    "nin",
    "resnet101",
    "resnet152",
    "resnet18",
    "resnet34",
    "resnet50",
    "small_densenet",
    "small_inception",
    "small_nin",
    "small_resnet",
    "small_vgg",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]

DIGIT, PICTURE = (1, 28, 28), (3, 224, 224)

NETWORKS = {
    "lenet5": (lenet5, DIGIT),
    "lenet5_1998": (lenet5_1998, (1, 32, 32)),
    "small_vgg": (small_vgg, DIGIT),
    "small_nin": (small_nin, DIGIT),
    "small_inception": (small_inception, DIGIT),
    "small_resnet": (small_resnet, DIGIT),
    "small_densenet": (small_densenet, DIGIT),
    "alexnet": (alexnet, PICTURE),
    "vgg11": (vgg11, PICTURE),
    "vgg11_bn": (vgg11_bn, PICTURE),
    "vgg13": (vgg13, PICTURE),
    "vgg13_bn": (vgg13_bn, PICTURE),
    "vgg16": (vgg16, PICTURE),
    "vgg16_bn": (vgg16_bn, PICTURE),
    "vgg19": (vgg19, PICTURE),
    "vgg19_bn": (vgg19_bn, PICTURE),
    "nin": (nin, PICTURE),
    "inception_v1": (inception_v1, PICTURE),
    "googlenet": (googlenet, PICTURE),
    "resnet18": (resnet18, PICTURE),
    "resnet34": (resnet34, PICTURE),
    "resnet50": (resnet50, PICTURE),
    "resnet101": (resnet101, PICTURE),
    "resnet152": (resnet152, PICTURE),
    "densenet121": (densenet121, PICTURE),
    "densenet161": (densenet161, PICTURE),
    "densenet169": (densenet169, PICTURE),
    "densenet201": (densenet201, PICTURE),
}
"""Name: the function that makes the network, and the shape (C, H, W) of its images."""
