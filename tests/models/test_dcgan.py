"""DCGAN against hand arithmetic, plain numpy and its training step written out."""

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny import mixture_callbacks, mixtures, trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, TensorDataset

from mn_lightning import swap_norms
from mn_lightning.models import DCGAN, DCGANDiscriminator, DCGANGenerator
from mn_lightning.models.dcgan import discriminator_loss, generator_loss
from mn_lightning.swap.listing import norm_layers

BATCHES = 5
LR = 0.05


def gan(**arguments: Any) -> DCGAN:
    torch.manual_seed(0)
    return DCGAN(**{"channels": 1, "latent_features": 5, "base_channels": 2, **arguments})


def sgd_gan(**arguments: Any) -> DCGAN:
    sgd = partial(optim.SGD, lr=LR)
    return gan(generator_optimizer=sgd, discriminator_optimizer=sgd, **arguments)


def real_images(n: int = 4 * BATCHES, channels: int = 1, size: int = 32) -> Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def batches(images: Tensor | None = None) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(real_images() if images is None else images), batch_size=4)


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def states_equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


# The networks


@pytest.mark.parametrize(("size", "last"), [(32, 3 * 3), (64, 4 * 4)])
def test_generator_has_the_parameters_of_one_linear_and_four_deconvolutions(size: int, last: int) -> None:
    linear = 100 * (512 * 4 * 4)
    deconvs = (512 * 256 + 256 * 128 + 128 * 64) * 4 * 4
    norms = 2 * (512 + 256 + 128 + 64)
    assert parameters_of(DCGANGenerator(image_size=size)) == linear + deconvs + norms + 64 * 3 * last + 3


@pytest.mark.parametrize(("norm", "of_norms"), [("batch", 2), ("spectral", 1)])
@pytest.mark.parametrize("size", [32, 64])
def test_discriminator_has_the_parameters_of_its_strided_convolutions(size: int, norm: Any, of_norms: int) -> None:
    widths = [128, 256] if size == 32 else [128, 256, 512]
    convs = 3 * 64 * 16 + 64 + sum(width // 2 * width * 16 + of_norms * width for width in widths)
    assert parameters_of(DCGANDiscriminator(image_size=size, norm=norm)) == convs + widths[-1] * 4 * 4 + 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 64])
def test_shapes(channels: int, size: int) -> None:
    model = gan(channels=channels, image_size=size)
    images = model(torch.randn(3, 5))
    assert images.shape == (3, channels, size, size)
    assert model.discriminator(images).shape == (3,)
    assert model(model.example_input_array).shape == (2, channels, size, size)


def test_norms_are_where_they_are_looked_for() -> None:
    model = DCGAN()
    found = {layer.name: layer.input_shape for layer in norm_layers(model, model.example_input_array)}
    assert found == {
        "generator.linear.norm": (512, 4, 4),
        "generator.deconv1.norm": (256, 8, 8),
        "generator.deconv2.norm": (128, 16, 16),
        "generator.deconv3.norm": (64, 32, 32),
        "discriminator.convs.conv2.norm": None,
        "discriminator.convs.conv3.norm": None,
    }
    report = swap_norms(model, ["deconv1", "deconv2"], "mixture", n_components=3)
    assert [layer.name for layer in report] == ["generator.deconv1.norm", "generator.deconv2.norm"]


def outputs(network: nn.Module, input: Tensor) -> dict[str, Tensor]:
    """What each module inside ``network`` returns."""
    found: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda _, __, output, name=name: found.__setitem__(name, output.detach().double()))
    network(input)
    return found


def test_stages_of_the_generator_normalize_and_then_cut_negative_values() -> None:
    found = outputs(DCGANGenerator(5, 1, 32, 4), torch.randn(6, 5))
    for stage in ("linear", "deconv1", "deconv2", "deconv3"):
        before = found["linear.unflatten" if stage == "linear" else f"{stage}.deconv"]
        mean, var = before.mean((0, 2, 3), keepdim=True), before.var((0, 2, 3), keepdim=True, correction=0)
        expected = ((before - mean) / (var + 1e-5).sqrt()).clamp(min=0)
        torch.testing.assert_close(found[stage], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[""], found["deconv4.deconv"].tanh(), atol=1e-6, rtol=1e-6)


