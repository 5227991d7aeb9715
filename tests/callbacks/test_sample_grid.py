"""The grid shows the samples, and leaves no trace on the training."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.states import in_one_order
from helpers.tiny import classifier, mixture_callbacks, mixtures, trainer
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import Logger
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from mn_lightning.callbacks import SampleGridCallback
from mn_lightning.models import DCGAN
from mn_lightning.utils.restore import seed_all

BATCHES = 5


def gan(**arguments: Any) -> DCGAN:
    torch.manual_seed(0)
    return DCGAN(**{"channels": 1, "latent_features": 5, "base_channels": 2, **arguments})


def fit(folder: Path, model: LightningModule, *callbacks: Callback, **arguments: Any) -> Trainer:
    run = trainer(folder, list(callbacks), **{"max_epochs": 2, **arguments})
    torch.manual_seed(7)
    run.fit(model, DataLoader(torch.zeros(4 * BATCHES, 1, 32, 32), batch_size=4))
    return run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "samples").iterdir())


@pytest.mark.parametrize(
    ("every_n_steps", "steps"), [(3, [3, 6, 9, 10]), (5, [5, 10]), (100, [10]), (1, list(range(1, 11)))]
)
def test_every_n_steps_of_the_generator_and_at_the_end(tmp_path: Path, every_n_steps: int, steps: list[int]) -> None:
    fit(tmp_path, gan(), SampleGridCallback(every_n_steps, num_samples=2))
    assert names(tmp_path) == [f"{step:06d}.png" for step in steps]


def test_global_steps_where_the_module_counts_none_of_its_own(tmp_path: Path) -> None:
    class Uncounted(DCGAN):
        @property
        def generator_steps(self) -> int:
            raise AttributeError

    model = Uncounted(1, latent_features=5, base_channels=2)
    fit(tmp_path, model, SampleGridCallback(5, num_samples=2), max_epochs=1)
    # Two optimizers: 2, 4, 6, 8, 10. The first multiple of 5 is passed, the second one met.
    assert names(tmp_path) == ["000006.png", "000010.png"]


def test_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    fit(tmp_path, gan(max_generator_steps=4)).save_checkpoint(tmp_path / "half.ckpt")
    run = trainer(tmp_path, [SampleGridCallback(3, num_samples=2)], max_epochs=-1)
    run.fit(
        gan(max_generator_steps=7),
        DataLoader(torch.zeros(4 * BATCHES, 1, 32, 32), batch_size=4),
        ckpt_path=tmp_path / "half.ckpt",
    )
    assert names(tmp_path) == ["000006.png", "000007.png"]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture_shows_the_samples_of_the_trained_generator(tmp_path: Path, channels: int) -> None:
    model = gan(channels=channels, max_generator_steps=2)
    run = trainer(tmp_path, [SampleGridCallback(num_samples=5, nrow=3, seed=4)], max_epochs=-1)
    run.fit(model, DataLoader(torch.zeros(8, channels, 32, 32), batch_size=4))
    images = model.eval().sample(5, torch.Generator().manual_seed(4)).numpy()
    picture = np.asarray(Image.open(tmp_path / "samples" / "000002.png")).astype(int)
    # Two pixels between the images, and around them; two rows of three.
    assert picture.shape == (2 * 34 + 2, 3 * 34 + 2, 3)
    for i, image in enumerate(images):
        top, left = 2 + 34 * (i // 3), 2 + 34 * (i % 3)
        shown = picture[top : top + 32, left : left + 32].transpose(2, 0, 1)
        expected = np.broadcast_to((image + 1) / 2 * 255, (3, 32, 32))
        assert np.abs(shown - expected).max() <= 0.51
    assert (picture[36:, 70:] == 0).all()


class Observe(Callback):
    """Notes what a grid could change, after each batch: callbacks before it have not seen the grid."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def on_train_batch_end(self, trainer: Trainer, model: LightningModule, *_: Any) -> None:
        self.seen.append(
            (
                [module.training for module in model.modules()],
                torch.get_rng_state().tolist(),
                np.random.get_state()[1].tolist(),
                random.getstate(),
            )
        )


