"""How long an epoch's data takes: images read one at a time, against whole batches on the training device.

    python -m benchmarks.data [--device cuda] [--images N] [--batch_size N]

Random images of CIFAR-10's size are shifted, mirrored half the time and normalized, and brought to the device; nothing
is trained. The references are torchvision's own transforms of a PIL image at a time in torch's DataLoader, without
workers and with two; each way of TorchvisionDataModule, whose batches are made at once, is compared with
the faster of the two. All images of an epoch are read in each measurement.
"""

import statistics
from argparse import Namespace
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks import _timing
from mn_lightning.data import TorchvisionDataModule
from mn_lightning.data.images import AugmentedImages, Batch
from mn_lightning.utils.tables import print_table

IMAGES = 60_000
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
WORKERS = 2
REFERENCES = {"one at a time, no workers": 0, f"one at a time, {WORKERS} workers": WORKERS}
TARGETS = _timing.targets(">=", 5, 5)
"""Only for data on the device."""


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images that are transformed one at a time, as torchvision's data sets do it."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(images.shape[-1], padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one image ``(3, H, W)`` and its label."""
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def one_at_a_time(images: Tensor, labels: Tensor, args: Namespace, num_workers: int) -> DataLoader[Any]:
    """Make torch's usual loader."""
    pin = args.device == "cuda"
    return DataLoader(Pictures(images, labels), args.batch_size, shuffle=True, num_workers=num_workers, pin_memory=pin)


def at_once(images: Tensor, labels: Tensor, args: Namespace, on_device: bool) -> DataLoader[Batch]:
    """Make the training loader of TorchvisionDataModule, with these images instead of the files'."""
    module = TorchvisionDataModule("CIFAR10", batch_size=args.batch_size, on_device=on_device)
    place = args.device if on_device else "cpu"
    module.train = AugmentedImages(images.to(place), labels.to(place), MEAN, STD, flip=True, seed=0)
    return module.train_dataloader()


def read(loader: Iterable[Batch], device: str) -> None:
    """Bring all batches to the device."""
    for images, labels in loader:
        images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def measure(args: Namespace) -> list[dict[str, Any]]:
    """Measure all ways side by side."""
    size = (args.images, 3, 32, 32)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, size[:1], generator=generator)
    loaders: dict[str, DataLoader[Any]] = {
        name: one_at_a_time(images, labels, args, workers) for name, workers in REFERENCES.items()
    }
    loaders |= {
        name: at_once(images, labels, args, on_device)
        for name, on_device in (("batches, on_device=False", False), ("batches, on_device=True", True))
    }
    times = _timing.side_by_side({name: partial(read, loader, args.device) for name, loader in loaders.items()}, args)
    reference = min(REFERENCES, key=lambda name: statistics.median(times[name]))
    return [
        {
            "data": name,
            "images": args.images,
            "batch_size": args.batch_size,
            "ms": _timing.median_ms(times, name),
            "reference": reference,
            "reference_ms": _timing.median_ms(times, reference),
            **_timing.judged(
                _timing.ratio(times, reference, name), TARGETS[args.device] if name.endswith("=True") else None
            ),
        }
        for name in loaders
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    options = _timing.parser("data", __doc__ or "", rounds=3)
    options.add_argument("--images", type=int, help=f"in an epoch; by default {IMAGES}")
    options.add_argument("--batch_size", type=int, default=256, help="%(default)s")
    args = _timing.parse(options, arguments)
    args.images = args.images or (512 if args.quick else IMAGES)
    rows = measure(args)
    print_table(
        _timing.title(f"An epoch of {args.images} CIFAR images, batch size {args.batch_size}", args),
        ["Data", "seconds", "times faster", "target", ""],
        [[row["data"], f"{row['ms'] / 1e3:.3f}", f"{row['ratio']:.1f}", *_timing.cells(row)] for row in rows],
    )
    _timing.write(args.json, _timing.report_of("data", args, rows))


if __name__ == "__main__":
    main()
