"""Layers, losses and optimisers, with forward and backward passes written out.

The modules are named as in `torch.nn` and keep what their backward pass needs; there is no tape.
"""

from stableops.nn._activation import Dropout, LeakyReLU, PReLU, ReLU, ReLU6, Sigmoid
from stableops.nn._containers import AuxiliaryHead, Concat, Residual, Sequential
from stableops.nn._convolution import Conv2d, ConvTranspose2d
from stableops.nn._dense import DenseBlock, DenseLayer
from stableops.nn._linear import Flatten, Linear
from stableops.nn._losses import BCEWithLogitsLoss, CrossEntropyLoss
from stableops.nn._module import LayerError, Module
from stableops.nn._norm import BatchNorm2d, GroupNorm, LayerNorm, LocalResponseNorm
from stableops.nn._optimizers import SGD, Adam
from stableops.nn._pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d, Upsample
from stableops.nn._summary import LayerSummary, Summary, summary
from stableops.nn._training import Step, accuracy, fit, predict, train_step
from stableops.nn._weights import load_weights, save_weights

__all__ = [
    "Adam",
    "AdaptiveAvgPool2d",
    "AuxiliaryHead",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm2d",
    "Concat",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "DenseBlock",
    "DenseLayer",
    "Dropout",
    "Flatten",
    "GroupNorm",
    "LayerError",
    "LayerNorm",
    "LayerSummary",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "MaxPool2d",
    "Module",
    "PReLU",
    "ReLU",
    "ReLU6",
    "Residual",
    "SGD",
    "Sequential",
    "Sigmoid",
    "Step",
    "Summary",
    "Upsample",
    "accuracy",
    "fit",
    "load_weights",
    "predict",
    "save_weights",
    "summary",
    "train_step",
]