class Noisy(DCGAN):
    """Draws from every random state there is when it samples."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        assert not any(module.training for module in self.modules())
        assert not any(layer.stale for layer in mixtures(self))
        torch.rand(1), np.random.rand(), random.random()
        return super().sample(n, generator)


@pytest.mark.parametrize("swapped", [True, False])
def test_the_training_is_the_same_without_it(tmp_path: Path, swapped: bool) -> None:
    def run(*callbacks: Callback) -> tuple[dict[str, Tensor], list[tuple[Any, ...]]]:
        np.random.seed(0)
        random.seed(0)
        torch.manual_seed(0)
        model = Noisy(1, latent_features=5, base_channels=2)
        model.discriminator.convs.conv2.norm.eval()  # one that its user keeps in evaluation
        observe = Observe()
        swap = mixture_callbacks(["deconv1", "deconv2"]) if swapped else []
        fit(tmp_path, model, *swap, *callbacks, observe)
        return model.state_dict(), observe.seen

    state, seen = run(SampleGridCallback(2, num_samples=3))
    without, seen_without = run()
    assert len(names(tmp_path)) == 5
    assert seen == seen_without
    state, without = in_one_order(state), in_one_order(without)
    assert all(torch.equal(state[name], without[name]) for name in without)


def test_without_a_second_look_a_mixture_would_be_stale(tmp_path: Path) -> None:
    """What the other tests would see if nothing was refitted."""
    stale: list[bool] = []

    class Look(Callback):
        def on_train_batch_end(self, trainer: Trainer, model: LightningModule, *_: Any) -> None:
            stale.append(any(layer.stale for layer in mixtures(model)))

    fit(tmp_path, gan(), *mixture_callbacks(["deconv1"]), Look(), SampleGridCallback(1, num_samples=2), max_epochs=1)
    assert stale == [True] * BATCHES


class Images:
    """TensorBoard's and Weights & Biases' ways to take images."""

    def __init__(self) -> None:
        self.added: list[tuple[str, Any, int]] = []

    def add_image(self, tag: str, image: Tensor, step: int) -> None:
        self.added.append((tag, image, step))

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        (image,) = images
        self.added.append((key, image, step or 0))


class FakeLogger(Logger):
    name, version = "fake", 0

    def log_metrics(self, *_: Any, **__: Any) -> None: ...

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...


def test_loggers_that_take_images(tmp_path: Path) -> None:
    class WithExperiment(FakeLogger):
        experiment = Images()

    class WithLogImage(FakeLogger):
        images = Images()
        log_image = images.log_image

    loggers = [CSVLogger(tmp_path), WithExperiment(), WithLogImage(), FakeLogger()]
    run = fit(tmp_path, gan(), SampleGridCallback(5, num_samples=2), logger=loggers)
    folder = Path(run.log_dir or "")
    assert folder == tmp_path / "lightning_logs" / "version_0"
    assert names(folder) == ["000005.png", "000010.png"]
    for logger in (WithExperiment.experiment, WithLogImage.images):
        assert [(tag, step) for tag, _, step in logger.added] == [("samples", 5), ("samples", 10)]
    for (_, tensor, step), (_, picture, _) in zip(
        WithExperiment.experiment.added, WithLogImage.images.added, strict=True
    ):
        written = np.asarray(Image.open(folder / "samples" / f"{step:06d}.png")).astype(int)
        assert tensor.shape == (3, 36, 70)
        assert np.abs(tensor.permute(1, 2, 0).numpy() * 255 - written).max() <= 0.51
        assert np.abs(np.asarray(picture).astype(int) - written).max() <= 1


def test_the_latents_stay_the_same(tmp_path: Path) -> None:
    model = gan(generator_optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    model.generator.eval()  # and so do its statistics
    fit(tmp_path, model, SampleGridCallback(4, num_samples=3))
    pictures = {(tmp_path / "samples" / name).read_bytes() for name in names(tmp_path)}
    assert len(names(tmp_path)) == 3
    assert len(pictures) == 1


class Seeded(DCGAN):
    """Takes no generator."""

    def sample(self, n: int) -> Tensor:
        return super().sample(n)


class Contrast(DCGAN):
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return (1000 * super().sample(n, generator)).tanh()


class Bytes(Contrast):
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return ((super().sample(n, generator) + 1) * 127.5).round().byte()


def test_samples_without_a_generator_are_seeded(tmp_path: Path) -> None:
    def run(*callbacks: Callback) -> list[tuple[Any, ...]]:
        torch.manual_seed(0)
        model = Seeded(1, latent_features=5, base_channels=2)
        model.generator.eval()
        model.generator_optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.0)
        observe = Observe()
        fit(tmp_path, model, *callbacks, observe)
        return observe.seen

    assert run(SampleGridCallback(4, num_samples=3)) == run()
    pictures = {(tmp_path / "samples" / name).read_bytes() for name in names(tmp_path)}
    assert len(names(tmp_path)) == 3
    assert len(pictures) == 1


def test_bytes_are_shown_as_they_are(tmp_path: Path) -> None:
    pictures = []
    for model_class in (Contrast, Bytes):
        torch.manual_seed(0)
        model = model_class(1, latent_features=5, base_channels=2)
        fit(tmp_path / model_class.__name__, model, SampleGridCallback(100, num_samples=2))
        pictures.append(np.asarray(Image.open(tmp_path / model_class.__name__ / "samples" / "000010.png")).astype(int))
    assert len(np.unique(pictures[0])) > 5
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (torch.rand(2, 1, 8, 8) * 255, "generated images have values from .* beyond value_range"),
        (torch.ones(2, 1, 8, 8, dtype=torch.bool), "generated images have dtype torch.bool"),
        (torch.zeros(1, 8, 8), r"asked for 2 samples, the model gave shape \(1, 8, 8\)"),
    ],
)
def test_other_samples_are_refused(tmp_path: Path, samples: Tensor, message: str) -> None:
    class Wrong(DCGAN):
        def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
            return samples

    with pytest.raises(ValueError, match=message):
        fit(tmp_path, Wrong(1, latent_features=5, base_channels=2), SampleGridCallback(1, num_samples=2))


def test_another_sample_method_is_refused_before_the_training(tmp_path: Path) -> None:
    class Conditional(DCGAN):
        def sample(self, n: int, labels: Tensor) -> Tensor:
            return super().sample(n)

    model = Conditional(1, latent_features=5, base_channels=2)
    with pytest.raises(TypeError, match=r"^SampleGridCallback got a Conditional with sample\(n: int, labels: .*\) -> "):
        fit(tmp_path, model, SampleGridCallback())
    assert model.generator_steps == 0


def test_a_module_without_samples(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^SampleGridCallback got a BoringModel without sample; it takes .*$"):
        trainer(tmp_path, [SampleGridCallback()]).fit(BoringModel())
    assert not hasattr(classifier(), "sample")


@pytest.mark.parametrize("name", ["every_n_steps", "num_samples", "nrow", "seed"])
def test_wrong_arguments(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^SampleGridCallback got {name}=-1; it takes {name} >= "):
        SampleGridCallback(**{name: -1})


class Plain(LightningModule):
    """A generator as the guide asks for: ``sample(n)``, without ``generator``."""

    def __init__(self, returned: Any = None) -> None:
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Tanh(), torch.nn.Unflatten(1, (1, 8, 8)))
        self.returned = returned
        self.batches = 0

    def sample(self, n: int) -> Any:
        images = self.network(torch.randn(n, 4))
        return images if self.returned is None else self.returned(images)

    def training_step(self, batch: Tensor) -> Tensor:
        self.batches += 1
        loss: Tensor = self.network(torch.randn(4, 4)).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-2)


def as_bytes(images: Tensor) -> Tensor:
    return ((images + 1) * 127.5).round().to(torch.uint8)


@pytest.mark.parametrize("returned", [None, as_bytes])
def test_a_module_whose_sample_takes_a_number_alone(tmp_path: Path, returned: Any) -> None:
    model = Plain(returned)
    fit(tmp_path, model, SampleGridCallback(100, num_samples=3, nrow=3, seed=5), max_epochs=1)
    seed_all(5, 0)
    with torch.no_grad():
        images = model.network(torch.randn(3, 4))
    (name,) = names(tmp_path)
    picture = np.asarray(Image.open(tmp_path / "samples" / name)).astype(int)
    for k in range(3):
        shown = picture[2:10, 2 + 10 * k : 10 + 10 * k, 0]
        np.testing.assert_allclose(shown, (images[k, 0].numpy() + 1) * 127.5, atol=1.5)


def test_the_training_of_such_a_module_is_the_same(tmp_path: Path) -> None:
    weights = []
    for name, callbacks in (("with", [SampleGridCallback(1, num_samples=2)]), ("without", [])):
        torch.manual_seed(0)
        model = Plain()
        fit(tmp_path / name, model, *callbacks)
        weights.append(model.network[0].weight.detach().clone())
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda images: images[0], r"asked for 2 samples, the model gave shape \(1, 8, 8\)"),
        (lambda images: images.expand(-1, 2, 8, 8), r"Plain.sample gave images with 2 channels; .* 1 or 3"),
        (lambda images: images.repeat(2, 1, 1, 1), r"asked for 2 samples, the model gave shape \(4, 1, 8, 8\)"),
        (list, r"the model gave a list"),
        (lambda images: images.int(), r"have dtype torch.int32; give floating point"),
    ],
)
def test_what_is_no_image_is_said_before_the_training(tmp_path: Path, returned: Any, message: str) -> None:
    model = Plain(returned)
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, model, SampleGridCallback(100, num_samples=2))
    assert model.batches == 0
