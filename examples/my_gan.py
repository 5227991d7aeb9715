"""A GAN of digits with mixture norm in its generator, measured in the features of the classifier of my_model.yaml."""

import glob

import lightning as L
import torch
import torch.nn.functional as F
from my_module import MyModule
from torch import Tensor, nn

from mn_lightning.callbacks import FIDCallback, NormSwapCallback, SampleGridCallback
from mn_lightning.checkpoints import load_from_checkpoint
from mn_lightning.data import DigitsDataModule

LATENTS = 16


class MyGAN(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator_steps = 0  # FIDCallback and SampleGridCallback count by it
        self.generator = nn.Sequential(
            nn.Linear(LATENTS, 32 * 2 * 2),
            nn.Unflatten(1, (32, 2, 2)),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
            nn.Tanh(),
        )
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, 16, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(16, 32, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(32 * 2 * 2, 1),
        )

    def sample(self, n: int) -> Tensor:
        """Images (n, 1, 8, 8) in [-1, 1]: all that FIDCallback and SampleGridCallback need."""
        return self.generator(torch.randn(n, LATENTS, device=self.device))

    def training_step(self, batch):
        real, _ = batch
        for_generator, for_discriminator = self.optimizers()
        fake = self.sample(len(real))

        loss = F.softplus(self.discriminator(fake.detach())).mean() + F.softplus(-self.discriminator(real)).mean()
        for_discriminator.zero_grad()
        self.manual_backward(loss)
        for_discriminator.step()

        loss = F.softplus(-self.discriminator(fake)).mean()
        for_generator.zero_grad()
        self.manual_backward(loss)
        for_generator.step()
        self.generator_steps += 1

    def configure_optimizers(self):
        networks = self.generator, self.discriminator
        return [torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.5, 0.999)) for network in networks]


class DigitFeatures(nn.Module):
    """What MyModule sees in images of digits: uint8 (N, 1, 8, 8) to features (N, 128)."""

    name = "digits"  # the distance is logged as fd_digits

    def __init__(self, checkpoint: str) -> None:
        super().__init__()
        self.layers = load_from_checkpoint(MyModule, checkpoint).network[:-1].eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.float() / 127.5 - 1)


def main(max_epochs: int = 30) -> None:
    L.seed_everything(0)
    (checkpoint,) = glob.glob("lightning_logs/version_0/checkpoints/*.ckpt")
    callbacks = [
        NormSwapCallback(layers=["generator.2", "generator.5"], norm="mixture", n_components=3),
        FIDCallback(every_n_epochs=10, num_samples=1000, feature_extractor=DigitFeatures(checkpoint)),
        SampleGridCallback(every_n_steps=200, num_samples=16, nrow=4),
    ]
    trainer = L.Trainer(max_epochs=max_epochs, log_every_n_steps=10, callbacks=callbacks)
    trainer.fit(MyGAN(), DigitsDataModule(image_size=8, normalize="symmetric"))
    print(f"fd_digits: {trainer.callback_metrics['fd_digits']:.2f}")


if __name__ == "__main__":
    main()
