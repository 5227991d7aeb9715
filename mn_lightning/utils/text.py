"""Text of others, in the form in which a person reads it."""

_LONGEST = 600


def in_one_line(text: str) -> str:
    """Return a text without its line breaks, and cut where nobody would read on.

    Examples:
        >>> in_one_line("no such key:" + chr(10) + "    weight")
        'no such key: weight'
    """
    flat = " ".join(text.split())
    return flat if len(flat) <= _LONGEST else f"{flat[:_LONGEST]} ..."
