"""Swapping in plain ``nn.Module``s; what Lightning adds is tested with the callbacks."""

import copy
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchmetrics
import torchvision
from packaging.version import Version
from torch import Tensor, nn
from torch.nn.utils import prune

import mn_lightning as mn
from mn_lightning import MixtureNorm, ModeGroupNorm, ModeNorm
from mn_lightning.swap import has_mixtures, registry

BATCH_NORMS = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm]


class Block(nn.Module):
    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


def network() -> nn.Sequential:
    blocks: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Conv2d(3, 4, 1))
    blocks.update({f"block{i}": Block() for i in range(1, 4)})
    blocks.update(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), head=nn.Linear(4, 2))
    return nn.Sequential(blocks)


def trained(model: nn.Module, shape: tuple[int, ...] = (6, 3, 8, 8), batches: int = 5) -> nn.Module:
    """Pretrained-like: weights, biases and running statistics that are neither 0 nor 1."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.5)
        model.train()
        for _ in range(batches):
            model(torch.randn(shape) * 2 + 1)
    return model.eval()


def names(report: mn.SwapReport) -> list[str]:
    return [layer.name for layer in report]


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text


# --- which layers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("all", ["block1.norm", "block2.norm", "block3.norm"]),
        ("first", ["block1.norm"]),
        ("last", ["block3.norm"]),
        (["first", "last"], ["block1.norm", "block3.norm"]),
        ("block2.norm", ["block2.norm"]),
        (["block2"], ["block2.norm"]),
        (["block3", "block1"], ["block1.norm", "block3.norm"]),
        ("block[12].*", ["block1.norm", "block2.norm"]),
        ("*.norm", ["block1.norm", "block2.norm", "block3.norm"]),
        ({"block1": None, "block3": {"n_components": 5}}, ["block1.norm", "block3.norm"]),
        (None, ["block1.norm", "block2.norm", "block3.norm"]),
        ("first:2", ["block1.norm", "block2.norm"]),
        ("last:2", ["block2.norm", "block3.norm"]),
        ("last:9", ["block1.norm", "block2.norm", "block3.norm"]),
        ("!block2", ["block1.norm", "block3.norm"]),
        (["all", "!block[12]*"], ["block3.norm"]),
        (["!block3", "last"], ["block1.norm", "block2.norm", "block3.norm"]),
        (nn.BatchNorm2d, ["block1.norm", "block2.norm", "block3.norm"]),
        (lambda name, layer: "2" in name and layer.num_features == 4, ["block2.norm"]),
        (
            {nn.BatchNorm2d: {"n_components": 2}, "block2": {"n_components": 5}, "!block3": None},
            ["block1.norm", "block2.norm"],
        ),
    ],
)
def test_layers_are_selected(layers: object, expected: list[str]) -> None:
    model = network()
    report = mn.swap_norms(model, layers)
    assert names(report) == expected
    for name, module in model.named_modules():
        assert isinstance(module, MixtureNorm) == (name in expected)


def test_measuring_networks_and_auxiliary_heads_are_left_out() -> None:
    class Distance(torchmetrics.Metric):
        update = compute = nn.Identity.forward

        def __init__(self) -> None:
            super().__init__()
            self.network = nn.BatchNorm2d(3)

    model = nn.ModuleDict({"body": nn.BatchNorm2d(3), "aux_classifier": nn.BatchNorm2d(3), "metric": Distance()})
    assert list(mn.swap.norm_candidates(model)) == ["body", "aux_classifier"]
    assert names(mn.swap_norms(model, "last")) == ["body"]
    assert names(mn.swap_norms(model, "aux*")) == ["aux_classifier"]
    assert names(mn.swap_norms(nn.Sequential(OrderedDict(aux=nn.BatchNorm2d(3))), "last")) == ["aux"]


def test_leading_parts_of_names_can_be_left_out() -> None:
    model = nn.ModuleDict({"network": network()})
    assert names(mn.swap_norms(model, "block2")) == ["network.block2.norm"]


def test_whole_names_go_before_partial_ones() -> None:
    inner = network()
    model = nn.ModuleDict({"block1": nn.Sequential(nn.BatchNorm2d(4)), "inner": inner})
    assert names(mn.swap_norms(model, "block1")) == ["block1.0"]


def test_a_mapping_gives_arguments_to_its_layers_and_the_last_match_wins() -> None:
    model = network()
    mn.swap_norms(model, {"all": {"n_components": 2}, "block2": {"n_components": 5}}, em_iters=4)
    assert [model.get_submodule(f"block{i}.norm").n_components for i in (1, 2, 3)] == [2, 5, 2]
    assert all(model.get_submodule(f"block{i}.norm").em_iters == 4 for i in (1, 2, 3))


def test_the_example_of_the_issue_swaps_layer4_of_resnet18() -> None:
    model = torchvision.models.resnet18()
    report = mn.swap_norms(model, layers=["layer4.*"], norm="mixture", n_components=3)
    expected = [
        name for name, m in torchvision.models.resnet18().named_modules()
        if isinstance(m, nn.BatchNorm2d) and name.startswith("layer4.")
    ]  # fmt: skip
    assert names(report) == expected
    assert len(expected) == 5
    for line in report:
        assert line.old == "BatchNorm2d(512)"
        assert line.new.startswith("MixtureNorm(512, n_components=3")
        assert line.shape == (512,)
    assert str(report).count("\n") == 4


# --- what is carried over -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["mixture", "mode"])
def test_a_pretrained_resnet18_evaluates_to_the_same_logits(norm: str) -> None:
    torch.manual_seed(1)
    model = trained(torchvision.models.resnet18(num_classes=7), (4, 3, 32, 32))
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
        report = mn.swap_norms(model, "all", norm)
        assert len(report) == 20
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["mixture", "mode", "mode_group", "layer", "instance", "group"])
@pytest.mark.parametrize("cls", BATCH_NORMS)
def test_weight_bias_and_flags_are_carried_over(cls: type[nn.modules.batchnorm._BatchNorm], norm: str) -> None:
    model = nn.Sequential(cls(4, eps=1e-3, dtype=torch.float64), nn.Identity())
    old = model[0]
    old.weight.requires_grad_(False)
    with torch.no_grad():
        old.weight.uniform_()
        old.bias.uniform_()
    old.eval()
    mn.swap_norms(model, "all", norm)
    new = model[0]
    assert type(new) is not cls
    # The very same parameters: an optimizer that holds them goes on working.
    assert new.weight is old.weight
    assert new.bias is old.bias
    assert (new.weight.requires_grad, new.bias.requires_grad) == (False, True)
    assert new.eps == 1e-3
    assert not new.training
    assert model.training
    for value in (*new.parameters(), *new.buffers()):
        assert value.dtype in (torch.float64, torch.int64)


@pytest.mark.parametrize("norm", ["mixture", "mode"])
def test_running_statistics_are_carried_over(norm: str) -> None:
    model = nn.Sequential(nn.BatchNorm1d(3))
    model[0].running_mean.copy_(torch.tensor([1.0, 2, 3]))
    model[0].running_var.copy_(torch.tensor([4.0, 5, 6]))
    x = torch.randn(10, 3)
    expected = model.eval()(x)
    mn.swap_norms(model, "all", norm)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("norm", registry._NORMS)
def test_the_device_is_carried_over(norm: str) -> None:
    with torch.device("meta"):
        model = network()
    mn.swap_norms(model, "all", norm)
    assert {value.device.type for value in (*model.parameters(), *model.buffers())} == {"meta"}


@pytest.mark.parametrize("norm", ["mixture", "mode", "mode_group", "group"])
def test_bias_and_no_weight_stays_so(norm: str) -> None:
    if norm == "group" and Version(torch.__version__) < Version("2.7"):
        pytest.skip("GroupNorm of torch 2.6 has no gradient with a bias and no weight")
    model = nn.Sequential(nn.BatchNorm1d(4))
    model[0].weight = None
    bias = model[0].bias
    nn.init.normal_(bias)
    x = torch.randn(10, 4)
    expected = model.eval()(x)
    mn.swap_norms(model, "all", norm)
    assert model[0].weight is None
    assert model[0].bias is bias
    if norm in ("mixture", "mode"):
        torch.testing.assert_close(model(x), expected)
    model.train()(x).sum().backward()
    assert bias.grad is not None


@pytest.mark.parametrize("norm", ["mixture", "mode"])
def test_sync_batch_norm_goes_on_being_synchronized(norm: str) -> None:
    model = nn.Sequential(nn.SyncBatchNorm(4), nn.BatchNorm1d(4))
    mn.swap_norms(model, "all", norm)
    assert [layer.sync for layer in model] == [True, False]


class InAPlainList(nn.Module):
    def __init__(self, holder: Callable[[nn.Module], object]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.branches = holder(self.norm)


@pytest.mark.parametrize("holder", [lambda norm: [norm], lambda norm: (None, norm), lambda norm: {"a": norm}])
def test_a_plain_list_that_keeps_an_old_layer_is_named(holder: Callable[[nn.Module], object]) -> None:
    with pytest.warns(UserWarning, match=r"0\.branches of InAPlainList is a plain list or dict") as caught:
        mn.swap_norms(nn.Sequential(InAPlainList(holder)), norm="mode")
    one_line(caught[0].message)


@pytest.mark.parametrize("holder", [lambda norm: nn.ModuleList([norm]), lambda norm: [nn.ReLU(), 3], lambda norm: 3])
def test_nothing_is_said_where_the_old_layer_is_gone(holder: Callable[[nn.Module], object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mn.swap_norms(nn.Sequential(InAPlainList(holder)), norm="mode")
        mn.swap_norms(nn.Sequential(InAPlainList(lambda norm: [norm])), norm="batch")


@pytest.mark.parametrize("arguments", [{}, {"queue_rows_per_batch": None}])
def test_copied_mixtures_evaluate_alike_and_can_be_refitted(arguments: dict[str, None]) -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
    mn.swap_norms(model, norm="mixture", **arguments)
    other, x = copy.deepcopy(model), torch.randn(20, 2)
    model(x)
    mn.refit_mixtures(model)
    mn.swap.copy_mixtures(model, other)
    assert torch.equal(other.eval()(x), model.eval()(x))
    for one in (model, other):
        assert one[1].refit()
    assert torch.equal(other(x), model(x))


@pytest.mark.parametrize("norm", ["mixture", "mode"])
def test_a_process_group_is_refused_by_name(norm: str) -> None:
    """The statistics of a part of the processes, with sync=True over all of them, would be others, silently."""
    build = lambda group: nn.Sequential(nn.SyncBatchNorm(4, process_group=group))  # noqa: E731
    with pytest.raises(ValueError, match=r"cannot swap 0 .*: a SyncBatchNorm with a process_group of its own"):
        mn.swap_norms(build(object()), norm=norm)
    mn.swap_norms(model := build(object()), norm=norm, sync=True)
    assert model[0].sync
    mn.swap_norms(model := build(torch.distributed.group.WORLD), norm=norm)
    assert model[0].sync
    assert len(mn.swap_norms(build(object()), norm="group")) == 1


def test_a_layer_without_statistics_is_swapped_with_a_warning() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.warns(UserWarning, match=r"0: BatchNorm keeps no running statistics.*MixtureNorm evaluates") as caught:
        mn.swap_norms(model, "all")
    one_line(caught[0].message)


@pytest.mark.parametrize("norm", ["mixture", "mode", "group"])
def test_hooks_go_on_running(norm: str) -> None:
    model = nn.Sequential(nn.BatchNorm1d(4))
    seen: list[Tensor] = []
    handle = model[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    model[0].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0,))
    mn.swap_norms(model, "all", norm)
    y = model(torch.randn(6, 4))
    assert seen[0] is y
    torch.testing.assert_close(y, torch.zeros(6, 4))
    handle.remove()
    model(torch.randn(6, 4))
    assert len(seen) == 1


@pytest.mark.parametrize("norm", ["mixture", "mode", "mode_group"])
def test_layers_without_affine_map_stay_without(norm: str) -> None:
    model = nn.Sequential(nn.BatchNorm1d(3, affine=False))
    mn.swap_norms(model, "all", norm)
    assert model[0].weight is None
    assert model[0].bias is None


def test_a_shared_layer_stays_shared() -> None:
    shared = nn.BatchNorm2d(4)
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Sequential(nn.Conv2d(4, 4, 1), shared)})
    report = mn.swap_norms(model, "all")
    assert names(report) == ["a.0"]
    assert isinstance(model["a"][0], MixtureNorm)
    assert model["a"][0] is model["b"][1]


def test_the_random_state_is_left_alone() -> None:
    model = network()
    before = torch.get_rng_state()
    mn.swap_norms(model, "all", "mode")
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_norm_cannot_take_over_is_said() -> None:
    model = trained(network())
    with pytest.warns(UserWarning, match=r"block1\.norm.*cannot take over") as caught:
        mn.swap_norms(model, "block1", affine="component")
    one_line(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mn.swap_norms(network(), "block1", affine="component")  # nothing is lost where it was the identity


def test_swapping_again_changes_nothing() -> None:
    model = network()
    mn.swap_norms(model, {"block1": {"n_components": 2}})
    before = dict(model.named_modules())
    report = mn.swap_norms(model, {"block1": {"n_components": 2}})
    assert len(report) == 0
    assert report.unchanged == ("block1.norm",)
    assert str(report) == "no layer swapped"
    assert dict(model.named_modules()) == before
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert mn.swap_norms(copied, {"block1": {"n_components": 2}}).unchanged == ("block1.norm",)


@pytest.mark.parametrize("before", ["mixture", "mode", "group", "batch"])
@pytest.mark.parametrize("now", ["mixture", "mode"])
def test_layers_can_be_swapped_again_on_request(before: str, now: str) -> None:
    model = trained(network())
    images = torch.randn(4, 3, 8, 8)
    expected = model(images)
    mn.swap_norms(model, "all", before)
    weight = model.block2.norm.weight
    report = mn.swap_norms(model, "all", now, again=True, n_components=5)
    assert len(report) == 3
    assert model.block2.norm.n_components == 5
    assert model.block2.norm.weight is weight
    if before != "group":  # it has no statistics to hand on
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_the_next_mixture_begins_with_the_moments_of_the_whole_one() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    mn.swap_norms(model, n_components=2)
    x = torch.cat([torch.randn(300, 2) - 5, torch.randn(100, 2) * 2 + 5])
    model(x)
    model[0].refit()
    mn.swap_norms(model, norm="mode", again=True)
    torch.testing.assert_close(model[0].running_mean[1], x.mean(0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model[0].running_var[1], x.var(0, correction=0), rtol=1e-3, atol=1e-3)


def test_an_activation_that_went_inside_does_not_get_lost() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.SiLU())
    mn.swap_norms(model, fuse_activation=True)
    with pytest.raises(ValueError, match="0 is a MixtureNorm with an activation inside; start from"):
        mn.swap_norms(model, norm="mode", again=True)


def test_many_mixtures_with_growing_variance_are_warned_of_once() -> None:
    with pytest.warns(UserWarning, match=r"MixtureNorm is in 20 layers.*scale='unit'") as caught:
        mn.swap_norms(torchvision.models.resnet18(), "all")
    assert len([one for one in caught if "MixtureNorm" in str(one.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mn.swap_norms(torchvision.models.resnet18(), "all", scale="unit")
        mn.swap_norms(torchvision.models.resnet18(), "last:4")


def test_other_layers_can_be_swapped_later() -> None:
    model = network()
    mn.swap_norms(model, "block1", "mixture")
    mn.swap_norms(model, "block2", "mode")
    kinds = [type(model.get_submodule(f"block{i}.norm")) for i in (1, 2, 3)]
    assert kinds == [MixtureNorm, ModeNorm, nn.BatchNorm2d]


def test_a_swapped_network_trains() -> None:
    model = network()
    mn.swap_norms(model, {"block1": None, "block2": None}, "mixture")
    mn.swap_norms(model, "block3", "mode")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    images, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % 2
    images[labels == 1] += 1
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(parameter.grad is not None for parameter in model.parameters())


# --- errors -------------------------------------------------------------------------------------------------------


class Fancy(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


def spectral() -> nn.Module:
    return nn.utils.parametrize.register_parametrization(nn.BatchNorm2d(4), "weight", nn.Softplus())


def pruned() -> nn.Module:
    return prune.l1_unstructured(nn.BatchNorm2d(4), "weight", 0.5)


def _already_swapped() -> nn.Module:
    model = network()
    mn.swap_norms(model, "block2", "mixture", n_components=2)
    return model


@pytest.mark.parametrize(
    ("model", "arguments", "error", "parts"),
    [
        (network, {"layers": "blok2"}, ValueError, ["'blok2'", "nearest is 'block2'", "block1.norm, block2.norm"]),
        (network, {"layers": ["block1", "nope*"]}, ValueError, ["'nope*'", "block3.norm", "first, last and all"]),
        (network, {"norm": "mixtur"}, ValueError, ["'mixtur'", "mixture, mode, mode_group, batch, instance"]),
        (network, {"n_component": 3}, ValueError, ["n_component", "it takes", "n_components"]),
        (network, {"norm": "batch", "n_components": 3}, ValueError, ["n_components", "it takes momentum"]),
        (network, {"norm": "batch", "momentum": 1.5}, ValueError, ["block1.norm", "1.5", "0 <= momentum <= 1"]),
        (_already_swapped, {"norm": "batch", "again": True}, ValueError, ["block2.norm", "MixtureNorm", "turn back"]),
        (network, {"n_components": 0}, ValueError, ["block1.norm", "n_components=0", "n_components >= 1"]),
        (network, {"layers": {"block1": {}, "block2": {"em_iters": 0}}}, ValueError, ["block2.norm", "em_iters >= 1"]),
        (network, {"norm": "group", "num_groups": 3}, ValueError, ["block1.norm", "group"]),
        (network, {"norm": "group", "num_groups": 0}, ValueError, ["block1.norm", "num_groups=0", "num_groups >= 1"]),
        (network, {"norm": "group", "num_groups": True}, ValueError, ["num_groups=True", "num_groups >= 1"]),
        (network, {"layers": []}, ValueError, ["layers got []", "leave it out for all"]),
        (network, {"layers": {}}, ValueError, ["layers got {}", "leave it out for all"]),
        (network, {"layers": 3}, TypeError, ["3", "a name or glob, a list of them, or a mapping"]),
        (network, {"layers": [1]}, TypeError, ["[1]", "a name or glob"]),
        (network, {"norm": "mode", "fuse_activation": True}, ValueError, ["'mode'", "no activation to fuse"]),
        (_already_swapped, {}, ValueError, ["block2.norm", "before", "n_components=2", "BatchNorm"]),
        (lambda: nn.Sequential(nn.Linear(2, 2)), {}, ValueError, ["no BatchNorm layer"]),
        (lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.GroupNorm(2, 4)), {}, ValueError, ["has GroupNorm (2)", "with"]),
        (torchvision.models.resnet18, {}, ValueError, ["got no layers", "20 norm layers", "'last:2'"]),
        (network, {"layers": "!*"}, ValueError, ["'!*'", "leaves no layer"]),
        (network, {"layers": nn.BatchNorm3d}, ValueError, ["BatchNorm3d", "layers of BatchNorm2d: block1.norm"]),
        (network, {"norm": "torch.nn.Nope"}, ValueError, ["'torch.nn.Nope' cannot be imported"]),
        (network, {"norm": "os.system"}, ValueError, ["'os.system' is not a class of torch modules"]),
        (network, {"norm": "group", "num_groups": 2, "channels_per_group": 2}, ValueError, ["block1", "one of them"]),
        (lambda: nn.Sequential(spectral()), {}, ValueError, ["0 is a", "parametrized", "remove_parametrizations"]),
        (lambda: nn.Sequential(pruned()), {}, ValueError, ["0 is a BatchNorm2d with the parameters weight_orig"]),
        (lambda: nn.BatchNorm2d(3), {}, ValueError, ["itself a BatchNorm2d", "nn.Sequential"]),
        (lambda: nn.Sequential(Block(), nn.LazyBatchNorm2d()), {}, ValueError, ["1 is", "Lazy", "one batch"]),
        (lambda: nn.Sequential(Block(), Fancy(3)), {}, ValueError, ["1 is a Fancy", "more than BatchNorm"]),
    ],
)
def test_errors_are_one_line_and_leave_the_model_as_it_was(
    model: Callable[[], nn.Module], arguments: dict[str, object], error: type[Exception], parts: list[str]
) -> None:
    victim = model()
    modules = dict(victim.named_modules())
    values = {name: value.clone() for name, value in victim.state_dict().items() if type(value) is Tensor}
    with pytest.raises(error) as caught:
        mn.swap_norms(victim, **arguments)
    text = one_line(caught.value)
    for part in parts:
        assert part in text
    assert dict(victim.named_modules()) == modules
    for name, value in values.items():
        assert torch.equal(victim.state_dict()[name], value)


def test_long_lists_of_layers_are_cut() -> None:
    model = nn.Sequential(*(nn.BatchNorm1d(2) for _ in range(100)))
    with pytest.raises(ValueError, match=r"38, 39 and 60 more"):
        mn.swap_norms(model, "nope")


@pytest.mark.parametrize("norm", ["mixture", "mode", "mode_group"])
def test_errors_of_a_swapped_layer_say_where_it_is(norm: str) -> None:
    model = network()
    mn.swap_norms(model, "block2", norm)
    with pytest.raises(ValueError, match=r"Norm\(4\) at block2\.norm got input of shape \(2, 3\)") as error:
        model.block2.norm(torch.randn(2, 3))
    one_line(error.value)
    if norm != "mode_group":
        with pytest.raises(ValueError, match=r"Norm\(4\) at block2\.norm expected more than one value per channel"):
            model.block2.norm(torch.randn(1, 4))


# --- the registry -------------------------------------------------------------------------------------------------


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_NORMS", dict(registry._NORMS))


@pytest.mark.usefixtures("own_registry")
def test_a_norm_of_ones_own_can_be_registered() -> None:
    class Scale(nn.Module):
        def __init__(self, num_features: int, factor: float) -> None:
            super().__init__()
            self.num_features = num_features
            self.factor = factor
            self.weight = nn.Parameter(torch.empty(num_features))
            self.bias = nn.Parameter(torch.empty(num_features))

    mn.register_norm("scale", lambda batch_norm, factor=2.0: Scale(batch_norm.num_features, factor))
    model = network()
    weight = model.block1.norm.weight
    report = mn.swap_norms(model, "block1", "scale", factor=3.0)
    assert model.block1.norm.factor == 3.0
    assert model.block1.norm.weight is weight
    assert report.layers[0].new.startswith("Scale(")
    with pytest.raises(ValueError, match="it takes factor"):
        mn.swap_norms(model, "block2", "scale", factr=1)
    with pytest.raises(ValueError, match="'scale', which is taken"):
        mn.register_norm("scale", lambda batch_norm: batch_norm)


@pytest.mark.parametrize(
    ("norm", "reference"),
    [
        ("batch", lambda x: F.batch_norm(x, None, None, training=True)),
        ("instance", F.instance_norm),
        ("layer", lambda x: F.layer_norm(x, x.shape[1:])),
        ("group", lambda x: F.group_norm(x, 2)),
        ("mode_group", None),
    ],
)
def test_the_baselines_compute_what_their_names_say(norm: str, reference: Callable[[Tensor], Tensor] | None) -> None:
    model = nn.Sequential(nn.BatchNorm2d(4))
    mn.swap_norms(model, "all", norm)
    x = torch.randn(5, 4, 3, 3) * 3 + 1
    if reference is None:
        assert isinstance(model[0], ModeGroupNorm)
    else:
        torch.testing.assert_close(model(x), reference(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("asked", "channels", "groups"), [(16, 64, 4), (16, 24, 2), (16, 7, 1), (4, 12, 3), (1, 6, 6)])
def test_groups_of_about_so_many_channels(asked: int, channels: int, groups: int) -> None:
    model = nn.Sequential(nn.BatchNorm2d(channels))
    mn.swap_norms(model, norm="group", channels_per_group=asked)
    assert model[0].num_groups == groups


def test_any_class_of_norms_can_be_given_by_its_import_path() -> None:
    model = nn.Sequential(nn.BatchNorm2d(6, eps=1e-3))
    weight = model[0].weight
    mn.swap_norms(model, norm="torch.nn.InstanceNorm2d", affine=True)
    assert isinstance(model[0], nn.InstanceNorm2d)
    assert model[0].weight is weight
    assert model[0].eps == 1e-3
    with pytest.raises(ValueError, match=r"got nope; it takes affine, .*momentum"):
        mn.swap_norms(nn.Sequential(nn.BatchNorm2d(6)), norm="torch.nn.InstanceNorm2d", nope=1)


@pytest.mark.parametrize("norm", ["instance", "group", "layer", "mode_group"])
def test_a_single_value_is_refused_and_not_made_a_constant(norm: str) -> None:
    channels = 2 if norm == "group" else 8 if norm == "instance" else 1
    model = nn.Sequential(nn.BatchNorm1d(channels))
    mn.swap_norms(model, norm=norm)
    with pytest.raises(ValueError, match="value per") as error:
        model(torch.randn(6, channels))
    one_line(error.value)
    model(torch.randn(6, channels, 5))


# --- refitting ----------------------------------------------------------------------------------------------------


def test_refit_mixtures_refits_what_is_stale_and_reset_queues_empties() -> None:
    model = network()
    assert not has_mixtures(model)
    mn.swap_norms(model, ["block1", "block3"], "mixture", n_components=2)
    assert has_mixtures(model)
    assert mn.refit_mixtures(model) == 0  # nothing has been queued
    model(torch.randn(8, 3, 8, 8))
    means = model.block1.norm.mixture_means.clone()
    assert mn.refit_mixtures(model) == 2
    assert not torch.equal(model.block1.norm.mixture_means, means)
    means = model.block1.norm.mixture_means.clone()
    assert mn.refit_mixtures(model) == 0  # fresh
    model(torch.randn(8, 3, 8, 8))
    mn.reset_queues(model)
    assert mn.refit_mixtures(model) == 0
    assert torch.equal(model.block1.norm.mixture_means, means)


# --- fused activations --------------------------------------------------------------------------------------------


class Functional(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)), inplace=True)


class Method(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


class Residual(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.norm(self.conv(x)))


class Twice(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return self.act(y) + y


class Untraceable(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return self.act(y) if y.sum() > 0 else y


class Own(nn.Module):
    """As transformers has its own classes of activations."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.7 * x)


