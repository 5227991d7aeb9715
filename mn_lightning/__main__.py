"""``mn-lightning``, and ``python -m mn_lightning``."""

import os
import sys
from collections.abc import Sequence

from mn_lightning.configs import resolve_config_names

_EPILOG = (
    "mn-lightning compare [STUDY] trains with several norms and seeds and compares them; it has a --help. "
    "mn-lightning studies lists the shipped studies. mn-lightning --version prints the version."
)


def main(args: Sequence[str] | None = None) -> None:
    """Run ``mn-lightning``; ``args`` is for tests, the command line otherwise."""
    given = list(sys.argv[1:] if args is None else args)
    if given == ["--version"]:
        from mn_lightning.utils.version import __version__

        print(f"mn-lightning {__version__}")
        return
    if args is None and not {"", os.getcwd()} & set(sys.path):
        # A user's own module is found beside the configuration, by the installed command as by `python -m`.
        sys.path.insert(0, os.getcwd())
    if given[:1] == ["compare"]:
        from mn_lightning.compare.command import compare  # brings scipy, which the other subcommands can do without

        compare(given[1:])
        return
    if given[:1] == ["studies"]:
        from mn_lightning.compare.listing import list_studies

        list_studies(given[1:])
        return
    try:
        resolved = resolve_config_names(given)
    except FileNotFoundError as error:
        sys.exit(f"mn-lightning: {error}")
    if args is None:
        # LightningCLI and the launchers of further processes read the command line themselves.
        sys.argv[1:] = resolved
    from mn_lightning.cli import CommandTrainer, MNLightningCLI

    MNLightningCLI(
        trainer_class=CommandTrainer,
        parser_kwargs={"prog": "mn-lightning", "epilog": _EPILOG},
        args=None if args is None else resolved,
    )


if __name__ == "__main__":
    main()
