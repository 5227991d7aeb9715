"""Checkpoints of swapped models come back, and say so where they cannot."""

import copy
import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import classifier, digits, mixture_callbacks, mixtures, network, trainer, weights_of
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import nn

import mn_lightning as mn
from mn_lightning.__main__ import main
from mn_lightning.callbacks import GMMRefitCallback, NormSwapCallback, QueueResetCallback
from mn_lightning.checkpoints import load_from_checkpoint
from mn_lightning.models import DCGAN, ImageClassifier
from mn_lightning.swap import swap_as_saved, swap_settings

SWAPS: list[dict[str, Any]] = [
    {"layers": "all", "norm": "mixture"},
    {"layers": ["first"], "norm": "mixture", "n_components": 5, "affine": "component", "granularity": "channel"},
    {"layers": {"first": {"n_components": 2}, "last": {"em_iters": 3}}, "norm": "mixture", "fuse_activation": True},
    {"layers": "last", "norm": "mode", "n_components": 3},
    {"layers": "all", "norm": "mode_group"},
    {"layers": "first", "norm": "group", "num_groups": 3},
    {"layers": "all", "norm": "batch"},
]


def save(folder: Path, swap: dict[str, Any], *more: Callback, **checkpoint: Any) -> tuple[Path, ImageClassifier]:
    model = classifier()
    callbacks = [NormSwapCallback(**swap), GMMRefitCallback(), QueueResetCallback(), *more]
    saver = ModelCheckpoint(folder, filename="last", **checkpoint)
    trainer(folder, [*callbacks, saver], enable_checkpointing=True, max_epochs=1).fit(model, digits())
    return folder / "last.ckpt", model.eval()


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("swap", SWAPS, ids=str)
@pytest.mark.parametrize("save_weights_only", [False, True])
def test_loaded_in_one_call(swap: dict[str, Any], save_weights_only: bool, tmp_path: Path) -> None:
    path, model = save(tmp_path, swap, save_weights_only=save_weights_only)
    loaded = load_from_checkpoint(ImageClassifier, path, network=network(), weights_only=True).eval()
    assert type(loaded) is ImageClassifier
    assert str(loaded.network) == str(model.network)
    for name, value in weights_of(model).items():
        assert torch.equal(weights_of(loaded)[name], value)
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(loaded(images), model(images))
    pickle.loads(pickle.dumps(copy.deepcopy(loaded)))


def test_a_loaded_model_trains_on_and_can_be_saved_again(tmp_path: Path) -> None:
    path, _ = save(tmp_path, SWAPS[2])
    loaded = load_from_checkpoint(ImageClassifier, path, network=network())
    run = trainer(tmp_path, [NormSwapCallback(**SWAPS[2]), GMMRefitCallback(), QueueResetCallback()], max_epochs=1)
    run.fit(loaded, digits())  # the swap finds its own work and leaves it
    run.save_checkpoint(tmp_path / "again.ckpt")
    again = load_from_checkpoint(ImageClassifier, tmp_path / "again.ckpt", network=network())
    for name, value in weights_of(loaded).items():
        assert torch.equal(weights_of(again)[name], value)


def test_the_average_of_weights_is_loaded(tmp_path: Path) -> None:
    path, model = save(tmp_path, SWAPS[0], EMAWeightAveraging(decay=0.5))
    loaded = load_from_checkpoint(ImageClassifier, path, network=network())
    assert len(mixtures(loaded)) == 2
    assert torch.equal(loaded.network[0].weight, torch.load(path)["state_dict"]["network.0.weight"])
    assert torch.equal(loaded.network[0].weight, model.network[0].weight)  # the average, after the fit


def test_hyperparameters_of_the_class_are_used(tmp_path: Path) -> None:
    class Saved(ImageClassifier):
        def __init__(self, width: int = 3) -> None:
            super().__init__(
                nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.Linear(width, 10))
            )
            self.save_hyperparameters()

    run = trainer(tmp_path, mixture_callbacks(), fast_dev_run=True)
    run.fit(Saved(7), digits())
    run.save_checkpoint(tmp_path / "last.ckpt")
    (layer,) = mixtures(load_from_checkpoint(Saved, tmp_path / "last.ckpt"))
    assert layer.num_features == 7


def test_a_checkpoint_without_a_swap_is_loaded_too(tmp_path: Path) -> None:
    run = trainer(tmp_path, [], fast_dev_run=True)
    run.fit(model := classifier(), digits())
    run.save_checkpoint(tmp_path / "last.ckpt")
    loaded = load_from_checkpoint(ImageClassifier, tmp_path / "last.ckpt", network=network())
    assert torch.equal(loaded.network[1].running_var, model.network[1].running_var)


