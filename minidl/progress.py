"""A progress bar with the time left: tqdm's where it is installed, else one line of our own.

Where standard error is no terminal (a log file, CI) it prints a line at every quarter instead of redrawing one.
"""

from __future__ import annotations

import sys
import time


class Progress:
    """A bar of `total` steps (0: nobody knows how many); a context manager.

    update(n) moves it on, set(text) shows a value beside it.
    """

    def __init__(self, total: int, label: str):
        self.total, self.label = int(total), label
        self.done, self.text = 0, ""
        self._start = self._drawn = time.perf_counter()
        self._quarter = 0
        self._bar = None
        self._redraw = sys.stderr.isatty()
        if self._redraw:
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=self.total or None, desc=label, leave=False, dynamic_ncols=True)

    def update(self, n: int = 1) -> None:
        self.done += n
        if self._bar is not None:
            self._bar.update(n)
        elif self._redraw:
            if time.perf_counter() - self._drawn > 0.1:  # a terminal is slower than a small step
                self._drawn = time.perf_counter()
                sys.stderr.write(f"\r\033[K{self.line()}")
                sys.stderr.flush()
        elif self.total and (quarter := min(4 * self.done // self.total, 4)) > self._quarter:
            self._quarter = quarter
            print(self.line(), file=sys.stderr, flush=True)

    def set(self, text: str) -> None:
        self.text = text
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)

    def line(self) -> str:
        """What the bar says in words: label, per cent, seconds left, and the text that was set."""
        elapsed = time.perf_counter() - self._start
        left = elapsed * max(self.total - self.done, 0) / max(self.done, 1)
        text = f", {self.text}" if self.text else ""
        if not self.total:
            return f"{self.label} {self.done} steps in {elapsed:.0f} s{text}"
        return f"{self.label} {100 * self.done // self.total} %, {left:.0f} s left{text}"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._redraw:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
