"""DCGAN as Kalayeh & Shah train it."""

from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loops.utilities import _block_parallel_sync_behavior
from torch import Tensor, nn
from torch.optim import Optimizer

from mn_lightning.models._swappable import SwappableModule
from mn_lightning.models.networks.dcgan import DCGANDiscriminator, DCGANGenerator, DiscriminatorNorm
from mn_lightning.utils.checks import check_at_least


class DCGAN(SwappableModule):
    """Trains a generator of images against a discriminator (Kalayeh & Shah, Section 5.3; Radford et al., 1511.06434).

    One training step is one update of the discriminator and then one of the generator, each on latents of its own, with
    the non-saturating loss; ``as_published`` changes this. Every step logs ``discriminator_loss``, which is the sum of
    the cross entropies of a real and of a generated batch, and ``generator_loss``. There is no validation step: a
    callback measures the samples.

    In each step the generator's norms see two training batches, one for each update, both made with the same weights.
    BatchNorm's running statistics include both. So does MixtureNorm's queue: its 20 batches come from the last 10
    steps. With ``as_published`` there is one batch in a step, and the queue holds 20 steps.

    Latents are uniform in [-1, 1) and drawn from torch's random state, on the module's device. With a
    ``RandomStateCallback``, which puts that state into checkpoints, a resumed run repeats the uninterrupted one bit for
    bit; the command line adds this callback. With several processes, each draws the latents of all and takes its share,
    because ``seed_everything`` gives them all the same random state.

    The gradients are averaged over processes after each of the two backward passes, so the plain ``ddp`` strategy is
    enough; sharded strategies are not supported. Lightning refuses automatic gradient accumulation and clipping.

    Optimizers and sizes are not saved in the checkpoint; give them again to ``DCGAN.load_from_checkpoint``.

    Args:
        channels: channels of the images.
        image_size: height and width of the images in pixels, 32 or 64.
        latent_features: length of a latent vector.
        base_channels: number of channels next to the image in both networks; other layers have up to eight times as
            many.
        discriminator_norm: ``"batch"``, or ``"spectral"`` for spectral normalization instead of BatchNorm.
        generator_optimizer: makes the generator's optimizer from its parameters; by default the paper's, Adam with
            learning rate 2e-4 and betas (0, 0.9).
        discriminator_optimizer: likewise.
        max_generator_steps: number of generator updates after which the training stops; None leaves that to the
            Trainer.
        as_published: train as the library from which Kalayeh & Shah took their recipe
            (github.com/pfnet-research/chainer-gan-lib): each step makes one generated batch for both losses, the
            generator is updated first, and the projected latents are normalized over all their features.

    Attributes:
        generator: ``(N, latent_features)`` to images in [-1, 1].
        discriminator: images to logits ``(N,)``.

    Raises:
        ValueError: an argument is out of range; in training, images have another shape or values beyond [-1, 1].
    """

    def __init__(
        self,
        channels: int = 3,
        image_size: int = 32,
        latent_features: int = 100,
        base_channels: int = 64,
        discriminator_norm: DiscriminatorNorm = "batch",
        generator_optimizer: OptimizerCallable | None = None,
        discriminator_optimizer: OptimizerCallable | None = None,
        max_generator_steps: int | None = None,
        as_published: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (
            ("channels", channels),
            ("latent_features", latent_features),
            ("base_channels", base_channels),
        ):
            check_at_least("DCGAN", name, value, 1)
        if max_generator_steps is not None:
            check_at_least("DCGAN", "max_generator_steps", max_generator_steps, 1, also="None")
        self.channels = channels
        self.image_size = image_size
        self.latent_features = latent_features
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.max_generator_steps = max_generator_steps
        self.as_published = as_published
        self.generator = DCGANGenerator(latent_features, channels, image_size, base_channels, as_published)
        self.discriminator = DCGANDiscriminator(channels, image_size, base_channels, discriminator_norm)
        self.automatic_optimization = False
        self.example_input_array = torch.zeros(2, latent_features)
        # A number, not a buffer: reading it must not wait for the device.
        self._generator_steps = 0

    @property
    def generator_steps(self) -> int:
        """Updates of the generator so far, as papers count; ``trainer.global_step`` counts those of both optimizers."""
        return self._generator_steps

    def forward(self, latents: Tensor) -> Tensor:
        """Return images in [-1, 1], ``(N, channels, image_size, image_size)``, of ``(N, latent_features)``."""
        images: Tensor = self.generator(latents)
        return images

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Make ``n`` images in the module's current mode, training or evaluation.

        Args:
            n: number of images.
            generator: source of the latents, on any device; by default torch's random state.

        Returns:
            ``(n, channels, image_size, image_size)`` in [-1, 1], on the module's device.
        """
        check_at_least("DCGAN.sample", "n", n, 1)
        images: Tensor = self(self._latents(n, generator))
        return images

    def training_step(self, batch: Tensor | list[Tensor] | tuple[Tensor, ...]) -> None:
        """Update both networks.

        Args:
            batch: real images in [-1, 1], ``(N, channels, image_size, image_size)``, or a list that starts with them.
        """
        images = batch if isinstance(batch, Tensor) else batch[0]
        self._check_images(images)
        if self.as_published:
            self._update_from_one_batch(images)
        else:
            self._update_in_turn(images)
        self._generator_steps += 1
        self._stop_if_done()

    def _update_in_turn(self, images: Tensor) -> None:
        generator_optimizer, discriminator_optimizer = cast(list[LightningOptimizer], self.optimizers())

        # Each optimizer freezes the other's network. Autocast needs that: it keeps its cast copies of weights, and
        # would use a copy that was made without gradients in the second pass. DDP's own averaging is off, because it
        # waits for both networks.
        with discriminator_optimizer.toggle_model(sync_grad=False):
            with torch.no_grad():
                fakes = self(self._training_latents(len(images)))
            # Separate batches, as in DCGAN, so that the norms never see real and generated images together.
            loss = discriminator_loss(self.discriminator(images), self.discriminator(fakes))
            self._update(loss, discriminator_optimizer)
        self._log_loss("discriminator_loss", loss, len(images))

        with generator_optimizer.toggle_model(sync_grad=False):
            loss = generator_loss(self.discriminator(self(self._training_latents(len(images)))))
            self._update(loss, generator_optimizer)
        self._log_loss("generator_loss", loss, len(images))

    def _update_from_one_batch(self, images: Tensor) -> None:
        """Update the generator and then the discriminator, both with the gradients of the weights before the step."""
        generator_optimizer, discriminator_optimizer = cast(list[LightningOptimizer], self.optimizers())
        # DDP's own averaging is off: it waits for both networks.
        with _block_parallel_sync_behavior(self.trainer.strategy, block=True):
            fakes = self(self._training_latents(len(images)))
            real_logits, fake_logits = self.discriminator(images), self.discriminator(fakes)
            of_generator = generator_loss(fake_logits)
            of_discriminator = discriminator_loss(real_logits, fake_logits)
            # Each backward pass computes gradients of one network only.
            self._update(of_generator, generator_optimizer, inputs=_trained(self.generator), retain_graph=True)
            self._update(of_discriminator, discriminator_optimizer, inputs=_trained(self.discriminator))
        self._log_loss("discriminator_loss", of_discriminator, len(images))
        self._log_loss("generator_loss", of_generator, len(images))

    def statistics_step(self, batch: Tensor | list[Tensor] | tuple[Tensor, ...]) -> None:
        """Run the forward passes of a training step, for ``UpdateNormsCallback``.

        Args:
            batch: as in :meth:`training_step`.
        """
        images = batch if isinstance(batch, Tensor) else batch[0]
        self.discriminator(images)
        self.discriminator(self(self._training_latents(len(images))))

    def configure_optimizers(self) -> list[Optimizer]:
        """Make the optimizers of generator and discriminator, in this order."""
        default = partial(torch.optim.Adam, lr=2e-4, betas=(0.0, 0.9))
        return [
            (self.generator_optimizer or default)(self.generator.parameters()),
            (self.discriminator_optimizer or default)(self.discriminator.parameters()),
        ]

    def on_train_start(self) -> None:
        """Go on where the checkpoint was saved; stop at once if all generator steps were done."""
        super().on_train_start()
        self._stop_if_done()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save ``generator_steps``."""
        checkpoint["generator_steps"] = self._generator_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore ``generator_steps``."""
        self._generator_steps = checkpoint["generator_steps"]

    def _latents(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        device = self.device if generator is None else generator.device
        uniform = torch.rand(n, self.latent_features, generator=generator, device=device)
        return (2 * uniform - 1).to(self.device, cast(torch.dtype, self.dtype))

    def _training_latents(self, n: int) -> Tensor:
        return self._latents(n * self.trainer.world_size)[n * self.global_rank :][:n]

    def _update(self, loss: Tensor, optimizer: LightningOptimizer, **backward: Any) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss, **backward)
        if self.trainer.world_size > 1:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad = self.trainer.strategy.reduce(parameter.grad, reduce_op="mean")
        optimizer.step()

    def _log_loss(self, name: str, loss: Tensor, batch_size: int) -> None:
        self.log(name, loss.detach(), prog_bar=True, batch_size=batch_size)

    def _stop_if_done(self) -> None:
        if self.max_generator_steps is not None and self._generator_steps >= self.max_generator_steps:
            self.trainer.should_stop = True

    def _check_images(self, images: Tensor) -> None:
        expected = (self.channels, self.image_size, self.image_size)
        if images.dim() != 4 or images.shape[1:] != expected:
            raise ValueError(
                f"DCGAN got images of shape {tuple(images.shape)}; it takes (N, {', '.join(map(str, expected))}), "
                "change its channels or image_size, or those of the data"
            )
        # Checked only once, because the check waits for the device.
        if self._generator_steps == 0 and (furthest := images.abs().max().item()) > 1.001:
            raise ValueError(
                f"DCGAN got images with values up to {furthest:.3g} away from 0; its own are in [-1, 1], scale the "
                "images to that, as normalize='symmetric' does in this package's data modules"
            )


def _trained(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the cross entropy for real images with label real plus that for generated ones with label generated.

    Args:
        real_logits: ``(N,)``.
        fake_logits: ``(M,)``.
    """
    # -log(sigmoid(x)) = softplus(-x)
    return F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Return the cross entropy of calling generated images, ``(N,)``, real: the non-saturating loss, in float32."""
    return F.softplus(-fake_logits.float()).mean()
