import subprocess
import sys

import torch

from mn_lightning.utils.compilers import constant_when_compiled


def test_the_mark_is_torchs() -> None:
    def ours() -> int:
        return 1

    def torchs() -> int:
        return 1

    assert constant_when_compiled(ours) is ours
    torch.compiler.assume_constant_result(torchs)  # type: ignore[no-untyped-call]
    assert vars(ours) == vars(torchs) != {}


def test_layers_do_not_import_the_compiler() -> None:
    code = "import sys; from mn_lightning import MixtureNorm, swap_norms; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
