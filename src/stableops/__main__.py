"""Show what stableops does: ``python -m stableops``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import stableops
from stableops._demo import tour
from stableops._networks import add_commands, check_writable, whole_number

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        Without the program's name; default ``sys.argv[1:]``.

    Returns
    -------
    int
        Exit status.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _make_parser()
    asks_for_demo = not arguments or (
        arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")
    )
    options = parser.parse_args(["demo", *arguments] if asks_for_demo else arguments)
    try:
        status: int = options.run(options)
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    except BrokenPipeError:
        # Nobody reads on, as after `| head`, nor what is still to be written at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stableops", description=__doc__)
    parser.add_argument("--version", action="version", version=stableops.__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo", help="losses, a network trained on real digits, a page read (default)"
    )
    demo.set_defaults(run=_demo)
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("stableops-demo.png"),
        metavar="PATH",
        help="the picture to write (default: %(default)s)",
    )
    demo.add_argument("--seed", type=whole_number, default=0, metavar="N", help="default: 0")
    demo.add_argument(
        "--epochs",
        type=whole_number,
        default=tour.EPOCHS,
        metavar="N",
        help="length of the training (default: %(default)s)",
    )
    add_commands(commands)
    return parser


def _demo(options: argparse.Namespace) -> int:
    try:
        check_writable(options.output)
        tour.run(options.output, seed=options.seed, epochs=options.epochs)
    except OSError as error:
        print(
            f"cannot write {options.output}: {error.strerror}; "
            "choose another place with --output PATH",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