# --- what a file may do -------------------------------------------------------------------------------------------


class Executed(ImageClassifier):
    """Saves the hyperparameters that it is given."""

    def __init__(self, network: Any, width: int = 3, optimizer: Any = None) -> None:
        super().__init__(network, optimizer=optimizer)
        self.save_hyperparameters("width")
        self.width = width


def with_hyperparameters(folder: Path, **values: Any) -> Path:
    run = trainer(folder, [], fast_dev_run=True)
    run.fit(Executed(network()), digits())
    run.save_checkpoint(folder / "plain.ckpt")
    content = torch.load(folder / "plain.ckpt", weights_only=True)
    content["hyper_parameters"] = {"_instantiator": "lightning.pytorch.cli.instantiate_module", "width": 7, **values}
    torch.save(content, folder / "file.ckpt")
    return folder / "file.ckpt"


LOADERS = [Executed.load_from_checkpoint, partial(load_from_checkpoint, Executed)]


@pytest.mark.parametrize("load", LOADERS)
def test_classes_in_a_file_are_not_built(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = {"class_path": "os.system", "init_args": {"command": "touch executed"}}
    path = with_hyperparameters(tmp_path, optimizer=command)
    with pytest.raises(ValueError, match=r"names the class os\.system for optimizer, and a file") as error:
        load(path, network=network())
    one_line(error)
    assert load(path, network=network(), optimizer=None).width == 7  # what is plain is taken
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("load", LOADERS)
def test_objects_in_a_file_are_refused(load: Any, tmp_path: Path) -> None:
    path = with_hyperparameters(tmp_path, optimizer=torch.optim.SGD)
    with pytest.raises(ValueError, match="holds Python objects, which could run code") as error:
        load(path, network=network())
    one_line(error)


# --- without Lightning --------------------------------------------------------------------------------------------


def test_a_state_dict_alone_says_what_to_swap(tmp_path: Path) -> None:
    def build() -> nn.Module:
        block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        return nn.Sequential(block, nn.ReLU(), nn.Conv2d(4, 3, 1), block, nn.BatchNorm2d(4))  # the block is shared

    model = build()
    mn.swap_norms(model, {"0.1": {"n_components": 2}, "4": {"n_components": 4}})
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    state = torch.load(tmp_path / "weights.pt", weights_only=True)
    other = build()
    assert [layer.name for layer in swap_as_saved(other, state)] == ["0.1", "4"]
    assert other[0] is other[3]
    other.load_state_dict(state)
    assert str(other) == str(model)


@pytest.mark.parametrize(
    "copied",
    [
        lambda state: {key: value.clone() for key, value in state.items()},
        lambda state: {key: (value + value) / 2 for key, value in state.items()},  # an average of weights
        lambda state: {key: value.half() for key, value in state.items()},
    ],
)
def test_a_copy_of_a_state_dict_says_it_too(copied: Any) -> None:
    model = network()
    mn.swap_norms(model, {"first": {"n_components": 4, "scale": "unit"}}, fuse_activation=True)
    mn.swap_norms(model, "last", "mode", momentum=None)
    other = network()
    swap_as_saved(other, copied(model.state_dict()))
    assert str(other) == str(model)


def test_a_swap_is_recorded_once(tmp_path: Path) -> None:
    path, model = save(tmp_path, SWAPS[2])
    content = torch.load(path, weights_only=True)
    (key,) = [key for key in content["state_dict"] if key.startswith("network.1.") and "swapped" in key]
    assert swap_settings(model)["network.1"]["arguments"] == {"n_components": 2}
    assert bytes(content["state_dict"].pop(key).tolist()) == json.dumps(swap_settings(model)["network.1"]).encode()
    del content["state_dict"][key.replace("1", "5")]
    assert "n_components" not in str(content)
    assert "n_components" not in str(content["state_dict"]._metadata)


def test_weights_load_into_layers_of_the_same_kind_that_were_not_swapped() -> None:
    for norm, built in (("mixture", mn.MixtureNorm), ("mode", mn.ModeNorm), ("mode_group", mn.ModeGroupNorm)):
        model = nn.Sequential(nn.BatchNorm1d(4))
        mn.swap_norms(model, norm=norm)
        nn.Sequential(built(4)).load_state_dict(model.state_dict())


def test_what_a_checkpoint_cannot_hold_is_said() -> None:
    model = network()
    mn.swap_norms(model, "first", activation=torch.nn.functional.silu)
    with pytest.raises(ValueError, match=r"^1 was swapped with activation=torch\.nn\.functional\.silu") as error:
        swap_as_saved(network(), model.state_dict())
    one_line(error)


@pytest.mark.parametrize(
    ("state", "message"),
    [(lambda _: network().state_dict(), "no record"), (lambda model: model.state_dict(), "no norm layer there")],
)
def test_what_cannot_be_swapped_is_said(state: Any, message: str) -> None:
    model = network()
    mn.swap_norms(model)
    with pytest.raises(ValueError, match=message) as error:
        swap_as_saved(nn.Sequential(nn.Linear(2, 2)), state(model))
    one_line(error)


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_classifier_without_the_swap_refuses(tmp_path: Path) -> None:
    path, _ = save(tmp_path, SWAPS[1])
    with pytest.raises(RuntimeError, match=r"network\.1 was mixture\(affine='component'.*is BatchNorm2d now") as error:
        ImageClassifier.load_from_checkpoint(path, network=network())
    assert "mn_lightning.checkpoints.load_from_checkpoint(ImageClassifier, path, ...)" in one_line(error)
    ImageClassifier.load_from_checkpoint(path, network=network(), strict=False)  # asked for


def test_a_gan_without_the_swap_refuses() -> None:
    swapped = DCGAN(base_channels=4)
    mn.swap_norms(swapped.generator, "first", "mode")
    with pytest.raises(RuntimeError, match=r"generator\..* was mode\(\).*load_from_checkpoint\(DCGAN") as error:
        DCGAN(base_channels=4).load_state_dict(swapped.state_dict())
    one_line(error)


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([], "network.1 was mixture(n_components=5) when the checkpoint was saved and is BatchNorm2d now"),
        ([NormSwapCallback("last")], "network.1 was mixture(n_components=5) when"),
        ([NormSwapCallback("all", n_components=5)], "network.5 was one with weight, bias, running_mean"),
        ([NormSwapCallback("first", "mode")], "saved and is mode() now"),
        ([NormSwapCallback("first", n_components=4)], "saved and is mixture(n_components=4) now"),
    ],
)
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_trainer_with_another_swap_refuses(
    callbacks: list[Callback], message: str, stage: str, tmp_path: Path
) -> None:
    path, _ = save(tmp_path, {"layers": "first", "norm": "mixture", "n_components": 5})

    class Foreign(ImageClassifier):
        load_state_dict = nn.Module.load_state_dict  # as that of a class that knows nothing of swaps

    run = trainer(tmp_path, [*callbacks, GMMRefitCallback()])
    with pytest.raises(RuntimeError) as error:
        getattr(run, stage)(Foreign(network()), digits(), ckpt_path=path)
    assert run.global_step == 0
    assert message in one_line(error)


