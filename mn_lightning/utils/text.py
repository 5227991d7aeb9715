"""Text of others, in the form in which a person reads it."""

import sys

_LONGEST = 600
_LONGEST_VALUE = 80
_TRACEBACK = "Traceback (most recent call last):"


def in_one_line(text: str) -> str:
    """Return a text without its line breaks, and cut where nobody would read on.

    Examples:
        >>> in_one_line("no such key:" + chr(10) + "    weight")
        'no such key: weight'
    """
    flat = " ".join(text.split())
    return flat if len(flat) <= _LONGEST else f"{flat[:_LONGEST]} ..."


def shown(value: object) -> str:
    """Return a value as Python writes it, in one line and cut in its middle where it is long.

    Examples:
        >>> shown("x" * 1000)
        "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx ... xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'"
    """
    try:
        text = " ".join(repr(value).split())
    except (RecursionError, ValueError):  # of what contains itself; of integers with thousands of digits
        text = f"<{type(value).__name__}>"
    half = (_LONGEST_VALUE - 5) // 2
    return text if len(text) <= _LONGEST_VALUE else f"{text[:half]} ... {text[-half:]}"


def what_happened(error: BaseException) -> str:
    """Return the line of an error that says what happened, behind the error's name.

    That is the first line, as the next ones explain it; but a first line that ends with a colon goes on, and an error
    that was raised in another process has its own text below the traceback from there.

    Examples:
        >>> what_happened(RuntimeError("CUDA error: out of memory" + chr(10) + "Compile with TORCH_USE_CUDA_DSA"))
        'RuntimeError: CUDA error: out of memory'
        >>> what_happened(KeyError("weight"))
        "KeyError: 'weight'"
    """
    text = str(error)
    if _TRACEBACK in text:
        below = text.rpartition(_TRACEBACK)[2].splitlines()
        return in_one_line(next((line for line in below if line[:1].strip()), _TRACEBACK))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    until = next((at for at, line in enumerate(lines, 1) if not line.endswith(":")), len(lines))
    said = in_one_line(" ".join(lines[:until]))
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def say(command: str, text: str) -> None:
    """Write a command's line to standard error, whatever the text holds: the name of a file need not be text."""
    line = in_one_line(f"mn-lightning {command}: {text}")
    sys.stderr.write(line.encode(errors="backslashreplace").decode() + "\n")
