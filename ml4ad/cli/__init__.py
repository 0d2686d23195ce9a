"""The command ``ml4ad``: each subcommand is a small module here, imported when it is used."""

from __future__ import annotations

import importlib
import sys

import click

from ml4ad.cli.show import fail

#: Subcommand -> "module:attribute". The order is that of the help text.
COMMANDS = {
    "inspect": "ml4ad.cli.inspect:inspect",
    "skim": "ml4ad.cli.skim:skim",
    "simulate": "ml4ad.cli.simulate:simulate",
    "db": "ml4ad.cli.db:db",
    "index": "ml4ad.cli.ingest:index",
    "ingest": "ml4ad.cli.ingest:ingest",
    "watch": "ml4ad.cli.ingest:watch",
    "status": "ml4ad.cli.ingest:status",
    "retry": "ml4ad.cli.housekeeping:retry",
    "forget": "ml4ad.cli.ingest:forget",
    "compact": "ml4ad.cli.housekeeping:compact",
    "export": "ml4ad.cli.housekeeping:export",
    "import": "ml4ad.cli.housekeeping:import_",
    "show": "ml4ad.cli.archive:show",
    "list": "ml4ad.cli.archive:list_",
    "draw": "ml4ad.cli.archive:draw",
    "conditions": "ml4ad.cli.conditions:conditions",
    "good": "ml4ad.cli.conditions:good",
    "workspaces": "ml4ad.cli.workspaces:workspaces",
    "train": "ml4ad.cli.models:train",
    "score": "ml4ad.cli.models:score",
    "models": "ml4ad.cli.models:models",
    "evaluate": "ml4ad.cli.evaluate:evaluate",
    "similar": "ml4ad.cli.evaluate:similar",
    "incidents": "ml4ad.cli.verdicts:incidents",
    "verdict": "ml4ad.cli.verdicts:verdict",
    "certify": "ml4ad.cli.verdicts:certify",
    "api": "ml4ad.cli.api:api",
    "token": "ml4ad.cli.tokens:token",
    "run": "ml4ad.cli.pipelines:run",
    "chain": "ml4ad.cli.pipelines:chain",
    "runs": "ml4ad.cli.pipelines:runs",
    "rerun": "ml4ad.cli.pipelines:rerun",
    "schedule": "ml4ad.cli.schedule:schedule",
    "kernels": "ml4ad.cli.kernels:kernels",
    "lab": "ml4ad.cli.kernels:lab",
    "dashboards": "ml4ad.cli.dashboards:dashboards",
    "demo": "ml4ad.cli.demo:demo",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the subcommands."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand of that name, or None."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].split(":")
        return getattr(importlib.import_module(module), attribute)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ml4ad", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def group(ctx: click.Context, debug: bool) -> None:
    """Find anomalies in the data quality of the CMS experiment."""
    ctx.obj = debug


def main(args: list[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 failed (one line unless ``--debug``), 2 wrong use."""
    arguments = sys.argv[1:] if args is None else args
    try:
        status = group.main(arguments, prog_name="ml4ad", standalone_mode=False)
    except click.UsageError as wrong:
        wrong.show()
        sys.exit(2)
    except click.ClickException as failed:
        failed.show()
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        fail("interrupted")
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if "--debug" in arguments:
            raise
        fail(error)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)
