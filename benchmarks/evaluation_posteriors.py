"""Whether evaluation should take posteriors from the fit, as training does, or from the stored moments, as it does.

    python -m benchmarks.evaluation_posteriors

Training takes posteriors from the fitted mixture and moments from the posteriors. Evaluation takes both from the
moments, so that a checkpoint holds one mixture. Printed are, for each seed: the relative root mean square difference
between the two kinds of evaluation on one batch that was refitted to (the first kind is training's output there, which
is checked), and the test accuracy of the same weights after each epoch by both. CIFAR CNN on scikit-learn's digits,
conv2 and conv3 swapped, K = 3, 2 EM iterations.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mn_lightning import MixtureNorm, refit_mixtures, reset_queues, swap_norms
from mn_lightning.data import DigitsDataModule
from mn_lightning.functional.mixture import fit_mixture, mixture_moments, mixture_norm
from mn_lightning.kernels.types import Mixture
from mn_lightning.layers.refit import mixture_layers
from mn_lightning.models import CIFARConvNet

EPOCHS, SEEDS, RATE = 4, (0, 1), 1e-3


def fitted(layer: MixtureNorm) -> Mixture:
    """The mixture that the layer's next refit takes the moments under."""
    rows, step = layer.queue.draw(layer.queue_decay, layer.num_batches_tracked), layer.num_batches_tracked
    return fit_mixture(rows, layer.n_components, layer.em_iters, step, layer.eps)


def as_training(layer: MixtureNorm, under: Mixture, x: Tensor) -> Tensor:
    """Normalize by the stored moments with posteriors of another mixture."""
    rows = x.movedim(1, -1).flatten(0, -2)
    var = under.variances + layer.eps
    squares = ((rows.unsqueeze(1) - under.means).square() / var + var.log()).sum(-1)
    logits = (under.weights.log() - squares / 2).masked_fill(layer.mixture_weights == 0, -torch.inf)
    share = logits.softmax(1) / layer.mixture_weights.clamp(min=1e-12).sqrt()
    scaled = (rows.unsqueeze(1) - layer.mixture_means) / (layer.mixture_variances + layer.eps).sqrt()
    normalized = (share.unsqueeze(-1) * scaled).sum(1)
    normalized = normalized.view(x.shape[0], *x.shape[2:], -1).movedim(-1, 1)
    return F.batch_norm(normalized, x.new_zeros(x.shape[1]), x.new_ones(x.shape[1]), layer.weight, layer.bias, eps=0)


def difference_on_one_batch(layer: MixtureNorm, x: Tensor) -> float:
    """Return the relative difference between evaluation and training under one fit to ``x``."""
    layer, x = layer.double(), x.double()
    under = fit_mixture(x, layer.n_components, layer.em_iters, torch.tensor(1), layer.eps)
    trained = mixture_norm(x, under, layer.weight, layer.bias, training=True)
    for buffer, value in zip(layer.mixture, mixture_moments(x, under, layer.eps), strict=True):
        buffer.copy_(value)
    torch.testing.assert_close(as_training(layer, under, x), trained, rtol=1e-5, atol=1e-5)
    return float((layer.eval()(x) - trained).square().mean().sqrt() / trained.square().mean().sqrt())


@torch.no_grad()
def accuracies(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the accuracy by both kinds of evaluation."""
    under = {layer: fitted(layer) for layer in mixture_layers(model)}
    refit_mixtures(model)
    model.eval()
    found = [(model(images).argmax(1) == labels).float().mean().item()]
    for layer, mixture in under.items():
        layer.forward = lambda x, layer=layer, mixture=mixture: as_training(layer, mixture, x)
    found.append((model(images).argmax(1) == labels).float().mean().item())
    for layer in under:
        del layer.forward
    model.train()
    return found[0], found[1]


def main() -> None:
    """Measure."""
    torch.set_num_threads(1)
    for seed in SEEDS:
        torch.manual_seed(seed)
        data = DigitsDataModule(batch_size=64, image_size=16)
        data.setup()
        model = CIFARConvNet(in_channels=1)
        swap_norms(model, ["conv2", "conv3"], "mixture")
        optimizer = torch.optim.RMSprop(model.parameters(), lr=RATE, momentum=0.9)
        images, labels = (torch.cat(parts) for parts in zip(*data.test_dataloader(), strict=True))
        loader = data.train_dataloader()
        for epoch in range(EPOCHS):
            reset_queues(model)
            loader.sampler.set_epoch(epoch)
            for batch, target in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(batch), target).backward()
                optimizer.step()
            stored, fit = accuracies(model, images, labels)
            print(f"seed {seed}, epoch {epoch + 1}: posteriors of the moments {stored:.4f}, of the fit {fit:.4f}")
        activations: list[Tensor] = []
        layers = mixture_layers(model)
        handles = [
            layer.register_forward_pre_hook(lambda _, args, found=activations: found.append(args[0]))
            for layer in layers
        ]
        with torch.no_grad():
            model(images[:64])
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            values = [difference_on_one_batch(layer, x) for layer, x in zip(layers, activations, strict=True)]
        print(f"seed {seed}: differences on one batch, {', '.join(f'{value:.1%}' for value in values)}", flush=True)


if __name__ == "__main__":
    main()
