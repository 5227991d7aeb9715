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

_WARNINGS_OF_A_FIT = (
    # Which of the checkpoints from before a fit goes on with; nothing is saved where a checkpoint is only evaluated.
    r"The dirpath has changed from",
    # Which logger a fit takes that is given none.
    r"Starting from v1.9.0, `tensorboardX` has been removed",
)


def quiet_libraries(fits: bool = True) -> None:
    """Hide those messages in this process, and those about a fit if the command makes none."""
    for pattern in (*_WARNINGS, *(() if fits else _WARNINGS_OF_A_FIT)):
        warnings.filterwarnings("ignore", pattern)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()
