"""The command line: `python -m prr COMMAND --help`.

Help imports neither torch nor what needs it, so names of profiles and of data sets are looked up by the commands.
"""

from __future__ import annotations

import ast
import functools
import importlib
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from prr.errors import DataError, OptionError, PrrError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from prr.data.volumes import Report
    from prr.study import Experiment


class Commands(click.Group):
    """A group that says what went wrong in one line on stderr, and exits with 2."""

    def invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except click.UsageError as error:  # click would print the usage above the message
            raise _in_one_line(error.format_message()) from error
        except PrrError as error:
            raise _in_one_line(str(error)) from error
        except OSError as error:
            place, found = error.filename or "a file", error.strerror or error
            raise _in_one_line(
                f"{place}: expected to read or write there, found: {found}; choose another folder or free some space"
            ) from error
        except ModuleNotFoundError as error:
            if (error.name or "prr").split(".")[0] == "prr":
                raise
            raise _in_one_line(f"expected the module {error.name}; install it with the extra: pr-rmse[book]") from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(90)) for name in names])


SECTIONS = {
    "Your own networks": ("judge", "rmse"),
    "The book": ("book", "study", "claims", "data", "edition", "store"),
}


def _in_one_line(message: str) -> click.ClickException:
    failure = click.ClickException(" ".join(message.split()))
    failure.exit_code = 2
    return failure


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Which parameters of a trained network can another one use?"""


def _values(ctx: click.Context, option: click.Parameter, settings: tuple[str, ...]) -> dict[str, Any]:
    """name=value pairs as a dict; a value that reads as a Python literal is one, anything else is text."""
    values = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.isidentifier():
            raise OptionError(f"--set {setting}: expected name=value")
        if name == "profile":
            raise OptionError(f"--set {setting}: give it as --profile, which also names the folder of a build")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    return values


def _numbers(ctx: click.Context, option: click.Parameter, chapters: tuple[str, ...]) -> list[str]:
    return " ".join(chapters).replace(",", " ").split()


def _place(ctx: click.Context, option: click.Parameter, key: str | None) -> str | int | None:
    """A place among outputs as a number, a key as it is."""
    return int(key) if key and key.isdecimal() else key


PROFILE = {"show_default": True, "help": "The scale, one of PROFILES in prr/study/profiles.py."}
CHAPTERS = click.option(
    "--chapters", multiple=True, metavar="NN", callback=_numbers, help='Only these: "03 04", or the option twice.'
)
SETTINGS = click.option(
    "--set", "parameters", multiple=True, metavar="NAME=VALUE", callback=_values,
    help="A parameter of the experiment, or of a chapter.",
)  # fmt: skip


@main.command()
@click.option("--profile", default="quick", **PROFILE)
@click.option("--edition", help="Show the results of this folder in data/editions; nothing is computed.")
@CHAPTERS
@SETTINGS
@click.option("--device", help="The same as --set device=...: auto, cpu, cuda or mps.")
@click.option("--out", type=click.Path(path_type=Path), help="Build here, not in build/<profile>.")
@click.option("--prepare", type=click.Path(path_type=Path), help="Only write the chapters, parameters set, here.")
@click.option("--dry-run", is_flag=True, help="Only say which networks would be trained, and at what cost.")
@click.pass_context
def book(
    ctx: click.Context, profile: str, edition: str | None, chapters: list[str], parameters: dict[str, Any],
    device: str | None, out: Path | None, prepare: Path | None, dry_run: bool,
) -> None:  # fmt: skip
    """Execute the chapters that changed and build the book."""
    from prr.book import execute
    from prr.study import profiles
    from prr.study.chapters import plan
    from prr.study.experiment import PARAMETERS

    profiles.profile(profile)  # refuses an unknown one before it becomes a folder's name
    parameters |= {"device": device} if device else {}
    if "edition" in parameters:
        raise OptionError(f"--set edition={parameters['edition']}: give it as --edition")
    chosen = ctx.get_parameter_source("profile") != click.core.ParameterSource.DEFAULT
    if edition and (parameters or chosen or dry_run or prepare):
        raise OptionError(f"--edition {edition}: expected no other scale, device or way to build beside it")
    known = {name: value for name, value in parameters.items() if name in PARAMETERS}  # others are a chapter's own
    if dry_run:
        for notebook in execute.select(execute.ROOT, chapters):
            execute.check_known(notebook, parameters)
        click.echo(plan(_experiment(profile, known), *chapters).to_string(index=False))
    elif prepare:
        execute.prepare(profile, prepare, chapters=chapters, parameters=parameters)
    else:
        first = None if edition else functools.partial(_make_results, profile, known)
        execute.build(profile, edition=edition, chapters=chapters, parameters=parameters, out=out, first=first)


def _experiment(profile: str, parameters: dict[str, Any]) -> Experiment:
    from prr.study import Experiment

    return Experiment.from_parameters({"profile": profile, **parameters})


def _make_results(profile: str, parameters: dict[str, Any], chapters: list[str]) -> None:
    """Make what some chapters show, or all of them, unless the store has it."""
    began = time.perf_counter()
    _experiment(profile, parameters).prepare(*chapters)
    named = f"of chapters {', '.join(chapters)}" if chapters else "of all chapters"
    click.echo(f"results {named}: ready in {time.perf_counter() - began:.0f} s")


@main.command()
@click.option("--profile", default="quick", **PROFILE)
@CHAPTERS
@SETTINGS
@click.option("--jobs", type=click.IntRange(1), help="Processes at a time on this machine.  [default: one a core]")
@click.option("--scheduler", metavar="ADDRESS", help="Of a dask cluster that shares the store: tcp://host:8786.")
def study(
    profile: str, chapters: list[str], parameters: dict[str, Any], jobs: int | None, scheduler: str | None
) -> None:
    """Make all networks and tables that the chapters show, here or on a cluster; the book then only reads them."""
    os.environ |= {"PRR_JOBS": str(jobs)} if jobs else {}
    os.environ |= {"PRR_SCHEDULER": scheduler} if scheduler else {}
    _make_results(profile, parameters, chapters)


@main.command()
@click.argument("name")
@click.option("--profile", default="paper", **PROFILE)
@SETTINGS
@click.option("--device", default="cuda", show_default=True, help="Another one makes a stand-in, for tests.")
@click.option("--minutes", type=click.FloatRange(0), help="Begin no job after so many; run it again to go on.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where editions lie, if not in data/editions.")
def edition(
    name: str, profile: str, parameters: dict[str, Any], device: str, minutes: float | None, folder: Path | None
) -> None:
    """Compute edition NAME on a CUDA device: results alone, from which `book --edition NAME` renders anywhere."""
    from prr.book.record import record

    where = {"folder": folder} if folder else {}
    made = record(name, profile, device=device, minutes=minutes, parameters=parameters, **where)
    if made is None:
        click.echo(f"edition {name}: not finished yet; what is computed is kept: run the command again to go on")
        sys.exit(3)
    size = sum(path.stat().st_size for path in made.folder.iterdir()) / 1e6
    click.echo(f"edition {name}: {made.jobs()['jobs'].sum()} results, {size:.1f} MB in {made.folder}")


class Output(click.Path):
    """A file to write; its folder has to be there before the work begins."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(super().convert(value, param, ctx))
        if not path.absolute().parent.is_dir():
            self.fail(f"{path}: expected a folder {path.parent}, found none; make it first", param, ctx)
        return path