def test_other_settings_of_the_same_shape_are_no_mistake(tmp_path: Path) -> None:
    path, _ = save(tmp_path, SWAPS[0])
    run = trainer(tmp_path, mixture_callbacks(em_iters=4), max_epochs=2)
    with pytest.warns(UserWarning, match="em_iters was the default and is 4"):
        run.fit(classifier(), digits(), ckpt_path=path)


def test_layers_that_stood_there_from_the_start_are_no_mistake() -> None:
    swapped = ImageClassifier(network())
    mn.swap_norms(swapped, n_components=2)
    built = network()
    built[1], built[5] = mn.MixtureNorm(6, 2), mn.MixtureNorm(16, 2)
    ImageClassifier(built).load_state_dict(swapped.state_dict())


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("weights", lambda weights: weights.mul_(1.5), "weights that add up to 1.5"),
        ("weights", lambda weights: weights.copy_(torch.tensor([1.5, -0.5])), "a weight of -0.5"),
        ("variances", lambda variances: variances[1, 3].fill_(-2), "a variance of -2"),
        ("means", lambda means: means[0, 0].fill_(float("nan")), "means that are not finite"),
        ("variances", lambda variances: variances[0].fill_(float("inf")), "variances that are not finite"),
    ],
)
def test_a_mixture_that_is_none_is_refused(name: str, change: Any, fault: str, tmp_path: Path) -> None:
    path, _ = save(tmp_path, {"layers": "all", "norm": "mixture", "n_components": 2})
    content = torch.load(path, weights_only=True)
    change(content["state_dict"][f"network.1.mixture_{name}"])
    torch.save(content, path)
    model = classifier()
    run = trainer(tmp_path, mixture_callbacks(n_components=2))
    with pytest.raises(RuntimeError) as error:
        run.test(model, digits(), ckpt_path=path)
    (line,) = str(error.value).splitlines()[1:]
    assert f"network.1.mixture has {fault}" in line
    assert mixtures(model)[0].mixture_weights.tolist() == [1, 0]  # as the swap left it


