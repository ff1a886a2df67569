"""The command line: `python -m prr COMMAND --help`."""

import ast
import os
from pathlib import Path

import click

from prr.errors import DataError, OptionError, PrrError

DATA_SETS = ("acdc", "t1", "rvsc")


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


def _in_one_line(message: str) -> click.ClickException:
    failure = click.ClickException(" ".join(message.split()))
    failure.exit_code = 2
    return failure


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Which parameters of a trained network can another one use?"""


def _values(settings: tuple[str, ...]) -> dict:
    """name=value pairs as a dict; a value that reads as a Python literal is one, anything else is text."""
    values = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.isidentifier():
            raise OptionError(f"--set {setting}: expected name=value")
        try:
            values[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[name] = text
    return values


@main.command()
@click.option("--profile", default="quick", show_default=True, help="The scale: smoke, quick or paper.")
@click.option("--chapters", multiple=True, metavar="NN", help='Only these: "03 04", or the option twice.')
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A parameter of the chapters.")
@click.option("--device", help="The same as --set device=...: auto, cpu, cuda or mps.")
@click.option("--out", type=click.Path(path_type=Path), help="Build here, not in build/<profile>.")
@click.option("--prepare", type=click.Path(path_type=Path), help="Only write the chapters, parameters set, here.")
@click.option("--dry-run", is_flag=True, help="Only say which networks would be trained, and at what cost.")
def book(
    profile: str,
    chapters: tuple[str, ...],
    settings: tuple[str, ...],
    device: str | None,
    out: Path | None,
    prepare: Path | None,
    dry_run: bool,
) -> None:
    """Execute the chapters that changed and build the book."""
    from prr import book as builder
    from prr.study import profiles

    profiles.profile(profile)  # refuses an unknown one before it becomes a folder's name
    numbers = " ".join(chapters).replace(",", " ").split()
    parameters = _values(settings) | ({"device": device} if device else {})
    if dry_run:
        from prr.study.plan import plan

        given = builder.all_given(profile, parameters)
        for notebook in builder.select(builder.ROOT, numbers):
            builder.check_declared(notebook, given)
        click.echo(plan(given.pop("profile"), numbers, **given).to_string(index=False))
    elif prepare:
        builder.prepare(profile, prepare, chapters=numbers, parameters=parameters)
    else:
        builder.build(profile, chapters=numbers, parameters=parameters, out=out)


@main.group(invoke_without_command=True)
@click.pass_context
def data(ctx: click.Context) -> None:
    """Say which data sets were found where; check a folder; write phantoms."""
    if ctx.invoked_subcommand:
        return
    broken = []
    for name in DATA_SETS:
        variable = f"PRR_{name.upper()}"
        folder = os.environ.get(variable)
        try:
            found = _checked(name, Path(folder)) if folder else f"a phantom (set {variable} to use the real one)"
        except PrrError as error:
            found = f"not usable: {error}"
            broken.append(variable)
        click.echo(f"{name:<5} {folder or '-'}: {found}")
    if broken:
        raise DataError(f"{', '.join(broken)}: expected a data set, found none that can be used; see above")


@data.command()
@click.argument("name", type=click.Choice(DATA_SETS))
@click.argument("folder", type=click.Path(path_type=Path))
def check(name: str, folder: Path) -> None:
    """Read FOLDER as data set NAME: counts, labels, spacing, missing pairs."""
    report = _checked(name, folder)
    click.echo(report)
    if "\n" in report:  # a line for each missing file
        raise DataError(f"{folder}: expected all that its files promise, found some missing; get the data set again")


@data.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--patients", default=8, show_default=True, type=click.IntRange(1), help="In each data set.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
def phantom(folder: Path, patients: int, seed: int) -> None:
    """Write phantoms of all three data sets into FOLDER, each in its own layout."""
    from prr.data import write_phantom

    write_phantom(folder, patients=patients, seed=seed)
    click.echo(f"{folder}: {', '.join(DATA_SETS)} with {patients} patients each")


def _checked(name: str, folder: Path) -> str:
    """What a data set's folder holds, in one line and one more for each missing file."""
    from prr.data import check

    found = check(name, folder.expanduser())
    spacing = "no spacing" if found["spacing_mm"] is None else "{:g} to {:g} mm".format(*found["spacing_mm"])
    counts = (
        f"{found['patients']} patients, {found['volumes']} volumes, {found['slices']} slices, "
        f"labels {found['labels']}, {spacing}{', phantom' if found['phantom'] else ''}, {len(found['missing'])} missing"
    )
    return "\n".join([counts, *(f"  missing: {line}" for line in found["missing"])])


@main.command()
@click.option("--profile", default="quick", show_default=True, help="The scale whose results are read.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A parameter of the chapters.")
@click.option("--csv", type=click.Path(path_type=Path), help="Write the ledger here, and its leaves beside it.")
@click.option("--leaves", is_flag=True, help="Print the leaves of each claim too.")
def claims(profile: str, settings: tuple[str, ...], csv: Path | None, leaves: bool) -> None:
    """Print the ledger: each claim of the paper, tested on what is in the store. Nothing is computed for it."""
    from prr.study import Experiment, ledger
    from prr.study.results import Results

    results = Results(Experiment(profile, **_values(settings)))
    table, single = ledger.ledger(results), ledger.leaves(results)
    for row in table.itertuples():
        here = f" (here {row.here})" if row.verdict == ledger.ANALOGUE else ""
        click.echo(f"{row.id}: {row.verdict}{here}\n    {row.claim} ({row.where})\n    {row.reason}")
        for leaf in single[single["id"] == row.id].itertuples() if leaves else ():
            click.echo(f"      {leaf.verdict}: {leaf.leaf}: {leaf.here:z.3g} [{leaf.low:z.3g}, {leaf.high:z.3g}]")
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
