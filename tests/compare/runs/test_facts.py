"""What a run writes down about its model, against the model that is trained."""

from pathlib import Path

import pytest
from helpers.tiny import classifier, digits, trainer
from lightning.pytorch import Callback, LightningModule
from torch import nn

from mn_lightning import swap_norms
from mn_lightning.callbacks import GMMRefitCallback, NormSwapCallback, QueueResetCallback
from mn_lightning.compare.runs.facts import FactsWriter, Layer, check_baseline, layers_of, read_facts
from mn_lightning.compare.study.study import Study, StudyError
from mn_lightning.layers import MixtureNorm

STUDY = Study("mine", (), {"BN": {}, "MN": {}, "other": {}}, {"MN": "BN"}, "val_acc")


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.BatchNorm1d(4))


def test_layers_have_the_settings_that_they_compute_with() -> None:
    model = network()
    assert layers_of(model) == []
    swap_norms(model, ["1"], "mixture", fuse_activation=True, scale="unit")
    swap_norms(model, ["4"], "mode", n_components=4)
    assert layers_of(model) == [
        Layer("1", "mixture", "K=3, em_iters=2, scale=unit, ReLU inside"),
        Layer("4", "mode", "K=4"),
    ]
    # The layer says what it is, whatever was asked for.
    model[1].em_iters = 7
    assert layers_of(model)[0].settings.startswith("K=3, em_iters=7")


def test_other_norms_and_what_stays_as_it_was() -> None:
    model = network()
    swap_norms(model, ["1"], "batch")
    assert layers_of(model) == []
    swap_norms(model, ["1"], "batch", momentum=0.01, again=True)
    swap_norms(model, ["4"], "group", num_groups=2)
    assert layers_of(model) == [Layer("1", "batch", "momentum=0.01"), Layer("4", "group", "num_groups=2")]


def test_mixtures_that_the_model_itself_makes_are_among_them() -> None:
    assert layers_of(nn.Sequential(MixtureNorm(4, n_components=2))) == [Layer("0", "MixtureNorm", "K=2, em_iters=2")]


def fit(folder: Path, *callbacks: Callback, model: LightningModule | None = None) -> None:
    trainer(folder, [*callbacks, FactsWriter(STUDY, "MN", folder)]).fit(model or classifier(), digits())


def test_a_run_writes_down_what_its_model_was(tmp_path: Path) -> None:
    fit(tmp_path, NormSwapCallback(norm="mode", n_components=2), GMMRefitCallback(), QueueResetCallback())
    facts = read_facts(tmp_path)
    assert facts is not None
    model = classifier()
    swap_norms(model, norm="mode", n_components=2)
    assert facts.parameters == sum(value.numel() for value in model.parameters())
    assert {layer.settings for layer in facts.layers} == {"K=2"}
    assert [layer.name for layer in facts.layers] == [
        name for name, layer in classifier().named_modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]
    assert facts.missing == []
    if Path("/proc/self/status").exists():
        assert facts.peak_memory is not None
        assert facts.peak_memory > 2**26  # torch alone takes more


def test_memory_is_the_most_of_all_processes_of_a_run(tmp_path: Path) -> None:
    fit(tmp_path)
    facts = read_facts(tmp_path)
    assert facts is not None
    path = tmp_path / "model.json"
    path.write_text(path.read_text().replace(f'"peak_memory": {facts.peak_memory}', f'"peak_memory": {2**50}'))
    fit(tmp_path)
    again = read_facts(tmp_path)
    assert again is not None
    assert again.peak_memory == 2**50


def test_missing_callbacks_are_named(tmp_path: Path) -> None:
    model = classifier()
    swap_norms(model, norm="mixture")
    with pytest.warns(UserWarning, match="no QueueResetCallback"):
        fit(tmp_path, GMMRefitCallback(), model=model)
    facts = read_facts(tmp_path)
    assert facts is not None
    assert facts.missing == [
        "the trainer has no QueueResetCallback: mixtures would be fitted to batches of earlier epochs too"
    ]


def test_runs_of_earlier_versions_have_none(tmp_path: Path) -> None:
    assert read_facts(tmp_path) is None


def test_a_baseline_without_modes() -> None:
    plain, swapped = network(), network()
    swap_norms(swapped, norm="mode_group")
    check_baseline(STUDY, "BN", plain)
    check_baseline(STUDY, "MN", swapped)
    check_baseline(STUDY, "other", swapped)  # nothing is compared to it
    with pytest.raises(StudyError, match=r"'BN' .* is the baseline of 'MN' and has a ModeGroupNorm in 1 and 1 more"):
        check_baseline(STUDY, "BN", swapped)
    groups = network()
    swap_norms(groups, norm="group", num_groups=2)
    check_baseline(STUDY, "BN", groups)


def test_a_run_of_such_a_baseline_ends_at_its_start(tmp_path: Path) -> None:
    swap = NormSwapCallback(norm="mode")
    with pytest.raises(StudyError, match="is the baseline"):
        trainer(tmp_path, [swap, FactsWriter(STUDY, "BN", tmp_path)]).fit(classifier(), digits())
