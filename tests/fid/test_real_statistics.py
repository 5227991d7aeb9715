"""The file of the real statistics: read back as it was written, or not at all."""

import random
import re
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


def cached(folder: Path, key: str = "abc", fingerprint: torch.Tensor | None = None) -> StatisticsCache:
    return StatisticsCache(str(folder), "fid", key, torch.ones(4, 6) if fingerprint is None else fingerprint)


def statistics() -> RealStatistics:
    x = torch.randn(40, 6, dtype=torch.float64)
    sums = FeatureSums(x.sum(0), x.T @ x, torch.tensor(40))
    return RealStatistics(sums, torch.tensor(1.5).double(), x[:3].float())


def tensors(saved: RealStatistics) -> dict[str, torch.Tensor]:
    return {**vars(saved.sums), "floor": saved.floor, "kept": saved.kept}


def test_round_trip(tmp_path: Path) -> None:
    cache, saved = cached(tmp_path / "new"), statistics()
    assert cache.load() is None
    cache.save(saved)
    loaded = cache.load()
    assert loaded is not None
    assert len(tensors(saved)) == 5
    for name, value in tensors(saved).items():
        assert torch.equal(tensors(loaded)[name], value)
        assert tensors(loaded)[name].dtype == value.dtype
    (file,) = (tmp_path / "new").iterdir()
    assert re.fullmatch(r"fid-abc-[0-9a-f]{8}\.pt", file.name)
    assert isinstance(torch.load(cache.path, weights_only=True), dict)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_byte_is_noticed_or_harmless(tmp_path: Path, seed: int) -> None:
    cache, saved = cached(tmp_path), statistics()
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


def test_the_fingerprint_says_whose_it_is(tmp_path: Path) -> None:
    """Beyond rounding errors, as those between a CPU and a GPU; each extractor then has its file."""
    one = torch.randn(4, 6)
    first, second = statistics(), statistics()
    cached(tmp_path, fingerprint=one).save(first)
    found = cached(tmp_path, fingerprint=one * (1 + 1e-5)).load()
    assert found is not None
    assert torch.equal(found.sums.total, first.sums.total)
    for other in (one * 1.01, one + 0.1, one.repeat(1, 2), one * torch.nan):
        assert cached(tmp_path, fingerprint=other).load() is None
    cached(tmp_path, fingerprint=one * 10).save(second)
    for scale, expected in ((1, first), (10, second)):
        found = cached(tmp_path, fingerprint=one * scale).load()
        assert found is not None
        assert torch.equal(found.sums.total, expected.sums.total)


def test_statistics_of_another_image_pipeline_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(tmp_path).save(statistics())
    assert cached(tmp_path).load() is not None
    monkeypatch.setattr("mn_lightning.fid.real_statistics.PIPELINE", -1)
    assert cached(tmp_path).load() is None


def test_changed_numbers_are_noticed(tmp_path: Path) -> None:
    cache = cached(tmp_path)
    cache.save(statistics())
    content = torch.load(cache.path, weights_only=True)
    content["tensors"]["outer"][2, 3] += 1e-9
    torch.save(content, cache.path)
    with pytest.warns(UserWarning, match="damaged or foreign .not what was saved."):
        assert cache.load() is None


@pytest.mark.parametrize("content", [b"", b"text", "key", [1], {"format": 1}])
def test_foreign_files(tmp_path: Path, content: object) -> None:
    cache = cached(tmp_path)
    if isinstance(content, bytes):
        cache.path.write_bytes(content)
    elif content == "key":  # another run's file under this name
        other = cached(tmp_path, "xyz")
        other.save(statistics())
        other.path.rename(cache.path)
    else:
        torch.save(content, cache.path)
    with pytest.warns(UserWarning, match="damaged or foreign"):
        assert cache.load() is None


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot keep the real statistics"):
        cached(tmp_path / "file").save(statistics())


def test_default_folder_follows_torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = StatisticsCache(None, "fid", "abc", torch.ones(4, 6)).path
    assert path.parent == tmp_path / "hub" / "mn_lightning"


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
    fingerprint = torch.ones(4, 6)
    # Nothing says what the extractor did then: whoever asks has to know that the key says enough.
    assert StatisticsCache(str(path.parent), name, key, fingerprint).load() is None
    loaded = StatisticsCache(str(path.parent), name, key, fingerprint, lambda _: True).load()
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
