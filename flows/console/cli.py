"""``shipway``: the console script. Each command's work is in a module of its own, imported when it runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="shipway",
    help="Carries a registered model version to a verdict on real traffic, acts on it, and records why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@contextmanager
def told() -> Iterator[None]:
    """An error that Shipway raised on purpose becomes one message on stderr and exit code 1."""
    from bentos.serving.errors import ShipwayError

    try:
        yield
    except ShipwayError as error:
        typer.echo(f"shipway: {error}", err=True)
        raise typer.Exit(1) from error


@app.command()
def up() -> None:
    """Start the embedded stack, and wait until every part has answered."""
    with told():
        from rich.console import Console

        from flows.console.screen import Progress, status_view
        from flows.console.status import look
        from flows.stack.up import bring_up
        from infra.settings import load_settings

        console = Console()
        settings = load_settings(os.environ)
        with Progress(console) as progress:
            _, started = bring_up(settings, progress)
        console.print("The stack is up." if started else "The stack was already up.")
        console.print(status_view(look(os.environ)))
        console.print("Point Prefect's and MLflow's own commands at it with: eval \"$(shipway env)\"")


@app.command()
def down() -> None:
    """Stop the stack; no process of it is left. Nothing that it kept is lost."""
    with told():
        from flows.stack.down import take_down
        from infra.settings import load_settings

        settings = load_settings(os.environ)
        typer.echo("The stack is down." if take_down(settings) else f"No stack runs at {settings.root}.")


@app.command()
def env() -> None:
    """Print the exports that point Prefect's and MLflow's own commands at the stack."""
    with told():
        from flows.stack.env import exports

        typer.echo(exports(os.environ))


@app.command()
def status(
    model: Annotated[str | None, typer.Argument(help="Only this registered model.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show parts, models, routes and model servers. Exit code 3 when the stack is not up."""
    with told():
        from flows.console.status import look

        found = look(os.environ, model)
        if as_json:
            import json

            typer.echo(json.dumps(found, indent=2))
        else:
            from rich.console import Console

            from flows.console.screen import status_view

            Console().print(status_view(found))
    if not found["up"]:
        raise typer.Exit(3)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack up afterwards.")] = False,
    target: Annotated[str | None, typer.Option(help="Target block that runs the versions: process or docker.")] = None,
) -> None:
    """Carry four versions of a model of real flights to their verdicts, under live traffic. Exit code 1 when one differs."""
    with told():
        from rich.console import Console

        from examples.flights.demo import run_demo
        from infra.settings import load_settings

        report = run_demo(load_settings(os.environ), keep=keep, target=target, console=Console())
    if report.problems:
        raise typer.Exit(1)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="Id or name of the flow run that waits.")],
    decision: Annotated[str, typer.Argument(help="promote or rollback.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the release record.")] = "",
) -> None:
    """Answer a release that waits for a person's approval."""
    with told():
        from flows.stack.env import find_stack
        from flows.triggers.resume import answer

        identifier = answer(find_stack(os.environ)[1].prefect_api, run, decision, reason)
        typer.echo(f"flow run {identifier} goes on with: {decision}")


@app.command()
def verify(
    what: Annotated[
        str | None, typer.Argument(help="A model, or the MLflow run of one release; empty: everything.")
    ] = None,
) -> None:
    """Recompute hash chain, digests and verdicts of release records. Exit code 1 when one does not hold."""
    with told():
        from flows.console.verify import check_records
        from flows.stack.env import find_stack

        said, holds = check_records(*find_stack(os.environ), what)
        typer.echo(said)
    if not holds:
        raise typer.Exit(1)


@app.command()
def dockerfile(
    model: Annotated[str | None, typer.Argument(help="Registered model; left out with --generic.")] = None,
    output: Annotated[Path, typer.Option(help="Folder to write, new or empty.")] = Path("image"),
    version: Annotated[str | None, typer.Option(help="Version; else --alias, else the champion.")] = None,
    alias: Annotated[str | None, typer.Option(help="Alias of the version.")] = None,
    generic: Annotated[bool, typer.Option("--generic", help="The serving image without any model.")] = False,
) -> None:
    """Write the Dockerfile and the context of a version's image, for builders elsewhere."""
    if (model is None) != generic:
        raise typer.BadParameter("expected a MODEL, or --generic without one")
    with told():
        from flows.console.dockerfile import write_generic, write_of_stack
        from infra.settings import load_settings

        if model is None:
            typer.echo(write_generic(output, base=load_settings(os.environ).image_base))
        else:
            typer.echo(write_of_stack(os.environ, model, output, version=version, alias=alias))


@app.command()
def sign(
    model: Annotated[str, typer.Argument(help="Registered model.")],
    version: Annotated[str, typer.Argument(help="Its version.")],
    key: Annotated[Path | None, typer.Option(help="Private key (PEM, EC, not encrypted).")] = None,
    certificate: Annotated[Path | None, typer.Option(help="Certificate that was issued for the key (PEM).")] = None,
    chain: Annotated[
        list[Path] | None, typer.Option(help="Certificate between that and the trusted one (PEM); may be repeated.")
    ] = None,
) -> None:
    """Sign a model version's files; the signature is kept with its MLflow run."""
    with told():
        from flows.console.sign import sign as sign_now
        from flows.console.sign import signer_of

        typer.echo(sign_now(os.environ, model, version, signer_of(key, certificate, chain or ())))


if __name__ == "__main__":
    app()
