"""Train a LeNet on handwritten digits with stableops' forward and backward functions.

    python examples/lenet_digits.py [--epochs N] [--seed N]

The network is written out in `stableops/_demo/lenet.py`, the optimiser and the training loop in
`training.py` beside it; both are meant to be read. This script uses them, looks at the mistakes,
and shows that the weights do not depend on the number of threads.
"""

import argparse

import numpy as np

import stableops
from stableops._demo.lenet import LeNet
from stableops._demo.training import accuracy, train, weights_digest
from stableops._demo.windows import as_windows
from stableops._digits import load_digits, split_digits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    training, held_out = split_digits(load_digits())
    test_images = as_windows(held_out.images)

    net = train_lenet(training, options.epochs, options.seed)
    share = accuracy(net, test_images, held_out.labels)
    print(f"{100 * share:.2f} % of {len(held_out.labels)} held-out digits right\n")

    probabilities = stableops.softmax(net.forward(test_images))
    predicted = probabilities.argmax(axis=1)
    for i in np.flatnonzero(predicted != held_out.labels):
        sure = probabilities[i, predicted[i]]
        print(f"a {held_out.labels[i]}, taken for a {predicted[i]} (probability {sure:.3f})")
        print(in_letters(held_out.images[i]) + "\n")

    print("weights after one epoch:")
    threads = stableops.get_num_threads()
    for number in (1, 2, 3):
        stableops.set_num_threads(number)
        digest = weights_digest(train_lenet(training, 1, options.seed).parameters)
        print(f"  threads: {number}   {digest}")
    stableops.set_num_threads(threads)


def train_lenet(digits, epochs, seed):
    """Train on the digits as they are, the same in every epoch."""
    images = as_windows(digits.images)
    rng = np.random.default_rng(seed)
    net = LeNet(10, rng)
    losses = []
    for step in train(net, lambda _: (images, digits.labels), rng, epochs=epochs):
        losses.append(step.loss)
        if step.ends_epoch and epochs > 1:
            print(f"{100 * step.done:3.0f} %   mean loss {np.mean(losses):.4f}")
            losses.clear()
    return net


def in_letters(image):
    """Draw an image with characters, darker ones for more ink."""
    return "\n".join("  " + "".join(2 * " .:+#@"[int(5 * ink)] for ink in row) for row in image)


if __name__ == "__main__":
    main()
