"""A line that tells how far the training is."""

from __future__ import annotations

import time
from typing import TextIO

__all__ = ["ProgressLine"]


class ProgressLine:
    """Report progress: one line that changes in a terminal, else one line for each epoch.

    Parameters
    ----------
    stream : file
        Where to write.
    done : float
        The part that was over before.
    """

    def __init__(self, stream: TextIO, done: float = 0.0) -> None:
        self.stream, self.first = stream, done
        self.in_place = stream.isatty()
        self.started = self.last_shown = time.perf_counter()
        self.width = 0

    def update(self, done: float, loss: float, accuracy: float | None, *, keep: bool) -> None:
        """Show the state.

        Parameters
        ----------
        done : float
            The part that is over, 0 to 1.
        loss : float
            Recent training loss.
        accuracy : float or None
            Last known accuracy, 0 to 1.
        keep : bool
            True where a log should have a line.
        """
        now = time.perf_counter()
        if self.in_place:
            if now - self.last_shown < 0.1 and done < 1.0:
                return
        elif not keep:
            return
        self.last_shown = now
        left = (now - self.started) * (1.0 - done) / (done - self.first)
        percent = "  ... " if accuracy is None else f"{100 * accuracy:5.1f} %"
        line = f"  {100 * done:3.0f} %   loss {loss:6.4f}   accuracy {percent}   {left:3.0f} s left"
        if self.in_place:
            self.stream.write("\r" + line.ljust(self.width))
            self.width = len(line)
            if done >= 1.0:
                self.stream.write("\n")
        else:
            self.stream.write(line + "\n")
        self.stream.flush()