def test_stages_of_the_discriminator_normalize_and_then_shrink_negative_values() -> None:
    found = outputs(DCGANDiscriminator(1, 32, 4), real_images(6))
    for stage, before in (("conv1", "conv1.conv"), ("conv2", "conv2.norm"), ("conv3", "conv3.norm")):
        x = found[f"convs.{before}"].numpy()
        np.testing.assert_allclose(found[f"convs.{stage}"].numpy(), np.where(x > 0, x, 0.2 * x), atol=1e-6)
        assert (x < 0).any()
    before = found["convs.conv2.conv"]
    normalized = (before - before.mean((0, 2, 3), keepdim=True)) / before.std((0, 2, 3), keepdim=True, correction=0)
    assert torch.corrcoef(torch.stack([normalized.flatten(), found["convs.conv2.norm"].flatten()]))[0, 1] > 0.999


def test_spectral_norm_makes_the_largest_singular_values_1() -> None:
    network = DCGANDiscriminator(1, 32, 4, norm="spectral")
    for _ in range(50):  # of the power iteration, one each
        network(real_images(2))
    network.eval()
    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 4
    for layer in layers:
        weight = layer.weight.detach().flatten(1).numpy()
        assert np.linalg.svd(weight, compute_uv=False)[0] == pytest.approx(1, abs=0.02)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_weights_start_as_in_dcgan() -> None:
    torch.manual_seed(0)
    for network in (DCGANGenerator(base_channels=16), DCGANDiscriminator(base_channels=32)):
        for name, parameter in network.named_parameters():
            if "norm" in name or name.endswith("bias"):
                assert torch.equal(parameter, torch.full_like(parameter, "norm.weight" in name))
            else:
                # The standard deviation of n draws is known to 1 / sqrt(2 n).
                assert parameter.std().item() == pytest.approx(0.02, rel=5 / (2 * parameter.numel()) ** 0.5)
                assert abs(parameter.mean().item()) < 5 * 0.02 / parameter.numel() ** 0.5


@pytest.mark.parametrize("make", [DCGAN, DCGANGenerator, DCGANDiscriminator])
def test_other_image_sizes(make: Any) -> None:
    with pytest.raises(ValueError, match=r"got image_size=28; it takes 32 or 64, resize the images$"):
        make(image_size=28)


# The losses


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_losses_are_cross_entropies() -> None:
    real, fake = np.array([-2.0, 0.5, 3.0]), np.array([1.5, -0.25])
    expected = -np.log(sigmoid(real)).mean() - np.log(1 - sigmoid(fake)).mean()
    assert float(discriminator_loss(torch.tensor(real), torch.tensor(fake))) == pytest.approx(expected, rel=1e-6)
    assert float(generator_loss(torch.tensor(fake))) == pytest.approx(-np.log(sigmoid(fake)).mean(), rel=1e-6)


def test_the_generator_learns_from_a_discriminator_that_is_sure() -> None:
    """Where the saturating loss, log(1 - D), has no gradient left."""
    logits = torch.tensor([-1000.0], requires_grad=True)
    loss = generator_loss(logits)
    loss.backward()
    assert float(loss.detach()) == 1000
    assert float(logits.grad) == -1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits = torch.linspace(-9, 9, 50).to(dtype)
    for loss, exact in (
        (discriminator_loss(logits, logits), discriminator_loss(logits.double(), logits.double())),
        (generator_loss(logits), generator_loss(logits.double())),
    ):
        assert loss.dtype == torch.float32
        assert float(loss) == pytest.approx(float(exact), rel=1e-6)


# The training


