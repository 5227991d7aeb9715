"""torch.export of a layer that is evaluated, read back, computes the same for any number of samples."""

import io

import torch
from helpers.layers import Case, some_input
from packaging.version import Version

WITH_TORCH = True
COSTLY = True
# torch 2.6 fails on addcmul of a dynamic size.
DYNAMIC = Version(torch.__version__) >= Version("2.7")


def test_exported(case: Case) -> None:
    layer = case.in_use().eval()
    shapes = ({0: torch.export.Dim("batch", min=1)},) if DYNAMIC else None
    program = torch.export.export(layer, (some_input(),), dynamic_shapes=shapes, strict=False)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for count in (1, 7) if DYNAMIC else (8,):
        x = some_input((count, 3, 4, 2))
        torch.testing.assert_close(loaded(x), layer(x), rtol=1e-5, atol=1e-5)
