"""PyTorch, eager, on the CPU. Arrays with channels-last strides become channels_last tensors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

aten = torch.ops.aten


def load(threads: int) -> str:
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return torch.__version__


def on_numpy(function: Callable, *arrays) -> Callable:
    """`function` of the arrays as tensors, its tensor results as arrays; both without a copy."""

    def call():
        result = function(*map(torch.from_numpy, arrays))
        if isinstance(result, torch.Tensor):
            return result.numpy()
        return tuple(tensor.numpy() for tensor in result)

    return call


def with_gradient(loss: Callable, logits, labels) -> Callable:
    def call():
        x, y = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(labels)
        with torch.enable_grad():
            value = loss(x, y)
            value.sum().backward()
        return value.detach().numpy(), x.grad.numpy()

    return call


def softmax(x, *, axis):
    return on_numpy(lambda t: torch.softmax(t, axis), x)


def softmax_on_tensors(x, *, axis):
    tensor = torch.from_numpy(x)
    return (lambda: torch.softmax(tensor, axis)), torch.Tensor.numpy


def log_softmax(x, *, axis):
    return on_numpy(lambda t: torch.log_softmax(t, axis), x)


def logsumexp(x, *, axis):
    return on_numpy(lambda t: torch.logsumexp(t, axis), x)


def cross_entropy(logits, labels, *, gradient, reduction="mean"):
    def loss(x, y):
        return F.cross_entropy(x, y, reduction=reduction)

    return with_gradient(loss, logits, labels) if gradient else on_numpy(loss, logits, labels)


def sigmoid_cross_entropy(logits, labels, *, gradient, reduction="mean"):
    def loss(x, y):
        return F.binary_cross_entropy_with_logits(x, y, reduction=reduction)

    return with_gradient(loss, logits, labels) if gradient else on_numpy(loss, logits, labels)


def sigmoid(x):
    return on_numpy(torch.sigmoid, x)


def log_sigmoid(x):
    return on_numpy(F.logsigmoid, x)


def softplus(x):
    return on_numpy(F.softplus, x)


def relu(x):
    return on_numpy(torch.relu, x)


def sigmoid_backward(grad_output, output):
    return on_numpy(aten.sigmoid_backward, grad_output, output)


def log_sigmoid_backward(grad_output, x):
    # the third argument is a buffer of the forward pass that the CPU kernel reads
    _, buffer = aten.log_sigmoid_forward(torch.from_numpy(x))
    return on_numpy(lambda g, t: aten.log_sigmoid_backward(g, t, buffer), grad_output, x)


def softplus_backward(grad_output, x):
    return on_numpy(lambda g, t: aten.softplus_backward(g, t, 1, 20), grad_output, x)


def relu_backward(grad_output, output):
    return on_numpy(lambda g, t: aten.threshold_backward(g, t, 0), grad_output, output)


def conv2d(x, weight, bias, *, stride, padding, groups, packed=False):
    if packed:
        return None
    return on_numpy(lambda t, w, b: F.conv2d(t, w, b, stride, padding, 1, groups), x, weight, bias)


def conv2d_backward(grad_output, x, weight, *, stride, padding, groups):
    def backward(g, t, w):
        return aten.convolution_backward(
            g, t, w, [w.shape[0]], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups,
            [True] * 3,
        )  # fmt: skip

    return on_numpy(backward, grad_output, x, weight)


def linear(x, weight, bias, *, packed=False):
    return None if packed else on_numpy(F.linear, x, weight, bias)


def linear_backward(grad_output, x, weight):
    return on_numpy(lambda g, t, w: (g @ w, g.T @ t, g.sum(0)), grad_output, x, weight)


def linear_cross_entropy(x, weight, labels):
    def call():
        t = torch.from_numpy(x).requires_grad_()
        w = torch.from_numpy(weight).requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(F.linear(t, w), torch.from_numpy(labels))
            loss.backward()
        return loss.detach().numpy(), t.grad.numpy(), w.grad.numpy()

    return call


def max_pool2d(x, *, kernel_size, stride, padding, return_indices):
    return on_numpy(
        lambda t: F.max_pool2d(t, kernel_size, stride, padding, return_indices=return_indices), x
    )


def max_pool2d_backward(grad_output, indices, *, input_shape, kernel_size, stride, padding):
    # the kernel asks for the input's shape and layout and never reads its values
    x = torch.empty(input_shape)
    if not grad_output.flags.c_contiguous:
        x = x.contiguous(memory_format=torch.channels_last)
    return on_numpy(
        lambda g, i: aten.max_pool2d_with_indices_backward(
            g, x, [kernel_size] * 2, [stride] * 2, [padding] * 2, [1, 1], False, i
        ),
        grad_output,
        indices,
    )


def avg_pool2d(x, *, kernel_size, stride, padding):
    return on_numpy(lambda t: F.avg_pool2d(t, kernel_size, stride, padding), x)


def avg_pool2d_backward(grad_output, *, input_shape, kernel_size, stride, padding):
    x = torch.empty(input_shape)
    if not grad_output.flags.c_contiguous:
        x = x.contiguous(memory_format=torch.channels_last)
    return on_numpy(
        lambda g: aten.avg_pool2d_backward(
            g, x, [kernel_size] * 2, [stride] * 2, [padding] * 2, False, True, None
        ),
        grad_output,
    )


def adaptive_avg_pool2d(x, *, output_size):
    return on_numpy(lambda t: F.adaptive_avg_pool2d(t, output_size), x)


def adaptive_avg_pool2d_backward(grad_output, *, input_shape):
    x = torch.empty(input_shape)
    if not grad_output.flags.c_contiguous:
        x = x.contiguous(memory_format=torch.channels_last)
    return on_numpy(lambda g: aten._adaptive_avg_pool2d_backward(g, x), grad_output)


def batch_norm_training(x, weight, bias):
    return on_numpy(lambda t, w, b: F.batch_norm(t, None, None, w, b, True), x, weight, bias)


def batch_norm_prediction(x, weight, bias, mean, var):
    return on_numpy(lambda t, w, b, m, v: F.batch_norm(t, m, v, w, b), x, weight, bias, mean, var)


def batch_norm_backward(grad_output, x, weight):
    t = torch.from_numpy(x)
    _, mean, rstd = aten.native_batch_norm(t, None, None, None, None, True, 0.1, 1e-5)
    return on_numpy(
        lambda g, t, w: aten.native_batch_norm_backward(
            g, t, w, None, None, mean, rstd, True, 1e-5, [True] * 3
        ),
        grad_output, x, weight,
    )  # fmt: skip


def group_norm(x, weight, bias, *, num_groups):
    return on_numpy(lambda t, w, b: F.group_norm(t, num_groups, w, b), x, weight, bias)


def group_norm_backward(grad_output, x, weight, *, num_groups):
    n, c, h, w = x.shape
    t = torch.from_numpy(x)
    _, mean, rstd = aten.native_group_norm(t, None, None, n, c, h * w, num_groups, 1e-5)
    return on_numpy(
        lambda g, t, v: aten.native_group_norm_backward(
            g, t, mean, rstd, v, n, c, h * w, num_groups, [True] * 3
        ),
        grad_output, x, weight,
    )  # fmt: skip


def layer_norm(x, weight, bias):
    return on_numpy(lambda t, w, b: F.layer_norm(t, t.shape[-1:], w, b), x, weight, bias)


def layer_norm_backward(grad_output, x, weight):
    shape = [x.shape[-1]]
    _, mean, rstd = aten.native_layer_norm(torch.from_numpy(x), shape, None, None, 1e-5)
    bias = torch.zeros(shape)
    return on_numpy(
        lambda g, t, w: aten.native_layer_norm_backward(
            g, t, shape, mean, rstd, w, bias, [True] * 3
        ),
        grad_output, x, weight,
    )  # fmt: skip


def local_response_norm(x, *, size):
    return on_numpy(lambda t: F.local_response_norm(t, size), x)


def local_response_norm_backward(grad_output, x, *, size):
    t, g = torch.from_numpy(x).requires_grad_(), torch.from_numpy(grad_output)
    with torch.enable_grad():
        y = F.local_response_norm(t, size)
    return lambda: torch.autograd.grad(y, t, g, retain_graph=True)[0].numpy()


def leaky_relu(x):
    return on_numpy(F.leaky_relu, x)


def leaky_relu_backward(grad_output, x):
    return on_numpy(lambda g, t: aten.leaky_relu_backward(g, t, 0.01, False), grad_output, x)


def prelu(x, weight):
    return on_numpy(F.prelu, x, weight)


def prelu_backward(grad_output, x, weight):
    # autograd's own way: the kernel gives each element's term, which is then summed
    def backward(g, t, w):
        wide = w.reshape(1, -1, 1, 1)
        grad_input, terms = aten._prelu_kernel_backward(g, t, wide)
        return grad_input, terms.sum((0, 2, 3))

    return on_numpy(backward, grad_output, x, weight)


def dropout(x, *, p):
    return on_numpy(lambda t: F.dropout(t, p), x), lambda y: np.unique(y == 0)


def dropout_backward(grad_output, x, *, p):
    mask = torch.from_numpy(x > 0)
    return on_numpy(lambda g: aten.native_dropout_backward(g, mask, 1 / (1 - p)), grad_output)


def interpolate(x, *, scale_factor, mode):
    return on_numpy(lambda t: F.interpolate(t, None, scale_factor, mode), x)


def interpolate_backward(grad_output, *, scale_factor, mode):
    height, width = (n // scale_factor for n in grad_output.shape[2:])
    out, shape = grad_output.shape[2:], [*grad_output.shape[:2], height, width]
    if mode == "nearest":
        return on_numpy(lambda g: aten.upsample_nearest2d_backward(g, out, shape), grad_output)
    return on_numpy(lambda g: aten.upsample_bilinear2d_backward(g, out, shape, False), grad_output)


def pixel_shuffle(x, *, factor):
    return on_numpy(lambda t: F.pixel_shuffle(t, factor), x)


def pixel_unshuffle(x, *, factor):
    return on_numpy(lambda t: F.pixel_unshuffle(t, factor), x)


def conv_transpose2d(x, weight, bias, *, stride, padding):
    return on_numpy(lambda t, w, b: F.conv_transpose2d(t, w, b, stride, padding), x, weight, bias)


def conv_transpose2d_backward(x, weight, grad_output, *, stride, padding):
    sizes = [stride] * 2, [padding] * 2, [1, 1], True, [0, 0], 1
    bias = [weight.shape[1]]
    return on_numpy(
        lambda t, w, g: aten.convolution_backward(g, t, w, bias, *sizes, [True] * 3),
        x, weight, grad_output,
    )  # fmt: skip


# torchvision's formulas: its own module does not import where its compiled operators do not fit.


def overlaps(a, b):
    """IoU and union of two sets of boxes."""
    areas = [(x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b)]
    low = torch.max(a[:, None, :2], b[:, :2])
    high = torch.min(a[:, None, 2:], b[:, 2:])
    size = (high - low).clamp(min=0)
    overlap = size[:, :, 0] * size[:, :, 1]
    union = areas[0][:, None] + areas[1] - overlap
    return overlap / union, union


def hull_size(a, b):
    low = torch.min(a[:, None, :2], b[:, :2])
    high = torch.max(a[:, None, 2:], b[:, 2:])
    return (high - low).clamp(min=0)


def iou_of_centres(a, b):
    """The distance IoU, and the IoU."""
    iou, _ = overlaps(a, b)
    size = hull_size(a, b)
    diagonal = size[:, :, 0] ** 2 + size[:, :, 1] ** 2 + 1e-7
    centres = [(x[:, :2] + x[:, 2:]) / 2 for x in (a, b)]
    offset = ((centres[0][:, None] - centres[1][None]) ** 2).sum(-1)
    return iou - offset / diagonal, iou


def box_iou(boxes1, boxes2):
    return on_numpy(lambda a, b: overlaps(a, b)[0], boxes1, boxes2)


def generalized_box_iou(boxes1, boxes2):
    def call(a, b):
        iou, union = overlaps(a, b)
        size = hull_size(a, b)
        hull = size[:, :, 0] * size[:, :, 1]
        return iou - (hull - union) / hull

    return on_numpy(call, boxes1, boxes2)


def distance_box_iou(boxes1, boxes2):
    return on_numpy(lambda a, b: iou_of_centres(a, b)[0], boxes1, boxes2)


def complete_box_iou(boxes1, boxes2):
    def call(a, b):
        distance, iou = iou_of_centres(a, b)
        angles = [torch.atan((x[:, 2] - x[:, 0]) / (x[:, 3] - x[:, 1])) for x in (a, b)]
        v = (4 / torch.pi**2) * (angles[0][:, None] - angles[1]) ** 2
        return distance - v / (1 - iou + v + 1e-7) * v

    return on_numpy(call, boxes1, boxes2)


def network_as_torch(name, x):
    from benchmarks.peers.torch_network import to_torch
    from benchmarks.peers.with_stableops import network_of

    net = to_torch(network_of(name))
    return net if x.flags.c_contiguous else net.to(memory_format=torch.channels_last)


def predict(x, *, network):
    net = network_as_torch(network, x).eval()
    return on_numpy(net, x)


def training_step(x, labels, *, network):
    net = network_as_torch(network, x).train()
    optimizer = torch.optim.SGD(net.parameters(), 1e-4, momentum=0.9)

    def call():
        with torch.enable_grad():
            loss = F.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(labels))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.detach().numpy().reshape(1)

    return call
