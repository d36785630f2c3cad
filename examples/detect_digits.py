"""Find and read digits on a made-up page: a sliding window, then non-maximum suppression.

    python examples/detect_digits.py [--page N] [--epochs N] [--output PATH]

The pieces are in `stableops/_demo/`: `page.py` composes the page, `windows.py` cuts it into
windows, `detect.py` runs the network over them. Half a minute of training at most comes first.
"""

import argparse
from pathlib import Path

import numpy as np

import stableops
from stableops._demo.detect import compare, slide, suppress
from stableops._demo.page import compose_page
from stableops._demo.picture import draw_page
from stableops._demo.tour import EPOCHS, train_with_progress
from stableops._digits import load_digits, split_digits
from stableops._png import write_png


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=int, default=1, help="which page: a seed")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--output", type=Path, default=Path("stableops-demo.png"))
    options = parser.parse_args()

    training, held_out = split_digits(load_digits())
    net = train_with_progress(training, held_out, seed=0, epochs=options.epochs)
    page = compose_page(held_out, np.random.default_rng(options.page))

    # A lower threshold finds more digits and more things that are none.
    print("\nprobability above   windows   boxes   read right   misread   missed   false alarms")
    for threshold in (0.5, 0.8, 0.9, 0.95, 0.99):
        candidates = slide(net, page.ink, threshold=threshold)
        kept = suppress(candidates)
        outcome = compare(kept, page)
        print(
            f"{threshold:17}{len(candidates.labels):10}{len(kept.labels):8}"
            f"{outcome.right.sum():13}{outcome.misread.sum():10}{outcome.missed.sum():9}"
            f"{outcome.false_alarm.sum():15}"
        )

    # nms lets any box suppress any other. batched_nms compares boxes of one class only: right
    # for objects that may cover each other, wrong here, where a place holds one digit.
    candidates = slide(net, page.ink)
    by_class = stableops.batched_nms(candidates.boxes, candidates.scores, candidates.labels, 0.3)
    kept = suppress(candidates)
    print(f"\nnms keeps {len(kept.labels)} boxes, batched_nms {len(by_class)}")

    write_png(options.output, draw_page(page, candidates, kept, compare(kept, page)))
    print(f"{options.output} shows the page")


if __name__ == "__main__":
    main()
