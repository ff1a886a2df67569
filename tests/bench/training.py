"""How fast is training? `python tests/bench/training.py` prints one table, for the cores that this machine has.

usual: what people write: a Dataset that augments slice by slice, a DataLoader with two workers, contiguous fp32, all
threads for one network. prr: `fit`, as many networks at once as there are cores, one thread each (on a GPU: one).
"""

import copy
import platform
import time

import click
import pandas as pd
import torch
from joblib import Parallel, cpu_count, delayed
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from prr.data import Slices
from prr.study import Experiment
from prr.study.starts import initial
from prr.study.training import LOSSES, advance, fit, validate


class Augmented(Dataset):
    """One slice and its mask, moved at random, each time anew."""

    def __init__(self, data: Slices):
        fill = {tv_tensors.Image: float(data.images.min()), "others": 0}
        self.data, self.move = data, v2.RandomAffine(15, (0.05, 0.05), (0.9, 1.1), fill=fill)

    def __len__(self) -> int:
        return len(self.data.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, mask = self.move(tv_tensors.Image(self.data.images[index]), tv_tensors.Mask(self.data.masks[index]))
        return image.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor).long()


def usual(model: nn.Module, data: Slices, steps: int, batch_size: int, learning_rate: float, seed: int) -> float:
    """Train in place; seconds."""
    torch.manual_seed(seed)
    device = next(model.parameters()).device
    loader = DataLoader(Augmented(data.train), batch_size, shuffle=True, num_workers=2, drop_last=True)
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    began, step = time.perf_counter(), 0
    while step < steps:
        for images, masks in loader:
            loss = advance(model, optimiser, LOSSES["segmentation"], images.to(device), masks.to(device))
            schedule.step()
            loss.item()  # as for a line of log
            step += 1
            if step == steps:
                break
    return time.perf_counter() - began


def ours(model: nn.Module, data: Slices, steps: int, batch_size: int, learning_rate: float, seed: int) -> nn.Module:
    """Train as the study does, on one thread of a CPU."""
    if next(model.parameters()).device.type == "cpu":
        torch.set_num_threads(1)
    options = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    fit(model, data, "segmentation", progress=False, checkpoints=0, **options)
    return model


@click.command()
@click.option("--profile", default="quick", show_default=True)
@click.option("--steps", type=int, help="Fewer than the profile's; then Dice means nothing.")
@click.option("--device", default="auto", show_default=True)
def main(profile: str, steps: int | None, device: str) -> None:
    """Print images per second and final Dice of both loops, for both networks."""
    run = Experiment(profile, device=device, **({"steps": steps} if steps else {}))
    data, scale, rows = run.slices("acdc"), run.profile, []
    options = {"steps": scale.steps, "batch_size": scale.batch_size, "learning_rate": scale.learning_rate}
    jobs = cpu_count() if run.device == "cpu" else 1
    for name in ("unet", "pspnet"):
        width, images = getattr(scale, f"{name}_width"), scale.steps * scale.batch_size
        starts = [initial(name, width, "independent", "acdc", "segmentation", seed) for seed in (0, *range(jobs))]
        one, *models = (model.to(run.device) for model in starts)
        first, pool = options | {"steps": 1}, Parallel(jobs)  # imports and processes, which serve many networks
        usual(copy.deepcopy(one), data, seed=0, **first)
        pool([delayed(ours)(copy.deepcopy(model), data, seed=0, **first) for model in models])
        seconds = usual(one, data, seed=0, **options)
        began = time.perf_counter()
        models = pool([delayed(ours)(model, data, seed=seed, **options) for seed, model in enumerate(models)])
        together = time.perf_counter() - began
        fast, slow = jobs * images / together, images / seconds
        scores = [validate(model, data.validation, "segmentation") for model in (one, *models)]
        rows.append((name, slow, fast, fast / slow, scores[0], min(scores[1:]), max(scores[1:])))
    columns = ["network", "usual images/s", "prr images/s", "ratio", "usual Dice", "prr Dice, least", "most"]
    print(f"{run.device} {platform.machine()}, {jobs} jobs, torch {torch.__version__}, profile {scale.name}")
    print(pd.DataFrame(rows, columns=columns).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