def sequence() -> nn.Sequential:
    """The activation stands outside the module that holds the norm."""
    return nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), nn.LeakyReLU(0.2), nn.Conv2d(4, 4, 1))


@pytest.mark.parametrize("make", [Block, Functional, Method, sequence])
def test_a_fused_activation_acts_on_each_component(make: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(make())
    fused = copy.deepcopy(model)
    report = mn.swap_norms(fused, "all", "mixture", n_components=3, fuse_activation=True)
    assert len(report) == 1
    assert report.not_fused == {}
    mn.swap_norms(model, "all", "mixture", n_components=3)
    norm = next(m for m in model.modules() if isinstance(m, MixtureNorm))
    activation: Callable[[Tensor], Tensor] = nn.LeakyReLU(0.2) if make is sequence else F.relu
    norm.activation = activation  # as a user would do it by hand ...
    for name, module in list(model.named_modules()):
        if isinstance(module, (nn.ReLU, nn.LeakyReLU)) and module is not norm.activation:
            model.set_submodule(name, nn.Identity())  # ... and F.relu leaves what is not negative alone
    x = torch.randn(6, 4, 5, 5)
    torch.testing.assert_close(fused(x), model(x))
    unfused = copy.deepcopy(model)
    next(m for m in unfused.modules() if isinstance(m, MixtureNorm)).activation = None
    assert not torch.allclose(fused(x), activation(unfused(x)), atol=1e-3)  # with three components the order matters


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Residual, "add follows"),
        (Twice, "uses its output 2 times"),
        (Untraceable, "cannot be traced"),
        (lambda: nn.Sequential(nn.BatchNorm2d(4)), "no activation follows"),
        (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU()), "Dropout follows"),
        (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.PReLU()), "PReLU follows"),
        (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Softmax(1)), "Softmax follows"),
        (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.RReLU()), "RReLU follows"),
        (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.MaxPool2d(1, 2)), "MaxPool2d follows"),
    ],
)
def test_what_cannot_be_fused_is_swapped_and_said(make: Callable[[], nn.Module], reason: str) -> None:
    model = nn.Sequential(make())
    report = mn.swap_norms(model, "all", "mixture", fuse_activation=True)
    (name,) = names(report)
    assert reason in report.not_fused[name]
    assert reason in str(report)
    assert isinstance(model.get_submodule(name), MixtureNorm)
    assert model.get_submodule(name).activation is None


