"""Standard streams that are closed, as some schedulers and `2>&-` leave them."""

from __future__ import annotations

import os
import sys


def open_closed_streams() -> None:
    """Open /dev/null for those of stdin, stdout and stderr that are closed.

    Else the next file opened gets the number of one, and what C and Rust print for the screen is written into it;
    and Python has None for the stream, which nothing here looks for.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free: this one
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  (open until the program ends)
