"""Swapping in plain ``nn.Module``s; what Lightning adds is tested with the callbacks."""

import copy
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

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
    ],
)
def test_layers_are_selected(layers: object, expected: list[str]) -> None:
    model = network()
    report = mn.swap_norms(model, layers)
    assert names(report) == expected
    for name, module in model.named_modules():
        assert isinstance(module, MixtureNorm) == (name in expected)


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
        (network, {"n_components": 0}, ValueError, ["block1.norm", "n_components=0", "n_components >= 1"]),
        (network, {"layers": {"block1": {}, "block2": {"em_iters": 0}}}, ValueError, ["block2.norm", "em_iters >= 1"]),
        (network, {"norm": "group", "num_groups": 3}, ValueError, ["block1.norm", "group"]),
        (network, {"layers": 3}, TypeError, ["3", "a name or glob, a list of them, or a mapping"]),
        (network, {"layers": [1]}, TypeError, ["[1]", "a name or glob"]),
        (network, {"norm": "mode", "fuse_activation": True}, ValueError, ["'mode'", "no activation to fuse"]),
        (_already_swapped, {}, ValueError, ["block2.norm", "before", "n_components=2", "BatchNorm"]),
        (lambda: nn.Sequential(nn.Linear(2, 2)), {}, ValueError, ["no BatchNorm layer"]),
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


def test_a_network_with_fused_activations_evaluates_as_before_until_it_is_refitted() -> None:
    model = trained(torchvision.models.resnet18(num_classes=7), (4, 3, 32, 32))
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
        report = mn.swap_norms(model, "all", "mixture", fuse_activation=True)
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)
    # The stem's and the first norm of each of the 8 blocks are followed by ReLU; the others by an addition or nothing.
    assert len(report) - len(report.not_fused) == 9
