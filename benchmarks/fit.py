"""The time of scikit-learn's diagonal GaussianMixture over that of our fit, for the same fit.

    python -m benchmarks.fit [--device cuda] [--iterations 20]

Both run the same number of EM iterations from the same mixture on the same float32 rows, and end with one more E step,
as scikit-learn's ``fit`` does. scikit-learn is on the CPU also where ours is on a GPU, with as many threads as torch;
the rows are where they are used beforehand. The mean log-likelihoods that they end with show that it is the same fit.
"""

import warnings
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks import _timing
from mn_lightning import gmm
from mn_lightning.gmm import Mixture
from mn_lightning.utils.tables import print_table

K = 3
REG_COVAR = 1e-5
PAUSE = 0.5
"""Seconds in which the threads of the library that was measured before go to sleep."""
TARGETS = _timing.targets(">=", 5, 50)


def clusters(rows: int, features: int) -> np.ndarray:
    """Make overlapping clusters of different widths, float32 ``(rows, features)``."""
    rng = np.random.default_rng(0)
    centers = 0.3 * rng.standard_normal((K, features))
    widths = rng.uniform(0.5, 1.5, (K, features))
    label = rng.integers(0, K, rows)
    return (centers[label] + widths[label] * rng.standard_normal((rows, features))).astype(np.float32)


def start(x: np.ndarray) -> Mixture:
    """Make a mixture to start from, at random rows: weights ``(1, K)``, means and variances ``(1, K, C)``."""
    means = torch.from_numpy(x[np.random.default_rng(1).choice(len(x), K, replace=False)])
    variances = torch.from_numpy(x.var(0)).expand(K, -1)
    return Mixture(torch.full((1, K), 1 / K), means[None], variances[None].clone())


def sklearn_model(mixture: Mixture, iterations: int) -> GaussianMixture:
    """Make scikit-learn's model, whose ``fit`` starts from ``mixture`` and never stops early."""
    weights, means, variances = (value[0].numpy() for value in mixture)
    return GaussianMixture(
        K,
        covariance_type="diag",
        tol=0.0,
        reg_covar=REG_COVAR,
        max_iter=iterations,
        weights_init=weights,
        means_init=means,
        precisions_init=1 / (variances + np.float32(REG_COVAR)),
    )


def by_us(x: Tensor, mixture: Mixture, iterations: int) -> Mixture:
    """Fit, with the last E step."""
    fitted = gmm.em(x, mixture, iterations, REG_COVAR)
    gmm.posteriors(x, fitted, REG_COVAR)
    return fitted


def log_likelihood(x: Tensor, mixture: Mixture) -> float:
    """Return the mean log-likelihood of the rows, computed in float64."""
    joint = gmm.log_joint(x.double(), Mixture(*(value.double() for value in mixture)), REG_COVAR)
    return float(joint.logsumexp(-1).mean())


def measure(args: Namespace, rows: int, features: int) -> dict[str, Any]:
    """Measure both."""
    x = clusters(rows, features)
    origin = start(x)
    model = sklearn_model(origin, args.iterations)
    here = torch.from_numpy(x).to(args.device)[None, None]
    moved = Mixture(*(value.to(args.device) for value in origin))
    calls = {"scikit-learn": lambda: model.fit(x), "ours": lambda: by_us(here, moved, args.iterations)}
    with warnings.catch_warnings(), threadpool_limits(torch.get_num_threads()):
        warnings.simplefilter("ignore", ConvergenceWarning)
        times = _timing.side_by_side(calls, args, PAUSE)
    if model.n_iter_ != args.iterations:
        raise RuntimeError(f"scikit-learn made {model.n_iter_} iterations instead of {args.iterations}")
    return {
        "rows": rows,
        "features": features,
        "components": K,
        "iterations": args.iterations,
        "sklearn_version": sklearn.__version__,
        "sklearn_ms": _timing.median_ms(times, "scikit-learn"),
        "ours_ms": _timing.median_ms(times, "ours"),
        **_timing.judged(_timing.ratio(times, "scikit-learn", "ours"), TARGETS[args.device]),
        "sklearn_log_likelihood": float(model.score(x.astype(np.float64))),
        "our_log_likelihood": log_likelihood(here, by_us(here, moved, args.iterations)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    parser = _timing.parser("fit", __doc__ or "", rounds=11)
    parser.add_argument("--iterations", type=int, default=20, help="of EM, %(default)s")
    args = _timing.parse(parser, arguments)
    with _timing.computing(args.backend):
        row = measure(args, *((256, 8) if args.quick else (16384, 128)))
    line = (
        f"{row['rows']}x{row['features']}, K={K}, {row['iterations']} iterations",
        f"{row['sklearn_ms']:.4g}",
        f"{row['ours_ms']:.4g}",
        f"{row['ratio']:.2f}",
        *_timing.cells(row),
        f"{row['sklearn_log_likelihood']:.4f}",
        f"{row['our_log_likelihood']:.4f}",
    )
    header = ("fit", "scikit-learn ms", "ours ms", "ratio", "target", "", "its log-likelihood", "ours")
    print_table(_timing.title("EM for a diagonal mixture", args), header, [line])
    _timing.write(args.json, _timing.report_of("fit", args, [row]))


if __name__ == "__main__":
    main()
