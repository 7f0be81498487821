"""`freddy-tasks doctor`: what is unsafe in a deployment."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from freddy_tasks.doctor import Finding, Severity, examine, has_errors
from freddy_tasks.doctor.gathering import knows_tasks

from .apps import DEFAULT, app_option, find
from .exits import DONE, FAILED

COLOURS = {
    Severity.ERROR: "red",
    Severity.WARNING: "yellow",
    Severity.ADVICE: "cyan",
    Severity.OK: "green",
}


@click.command(
    epilog="Exit status: 0 no errors, though perhaps warnings; 1 errors; 2 the app cannot be loaded."
)
@app_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object with all findings.")
@click.option("--offline", is_flag=True, help="Make no request to the API; else it is one look.")
@click.pass_context
def command(ctx: click.Context, /, app_name: str | None, as_json: bool, offline: bool) -> None:
    """Check settings, app, state server, workers, key and API, and say what is unsafe and what to do.

    Run it where a worker runs: with its environment, and the app from the same code.

    \b
    freddy-tasks doctor -A your.app
    """  # noqa: D301  # \b is click's mark for lines to be left as they are
    app = find(app_name)
    try:
        app.loader.import_default_modules()
    except Exception as error:  # the user's modules: they may raise whatever they like
        raise click.UsageError(f"A module of the app cannot be imported: {error!r}.") from error
    findings = examine(app, has_tasks=knows_tasks(app_name or DEFAULT), online=not offline)
    ok = not has_errors(findings)
    if as_json:
        click.echo(json.dumps({"ok": ok, "findings": [finding.to_dict() for finding in findings]}))
    else:
        _show(findings)
    ctx.exit(DONE if ok else FAILED)


def _show(findings: Sequence[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        severity = click.style(f"{finding.severity:<7}", fg=COLOURS[finding.severity])
        click.echo(f"{severity}  {finding.name:<{width}}  {finding.message}")
        if finding.remedy:
            click.echo(f"{'':<{7 + 2 + width}}  -> {finding.remedy}")
    errors, warnings = (
        sum(finding.severity is severity for finding in findings)
        for severity in (Severity.ERROR, Severity.WARNING)
    )
    click.echo(f"{errors} error{_s(errors)}, {warnings} warning{_s(warnings)}, {len(findings)} checks.")


def _s(count: int) -> str:
    return "" if count == 1 else "s"