def test_an_activation_that_serves_two_places_stays_in_the_other() -> None:
    act = nn.ReLU()
    model = nn.Sequential(nn.BatchNorm2d(4), act, nn.Conv2d(4, 4, 1), act)
    report = mn.swap_norms(model, "all", "mixture", fuse_activation=True)
    assert report.not_fused == {}
    assert model[1] is act
    assert model[3] is act


@pytest.mark.parametrize(
    "activation", [nn.ReLU(inplace=True), nn.ELU(0.5, inplace=True), Own(), nn.Hardtanh(inplace=True)]
)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.Sequential(nn.BatchNorm2d(4), nn.Dropout2d(0.0))])
def test_activations_of_all_kinds_are_fused(activation: nn.Module, norm: nn.Module) -> None:
    """Large enough to be normalized in pieces, where something that works in place would show."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity(), copy.deepcopy(norm), nn.Identity(), activation)
    images = torch.randn(4, 3, 128, 128)
    expected = copy.deepcopy(model).eval()(images)
    report = mn.swap_norms(model, "all", "mixture", fuse_activation=True)
    assert report.not_fused == {}
    assert isinstance(model[4], nn.Identity)
    torch.testing.assert_close(model.eval()(images), expected, rtol=1e-4, atol=1e-5)
    model.train()(images).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_one_activation_of_many_owners() -> None:
    act = nn.SiLU()
    blocks = [Block() for _ in range(3)]
    for block in blocks:
        block.act = act
    model = nn.Sequential(*blocks)
    assert mn.swap_norms(model, "1", "mixture", fuse_activation=True).not_fused == {}
    assert isinstance(model[1].act, nn.Identity)
    assert model[0].act is act
    assert model[2].act is act


@pytest.mark.parametrize("activation", [F.relu_, lambda x: x.tanh_()])
def test_a_function_that_works_in_place_is_refused(activation: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match="changes its input"):
        MixtureNorm(4, activation=activation)
    layer = MixtureNorm(4, activation=nn.ReLU(inplace=True))
    assert not layer.activation.inplace


def test_a_network_with_fused_activations_evaluates_as_before_until_it_is_refitted() -> None:
    model = trained(torchvision.models.resnet18(num_classes=7), (4, 3, 32, 32))
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
        report = mn.swap_norms(model, "all", "mixture", fuse_activation=True)
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)
    # The stem's and the first norm of each of the 8 blocks are followed by ReLU; the others by an addition or nothing.
    assert len(report) - len(report.not_fused) == 9


def test_norm_batch_sets_the_momentum_of_the_layers_that_stay() -> None:
    model = network()
    before = dict(model.named_modules())
    report = mn.swap_norms(model, {"block1.norm": {"momentum": 0.01}, "block2.norm": {}}, norm="batch")
    momenta = {name: module.momentum for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert momenta == {"block1.norm": 0.01, "block2.norm": 0.1, "block3.norm": 0.1}
    assert all(module is before[name] for name, module in model.named_modules())
    assert [layer.new for layer in report] == ["BatchNorm2d(4, momentum=0.01)", "BatchNorm2d(4)"]


def test_the_momentum_is_that_of_torchs_layer() -> None:
    x = torch.randn(8, 3, 4, 4)
    model, expected = nn.Sequential(nn.BatchNorm2d(3)), nn.BatchNorm2d(3, momentum=0.01)
    mn.swap_norms(model, "all", norm="batch", momentum=0.01)
    model(x)
    expected(x)
    assert torch.equal(model[0].running_var, expected.running_var)
    assert not torch.equal(model[0].running_var, torch.ones(3))
