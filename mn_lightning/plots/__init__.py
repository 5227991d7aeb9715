"""The papers' pictures, each a function that returns a matplotlib ``Figure``; matplotlib is imported when one is made.

``figure.savefig("picture.png", dpi=180)`` writes one. A notebook with ``%matplotlib inline`` shows it.
TensorBoard takes it by ``logger.experiment.add_figure("name", figure)``.
"""

from mn_lightning.plots.activations import plot_activations
from mn_lightning.plots.components import plot_components
from mn_lightning.plots.evolution import plot_evolution
from mn_lightning.plots.posteriors import plot_claims, plot_posteriors

__all__ = ["plot_activations", "plot_claims", "plot_components", "plot_evolution", "plot_posteriors"]
