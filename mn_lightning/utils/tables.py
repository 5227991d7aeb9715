"""Tables for people to read in a terminal or a log file."""

from collections.abc import Iterable, Sequence

_WIDTH_OF_A_LOG_FILE = 130


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]], compact: bool = False) -> None:
    """Print a table to standard output, as wide as the terminal; what the first column names is not folded.

    Args:
        title: above it.
        header: names of the columns.
        rows: as many cells in each.
        compact: whether to leave out its frame: three lines less.

    Raises:
        ValueError: a row of another length than the header; its cells would stand under other names.
    """
    # Layers and swaps work where rich is not installed.
    from rich.box import HEAVY_HEAD, SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OF_A_LOG_FILE)
    table = Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD if compact else HEAVY_HEAD,
        show_edge=not compact,
        pad_edge=not compact,
    )
    for position, column in enumerate(header):
        table.add_column(column, overflow="fold", no_wrap=position == 0)
    for row in rows:
        table.add_row(*(str(cell) for cell, _ in zip(row, header, strict=True)))
    console.print(table)