@pytest.mark.parametrize("name", ["weights", "means", "variances"])
def test_a_mixture_of_another_shape_is_refused(name: str, tmp_path: Path) -> None:
    path, _ = save(tmp_path, {"layers": "all", "norm": "mixture", "n_components": 2})
    content = torch.load(path, weights_only=True)
    values = content["state_dict"][f"network.1.mixture_{name}"]
    content["state_dict"][f"network.1.mixture_{name}"] = values[..., None]
    torch.save(content, path)
    with pytest.raises(RuntimeError, match="the file was changed") as error:
        trainer(tmp_path, mixture_callbacks(n_components=2)).test(classifier(), digits(), ckpt_path=path)
    shape = tuple(values.shape)
    expected = f"network.1.mixture_{name} has shape {(*shape, 1)} in the checkpoint and {shape} in the model"
    assert one_line(error).startswith(expected)


def test_a_network_of_another_width_is_said_and_not_taken_for_a_swap(tmp_path: Path) -> None:
    model = DCGAN(base_channels=8, max_generator_steps=1)
    run = trainer(tmp_path, [], enable_checkpointing=True)
    run.strategy.connect(model)
    run.save_checkpoint(tmp_path / "gan.ckpt")
    with pytest.raises(RuntimeError, match="build it with the arguments of the training") as error:
        load_from_checkpoint(DCGAN, tmp_path / "gan.ckpt", base_channels=16)
    expected = "generator.linear.norm.weight has shape (64,) in the checkpoint and (128,) in the model: the network"
    assert one_line(error).startswith(expected)


def test_loading_leaves_no_second_class_of_the_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """LightningCLI looks for short names among all subclasses, also those of this process's past."""
    path, _ = save(tmp_path, {"n_components": 2})
    load_from_checkpoint(ImageClassifier, path, network=network())
    main(["layers", "--config", "digits"])
    assert "network.conv3.norm" in capsys.readouterr().out


# --- other settings of the same shapes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        ({}, {"scale": "unit"}, "had scale=the default when the checkpoint was saved and has scale=unit now"),
        ({"scale": "unit"}, {}, "had scale=unit when the checkpoint was saved and has scale=the default now"),
        ({"eps": 0.5}, {}, "had eps=0.5 when"),
        ({}, {"eps": 0.5}, "had eps=the default when .* and has eps=0.5 now"),
        ({"fuse_activation": True}, {}, "had fuse_activation=True when"),
        ({"norm": "mode", "eps": 0.5}, {"norm": "mode", "eps": 0.25}, "had eps=0.5 when .* and has eps=0.25 now"),
        ({"norm": "group", "num_groups": 3}, {"norm": "group", "num_groups": 6}, "had num_groups=3 when"),
        ({"norm": "layer"}, {"norm": "instance"}, "had norm=layer when .* and has norm=instance now"),
    ],
)
def test_settings_that_change_what_is_evaluated_are_refused(then: Any, now: Any, said: str, tmp_path: Path) -> None:
    trained = classifier()
    mn.swap_norms(trained, **{"layers": "first", **then})
    model = classifier()
    mn.swap_norms(model, **{"layers": "first", **now})
    with pytest.raises(RuntimeError, match=rf"^network\.1 {said}.*: give \w+ as in the training$") as error:
        model.load_state_dict(trained.state_dict())
    one_line(error)
    model.strict_loading = False
    model.load_state_dict(trained.state_dict(), strict=False)  # asked for


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_a_trainer_refuses_them_at_every_stage(stage: str, tmp_path: Path) -> None:
    path, _ = save(tmp_path, {"layers": "first"})
    run = trainer(tmp_path, [NormSwapCallback("first", scale="unit")])
    with pytest.raises(RuntimeError, match=r"^network\.1 had scale=the default") as error:
        getattr(run, stage)(ImageClassifier(network()), digits(), ckpt_path=path)
    one_line(error)
    assert run.global_step == 0


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ({}, {"scale": "sqrt", "granularity": "layer"}),
        ({"eps": 1e-5}, {}),
        ({}, {"em_iters": 5, "queue_size": 3, "queue_decay": 0.5, "refit_iters": 9, "min_weight": 0.1, "sync": True}),
        ({"norm": "mode"}, {"norm": "mode", "momentum": 0.5, "running": "total"}),
    ],
)
def test_settings_that_do_not_are_none_of_its_business(then: Any, now: Any) -> None:
    trained, model = classifier().eval(), classifier().eval()
    mn.swap_norms(trained, **then)
    mn.swap_norms(model, **now)
    model.load_state_dict(trained.state_dict())
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(model(images), trained(images))
