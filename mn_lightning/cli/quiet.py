"""Hide messages of libraries about things that a user of the command line cannot change."""

import logging
import warnings

_WARNINGS = (
    # LightningCLI calls functions that jsonargparse has renamed, and torch calls deprecated functions of its own.
    r"[\s\S]*(was deprecated in v4|JsonargparseDeprecationWarning|parameter was deprecated)",
    r".*isinstance\(treespec, LeafSpec\)",
    # A warning about an optimizer that the user has just chosen.
    r".*configure_optimizers` will be overridden by",
)


def quiet_libraries() -> None:
    """Hide those messages in this process."""
    for pattern in _WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud logging" not in record.getMessage()
