"""Messages about things that a user can't change are left out, and others are not."""

import logging
import warnings

import pytest
from lightning.pytorch.utilities import rank_zero_info

from mn_lightning.cli.quiet import quiet_libraries


def test_advertisements_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    before = list(logger.filters)
    try:
        quiet_libraries()
        with caplog.at_level(logging.INFO):
            rank_zero_info("💡 Tip: For seamless cloud logging and experiment tracking, try installing litlogger")
            rank_zero_info("💡 Tip: For seamless cloud uploads and versioning, try installing [litmodels](https://...)")
            rank_zero_info("GPU available: False, used: False")
    finally:
        logger.filters[:] = before
    assert caplog.messages == ["GPU available: False, used: False"]


def test_warnings_of_renamed_functions_are_left_out() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        quiet_libraries()
        warnings.warn("\n  ``instantiate_classes`` was deprecated in v4.49.0", DeprecationWarning, stacklevel=1)
        warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated", FutureWarning, stacklevel=1)
        warnings.warn("network.conv4.norm has collapsed", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["network.conv4.norm has collapsed"]


@pytest.mark.parametrize("fits", [True, False])
def test_where_checkpoints_of_before_went_concerns_a_fit(fits: bool) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        quiet_libraries(fits)
        warnings.warn("The dirpath has changed from 'a' to 'b', therefore `best_model_score` ...", stacklevel=1)
    assert len(seen) == fits
