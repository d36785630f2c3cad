"""Replace a loss written by hand by stableops' own, and watch what changes.

    python examples/drop_in_loss.py

A linear classifier learns digits from pixels that nobody scaled. Its first steps make it very
sure of itself, also where it is wrong.

1. Wrong and sure: the probability of the right label falls below the clip, the loss written by
   hand has no slope there, and the digit is lost for the rest of the training.
2. Right and sure: the probability rounds to 1 and the loss to 0. Whoever ranks or weighs examples
   by their loss or gradient, as boosting does, sees a heap of equal zeros.
"""

import numpy as np

import stableops
from stableops._digits import load_digits, split_digits


def naive_softmax_cross_entropy(logits, labels):
    """Loss of each sample, with the usual clipped probability, and the gradient of their mean."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    samples = np.arange(len(labels))
    of_label = probabilities[samples, labels]
    losses = -np.log(np.maximum(of_label, 1e-9))

    grad = probabilities.copy()
    grad[samples, labels] -= 1
    grad[of_label < 1e-9] = 0  # what any framework derives from the clip
    return losses, grad / len(labels)


def stable_softmax_cross_entropy(logits, labels):
    """The same by stableops: one call, no clip."""
    losses, grad = stableops.softmax_cross_entropy(
        logits, labels, reduction="none", return_grad=True
    )
    return losses, grad / len(labels)


def train_linear(pixels, labels, loss, *, steps=100, rate=1.0):
    """Train a linear classifier by plain gradient descent, and return its weights."""
    weights = np.zeros((10, pixels.shape[1]), dtype=np.float32)
    for _ in range(steps):
        logits = stableops.linear(pixels, weights)
        _, grad = loss(logits, labels)
        _, grad_weights, _ = stableops.linear_backward(grad, pixels, weights)
        weights -= np.float32(rate) * grad_weights
    return weights


def main() -> None:
    training, held_out = split_digits(load_digits())
    pixels, test_pixels = (16 * part.images.reshape(-1, 64) for part in (training, held_out))
    losses = {
        "by hand, clipped": naive_softmax_cross_entropy,
        "stableops": stable_softmax_cross_entropy,
    }

    print("1. 100 steps on unscaled pixels")
    for name, loss in losses.items():
        weights = train_linear(pixels, training.labels, loss)
        predicted = stableops.linear(test_pixels, weights).argmax(axis=1)
        share = (predicted == held_out.labels).mean()
        print(f"   {name:18}{100 * share:5.1f} % of the held-out digits right")

    print(f"\n2. the same {len(training.labels)} digits, by a classifier trained with small steps")
    weights = train_linear(pixels, training.labels, losses["stableops"], rate=0.1)
    logits = stableops.linear(pixels, weights)
    samples = np.arange(len(training.labels))
    for name, loss in losses.items():
        values, grad = loss(logits, training.labels)
        no_loss = (values == 0).sum()
        no_gradient = (grad[samples, training.labels] == 0).sum()
        print(
            f"   {name:18}loss 0 for {no_loss:4}, gradient 0 for {no_gradient:4}, "
            f"smallest loss {abs(values.min()):.2e}"
        )


if __name__ == "__main__":
    main()