FILE, OUTPUT = click.Path(path_type=Path), Output(dir_okay=False)


@main.group(invoke_without_command=True)
@click.pass_context
def data(ctx: click.Context) -> None:
    """Say what stands in the places of the study; check a folder; write phantoms and drawn shapes."""
    if ctx.invoked_subcommand:
        return
    from prr.data import check
    from prr.study.datasets import PLACES, given, in_place, is_own

    broken, own = [], False
    for place, alias in PLACES.items():
        named = f"PRR_{alias.upper()} or PRR_{place.upper()}"
        lines, usable = [f"{'nothing' if own else 'a phantom'}; name a folder in {named}"], True
        try:
            if source := in_place(place):
                own |= is_own({place: source})
                found = check(source.folder, source.layout, labels=source.labels)
                lines, usable = _lines(found), not found.refused
        except PrrError as error:
            lines, usable = [f"not usable: {error}"], False
        broken += [] if usable else [alias]
        click.echo("\n".join([f"{alias} ({place}): {lines[0]}", *lines[1:]]))
    if broken:
        raise DataError(f"{', '.join(broken)}: expected a data set, found none that can be used; see above")
    given(None)  # refuses what no place alone can tell


@data.command()
@click.argument("place", nargs=-1, required=True, metavar="[NAME] FOLDER")
@click.option("--labels", metavar='"NAME=VALUE ..."', help='What the values in masks are, such as "RV=1 MYO=2 LV=3".')
@click.option("--picture", type=OUTPUT, help="Draw some slices with their outlines here: .png, .svg or .pdf.")
def check(place: tuple[str, ...], labels: str | None, picture: Path | None) -> None:
    """Read FOLDER as its reader does and say all that it refuses or warns of; its layout is told, or is NAME's."""
    from prr.data import check

    if len(place) > 2:
        raise OptionError(f"{' '.join(place)}: expected [NAME] FOLDER, found {len(place)} words")
    *name, folder = place
    found = check(Path(folder).expanduser(), *name, labels=labels)
    click.echo("\n".join(_lines(found)))
    if picture and found.data is not None:
        from prr.study import figures

        _save(figures.slices(found.shown(), note=f"{folder}, a slice of each of some patients"), picture)
    if found.refused:
        raise DataError(f"{folder}: expected files that its reader can read, found some that it refuses; see above")


