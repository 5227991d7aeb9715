from pathlib import Path

import pytest

from mn_lightning.utils.files import replacing, write_atomically


def test_a_reader_finds_the_old_content_until_the_new_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    write_atomically(path, "old\r\n")
    with replacing(path) as partial:
        partial.write_bytes(b"ne")
        assert path.read_bytes() == b"old\r\n"
        partial.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    write_atomically(path, "old")

    def write_half() -> None:
        with replacing(path) as partial:
            partial.write_bytes(b"half of it")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
