"""JAX on the CPU, compiled by jax.jit. The number of threads follows the process's CPU affinity."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def load(_threads: int) -> str:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")
    return jax.__version__


def on_numpy(function: Callable, *arrays) -> Callable:
    """`function` compiled; a 64-byte-aligned NumPy array goes in and comes out without a copy."""
    compiled = jax.jit(function)

    def call():
        result = compiled(*arrays)
        return tuple(map(np.asarray, result)) if isinstance(result, tuple) else np.asarray(result)

    return call


def reduced(loss: jax.Array, reduction: str) -> jax.Array:
    return {"mean": jnp.mean, "sum": jnp.sum, "none": lambda value: value}[reduction](loss)


def loss_call(loss: Callable, logits, labels, gradient: bool) -> Callable:
    if not gradient:
        return on_numpy(loss, logits, labels)

    def both(x, y):
        value, backward = jax.vjp(lambda x: loss(x, y), x)
        return value, backward(jnp.ones_like(value))[0]

    return on_numpy(both, logits, labels)


def softmax(x, *, axis):
    return on_numpy(lambda t: jax.nn.softmax(t, axis), x)


def softmax_on_tensors(x, *, axis):
    compiled, tensor = jax.jit(lambda t: jax.nn.softmax(t, axis)), jnp.asarray(x)
    return (lambda: compiled(tensor).block_until_ready()), np.asarray


def log_softmax(x, *, axis):
    return on_numpy(lambda t: jax.nn.log_softmax(t, axis), x)


def logsumexp(x, *, axis):
    return on_numpy(lambda t: jax.nn.logsumexp(t, axis), x)


def cross_entropy(logits, labels, *, gradient, reduction="mean"):
    def loss(x, y):
        at_label = jnp.take_along_axis(x, y[:, None], axis=-1)[:, 0]
        return reduced(jax.nn.logsumexp(x, axis=-1) - at_label, reduction)

    return loss_call(loss, logits, labels, gradient)


def sigmoid_cross_entropy(logits, labels, *, gradient, reduction="mean"):
    def loss(x, y):
        terms = -y * jax.nn.log_sigmoid(x) - (1 - y) * jax.nn.log_sigmoid(-x)
        return reduced(terms, reduction)

    return loss_call(loss, logits, labels, gradient)


def sigmoid(x):
    return on_numpy(jax.nn.sigmoid, x)


def log_sigmoid(x):
    return on_numpy(jax.nn.log_sigmoid, x)


def softplus(x):
    return on_numpy(jax.nn.softplus, x)


def relu(x):
    return on_numpy(jax.nn.relu, x)


def linear(x, weight, bias, *, packed=False):
    if packed:
        return None
    contract_last = (((1,), (1,)), ((), ()))
    return on_numpy(lambda t, w, b: jax.lax.dot_general(t, w, contract_last) + b, x, weight, bias)