@data.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--patients", default=8, show_default=True, type=click.IntRange(1), help="In each data set.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
def phantom(folder: Path, patients: int, seed: int) -> None:
    """Write phantoms of all data sets into FOLDER, each in its own layout."""
    from prr.data import DATA_SETS, write_phantom

    write_phantom(folder, patients=patients, seed=seed)
    click.echo(f"{folder}: {', '.join(DATA_SETS)} with {patients} patients each")


@data.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--cases", default=40, show_default=True, type=click.IntRange(1))
@click.option("--classes", default=3, show_default=True, type=click.IntRange(2, 4), help="Background among them.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
def shapes(folder: Path, cases: int, classes: int, seed: int) -> None:
    """Write drawn pictures into FOLDER in nnU-Net's layout: a small target, to try make book TARGET=FOLDER."""
    from prr.data import write_shapes

    click.echo(f"{write_shapes(folder, cases, classes, seed)}: {cases} pictures of {classes} classes")


def _lines(found: Report) -> list[str]:
    """What a reader met, a line each: counts, labels, what is told, what is refused."""
    spacing = f"{min(found.spacing_mm):.4g} to {max(found.spacing_mm):.4g} mm" if found.spacing_mm else "no spacing"
    counts = (
        f"{found.name} in {found.root}: {len(found.patients)} patients, {found.volumes} volumes, "
        f"{found.slices} slices, {spacing}{', phantom' if found.phantom else ''}, {len(found.refused)} refused"
    )
    areas = [
        f"  label {label}, {found.names.get(label, 'not counted')}: {len(area)} slices, median {median(area):.2f} cm2"
        for label, area in sorted(found.areas.items())
        if label
    ]
    told, refused = ([f"  {kind}: {line}" for line in getattr(found, kind)] for kind in ("told", "refused"))
    return [counts, *areas, *told, *refused]


KEY = click.option("--key", metavar="KEY", help="Which weights to take from files that hold several sets, such as ema.")
STRIP = click.option("--strip", metavar="PREFIX", help="Take the weights whose names begin with it, and drop it.")


@main.command()
@click.argument("target", type=FILE)
@click.argument("source", type=FILE)
@KEY
@STRIP
@click.option("--csv", type=OUTPUT, help="Write the table here.")
@click.option("--json", type=OUTPUT, help="Write the table here, as records.")
@click.option("--html", type=OUTPUT, help="Write one self-contained page here.")
@click.option("--figure", type=OUTPUT, help="Write the curves here: .png, .svg or .pdf.")
def rmse(
    target: Path, source: Path, key: str | None, strip: str | None,
    csv: Path | None, json: Path | None, html: Path | None, figure: Path | None,
) -> None:  # fmt: skip
    """Compare two checkpoints, TARGET and SOURCE, layer by layer, without their networks' code."""
    from prr import checkpoints, distance, figures, layers, page

    networks, state = [], {}
    for path in (target, source):
        state, told = checkpoints.read(path, state, key=key, strip=strip)  # the source's names as the target has them
        networks.append(checkpoints.skeleton(state))
        covered = {layers.full_name(kind, name) for kind, _, name, _ in layers.entries(networks[-1])}
        outside = [name for name in state if name not in covered and not name.endswith("num_batches_tracked")]
        told += [f"{len(outside)} tensors are no parameters, {outside[0]} among them"] if outside else []
        for line in told:
            click.echo(f"{path.name}: {line}", err=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is not comparable is listed below
        table = distance.rmse(*networks)
    rest = layers.incomparable(*networks)
    whole = layers.parameter_table(networks[0])
    compared = whole.merge(table[["kind", "name"]])["size"].sum() / whole["size"].sum()
    click.echo(table.to_string(index=False, float_format="{:.4g}".format))
    if len(rest):
        click.echo(f"{target.name}: {compared:.1%} of its numbers are compared", err=True)
    for row in rest.itertuples():
        click.echo(f"not comparable: {row.kind} {row.name}: {row.target or 'none'}, {row.source or 'none'}", err=True)
    if csv:
        page.write(csv, table.to_csv(index=False))
    if json:
        page.write(json, table.to_json(orient="records", indent=1))
    if html:
        bars = table.assign(bar=page.bars(table["relative"]))
        sections = [page.Section("Layer by layer", "", bars), page.Section("Not comparable", "", rest)]
        median = table.loc[table["kind"].isin(layers.KERNELS), "relative"].median()
        answer = f"Median relative RMSE of the kernels: {median:.3f}; two that have nothing in common are near 1.41. "
        answer += f"Compared are {compared:.1%} of the numbers of {target.name}."
        title, made = f"{target.name} and {source.name}", {"target": target, "source": source}
        page.write(html, page.render(title, answer, sections, made))
    if figure:
        _save(figures.rmse(table, kinds=tuple(table["kind"].unique())), figure)


def _save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of its ending."""
    try:
        figure.savefig(path, bbox_inches="tight", dpi=150)
    except ValueError as error:
        raise OptionError(f"{path}: expected .png, .svg or .pdf, found {path.suffix or 'no ending'}") from error


@main.command()
@click.option("--model", required=True, metavar="MODULE:FACTORY", help="Called without arguments, gives the network.")
@click.option("--target", required=True, type=FILE, help="Weights of the network that is judged.")
@click.option("--source", "sources", required=True, multiple=True, metavar="[NAME=]FILE", help="Weights to take from.")
@KEY
@STRIP
@click.option("--data", required=True, metavar="MODULE:DATA", help="Tensors, Dataset, DataLoader, or what gives them.")
@click.option("--score", help="dice, accuracy, r2 or MODULE:FUNCTION; by default what suits the targets.")
@click.option("--output", callback=_place, metavar="KEY", help="Which of several outputs is scored: its key or place.")
@click.option("--ignore-index", type=int, help="Label that is not counted, such as 255.")
@click.option("--threshold", type=float, help="Of an output of one class: 0 for logits, 0.5 for probabilities.")
@click.option("--chance", type=float, help="What an answer scores that looks at no image, for a score of your own.")
@click.option("--tolerance", type=float, help="Drop that counts as unchanged.  [default: TOLERANCE of prr/verdict.py]")
@click.option("--kinds", default=None, metavar="KIND,KIND", help="Kinds of parameter to judge.  [default: all]")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1))
@click.option("--policy", default="each", show_default=True, help="each source is swept; drawn: one, as in the paper.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the draw among the sources.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or mps.")
@click.option("--bfloat16", is_flag=True, help="Sweep in half precision, where the device is faster at it.")
@click.option("--csv", type=OUTPUT, help="Write the table of layers here.")
@click.option("--json", type=OUTPUT, help="Write all tables here.")
@click.option("--html", type=OUTPUT, help="Write one self-contained page here.")
def judge(
    model: str, target: Path, sources: tuple[str, ...], key: str | None, strip: str | None, data: str,
    score: str | None, tolerance: float | None, kinds: str | None, device: str,
    csv: Path | None, json: Path | None, html: Path | None, **options: Any,
) -> None:  # fmt: skip
    """Judge what of one checkpoint can be reused in another: which layers, which source, what plan."""
    from prr import checkpoints, page, verdict
    from prr.copies import check_module
    from prr.layers import ALL

    factory, found = _imported(model), _imported(data)
    paths = dict(_named(spec) for spec in sources)
    if len(paths) < len(sources):
        raise OptionError(f"sources {', '.join(sources)}: expected names that differ; write NAME=FILE for each")
    networks = {}
    for name, path in {None: target, **paths}.items():
        check_module(network := _called(model, factory))
        if name is None:
            told = checkpoints.load(network, path, key, strip)
        else:
            network, told = checkpoints.source(network, path, key, strip)
        for line in told:
            click.echo(f"{path.name}: {line}", err=True)
        try:
            networks[name] = network.to(device)
        except (RuntimeError, AssertionError) as error:
            raise OptionError(f"device {device}: expected one that is there, found none; take cpu") from error
    judged = verdict.judge(
        networks.pop(None), networks, _called(data, found) if callable(found) else found,
        kinds=kinds.replace(" ", "").split(",") if kinds else ALL,
        score=_imported(score) if score and ":" in score else score,
        tolerance=verdict.TOLERANCE if tolerance is None else tolerance, progress=True, **options,
    )  # fmt: skip
    click.echo(str(judged))
    if csv:
        page.write(csv, judged.layers.to_csv(index=False))
    if json:
        page.write(json, judged.to_json())
    if html:
        page.write(html, judged.to_html())


def _named(spec: str) -> tuple[str, Path]:
    """The name and the file of [NAME=]FILE; a file's own name may hold a = too."""
    name, sign, path = spec.partition("=")
    if Path(spec).is_file() or not sign:
        return Path(spec).stem, Path(spec)
    return name, Path(path)


def _imported(spec: str) -> Any:
    """What `package.module:name` names; the current folder is looked in too."""
    module, _, name = spec.partition(":")
    if not module or not name:
        raise OptionError(f"{spec}: expected MODULE:NAME, such as package.module:factory")
    sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the module does when it is imported
        raise OptionError(
            f"{spec}: can't be imported from here ({type(error).__name__}: {error}); correct the name, or install it"
        ) from error
    finally:
        sys.path.remove(os.getcwd())


def _called(spec: str, factory: Callable[[], Any]) -> Any:
    """What a function of the caller's gives."""
    try:
        return factory()
    except Exception as error:
        raise OptionError(f"{spec}: calling it failed with {type(error).__name__}: {error}") from error


@main.command()
@click.option("--profile", default="quick", **PROFILE)
@SETTINGS
@click.option("--csv", type=click.Path(path_type=Path), help="Write the ledger here, and its leaves beside it.")
@click.option("--leaves", is_flag=True, help="Print the leaves of each claim too.")
def claims(profile: str, parameters: dict[str, Any], csv: Path | None, leaves: bool) -> None:
    """Print the ledger: each claim of the paper, tested on what is in the store. Nothing is computed for it."""
    from prr.study import ledger

    run = _experiment(profile, parameters)
    table, single = ledger.ledger(run), ledger.leaves(run)
    for row in table.itertuples():
        click.echo(f"{row.id}: {row.verdict} ({row.behind})\n    {row.claim} ({row.where})\n    {row.found}")
        for leaf in single[single["id"] == row.id].itertuples() if leaves else ():
            click.echo(f"      {leaf.verdict}: {leaf.found}")
    click.echo(ledger.in_words(table))
    if csv:
        table.to_csv(csv, index=False)
        single.to_csv(csv.with_name(f"{csv.stem}_leaves{csv.suffix}"), index=False)


@main.command()
@click.option("--clean", is_flag=True, help="Delete what the store keeps; it is made again when it is needed.")
def store(clean: bool) -> None:
    """List the networks, slices and tables that are kept, with their size; clean them away."""
    from prr.study.store import Store

    kept = Store()
    if kept.folder.exists() and not kept.folder.is_dir():
        raise DataError(f"{kept.folder}: expected a folder, found a file; correct PRR_STORE")
    table = kept.list()
    if clean:
        click.echo(f"{kept.folder}: {kept.clean()} files deleted")
    elif table.empty:
        click.echo(f"{kept.folder}: empty")
    else:
        click.echo(table.to_string(index=False))
        click.echo(f"{kept.folder}: {len(table)} results, {table['megabytes'].sum():.1f} MB")


if __name__ == "__main__":
    main(prog_name="python -m prr")
