"""From a checkpoint to a folder: whole, for layers and data of every kind, and what is refused."""

import contextlib
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers.tiny import classifier, digits, mixture_callbacks, network, trainer
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from mn_lightning.__main__ import main
from mn_lightning.callbacks import GMMRefitCallback, MixtureMonitor, NormSwapCallback, QueueResetCallback
from mn_lightning.inspection.errors import InspectionError
from mn_lightning.inspection.inspect import inspect
from mn_lightning.models import DCGAN, ImageClassifier


def callbacks(monitor: bool = True) -> list[Callback]:
    both = [NormSwapCallback("network.1", "mixture"), NormSwapCallback("network.5", "mode")]
    return [*both, GMMRefitCallback(), QueueResetCallback(), *[MixtureMonitor()] * monitor]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    saver = ModelCheckpoint(folder, filename="run")
    trainer(folder, [*callbacks(), saver], max_epochs=3, enable_checkpointing=True).fit(classifier(), digits())
    return folder / "run.ckpt"


def look(checkpoint: Path, folder: Path, swaps: list[Callback] | None = None, **arguments: Any) -> str:
    run = trainer(folder.parent, callbacks(monitor=False) if swaps is None else swaps)
    page = inspect(run, classifier(), digits(), str(checkpoint), folder=str(folder), **arguments)
    return page.read_text()


class Inspected(NamedTuple):
    folder: Path
    text: str
    printed: str


