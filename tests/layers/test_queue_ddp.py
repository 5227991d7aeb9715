"""DDP gives all processes the first one's buffers in every step; a queue stays its process' own."""

from pathlib import Path

import pytest
import torch
from helpers import gloo
from helpers.queue_cases import STEPS, WAYS, queued_rows


@pytest.mark.slow
@pytest.mark.processes
def test_a_queue_is_its_process_own_however_the_layer_came_into_the_model(tmp_path: Path) -> None:
    for rank, found in enumerate(gloo.run(queued_rows, 2, tmp_path)):
        assert found.keys() == set(WAYS)
        for rows in found.values():
            expected = 10.0 * rank + torch.arange(STEPS)
            torch.testing.assert_close(rows.floor(), expected[:, None, None].expand(STEPS, 5, 4))
