"""The papers' pictures, each a function that returns a matplotlib ``Figure``; matplotlib is imported when one is made.

``figure.savefig("picture.png")`` writes one, a notebook shows it, and TensorBoard takes it as
``logger.experiment.add_figure("name", figure)``.
"""

from mn_lightning.plots.activations import plot_activations
from mn_lightning.plots.components import plot_components
from mn_lightning.plots.evolution import plot_evolution
from mn_lightning.plots.posteriors import plot_claims, plot_posteriors

__all__ = ["plot_activations", "plot_claims", "plot_components", "plot_evolution", "plot_posteriors"]
