"""A trained classifier's penultimate activations, against the same network cut off by hand."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import classifier, digits, network, trainer
from helpers.tiny_generator import Generator, fid, loader, real_bytes
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from mn_lightning.callbacks import FIDCallback
from mn_lightning.models import ClassifierFeatures

MEAN, STD = [0.3], [0.4]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    fit = trainer(folder, [], max_epochs=1)
    fit.fit(classifier(), digits())
    fit.save_checkpoint(folder / "classifier.ckpt")
    return folder / "classifier.ckpt"


def features(checkpoint: Path, **arguments: Any) -> ClassifierFeatures:
    return ClassifierFeatures(str(checkpoint), network(), **{"mean": MEAN, "std": STD, **arguments})


def cut_off(checkpoint: Path, pixels: Tensor) -> Tensor:
    whole = network()
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    whole.load_state_dict({name[8:]: value for name, value in state.items() if name.startswith("network.")})
    return whole[:-1].eval()(pixels).detach()


def test_gives_what_the_last_linear_layer_takes(checkpoint: Path) -> None:
    extractor = features(checkpoint)
    expected = cut_off(checkpoint, (real_bytes().float() / 255 - 0.3) / 0.4)
    torch.testing.assert_close(extractor(real_bytes()), expected)
    assert expected.shape == (30, extractor.num_features) == (30, 16)
    assert expected.std() > 0.1


def test_other_sizes_and_channels(checkpoint: Path) -> None:
    extractor = features(checkpoint, image_size=8)
    images = real_bytes()
    large = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    rgb = images.expand(-1, 3, -1, -1)
    reference = extractor(images)
    torch.testing.assert_close(extractor(rgb), reference, atol=1e-3, rtol=1e-3)  # 0.2989 + 0.587 + 0.114 < 1
    pixels = nn.functional.interpolate(large.float() / 255, size=8, mode="bilinear", antialias=True)
    torch.testing.assert_close(extractor(large), cut_off(checkpoint, (pixels - 0.3) / 0.4), atol=1e-4, rtol=1e-4)


def test_gray_images_for_a_colour_classifier(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5), nn.Linear(5, 2))
    path = tmp_path / "colour.ckpt"
    torch.save({"state_dict": {f"network.{name}": value for name, value in net.state_dict().items()}}, path)
    mean, std = [0.1, 0.2, 0.3], [1.0, 2.0, 3.0]
    extractor = ClassifierFeatures(str(path), copy.deepcopy(net), mean, std)
    images = real_bytes()
    pixels = (images.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(extractor(images), net[:2](pixels).detach())
    torch.testing.assert_close(extractor(images), extractor(images.expand(-1, 3, -1, -1)))


def test_stays_in_evaluation_mode_and_can_be_copied(checkpoint: Path) -> None:
    extractor = features(checkpoint)
    nn.Sequential(extractor).train()
    assert not any(module.training for module in extractor.modules())
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    copied = pickle.loads(pickle.dumps(copy.deepcopy(extractor)))
    assert torch.equal(copied(real_bytes()), extractor(real_bytes()))


def test_logged_under_its_own_name(checkpoint: Path, tmp_path: Path) -> None:
    fit = trainer(tmp_path, [fid(tmp_path, feature_extractor=features(checkpoint))])
    fit.fit(Generator(), loader())
    names = {"fd_classifier", "fd_classifier/best", "fd_classifier/steps_to_best"}
    assert names <= set(fit.callback_metrics)
    assert not any(name.startswith("fid") for name in fit.callback_metrics)
    assert fit.callback_metrics["fd_classifier"].isfinite()


def test_settings_change_the_cache_key(checkpoint: Path, tmp_path: Path) -> None:
    for arguments in ({}, {"mean": [0.1]}, {"std": [0.1]}):
        extractor = features(checkpoint, **arguments)
        trainer(tmp_path, [fid(tmp_path, feature_extractor=extractor)], max_epochs=1).fit(Generator(), loader())
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_from_a_configuration_file(tmp_path: Path) -> None:
    linear = nn.Linear(64, 2)
    path = tmp_path / "linear.ckpt"
    torch.save({"state_dict": {f"network.{name}": value for name, value in linear.state_dict().items()}}, path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(FIDCallback, "fid")
    net = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 64, "out_features": 2}}
    arguments = {"checkpoint": str(path), "network": net, "mean": MEAN, "std": STD}
    settings = {"feature_extractor": {"class_path": "mn_lightning.models.ClassifierFeatures", "init_args": arguments}}
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # the name before 4.49
    callback = instantiate(parser.parse_object({"fid": settings})).fid
    assert callback.name == "fd_classifier"
    assert torch.equal(callback.feature_extractor.network.weight, linear.weight)


def test_a_network_without_a_linear_layer_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"Identity without nn.Linear; it takes one with a linear head"):
        ClassifierFeatures(str(checkpoint), nn.Identity(), MEAN, STD)


@pytest.mark.parametrize("content", ["missing", "damaged", "foreign", "other"])
def test_checkpoints_that_do_not_fit(checkpoint: Path, tmp_path: Path, content: str) -> None:
    path, net = tmp_path / "a.ckpt", network()
    if content == "damaged":
        path.write_bytes(checkpoint.read_bytes()[:1000])
    elif content == "foreign":
        torch.save([1, 2], path)
    elif content == "other":
        path, net = checkpoint, nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(ValueError, match=f"cannot read {path} into Sequential") as caught:
        ClassifierFeatures(str(path), net, MEAN, STD)
    assert "\n" not in str(caught.value)


def test_other_arguments_and_images_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="2 means and 1 deviations"):
        features(checkpoint, mean=[0.1, 0.2])
    extractor = features(checkpoint)
    for images in (real_bytes().float(), real_bytes()[:, 0], real_bytes().expand(-1, 4, -1, -1)):
        with pytest.raises(ValueError, match="it takes uint8"):
            extractor(images)
