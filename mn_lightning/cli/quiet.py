"""Messages of libraries about things that a user of the command line can't change."""

import logging
import warnings

_WARNINGS = (
    # LightningCLI calls functions that jsonargparse renamed, and torch some of its own.
    r"[\s\S]*(was deprecated in v4|JsonargparseDeprecationWarning|parameter was deprecated)",
    r".*isinstance\(treespec, LeafSpec\)",
    # Said of an optimizer that the user has just given.
    r".*configure_optimizers` will be overridden by",
)


def quiet_libraries() -> None:
    """Leave those messages out, in this process."""
    for pattern in _WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()
