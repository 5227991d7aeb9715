"""A file of weights for torch-fidelity's Inception: the published ones need a network, random ones go the same way."""

from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


class _Untrained(FeatureExtractorInceptionV3):
    def load_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Keep the initialization."""


def save_random_inception(path: Path) -> Path:
    """Save a state dict with Inception's names and shapes, whose activations neither vanish nor explode."""
    torch.manual_seed(0)
    with mock.patch("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", return_value={}):
        network = _Untrained("inception-v3-compat", ["2048"])
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    torch.save(network.state_dict(), path)
    return path
