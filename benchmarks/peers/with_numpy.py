"""What one writes in NumPy when no library is at hand."""

from __future__ import annotations

import numpy as np


def load(_threads: int) -> str:
    return np.__version__


def softmax(x, *, axis):
    def call():
        e = np.exp(x - x.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    return call


softmax_on_tensors = softmax


def log_softmax(x, *, axis):
    def call():
        shifted = x - x.max(axis, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))

    return call


def logsumexp(x, *, axis):
    def call():
        top = x.max(axis, keepdims=True)
        return np.squeeze(top + np.log(np.exp(x - top).sum(axis, keepdims=True)), axis)

    return call


def reduced(loss: np.ndarray, reduction: str) -> np.ndarray:
    return loss if reduction == "none" else getattr(loss, reduction)()


def cross_entropy(logits, labels, *, gradient, reduction="mean"):
    def call():
        rows = np.arange(len(logits))
        shifted = logits - logits.max(-1, keepdims=True)
        e = np.exp(shifted)
        sums = e.sum(-1, keepdims=True)
        loss = reduced(np.log(sums[:, 0]) - shifted[rows, labels], reduction)
        if not gradient:
            return loss
        e /= sums
        e[rows, labels] -= 1
        return loss, e / len(logits) if reduction == "mean" else e

    return call


def sigmoid_cross_entropy(logits, labels, *, gradient, reduction="mean"):
    def call():
        e = np.exp(-np.abs(logits))
        loss = reduced(np.maximum(logits, 0) - logits * labels + np.log1p(e), reduction)
        if not gradient:
            return loss
        grad = 1 / (1 + np.exp(-logits)) - labels
        return loss, grad / logits.size if reduction == "mean" else grad

    return call


def sigmoid(x):
    return lambda: 1 / (1 + np.exp(-x))


def log_sigmoid(x):
    return lambda: -np.logaddexp(0, -x)


def softplus(x):
    return lambda: np.logaddexp(0, x)


def relu(x):
    return lambda: np.maximum(x, 0)


def sigmoid_backward(grad_output, output):
    return lambda: grad_output * output * (1 - output)


def relu_backward(grad_output, output):
    return lambda: grad_output * (output > 0)


def linear(x, weight, bias, *, packed=False):
    return None if packed else lambda: x @ weight.T + bias


def linear_backward(grad_output, x, weight):
    return lambda: (grad_output @ weight, grad_output.T @ x, grad_output.sum(0))