@pytest.fixture(scope="module")
def inspected(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Inspected:
    """All of the checkpoint, once for all tests."""
    folder = tmp_path_factory.mktemp("inspected") / "found" / "here"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        text = look(checkpoint, folder, samples=100)
    return Inspected(folder, text, printed.getvalue())


def refused(checkpoint: Path, folder: Path, **arguments: Any) -> str:
    with pytest.raises(InspectionError) as caught:
        look(checkpoint, folder, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are made but not drawn: most of an inspection's time, where a test looks at the page alone."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda _, path, **how: Path(path).write_bytes(b"undrawn"))


class Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.places: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if found := dict(attrs).get("id"):
            self.ids.append(found)
        if tag == "a":
            self.places.append(dict(attrs)["href"] or "")
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
            assert dict(attrs)["alt"]


def test_everything_of_a_run(inspected: Inspected) -> None:
    folder, text, printed = inspected
    layers = {
        f"{name}-{kind}.png"
        for name in ("network.1", "network.5")
        for kind in ("activations", "evolution", "posteriors")
    }
    found = Links(text)
    assert set(found.images) == layers | {"components.png"}
    assert {path.name for path in folder.iterdir()} == {*found.images, "index.html"}
    for name in found.images:
        with Image.open(folder / name) as image:
            image.verify()
    assert "://" not in text  # nothing is fetched
    assert not found.tags & {"script", "link", "iframe"}
    assert "of 256 samples" in text  # a whole batch
    assert "components in use" in printed
    assert str(folder / "index.html") in printed


def test_a_table_of_contents(inspected: Inspected) -> None:
    """It names every section and every picture of a layer, and its links lead there, in this order."""
    contents = inspected.text.partition("<nav>")[2].partition("</nav>")[0]
    names = [re.sub("<.*?>", "", item) for item in re.findall("<a .*?</a>", contents)]
    kinds = ("Activations of {}", "Evolution of {}", "Images that {} puts together")
    layers = [[name, *(kind.format(name) for kind in kinds)] for name in ("network.1", "network.5")]
    assert names == ["Components in use", *layers[0], *layers[1]]
    page = Links(inspected.text)
    assert len(set(page.ids)) == len(page.ids)
    assert {place.removeprefix("#") for place in page.places} <= set(page.ids)
    order = [page.ids.index(place.removeprefix("#")) for place in Links(contents).places]
    assert order == sorted(order)


def test_what_a_layer_was_given(checkpoint: Path, inspected: Inspected, tmp_path: Path) -> None:
    """The numbers are those of the layer's input in evaluation, which is computed here without hooks."""
    text = inspected.text
    swapped = classifier()
    for callback in callbacks()[:2]:
        callback.setup(trainer(tmp_path, []), swapped, "validate")
    swapped.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    data = digits()
    data.setup()
    images, _ = next(iter(data.val_dataloader()))
    layer = swapped.network[5]
    with torch.no_grad():
        gate = layer.gate(swapped.network[:5].eval()(images)).softmax(1)
    (share,) = re.findall(r"mode 1: images with their largest gate there</td><td>(\S+?)</td>", text)
    assert share == f"{(gate.argmax(1) == 0).float().mean():.1%}"
    (mean,) = re.findall(r"mode 1: mean gate</td><td>(\S+?)</td>", text)
    assert float(mean) == pytest.approx(float(gate[:, 0].mean()), rel=1e-3)


@pytest.mark.usefixtures("undrawn")
def test_one_layer_and_chosen_channels(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(
        "mn_lightning.plots.plot_evolution", lambda history, channels, title, what: drawn.append(channels) or _empty()
    )
    found = Links(look(checkpoint, tmp_path / "found", layer="*.1", channels=[5, 0]))
    assert {name.partition("-")[0] for name in found.images} == {"components.png", "network.1"}
    assert drawn == [[5, 0]]


def _empty() -> Any:
    from matplotlib.figure import Figure

    return Figure()


@pytest.mark.usefixtures("undrawn")
def test_the_swap_is_in_the_checkpoint(checkpoint: Path, inspected: Inspected, tmp_path: Path) -> None:
    """With no callback, and with one that swaps otherwise, the layers are those of the training."""
    of_1, _, of_5 = inspected.text.partition(">network.5</h2>")
    otherwise = [NormSwapCallback("all", "mode", n_components=7)]
    assert numbers(look(checkpoint, tmp_path / "found", otherwise, layer="network.1", samples=100)) == numbers(of_1)
    assert numbers(look(checkpoint, tmp_path / "found", [], layer="network.5", samples=100)) == numbers(of_5)


def numbers(text: str) -> list[str]:
    return re.findall(r"<td>(.*?)</td>", text)


@pytest.mark.usefixtures("undrawn")
def test_a_swap_that_a_checkpoint_cannot_hold_is_the_callbacks(tmp_path: Path) -> None:
    swap = mixture_callbacks("network.1", activation=torch.relu)
    saver = ModelCheckpoint(tmp_path, filename="run")
    trainer(tmp_path, [*swap, saver], max_epochs=1, enable_checkpointing=True).fit(classifier(), digits())
    text = look(tmp_path / "run.ckpt", tmp_path / "found", mixture_callbacks("network.1", activation=torch.relu))
    assert "MixtureNorm, 6 channels" in text


@pytest.mark.usefixtures("undrawn")
def test_a_checkpoint_without_history(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    del content["callbacks"]["MixtureMonitor"]
    torch.save(content, tmp_path / "run.ckpt")
    text = look(tmp_path / "run.ckpt", tmp_path / "found", layer="network.1")
    assert "Add MixtureMonitor" in text
    assert {name.partition("-")[2] for name in Links(text).images} == {"activations.png", "posteriors.png"}


def test_an_earlier_inspection_is_replaced_and_other_files_are_kept(
    checkpoint: Path, inspected: Inspected, tmp_path: Path
) -> None:
    folder = tmp_path / "found"
    shutil.copytree(inspected.folder, folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "components.png").write_bytes(b"old")
    look(checkpoint, folder, layer="network.1")
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "components.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["notes.txt", "index.html"])
def test_a_folder_with_something_else_is_left_alone(checkpoint: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("<html>mine</html>")
    assert "give another with --folder" in refused(checkpoint, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert "is a file" in refused(checkpoint, tmp_path / name)


def test_what_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "found"
    assert refused(tmp_path / "no.ckpt", folder).endswith("is not there; give the path of a .ckpt file")
    assert refused(checkpoint, folder, layer="conv9") == (
        "layer 'conv9' is not among the swapped layers; these are network.1, network.5"
    )
    assert "network.1 has 0 to 5" in refused(checkpoint, folder, channels=[6])
    assert "it takes 1 or more" in refused(checkpoint, folder, samples=0)
    assert not folder.exists()
    unswapped = tmp_path / "unswapped.ckpt"
    torch.save({"state_dict": classifier().state_dict(), "pytorch-lightning_version": "2.6.1"}, unswapped)
    with pytest.raises(InspectionError, match=r"neither the checkpoint nor ImageClassifier has a MixtureNorm"):
        inspect(trainer(tmp_path, []), classifier(), digits(), str(unswapped), folder=str(folder))
    with pytest.raises(InspectionError, match=r"to another model: network.1 was swapped for mixture"):
        inspect(trainer(tmp_path, []), ImageClassifier(torch.nn.Linear(2, 2)), digits(), str(checkpoint))
    run = trainer(tmp_path, callbacks(), limit_val_batches=0)
    with pytest.raises(InspectionError, match="there was no data"):
        inspect(run, classifier(), digits(), str(checkpoint), folder=str(folder))
    assert not folder.exists()


def test_channel_mixtures_have_no_posteriors_of_images(tmp_path: Path) -> None:
    swap = mixture_callbacks("network.1", granularity="channel")
    saver = ModelCheckpoint(tmp_path, filename="run")
    trainer(tmp_path, [*swap, saver], max_epochs=1, enable_checkpointing=True).fit(classifier(), digits())
    page = inspect(
        trainer(tmp_path, swap), classifier(), digits(), str(tmp_path / "run.ckpt"), folder=str(tmp_path / "found")
    )
    assert "no posteriors of whole images" in page.read_text()
    assert Links(page.read_text()).images == ["network.1-activations.png"]


def test_rows_that_are_no_images(tmp_path: Path) -> None:
    rows = DataLoader(TensorDataset(torch.randn(40, 6), torch.arange(40) % 10), batch_size=20)

    class Rows(ImageClassifier):
        def train_dataloader(self) -> Any:
            return rows

        val_dataloader = train_dataloader

    def model() -> LightningModule:
        return Rows(torch.nn.Sequential(torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 10)))

    saver = ModelCheckpoint(tmp_path, filename="run")
    trainer(tmp_path, [*mixture_callbacks(), saver], max_epochs=1, enable_checkpointing=True).fit(model())
    run = trainer(tmp_path, mixture_callbacks())
    text = inspect(run, model(), None, str(tmp_path / "run.ckpt"), folder=str(tmp_path / "found")).read_text()
    assert "No images are shown" in text
    assert "of 40 samples" in text


def test_a_generator(tmp_path: Path) -> None:
    def gan() -> DCGAN:
        return DCGAN(channels=1, base_channels=8, latent_features=8)

    run = trainer(tmp_path, [])
    swap = NormSwapCallback(["deconv1"], "mixture")
    model = gan()
    swap.setup(run, model, "fit")
    content: dict[str, Any] = {"state_dict": model.state_dict(), "pytorch-lightning_version": "2.6.1", "callbacks": {}}
    model.on_save_checkpoint(content)
    torch.save(content, tmp_path / "gan.ckpt")
    page = inspect(
        trainer(tmp_path, [swap]), gan(), None, str(tmp_path / "gan.ckpt"), folder=str(tmp_path / "found"), samples=70
    )
    assert "of 70 samples" in page.read_text()
    assert "generator.deconv1.norm-posteriors.png" in Links(page.read_text()).images


@pytest.mark.usefixtures("undrawn")
def test_names_are_escaped_and_files_are_plain(tmp_path: Path) -> None:
    model = ImageClassifier(torch.nn.ModuleDict({"<b>/x": network()}))
    model.forward = lambda images: model.network["<b>/x"](images)  # type: ignore[method-assign]
    saver = ModelCheckpoint(tmp_path, filename="run")
    trainer(tmp_path, [*mixture_callbacks("*1"), saver], max_epochs=1, enable_checkpointing=True).fit(model, digits())
    run = trainer(tmp_path, mixture_callbacks("*1"))
    page = inspect(run, model, digits(), str(tmp_path / "run.ckpt"), folder=str(tmp_path / "found"))
    assert "<b>" not in page.read_text()
    for name in Links(page.read_text()).images:
        assert (tmp_path / "found" / name).is_file()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["-c", "digits", "--data.image_size=16", "--trainer.enable_progress_bar=false"]
    monitor = ["--trainer.callbacks+=MixtureMonitor"]
    limits = ["--trainer.limit_train_batches=2", "--trainer.max_epochs=1", "--test_after_fit=false"]
    main(["fit", *quick, *monitor, *limits])
    (checkpoint,) = tmp_path.glob("lightning_logs/version_0/checkpoints/*.ckpt")
    main(["inspect", *quick, f"--ckpt_path={checkpoint}", "--layer=conv3", "--samples=64"])
    assert {path.name for path in tmp_path.glob("inspection/*")} == {
        "index.html",
        "components.png",
        *(f"network.conv3.norm-{kind}.png" for kind in ("activations", "evolution", "posteriors")),
    }
    assert not (tmp_path / "lightning_logs" / "version_1").exists()
    with pytest.raises(SystemExit) as caught:
        main(["inspect", *quick, "--ckpt_path=no.ckpt"])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("mn-lightning inspect: checkpoint 'no.ckpt' is not there")
