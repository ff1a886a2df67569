"""The paper's experiment: which data, which networks, which swap. Results come from the store or are made once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from prr import donors, reuse
from prr.data import Slices, read_acdc, read_rvsc, read_t1, textures, write_phantom
from prr.distance import rmse
from prr.donors import noisy, towards
from prr.errors import DataError, NetworkError, OptionError
from prr.figures import Words
from prr.layers import check_kinds
from prr.metrics import dice
from prr.study import examples, prediction, prefixes, profiles, training, transfer
from prr.study.backbones import ARCHITECTURES, SIZED_AS, random
from prr.study.models import derived
from prr.study.paper import KINDS
from prr.study.profiles import EXPECTED_DICE, OVERRIDES, Profile
from prr.study.sources import SIX, TARGET
from prr.study.starts import TEXTURES, Start, checked_start, initial, pretext
from prr.study.store import Key, Store, content, digest, fingerprint, provenance
from prr.verdict import RECIPE, REUSABLE, Verdict, judge, layer_verdicts

READERS = {"acdc": read_acdc, "t1": read_t1, "rvsc": read_rvsc}
PARAMETERS = ("profile", "data_root", "device", "seed", *OVERRIDES)
PHANTOM_SEED = 0
VERDICT_TABLES = ("share", "sources", "joint", "pairs", "incomparable")
VERDICT_FACTS = ("reusable_network", "drawn", "tolerance", "made")
MEANINGLESS = {"smoke": " (results mean nothing)"}


class Experiment:
    """One run of the study at one scale; the chapters' only door.

    Args:
        profile: smoke, quick or paper.
        data_root: folder that holds acdc/, t1/ or rvsc/; None: the folders that PRR_ACDC, PRR_T1 and PRR_RVSC name,
            else phantoms.
        device: auto (CUDA, else MPS, else CPU), cpu, cuda or mps.
        seed: of starts, order and augmentation.
        store: folder for results; None: see `prr.study.store.location`.
        make: False reads what is in the store and makes nothing.
        progress: show a bar on stderr while something is made.
        overrides: any field of `Profile`.

    Raises:
        OptionError: an unknown profile, override or device, or a device that is not there.
    """

    def __init__(
        self,
        profile: str = "quick",
        *,
        data_root: str | Path | None = None,
        device: str = "auto",
        seed: int = 0,
        store: str | Path | None = None,
        make: bool = True,
        progress: bool = True,
        **overrides: Any,
    ):
        self.profile: Profile = profiles.profile(profile, **overrides)
        self.overrides = {key: value for key, value in overrides.items() if value is not None}
        self.data_root = data_root
        self.device = available(device)
        self.seed = checked_seed(seed)
        self.store = Store(store, make)
        self.progress = progress
        self._slices: dict[str, Slices] = {}
        self._contents: dict[str, str] = {}
        self._used: dict[str, dict] = {}

    @classmethod
    def from_parameters(cls, namespace: dict[str, Any]) -> Experiment:
        """The experiment that a chapter's parameters cell describes: call it with `globals()` in the next cell.

        papermill only warns about a misspelt `-p name value` and sets it all the same, so a plain value that is no
        parameter is refused here; not when the cell is run again, for then the values of later cells are there too.

        Raises:
            OptionError: an unknown parameter, or a value that is out of range.
        """
        plain = {
            name: value
            for name, value in namespace.items()
            if not name.startswith("_")
            and (name in PARAMETERS or isinstance(value, str | int | float | list | tuple | dict | None))
            and name not in ("In", "Out")
        }
        unknown = [name for name in plain if name not in PARAMETERS]
        if unknown and not any(isinstance(value, cls) for value in namespace.values()):
            raise OptionError(
                f"parameter {', '.join(unknown)}: expected some of {', '.join(PARAMETERS)}; variables of your own go "
                "below this cell"
            )
        return cls(**{name: value for name, value in plain.items() if name in PARAMETERS})

    def variant(self, **overrides: Any) -> Experiment:
        """The same experiment with some overrides changed."""
        other = Experiment(**self.settings | overrides)
        other._used = self._used  # one page, one table of provenance
        return other

    def stored(self) -> Experiment:
        """The same experiment that only reads: what is not in the store raises MissingError."""
        other = self.variant(make=False)
        other._slices, other._contents = self._slices, self._contents  # the same data: read once
        return other

    @property
    def seeds(self) -> list[int]:
        """The seeds over which sources are compared and transfer is repeated."""
        return [self.seed + each for each in range(self.profile.seeds)]

    @property
    def settings(self) -> dict[str, Any]:
        """What makes the same experiment again, in another process too."""
        given = {"data_root": self.data_root, "device": self.device, "seed": self.seed, "store": self.store.folder}
        return given | {"profile": self.profile.name, "make": self.store.make, **self.overrides}

    # ------------------------------------------------------------------ data

    def slices(self, name: str) -> Slices:
        """Slices of acdc, t1 or rvsc at the profile's size and spacing: real if a folder is named, else phantom.

        "textures" is neither: see `prr.data.textures`.

        Raises:
            OptionError: an unknown data set.
            DataError: a named folder that is not the data set.
        """
        if name not in (*READERS, TEXTURES):
            raise OptionError(f"data set {name!r}: expected one of {', '.join((*READERS, TEXTURES))}")
        if name not in self._slices:
            made = name == TEXTURES
            self._slices[name] = (
                textures(size=self.profile.size) if made else self._decoded(name, self._folder(name))
            )
            self._contents[name] = content(self._slices[name])
        return self._slices[name]

    def _folder(self, name: str) -> Path:
        if self.data_root is not None:
            root = Path(self.data_root).expanduser()
            if (root / name).is_dir():
                return root / name
            if not any((root / other).is_dir() for other in READERS):
                raise DataError(
                    f"data_root={root}: expected a folder that holds acdc/, t1/ or rvsc/, found none of them"
                )
        if folder := os.environ.get(f"PRR_{name.upper()}"):
            if not Path(folder).expanduser().exists():
                raise DataError(f"PRR_{name.upper()}={folder}: nothing there; correct the variable or unset it")
            return Path(folder).expanduser()
        return self._phantom(name)

    def _phantom(self, name: str) -> Path:
        patients = getattr(self.profile, f"{name}_patients")
        folder = self.store.folder / "phantoms" / f"{name}-{patients}-{_sources()}"
        if folder.exists():
            return folder / name
        self.store.check_make(folder)
        with self.store.lock(folder):
            for draft in folder.parent.glob(f".{folder.name}-*"):  # of a process that was killed
                shutil.rmtree(draft, ignore_errors=True)
            if not folder.exists():
                write_phantom(folder, patients={name: patients}, seed=PHANTOM_SEED)
        return folder / name

    def _decoded(self, name: str, folder: Path) -> Slices:
        scale = self.profile
        arguments = {"size": scale.size, "spacing_mm": scale.spacing_mm, "normalise": scale.normalisation}
        key = {"data set": name, **arguments, "files": fingerprint(folder), "readers": _sources()}

        def make() -> tuple[dict, dict]:
            slices = READERS[name](folder, **arguments)
            tensors = {"images": slices.images, "masks": slices.masks, "patient": slices.patient}
            return tensors, {"held_out": slices.held_out, "phantom": slices.phantom, "name": slices.name}

        tensors, record = self.store.tensors("slices", key, make)
        held_out = tuple(record["held_out"])
        return Slices(
            **tensors, spacing_mm=scale.spacing_mm, name=record["name"], held_out=held_out, phantom=record["phantom"]
        )

    # -------------------------------------------------------------- networks

    def model(
        self, network: str, dataset: str = "acdc", task: str = "segmentation", start: str | None = None,
        seed: int | None = None, patients: int | None = None, common: int | None = None, **scale: float,
    ) -> nn.Module:  # fmt: skip
        """A trained network in eval mode, from the store or trained now.

        Args:
            network: unet or pspnet, or another of `prr.study.backbones.ARCHITECTURES`.
            dataset: acdc, t1, rvsc or textures.
            task: segmentation, auto-encoding or denoising.
            start: see `prr.study.starts.initial`, or pretext: a network trained to segment textures; None: the
                profile's.
            seed: None: the experiment's.
            patients: train on so many patients only, drawn by the seed from the training part; None: on all of it.
            common: seed of what the start has in common with other networks; None: `seed`.
            scale: steps or learning_rate, where they are not the profile's.

        Raises:
            OptionError: an unknown network, data set, task or start, or more patients than there are.
        """
        return self._trained(self.key(network, dataset, task, start, seed, patients, common, **scale))[0]

    def history(
        self, network: str, dataset: str = "acdc", task: str = "segmentation", start: str | None = None,
        seed: int | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """DataFrame[step, loss, validation] of a network's training; arguments as `model`."""
        return pd.DataFrame(**self._trained(self.key(network, dataset, task, start, seed))[1]["history"])

    def start(
        self, network: str, dataset: str = "acdc", task: str = "segmentation", start: Start | None = None,
        seed: int | None = None, common: int | None = None,
    ) -> nn.Module:  # fmt: skip
        """The network from which the training of `model` with these arguments began, in eval mode."""
        model = self._begun(self.key(network, dataset, task, start, seed, None, common))
        return model.to(self.device, memory_format=torch.channels_last).eval()

    def _begun(self, key: Key) -> nn.Module:
        names = ("network", "width", "start", "data set", "task", "seed")
        if key["start"] == "pretext":
            return self.model(key["network"], **pretext(key.get("common", key["seed"])))
        return initial(*(key[name] for name in names), key.get("common"))

    def dice(self, network: str, dataset: str = "acdc", start: str | None = None) -> pd.DataFrame:
        """DataFrame[patient, class, dice] of a segmentation network on the validation patients."""
        part = self.slices(dataset).validation
        model = self.model(network, dataset, "segmentation", start)
        with self.threads():
            prediction = reuse.predict(model, part.images).argmax(1).cpu()
        return dice(prediction, part.masks, part.patient)

    def expected(self, network: str) -> float:
        """Foreground Dice that a network must reach for its chapter to mean something; 0 where nothing is promised.

        The profile's own promise, on phantoms, holds only where none of its values was overridden.
        """
        promised = not self.overrides and self.slices("acdc").phantom
        return EXPECTED_DICE.get((self.profile.name, network), 0) if promised else 0

    def _trained(self, key: Key) -> tuple[nn.Module, dict]:
        tensors, record = self.store.tensors("networks", key, lambda: self._train(key))
        model = random(key["network"], key["width"], 0)  # whatever is random is overwritten
        model.load_state_dict(tensors)
        self._note(key, key["task"] + (f", {key['patients']} patients" if "patients" in key else ""), record)
        return model.to(self.device, memory_format=torch.channels_last).eval(), record

    def _note(self, key: Key, made: str, record: dict) -> None:
        """Keep for `provenance` what was made, from which start, where and when."""
        words = {"made": made} | {name: key[name] for name in ("network", "normalisation", "start", "seed")}
        where = {name: record["made"][name] for name in ("commit", "date", "device", "torch")}
        self._used[f"{made} {digest(key)}"] = words | {"seconds": round(record["seconds"], 1)} | where

    def key(
        self, network: str, dataset: str = "acdc", task: str = "segmentation", start: Start | None = None,
        seed: int | None = None, patients: int | None = None, common: int | None = None, **scale: float,
    ) -> Key:  # fmt: skip
        """All that a trained network depends on, and nothing else; arguments as `model`."""
        for value, known, what in ((network, ARCHITECTURES, "network"), (task, training.LOSSES, "task")):
            if value not in known:
                raise OptionError(f"{what} {value!r}: expected one of {', '.join(known)}")
        if strange := sorted(set(scale) - {"steps", "learning_rate"}):
            raise OptionError(f"{', '.join(strange)}: expected steps or learning_rate; make a variant for the others")
        scale = profiles.profile(self.profile.name, **self.overrides | scale)
        start = checked_start(getattr(scale, f"{SIZED_AS[network]}_start") if start is None else start, network)
        seed = self.seed if seed is None else checked_seed(seed)
        self.slices(dataset)
        key = {
            "network": network,
            "data set": dataset,
            "task": task,
            "start": start,
            "seed": seed,
            "width": getattr(scale, f"{SIZED_AS[network]}_width"),
            "normalisation": scale.normalisation,
            "data": self._contents[dataset],
            **{name: getattr(scale, name) for name in ("steps", "batch_size", "learning_rate")},
            "device": self.device,
            "threads": scale.threads if self.device == "cpu" else None,
            "torch": torch.__version__,
            "recipe": training.RECIPE,
            **({} if patients is None else {"patients": patients}),
            **({} if common in (None, seed) or start in ("independent", "imagenet") else {"common": common}),
        }
        if start == "pretext":
            key["pretext"] = digest(self.key(network, **pretext(key.get("common", seed))))
        return key

    def _train(self, key: Key) -> tuple[dict, dict]:
        model = self._begun(key)
        slices = self.slices(key["data set"])
        if "patients" in key:
            slices = transfer.draw(slices, key["patients"], key["seed"])
        began = time.perf_counter()
        with self.threads():
            history = training.fit(
                model.to(self.device),
                slices,
                key["task"],
                seed=derived(key["seed"], key["data set"], key["task"]),
                progress=self.progress,
                **{name: key[name] for name in ("steps", "batch_size", "learning_rate")},
            )
        if not all(value.isfinite().all() for value in model.state_dict().values()):
            raise NetworkError(
                f"{key['network']}, {key['task']}: NaN or infinite weights after training with learning_rate="
                f"{key['learning_rate']:g}; take a smaller one"
            )
        record = {"history": history.to_dict("split", index=False), "seconds": time.perf_counter() - began}
        return model.state_dict(), record | {"made": provenance(self.device)}

    # ----------------------------------------------------------------- reuse

    def sweep(
        self,
        network: str,
        kinds: Sequence[str] = KINDS,
        layers: Sequence[int] | None = None,
        target: tuple[str, str] = ("acdc", "segmentation"),
        source: tuple[str, str] = ("acdc", "auto-encoding"),
        start: str | None = None,
        dose: float | str | None = None,
    ) -> pd.DataFrame:
        """`prr.sweep` of two trained networks on the target's validation patients, from the store or made now.

        Args:
            network: unet or pspnet.
            kinds: of parameters.
            layers: only these numbers; None: all.
            target: data set and task of the network that is judged; the paper's A1.
            source: data set and task of the network that gives; the paper's A2, B1 or B2.
            start: see `model`.
            dose: None replaces the target's tensor w by the source's w'; a number a puts w + a (w' - w) there, "noise"
                w and Gaussian noise of the same RMSE.
        """
        check_kinds(kinds)
        if not (dose is None or dose == "noise" or isinstance(dose, int | float)):
            raise OptionError(f'dose={dose!r}: expected a number, "noise" or None')
        layers = None if layers is None else sorted({int(layer) for layer in layers})
        judged, donor = (self.key(network, *each, start) for each in (target, source))
        models = [self.model(network, *each, start) for each in (target, source)]
        if dose is not None:
            models[1] = noisy(*models, self.seed) if dose == "noise" else towards(*models, dose)

        def make() -> tuple[pd.DataFrame, dict]:
            part = self.slices(target[0]).validation
            return reuse.sweep(*models, part, kinds=kinds, layers=layers, progress=self.progress), {}

        key = {"table": "sweep", "network": network, "kinds": list(kinds), "layers": layers, "recipe": reuse.RECIPE}
        key |= {} if dose is None else {"dose": dose, "seed": self.seed, "donors": donors.RECIPE}
        key |= {"pair": [digest(judged), digest(donor)]}
        return self.kept(key, judged, f"sweep{'' if layers is None else f' of {layers}'}", make)[0]

    def drops(
        self,
        network: str,
        target: dict[str, Any],
        source: dict[str, Any],
        donor: str = "source",
        amount: float | None = None,
        kinds: Sequence[str] = ("W",),
    ) -> pd.DataFrame:
        """`prr.reuse.drops` on one in `grid_every` of the slices of the target's validation patients.

        Args:
            network: see `model`.
            target: arguments of `model` for the network that is judged.
            source: the same for the network that gives.
            donor: what stands in the source's place: one of `prr.donors.DONORS`, or start: the network from which the
                target's training began.
            amount: for donors that take one.
            kinds: of parameters.

        Returns:
            DataFrame[kind, layer, name, patient, score, drop, rmse, relative]: the last two from target to donor.
        """
        judged, giver = self.key(network, **target), self.key(network, **source)
        every = self.profile.grid_every

        def make() -> tuple[pd.DataFrame, dict]:
            model, other = self._trained(judged)[0], self._trained(giver)[0]
            if donor == "start":
                other = self._begun(judged).to(self.device)
            else:
                other = donors.donor(donor, model, other, amount, self.seed)
            part = self.slices(judged["data set"]).validation.every(every)
            table = reuse.drops(model, other, part, kinds=kinds, progress=self.progress)
            return table.merge(rmse(model, other), how="left"), {}

        key = {"table": "drops", "kinds": list(kinds), "donor": donor, "amount": amount, "every": every}
        key |= {"seed": self.seed} if donor in donors.DRAWN else {}
        key |= {"recipe": [reuse.RECIPE, donors.RECIPE], "pair": [digest(judged), digest(giver)]}
        return self.kept(key, judged, f"drops by {donor}", make)[0]

    def kept(
        self, key: Key, of: Key, made: str, make: Callable[[], tuple[pd.DataFrame, dict]]
    ) -> tuple[pd.DataFrame, dict]:
        """A table and its record from the store, or made now with the profile's threads and timed.

        Args:
            key: all that it depends on.
            of: the key of the network that it is about, for `provenance`.
            made: what it is, for `provenance`.
            make: makes table and record.
        """

        def timed() -> tuple[pd.DataFrame, dict]:
            began = time.perf_counter()
            with self.threads():
                table, record = make()
            return table, record | {"seconds": time.perf_counter() - began, "made": provenance(self.device)}

        table, record = self.store.table(key, timed)
        self._note(of, made, record)
        return table, record

    def joint(self, network: str) -> pd.DataFrame:
        """What passes alone in `sweep`, taken from ACDC auto-encoding all at once, from the store or made now.

        Returns:
            DataFrame[pairs, score, drop, low, high], one row; `pairs` counts them.
        """
        judged, donor = (self.key(network, "acdc", task) for task in ("segmentation", "auto-encoding"))
        models = [self.model(network, "acdc", task) for task in ("segmentation", "auto-encoding")]
        swept = layer_verdicts(self.sweep(network))
        alone = swept[swept["verdict"] == REUSABLE]

        def make() -> tuple[pd.DataFrame, dict]:
            found = reuse.joint(*models, self.slices("acdc").validation, alone)
            return pd.DataFrame([{"pairs": len(alone), **found}]), {}

        key = {"table": "joint", "network": network, "recipe": [reuse.RECIPE, RECIPE]}
        key |= {"pair": [digest(judged), digest(donor)]}
        return self.kept(key, judged, "joint transplant", make)[0]

    def judge(self, network: str, patients: int | None = None) -> Verdict:
        """`prr.judge` of ACDC segmentation with the five other networks as sources, from the store or made now.

        Args:
            network: unet or pspnet; its networks are trained if need be.
            patients: the target was trained on so many patients only, drawn by the seed; None: on all.
        """
        few = {label: {"patients": patients} if label == TARGET else {} for label in SIX}
        keys = {label: self.key(network, *each, **few[label]) for label, each in SIX.items()}
        models = {label: self.model(network, *each, **few[label]) for label, each in SIX.items()}

        def make() -> tuple[pd.DataFrame, dict]:
            sources = {label: model for label, model in models.items() if label != TARGET}
            part = self.slices("acdc").validation
            verdict = judge(models[TARGET], sources, part, seed=self.seed, progress=self.progress)
            record = {name: getattr(verdict, name).to_dict("split", index=False) for name in VERDICT_TABLES}
            facts = {name: getattr(verdict, name) for name in VERDICT_FACTS}
            return verdict.layers, record | {"facts": facts}

        key = {"table": "verdict", "network": network, "recipe": [reuse.RECIPE, RECIPE], "seed": self.seed}
        key |= {"networks": [digest(each) for each in keys.values()]}
        layers, record = self.kept(key, keys[TARGET], "verdict", make)
        tables = {name: pd.DataFrame(**record[name]) for name in VERDICT_TABLES}
        return Verdict(layers=layers, **tables, **record["facts"])

    # -------------------------------------------------------------- transfer

    def transfer_row(self, **arguments: Any) -> pd.DataFrame:
        """One run of the transfer experiment; see `prr.study.transfer.run_row`."""
        return transfer.run_row(self, **arguments)

    def transfer(self) -> pd.DataFrame:
        """All runs of the transfer experiment; see `prr.study.transfer.table`."""
        return transfer.table(self)

    # ---------------------------------------------------- reuse or redundancy

    def jointly(self, **arguments: Any) -> pd.DataFrame:
        """Sets of parameters put into a target at once; see `prr.study.prefixes.jointly`."""
        return prefixes.jointly(self, **arguments)

    def prefix(self, **arguments: Any) -> pd.DataFrame:
        """A prefix loaded and the rest trained shortly; see `prr.study.prefixes.prefix`."""
        return prefixes.prefix(self, **arguments)

    def scored(self, **arguments: Any) -> pd.DataFrame:
        """The cheap scores of one source; see `prr.study.prediction.scored`."""
        return prediction.scored(self, **arguments)

    def fine_tuned(self, **arguments: Any) -> pd.DataFrame:
        """One source fine-tuned on few patients; see `prr.study.prediction.fine_tuned`."""
        return prediction.fine_tuned(self, **arguments)

    def distances(self, **arguments: Any) -> pd.DataFrame:
        """RMSE beside its nulls; see `prr.study.prediction.distances`."""
        return prediction.distances(self, **arguments)

    def example(self, name: str) -> nn.Module:
        """One of the networks that stand in for a reader's own; see `prr.study.examples.trained`."""
        return examples.trained(self, name)

    # ------------------------------------------------------------ provenance

    @property
    def stamp(self) -> Words:
        """One line: profile and overrides, seed, device, the data read so far, commit and versions."""
        made = provenance(self.device)
        threads = f", threads: {self.profile.threads}" if self.device == "cpu" else ""
        changed = MEANINGLESS.get(self.profile.name, "")
        changed += "".join(f", {name} {value}" for name, value in self.overrides.items())
        data = [
            f"{each.name} {'phantom' if each.phantom else 'real'} ({len(each.patient.unique())} patients)"
            for each in self._slices.values()
            if each.name != TEXTURES
        ]
        parts = [f"profile {self.profile.name}{changed}", f"seed {self.seed}", f"{made['device']}{threads}", *data]
        versions = [
            f"built at commit {made['commit']}",
            f"torch {made['torch']}",
            f"Python {made['python']}",
            made["date"][:10],
        ]
        return Words(" · ".join(parts + versions))

    def provenance(self) -> pd.DataFrame:
        """What this page's results were made of: networks and sweeps, as they were made, which may be another day.

        Returns:
            DataFrame[made, network, normalisation, start, seed, seconds, commit, date, device, torch].
        """
        return pd.DataFrame(self._used.values())

    @contextlib.contextmanager
    def threads(self) -> Iterator[None]:
        """A CPU job uses the profile's number of threads, whatever the machine has: results depend on it."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.profile.threads if self.device == "cpu" else before)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def checked_seed(seed: int) -> int:
    """The seed, if it is one.

    Raises:
        OptionError: no whole number from 0.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise OptionError(f"seed={seed!r}: expected a whole number from 0")
    return seed


def available(device: str) -> str:
    """The device that a name stands for.

    Raises:
        OptionError: an unknown device, or one that this machine or this torch has not.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, is_there in there.items() if is_there)
    if not isinstance(device, str) or device not in there:
        raise OptionError(f"device {device!r}: expected auto, {', '.join(there)}")
    if not there[device]:
        raise OptionError(
            f"device {device!r}: not on this machine, or this torch was built without it; take auto or cpu"
        )
    return device


def _sources() -> str:
    """Digest of the code that reads and makes data: cheap to run again, so it needs no revision by hand."""
    files = sorted((Path(__file__).parents[1] / "data").glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
