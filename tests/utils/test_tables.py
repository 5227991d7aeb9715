import pytest

from mn_lightning.utils.tables import print_table


def test_cells_stand_under_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Layers", ("name", "number"), [("a layer with a long name", 1), ("b", 2)])
    lines = capsys.readouterr().out.splitlines()
    column = next(line for line in lines if "number" in line).index("number")
    assert [line[column] for line in lines if "a layer" in line or "│ b " in line] == ["1", "2"]


@pytest.mark.parametrize("row", [("one",), ("one", "two", "three")])
def test_a_row_of_another_length_is_refused(row: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="argument"):
        print_table("Layers", ("name", "number"), [row])