class Log(Callback):
    """Notes losses, steps, and what could be trained at each update."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []
        self.steps: list[tuple[int, int]] = []
        self.trainable: list[tuple[bool, bool]] = []

    def on_before_optimizer_step(self, trainer: Trainer, model: LightningModule, optimizer: optim.Optimizer) -> None:
        networks = (model.generator, model.discriminator)
        self.trainable.append(tuple(all(p.requires_grad for p in network.parameters()) for network in networks))

    def on_train_batch_end(self, trainer: Trainer, model: LightningModule, *_: Any) -> None:
        self.losses.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.steps.append((model.generator_steps, trainer.global_step))


class Seed(Callback):
    """Sets torch's random state before the first step: the DataLoader draws from it too."""

    def on_train_start(self, *_: Any) -> None:
        torch.manual_seed(7)


def fit(
    folder: Path, model: DCGAN, *callbacks: Callback, data: Any = None, ckpt_path: Path | None = None, **arguments: Any
) -> Trainer:
    run = trainer(folder, [Seed(), *callbacks], **{"max_epochs": 1, **arguments})
    run.fit(model, data or batches(), ckpt_path=ckpt_path)
    return run


def sgd(network: nn.Module, loss: Tensor) -> None:
    parameters = list(network.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.data -= LR * gradient


def step_by_hand(model: DCGAN, images: Tensor, bf16: bool) -> dict[str, float]:
    """The update of the discriminator, and then that of the generator, against the discriminator of by then."""

    def probability(images: Tensor | None) -> Tensor:
        # A context for each pass, so that none can see what autocast has kept of the one before.
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model.discriminator(model.generator(torch.rand(4, 5) * 2 - 1) if images is None else images)
        return logits.float().sigmoid()

    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        fakes = model.generator(torch.rand(4, 5) * 2 - 1).detach()
    of_discriminator = -(probability(images).log().mean() + (1 - probability(fakes)).log().mean())
    sgd(model.discriminator, of_discriminator)
    of_generator = -probability(None).log().mean()
    sgd(model.generator, of_generator)
    return {"discriminator_loss": of_discriminator.item(), "generator_loss": of_generator.item()}


@pytest.mark.parametrize("norm", ["batch", "spectral"])
@pytest.mark.parametrize("swapped", [True, False])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_training_step_by_hand(tmp_path: Path, norm: str, swapped: bool, precision: Any) -> None:
    model, by_hand, log = sgd_gan(discriminator_norm=norm), sgd_gan(discriminator_norm=norm), Log()
    start = copy.deepcopy(by_hand)
    callbacks = mixture_callbacks(["deconv1", "deconv2"]) if swapped else []
    # In bfloat16 a weight's last bit in float32 may decide which of two numbers 0.4% apart an activation is rounded to.
    bf16 = precision == "bf16-mixed"
    steps, tolerance, of_update = (1, 5e-3, 0.1) if bf16 else (2, 1e-5, 1e-4)
    fit(tmp_path, model, log, *callbacks, limit_train_batches=steps, precision=precision)

    if swapped:
        swap_norms(by_hand, ["deconv1", "deconv2"])
    torch.manual_seed(7)
    losses = [step_by_hand(by_hand, images, bf16) for images in real_images().split(4)[:steps]]
    for loss, loss_by_hand in zip(log.losses, losses, strict=True):
        assert loss == pytest.approx(loss_by_hand, abs=tolerance)
    for (name, found), expected, first in zip(
        model.named_parameters(), by_hand.parameters(), start.parameters(), strict=True
    ):
        assert not torch.equal(found, first), name
        assert (found - expected).norm() < of_update * (expected - first).norm() + 1e-6, name
        assert found.dtype == torch.float32


def published_step_by_hand(model: DCGAN, images: Tensor, bf16: bool) -> dict[str, float]:
    """One generated batch; both updates are made with the gradients of the weights before the step."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        fakes = model.generator(torch.rand(4, 5) * 2 - 1)
        real, fake = model.discriminator(images), model.discriminator(fakes)
    real, fake = real.float().sigmoid(), fake.float().sigmoid()
    of_generator = -fake.log().mean()
    of_discriminator = -(real.log().mean() + (1 - fake).log().mean())
    gradients = []
    for network, loss in ((model.generator, of_generator), (model.discriminator, of_discriminator)):
        gradients.append(torch.autograd.grad(loss, list(network.parameters()), retain_graph=True))
    for network, found in zip((model.generator, model.discriminator), gradients, strict=True):
        for parameter, gradient in zip(network.parameters(), found, strict=True):
            parameter.data -= LR * gradient
    return {"discriminator_loss": of_discriminator.item(), "generator_loss": of_generator.item()}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_published_step_by_hand(tmp_path: Path, precision: Any) -> None:
    model, by_hand, log = sgd_gan(as_published=True), sgd_gan(as_published=True), Log()
    start = copy.deepcopy(by_hand)
    bf16 = precision == "bf16-mixed"
    steps, tolerance, of_update = (1, 5e-3, 0.1) if bf16 else (2, 1e-5, 1e-4)
    fit(tmp_path, model, log, *mixture_callbacks(["deconv1"]), limit_train_batches=steps, precision=precision)
    swap_norms(by_hand, ["deconv1"])
    torch.manual_seed(7)
    losses = [published_step_by_hand(by_hand, images, bf16) for images in real_images().split(4)[:steps]]
    for loss, loss_by_hand in zip(log.losses, losses, strict=True):
        assert loss == pytest.approx(loss_by_hand, abs=tolerance)
    for (name, found), expected, first in zip(
        model.named_parameters(), by_hand.parameters(), start.parameters(), strict=True
    ):
        assert not torch.equal(found, first), name
        assert (found - expected).norm() < of_update * (expected - first).norm() + 1e-6, name
    (layer,) = mixtures(model)
    assert int(layer.queue.pushes) == steps  # one generated batch a step


def test_the_published_generator_normalizes_each_of_the_projected_features() -> None:
    network = DCGANGenerator(5, 1, 32, 4, norm_all_features=True)
    found = outputs(network, torch.randn(6, 5))
    projected = found["linear.linear"]
    normalized = (projected - projected.mean(0)) / (projected.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(found["linear"], normalized.clamp(min=0).view(6, 32, 4, 4), atol=1e-4, rtol=1e-4)


def test_each_update_freezes_the_other_network(tmp_path: Path) -> None:
    log, model = Log(), gan()
    model.generator.deconv1.deconv.weight.requires_grad = False  # as someone who fine-tunes may want it
    fit(tmp_path, model, log, limit_train_batches=1)
    assert log.trainable == [(False, True), (False, False)]
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["generator.deconv1.deconv.weight"]
    log.trainable.clear()
    fit(tmp_path, gan(), log, limit_train_batches=1)
    assert log.trainable == [(False, True), (True, False)]


def test_the_discriminators_update_records_nothing_of_the_generator(tmp_path: Path) -> None:
    model, recording = gan(), []
    model.generator.register_forward_hook(lambda *_: recording.append(torch.is_grad_enabled()))
    fit(tmp_path, model, limit_train_batches=1)
    assert recording == [False, True]


def test_images_may_come_alone(tmp_path: Path) -> None:
    one, other = gan(), gan()
    fit(tmp_path, one)
    fit(tmp_path, other, data=DataLoader(real_images(), batch_size=4))
    assert states_equal(one, other)


def test_the_default_optimizers_are_the_papers() -> None:
    model = gan()
    optimizers = model.configure_optimizers()
    for optimizer, network in zip(optimizers, (model.generator, model.discriminator), strict=True):
        assert type(optimizer) is optim.Adam
        assert (optimizer.defaults["lr"], optimizer.defaults["betas"]) == (2e-4, (0.0, 0.9))
        (group,) = optimizer.param_groups
        assert {id(parameter) for parameter in group["params"]} == {id(p) for p in network.parameters()}


def test_optimizers_of_ones_own() -> None:
    model = gan(generator_optimizer=partial(optim.SGD, lr=1.0), discriminator_optimizer=partial(optim.RMSprop, lr=2.0))
    of_generator, of_discriminator = model.configure_optimizers()
    assert isinstance(of_generator, optim.SGD)
    assert isinstance(of_discriminator, optim.RMSprop)


def test_it_counts_the_generators_steps(tmp_path: Path) -> None:
    log, model = Log(), gan()
    assert model.generator_steps == 0
    fit(tmp_path, model, log)
    assert log.steps == [(step, 2 * step) for step in range(1, BATCHES + 1)]


@pytest.mark.parametrize("limit", [1, BATCHES, BATCHES + 2])
def test_it_stops_at_max_generator_steps(tmp_path: Path, limit: int) -> None:
    model = gan(max_generator_steps=limit)
    run = fit(tmp_path, model, max_epochs=-1)
    assert (model.generator_steps, run.global_step) == (limit, 2 * limit)


def test_the_norms_see_two_batches_in_each_step(tmp_path: Path) -> None:
    model = gan()
    fit(tmp_path, model, *mixture_callbacks(["deconv1", "deconv2"]))
    assert [int(layer.queue.pushes) for layer in mixtures(model)] == [2 * BATCHES] * 2
    assert int(model.generator.deconv3.norm.num_batches_tracked) == 2 * BATCHES
    # Real and generated ones for the discriminator's update, generated ones again for the generator's.
    assert int(model.discriminator.convs.conv2.norm.num_batches_tracked) == 3 * BATCHES


class RandomState(Callback):
    """Notes torch's random state at the start of each epoch's first step, or sets it then."""

    def __init__(self, start: Tensor | None = None) -> None:
        self.start = start
        self.starts: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, model: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            if self.start is not None:
                torch.set_rng_state(self.start)
            self.starts.append(torch.get_rng_state())


@pytest.mark.parametrize("restored", [True, False])
@pytest.mark.parametrize("swapped", [True, False])
def test_a_resumed_run_is_the_uninterrupted_one_if_the_random_state_is(
    tmp_path: Path, swapped: bool, restored: bool
) -> None:
    def callbacks() -> list[Callback]:
        return mixture_callbacks(["deconv1", "deconv2"]) if swapped else []

    whole, first, second = gan(), gan(), gan()
    states = RandomState()
    fit(tmp_path, whole, *callbacks(), states, max_epochs=2)
    fit(tmp_path, first, *callbacks()).save_checkpoint(tmp_path / "half.ckpt")
    assert torch.load(tmp_path / "half.ckpt", weights_only=True)["generator_steps"] == BATCHES
    resumed = RandomState(states.starts[1] if restored else None)
    fit(tmp_path, second, *callbacks(), resumed, max_epochs=2, ckpt_path=tmp_path / "half.ckpt")
    assert second.generator_steps == whole.generator_steps == 2 * BATCHES
    assert states_equal(second, whole) == restored


@pytest.mark.parametrize(("before", "limit"), [(3, 8), (BATCHES, 7), (7, 7)])
def test_max_generator_steps_counts_those_before_a_resume(tmp_path: Path, before: int, limit: int) -> None:
    fit(tmp_path, gan(max_generator_steps=before), max_epochs=-1).save_checkpoint(tmp_path / "half.ckpt")
    model, log = gan(max_generator_steps=limit), Log()
    run = fit(tmp_path, model, log, max_epochs=-1, ckpt_path=tmp_path / "half.ckpt")
    assert len(log.steps) == limit - before
    assert (model.generator_steps, run.global_step) == (limit, 2 * limit)


def test_a_checkpoint_is_read_with_the_sizes_given_again(tmp_path: Path) -> None:
    model = gan()
    fit(tmp_path, model).save_checkpoint(tmp_path / "gan.ckpt")
    again = DCGAN.load_from_checkpoint(tmp_path / "gan.ckpt", channels=1, latent_features=5, base_channels=2)
    assert states_equal(again, model)
    assert again.generator_steps == BATCHES


def test_bf16_weights(tmp_path: Path) -> None:
    model, log = gan(), Log()
    fit(tmp_path, model, log, precision="bf16-true")
    assert all(np.isfinite(list(losses.values())).all() for losses in log.losses)
    assert model.sample(2).dtype == torch.bfloat16


def test_it_learns_how_bright_the_images_are(tmp_path: Path) -> None:
    fast = partial(optim.Adam, lr=5e-3, betas=(0.0, 0.9))
    model = gan(generator_optimizer=fast, discriminator_optimizer=fast, max_generator_steps=60)
    before = float(model.sample(50).mean())
    bright = torch.full((20, 1, 32, 32), 0.7) + 0.1 * torch.randn(20, 1, 32, 32).clamp(-2, 2)
    fit(tmp_path, model, data=batches(bright), max_epochs=-1)
    assert abs(before) < 0.2
    assert float(model.sample(50).mean()) == pytest.approx(0.7, abs=0.2)


@pytest.mark.parametrize(
    ("images", "given"),
    [
        (torch.zeros(2, 3, 32, 32), "of shape (2, 3, 32, 32); it takes (N, 1, 32, 32)"),
        (torch.zeros(2, 1, 28, 28), "of shape (2, 1, 28, 28); it takes (N, 1, 32, 32)"),
        (torch.zeros(2, 1024), "of shape (2, 1024); it takes (N, 1, 32, 32)"),
        (torch.full((2, 1, 32, 32), -2.5), "with values up to 2.5 away from 0; its own are in [-1, 1]"),
    ],
)
def test_wrong_images(tmp_path: Path, images: Tensor, given: str) -> None:
    with pytest.raises(ValueError, match=r"^DCGAN got images ") as error:
        fit(tmp_path, gan(), data=DataLoader(TensorDataset(images), batch_size=2))
    assert given in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("arguments", [{"accumulate_grad_batches": 2}, {"gradient_clip_val": 1.0}])
def test_what_lightning_refuses(tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(MisconfigurationException, match="not supported for manual"):
        fit(tmp_path, gan(), **arguments)


@pytest.mark.parametrize("name", ["channels", "latent_features", "base_channels", "max_generator_steps"])
def test_wrong_arguments(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^DCGAN got {name}=0; it takes {name} >= 1"):
        DCGAN(**{name: 0})
    with pytest.raises(ValueError, match=r"norm='layer'; it takes one of 'batch', 'spectral'$"):
        DCGAN(discriminator_norm="layer")


# The samples


def test_samples() -> None:
    model = gan(channels=3, image_size=64)
    with torch.no_grad():
        model.generator.deconv4.deconv.weight.mul_(1000)
    images = model.sample(6)
    assert (images.shape, images.dtype) == ((6, 3, 64, 64), torch.float32)
    assert not images.requires_grad
    assert images.abs().max() <= 1
    assert images.min() < -0.9
    assert images.max() > 0.9


def test_samples_are_a_function_of_the_generator_given() -> None:
    model = gan().eval()
    state = torch.get_rng_state()
    one, other, different = (model.sample(4, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, other)
    assert not torch.equal(one, different)
    latents = torch.rand(4, 5, generator=torch.Generator().manual_seed(3)) * 2 - 1
    assert torch.equal(one, model(latents))


def test_samples_are_drawn_from_torchs_random_state_otherwise() -> None:
    model = gan().eval()
    torch.manual_seed(3)
    one = model.sample(4)
    assert not torch.equal(model.sample(4), one)
    assert torch.equal(model.sample(4, torch.Generator().manual_seed(3)), one)


def test_no_samples() -> None:
    with pytest.raises(ValueError, match=r"^DCGAN\.sample got n=0; it takes n >= 1$"):
        gan().sample(0)


def test_it_can_be_sent_to_other_processes() -> None:
    model = gan()
    copied = pickle.loads(pickle.dumps(model))
    assert states_equal(copied, model)
    assert len(copied.configure_optimizers()) == 2
