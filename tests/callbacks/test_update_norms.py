"""What is evaluated and saved has the statistics of its own weights, as torch's update_bn takes them; nothing else."""

import copy
import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import gloo, update_callback_cases
from helpers.tiny import BATCHES, classifier, digits, mixture_callbacks, mixtures, network, trainer, weights_of
from helpers.tiny_generator import TwoOptimizers, fid
from helpers.tiny_generator import loader as generator_loader
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, TensorDataset

from mn_lightning.callbacks import GMMRefitCallback, NormSwapCallback, UpdateNormsCallback
from mn_lightning.models import DCGAN, ImageClassifier

STATISTICS = ("running_mean", "running_var")


def batches(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    """Not the training's: far from them, so that no other statistics could be taken for these."""
    generator = torch.Generator().manual_seed(3)
    images = 2 + 3 * torch.randn(count, 32, 1, 8, 8, generator=generator)
    return [(batch, torch.zeros(32, dtype=torch.long)) for batch in images]


def expected(state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The statistics that torch takes, for the weights in ``state``."""
    model = network()
    model.load_state_dict({name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)})
    update_bn(batches(), model)
    return {prefix + name: value for name, value in model.state_dict().items() if name.endswith(STATISTICS)}


def check(state: dict[str, Tensor], prefix: str = "") -> None:
    for name, value in expected(state, prefix).items():
        torch.testing.assert_close(state[name], value)


class Grab(Callback):
    """Keeps what is evaluated."""

    def __init__(self) -> None:
        self.sanity: dict[str, Tensor] = {}
        self.seen: list[dict[str, Tensor]] = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx:
            return
        if trainer.sanity_checking:
            self.sanity = weights_of(pl_module)
        else:
            self.seen.append(weights_of(pl_module))


@pytest.mark.parametrize("arguments", [{}, {"val_check_interval": 2}], ids=str)
def test_each_validation_has_the_statistics_of_the_current_weights(arguments: dict[str, Any], tmp_path: Path) -> None:
    grab, model = Grab(), classifier()
    before = weights_of(model)
    update = UpdateNormsCallback(loader=batches(9), batches=4)
    trainer(tmp_path, [update, grab], **arguments).fit(model, digits())
    # With an interval the fit ends with a step that is not validated.
    assert (len(grab.seen), update.updates) == ((4, 5) if arguments else (2, 2))
    for state in grab.seen:
        check(state)
    check(weights_of(model))
    for name, value in before.items():
        assert torch.equal(grab.sanity[name], value)


def test_without_it_the_statistics_are_others(tmp_path: Path) -> None:
    """What the other tests would see if the callback did nothing."""
    grab = Grab()
    trainer(tmp_path, [grab]).fit(classifier(), digits())
    with pytest.raises(AssertionError):
        check(grab.seen[-1])


def with_dropout() -> ImageClassifier:
    model = classifier()
    model.network.insert(3, nn.Dropout(0.3))
    return model


@pytest.mark.parametrize("norm", ["mixture", "mode"])
def test_the_training_does_not_notice(norm: str, tmp_path: Path) -> None:
    """Weights and the order of batches are those of a fit without the callback, bit for bit."""
    found = []
    for update in ([], [UpdateNormsCallback(batches=3)]):
        model = with_dropout()
        torch.manual_seed(7)
        swap = NormSwapCallback("all", norm)
        run = trainer(tmp_path, [swap, *mixture_callbacks()[1:], *update], max_epochs=2, val_check_interval=2)
        run.fit(model, digits())
        found.append([*model.parameters(), torch.rand(3)])
    assert update[0].updates == 5  # two in each epoch, and at the end
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("checkpoint", [{"every_n_train_steps": 3}, {"save_weights_only": True}], ids=str)
@pytest.mark.parametrize("validate", [True, False])
def test_what_is_saved_has_them_too(checkpoint: dict[str, Any], validate: bool, tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **checkpoint)
    update = UpdateNormsCallback(loader=batches())
    limit = {} if validate else {"limit_val_batches": 0}
    trainer(tmp_path, [saver, update], enable_checkpointing=True, **limit).fit(classifier(), digits())
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert len(paths) == (3 if "every_n_train_steps" in checkpoint else 2)
    for path in paths:
        check(torch.load(path, weights_only=True)["state_dict"], "network.")


def test_nothing_is_done_twice_for_the_same_weights(tmp_path: Path) -> None:
    update = UpdateNormsCallback(loader=batches())
    savers: list[Callback] = [ModelCheckpoint(tmp_path, "{step}", every_n_epochs=n) for n in (1, 2)]
    trainer(tmp_path, [update, *savers], enable_checkpointing=True).fit(classifier(), digits())
    assert update.updates == 2  # one for each epoch's end


@pytest.mark.parametrize("order", [1, -1])
def test_averages_of_weights_get_statistics_of_their_own(order: int, tmp_path: Path) -> None:
    grab, model = Grab(), classifier()
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    callbacks = [UpdateNormsCallback(loader=batches()), EMAWeightAveraging(decay=0.8)][::order]
    trainer(tmp_path, [*callbacks, grab, saver], enable_checkpointing=True).fit(model, digits())
    for state in grab.seen:
        check(state)
    check(weights_of(model))  # the average, with which Lightning ends
    for path in tmp_path.glob("*.ckpt"):
        content = torch.load(path, weights_only=True)
        for key in ("state_dict", "current_model_state"):
            check(content[key], "network.")
        assert not torch.equal(
            content["state_dict"]["network.0.weight"], content["current_model_state"]["network.0.weight"]
        )


def test_averages_get_mixtures_of_their_own(tmp_path: Path) -> None:
    """Of a queue that keeps everything and one component: the moments of all rows, whatever weights there are."""
    model = classifier()
    one = {"n_components": 1, "queue_decay": 1.0, "queue_rows_per_batch": 512}
    seen: list[tuple[Tensor, Tensor]] = []

    class Watch(Callback):
        def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if not trainer.sanity_checking:
                rows = (
                    torch.cat([pl_module.network[0](images) for images, _ in batches()]).movedim(1, -1).flatten(0, -2)
                )
                seen.append((mixtures(pl_module)[0].mixture_means[0].clone(), rows.mean(0)))

    update = UpdateNormsCallback(loader=batches())
    trainer(tmp_path, [*mixture_callbacks(**one), update, Watch(), EMAWeightAveraging(decay=0.8)]).fit(model, digits())
    assert len(seen) == 2
    for found, mean in seen:
        torch.testing.assert_close(found, mean, rtol=1e-4, atol=1e-4)


def test_stochastic_weight_averaging(tmp_path: Path) -> None:
    model = classifier()
    swa = StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=1, annealing_epochs=1)
    trainer(tmp_path, [UpdateNormsCallback(loader=batches()), swa], max_epochs=3).fit(model, digits())
    check(weights_of(model))


class ScheduleFree(ImageClassifier):
    """Evaluates other weights than it trains, as with a schedule-free optimizer."""

    def _toggle(self, factor: float) -> None:
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.data.mul_(factor)

    def on_validation_epoch_start(self) -> None:
        self._toggle(0.5)

    def on_validation_epoch_end(self) -> None:
        self._toggle(2.0)


def test_weights_that_a_module_evaluates_in_place_of_its_own(tmp_path: Path) -> None:
    grab, model = Grab(), ScheduleFree(network())
    trainer(tmp_path, [UpdateNormsCallback(loader=batches()), grab]).fit(model, digits())
    for state in grab.seen:
        check(state)
    check(weights_of(model))


def test_frozen_layers_keep_their_statistics(tmp_path: Path) -> None:
    """A norm that is in evaluation mode in the training is left alone, in a validation and when a file is saved."""

    class Freeze(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.network[1].eval()

    model, grab = classifier(), Grab()
    mean = model.network[1].running_mean.fill_(0.5).clone()
    callbacks = [Freeze(), UpdateNormsCallback(loader=batches()), grab]
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3)
    trainer(tmp_path, [*callbacks, saver], enable_checkpointing=True).fit(model, digits())
    assert all(torch.equal(state["1.running_mean"], mean) for state in [*grab.seen, weights_of(model)])
    assert not torch.equal(grab.seen[0]["5.running_mean"], grab.seen[1]["5.running_mean"])


class Measured(TwoOptimizers):
    """Keeps the statistics that its images are made with, and those of all latents of a training step."""

    found: list[Tensor]

    def statistics_step(self, batch: Any) -> None:
        self.network(torch.arange(32.0).view(8, 4).sin())

    def sample(self, n: int) -> Tensor:
        if not self.training:
            norm, latents = self.network[1], torch.arange(32.0).view(8, 4).sin()
            self.found += [norm.running_mean.clone(), self.network[0](latents).mean(0)]
        return super().sample(n)


@pytest.mark.parametrize("average", [False, True])
def test_a_distance_is_measured_with_them(average: bool, tmp_path: Path) -> None:
    """Also that of averaged weights, which checkpoints hold as the model's."""
    model = Measured()
    model.found = []
    callbacks = [UpdateNormsCallback(batches=2), *([EMAWeightAveraging(decay=0.8)] if average else [])]
    trainer(tmp_path, [*callbacks, fid(tmp_path, every_n_steps=2)], max_epochs=1).fit(model, generator_loader())
    assert model.found
    for found, mean in zip(model.found[::2], model.found[1::2], strict=True):
        torch.testing.assert_close(found, mean)


def test_a_generators_statistics_are_those_of_latents_and_its_discriminators_of_both_kinds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = DCGAN(channels=1, latent_features=5, base_channels=2)
    images = torch.rand(20, 1, 32, 32) * 2 - 1
    update = UpdateNormsCallback(loader=[[images[:10]]])
    trainer(tmp_path, [update], max_epochs=1).fit(model, DataLoader(TensorDataset(images), batch_size=4))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [int(norm.num_batches_tracked) for norm in norms] == [1, 1, 1, 1, 2, 2]
    convs = model.discriminator.convs
    real = convs.conv2.conv(convs.conv1(images[:10]))
    mean = convs.conv2.norm.running_mean
    assert not torch.allclose(mean, real.mean((0, 2, 3)), atol=1e-4)
    fakes = model.eval().sample(4000)
    both = torch.stack([real.mean((0, 2, 3)), convs.conv2.conv(convs.conv1(fakes)).mean((0, 2, 3))]).mean(0)
    torch.testing.assert_close(mean, both, atol=0.01, rtol=0.1)


class Indices(Callback):
    """Keeps the images that go through the network in training mode outside of the training's own steps."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.inside = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.network.register_forward_pre_hook(self._look)

    def on_train_batch_start(self, *_: Any) -> None:
        self.inside = True

    def on_train_batch_end(self, *_: Any) -> None:
        self.inside = False

    def _look(self, module: nn.Module, args: tuple[Tensor]) -> None:
        if module.training and not self.inside:
            self.seen.append(args[0][:, 0, 0, 0].int().tolist())


def test_batches_are_drawn_from_all_of_the_data_without_replacement(tmp_path: Path) -> None:
    images = torch.randn(40, 1, 8, 8)
    images[:, 0, 0, 0] = torch.arange(40)
    data = DataLoader(TensorDataset(images, torch.zeros(40, dtype=torch.long)), batch_size=8)
    found = []
    for _ in range(2):
        look = Indices()
        run = trainer(tmp_path, [look, UpdateNormsCallback(batches=3)], num_sanity_val_steps=0)
        run.fit(classifier(), data, data)
        found.append(look.seen)
    assert found[0] == found[1]
    assert [len(batch) for batch in found[0]] == [8] * 6
    first, second = ([index for batch in found[0][start : start + 3] for index in batch] for start in (0, 3))
    assert len(set(first)) == len(set(second)) == 24
    assert first != second
    assert max(first) > 30


def test_a_small_data_set_gives_what_it_has(tmp_path: Path) -> None:
    look, update = Indices(), UpdateNormsCallback()
    data = DataLoader(TensorDataset(torch.randn(20, 1, 8, 8), torch.zeros(20, dtype=torch.long)), batch_size=8)
    trainer(tmp_path, [look, update], max_epochs=1).fit(classifier(), data)
    assert [len(batch) for batch in look.seen] == [8, 8]


@pytest.mark.slow
@pytest.mark.processes
def test_all_processes_have_the_statistics_of_the_batches_of_all(tmp_path: Path) -> None:
    found = gloo.run(update_callback_cases.fit, 2, tmp_path, tmp_path)
    for state, mean in found:
        torch.testing.assert_close(state["1.running_mean"], sum(mean for _, mean in found) / 2)
        for name, value in state.items():
            assert torch.equal(value, found[0][0][name]), name
    assert not torch.equal(found[0][1], found[1][1])


def test_costs_are_logged(tmp_path: Path) -> None:
    update = UpdateNormsCallback(loader=batches())
    trainer(tmp_path, [update], logger=CSVLogger(tmp_path, name="", version="")).fit(classifier(), digits())
    rows = csv.DictReader((tmp_path / "metrics.csv").open())
    values = [float(row["update_norms/seconds"]) for row in rows if row["update_norms/seconds"]]
    assert len(values) == 2
    assert 0 < values[0] < values[1] <= update.seconds


def test_a_copy_of_the_model_made_in_the_fit_has_no_part_in_it(tmp_path: Path) -> None:
    class Copy(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            copy.deepcopy(pl_module).state_dict()
            pl_module.state_dict()  # nor has what nobody saves

    update = UpdateNormsCallback(loader=batches())
    model = classifier()
    trainer(tmp_path, [Copy(), update], max_epochs=1).fit(model, digits())
    assert update.updates == 1
    assert len(model._state_dict_pre_hooks) == 0


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Any:
        return iter([(torch.randn(1, 8, 8), torch.tensor(0)) for _ in range(16)])


def test_data_without_another_order_are_refused_unless_there_is_a_loader(tmp_path: Path) -> None:
    images = TensorDataset(torch.randn(16, 1, 8, 8), torch.zeros(16, dtype=torch.long))
    own = DataLoader(images, batch_sampler=BatchSampler(RandomSampler(images), 8, drop_last=False))
    for data, message in (
        (DataLoader(Stream(), batch_size=8), "a loader of Stream; UpdateNormsCallback takes one DataLoader over"),
        (own, "DataLoader has a batch_sampler, which decides the batches; UpdateNormsCallback takes"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer(tmp_path, [UpdateNormsCallback()], max_epochs=1).fit(classifier(), data)
        model = classifier()
        trainer(tmp_path, [UpdateNormsCallback(loader=batches())], max_epochs=1).fit(model, data)
        check(weights_of(model))


@pytest.mark.parametrize("arguments", [{"batches": 0}, {"seed": -1}], ids=str)
def test_arguments_out_of_range(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^UpdateNormsCallback got (batches=0|seed=-1); it takes"):
        UpdateNormsCallback(**arguments)


def test_mixtures_that_are_saved_are_not_refitted_to_a_mix_of_queues(tmp_path: Path) -> None:
    """Whatever the order of the callbacks: batches of the training, which are far from the others, play no part."""
    one = {"n_components": 1, "queue_decay": 1.0, "queue_rows_per_batch": None}
    for order in (1, -1):
        update, swap = UpdateNormsCallback(loader=batches()), NormSwapCallback("all", "mixture", **one)
        saver = ModelCheckpoint(tmp_path / str(order), filename="{step}", every_n_train_steps=BATCHES - 2)
        model = classifier()
        callbacks = [swap, *[GMMRefitCallback(), update][::order], saver, *mixture_callbacks()[2:]]
        trainer(tmp_path, callbacks, enable_checkpointing=True, max_epochs=1).fit(model, digits())
        (path,) = (tmp_path / str(order)).glob("*.ckpt")
        state = torch.load(path, weights_only=True)["state_dict"]
        conv = copy.deepcopy(model.network[0])
        conv.load_state_dict({name: state[f"network.0.{name}"] for name in ("weight", "bias")})
        rows = torch.cat([conv(images) for images, _ in batches()]).movedim(1, -1).flatten(0, -2)
        torch.testing.assert_close(state["network.1.mixture_means"][0], rows.mean(0), rtol=1e-4, atol=1e-4)
