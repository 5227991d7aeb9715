"""The file of the real statistics: read back as it was written, or not at all."""

import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from helpers.tiny_generator import Features, real_bytes
from torch import nn

from mn_lightning.fid.feature_sums import FeatureSums
from mn_lightning.fid.real_statistics import RealStatistics, StatisticsCache, cache_key


def statistics() -> RealStatistics:
    x = torch.randn(40, 6, dtype=torch.float64)
    sums = FeatureSums(x.sum(0), x.T @ x, torch.tensor(40))
    return RealStatistics(sums, torch.tensor(1.5).double(), x[:3].float())


def tensors(saved: RealStatistics) -> dict[str, torch.Tensor]:
    return {**vars(saved.sums), "floor": saved.floor, "kept": saved.kept}


def test_round_trip(tmp_path: Path) -> None:
    cache, saved = StatisticsCache(str(tmp_path / "new"), "fid", "abc"), statistics()
    assert cache.load() is None
    cache.save(saved)
    loaded = cache.load()
    assert loaded is not None
    assert len(tensors(saved)) == 5
    for name, value in tensors(saved).items():
        assert torch.equal(tensors(loaded)[name], value)
        assert tensors(loaded)[name].dtype == value.dtype
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["fid-abc.pt"]
    assert isinstance(torch.load(cache.path, weights_only=True), dict)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_byte_is_noticed_or_harmless(tmp_path: Path, seed: int) -> None:
    cache, saved = StatisticsCache(str(tmp_path), "fid", "abc"), statistics()
    cache.save(saved)
    content = bytearray(cache.path.read_bytes())
    content[random.Random(seed).randrange(len(content))] ^= 0x10
    cache.path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = cache.load()
    if loaded is None:
        assert "damaged or foreign" in str(caught[-1].message)
    else:  # the byte was one of the file's padding
        assert all(torch.equal(tensors(loaded)[name], value) for name, value in tensors(saved).items())


def test_changed_numbers_are_noticed(tmp_path: Path) -> None:
    cache = StatisticsCache(str(tmp_path), "fid", "abc")
    cache.save(statistics())
    content = torch.load(cache.path, weights_only=True)
    content["tensors"]["outer"][2, 3] += 1e-9
    torch.save(content, cache.path)
    with pytest.warns(UserWarning, match="damaged or foreign .not what was saved."):
        assert cache.load() is None


@pytest.mark.parametrize("content", [b"", b"text", "key", [1], {"format": 1}])
def test_foreign_files(tmp_path: Path, content: object) -> None:
    cache = StatisticsCache(str(tmp_path), "fid", "abc")
    if isinstance(content, bytes):
        cache.path.write_bytes(content)
    elif content == "key":  # another run's file under this name
        other = StatisticsCache(str(tmp_path), "fid", "xyz")
        other.save(statistics())
        other.path.rename(cache.path)
    else:
        torch.save(content, cache.path)
    with pytest.warns(UserWarning, match="damaged or foreign"):
        assert cache.load() is None


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot keep the real statistics"):
        StatisticsCache(str(tmp_path / "file"), "fid", "abc").save(statistics())


def test_default_folder_follows_torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert StatisticsCache(None, "fid", "abc").path == tmp_path / "hub" / "mn_lightning" / "fid-abc.pt"


def test_key_changes_with_what_the_statistics_depend_on() -> None:
    digest = torch.arange(4)
    layer = nn.Linear(3, 2).bfloat16()
    other = nn.Linear(3, 2).bfloat16()
    keys = [
        cache_key(digest, layer, kept=0),
        cache_key(digest + 1, layer, kept=0),
        cache_key(digest, other, kept=0),
        cache_key(digest, layer, kept=1),
        cache_key(digest, nn.Sequential(layer), kept=0),
    ]
    assert len(set(keys)) == len(keys)
    assert cache_key(digest, layer, kept=0) == keys[0]


def test_a_cache_of_an_earlier_version_is_read() -> None:
    """FIDCallback wrote it in November 2026, of :func:`real_bytes` in :class:`Features`."""
    (path,) = (Path(__file__).parent / "files").glob("*.pt")
    name, _, key = path.stem.rpartition("-")
    loaded = StatisticsCache(str(path.parent), name, key).load()
    assert loaded is not None
    features = Features()(real_bytes()).double()
    torch.testing.assert_close(loaded.sums.total, features.sum(0))
    torch.testing.assert_close(loaded.sums.outer, features.T @ features)
    torch.testing.assert_close(loaded.kept.double(), features[::6])
    assert int(loaded.sums.count) == len(features)
    in_first_half = np.random.default_rng(0).permutation(len(features)) < len(features) // 2
    (m1, c1), (m2, c2) = ((x.mean(0), x.T.cov()) for x in (features[in_first_half], features[~in_first_half]))
    root = scipy.linalg.sqrtm((c1 @ c2).numpy()).real
    floor = float((m1 - m2).square().sum() + c1.trace() + c2.trace()) - 2 * np.trace(root)
    assert float(loaded.floor) == pytest.approx(floor)
