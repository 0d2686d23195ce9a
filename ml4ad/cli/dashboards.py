"""``ml4ad dashboards``: the pages that shifters keep open."""

from __future__ import annotations

import click


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8866, show_default=True)
@click.option("--ip", default="127.0.0.1", show_default=True, help="0.0.0.0: from other hosts too.")
@click.option("--no-browser", is_flag=True, help="Do not open a browser here.")
@click.option(
    "--base-url", default="/", show_default=True, help="Prefix, as behind a hub or proxy."
)
@click.option("--token", help="Secret that a browser must know; '' asks for none. Else a new one.")
@click.option(
    "--pool",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Warm kernels for each page; 0: none, and pages open in seconds.",
)
@click.option("--verbose", is_flag=True, help="Log kernels and connections, too.")
def dashboards(
    port: int, ip: str, no_browser: bool, base_url: str, token: str | None, pool: int, verbose: bool
) -> None:
    """Serve the dashboards until interrupted.

    The pages need no connection to any other host. The address that is printed holds the token.

    \b
    Examples:
      ml4ad dashboards
      ml4ad dashboards --port 8080 --no-browser --base-url /user/me/proxy/8080/
    """
    click.echo("starting the dashboards; their address follows", err=True)
    from ml4ad.dashboards.serve import serve

    serve(
        lambda address: click.echo(f"dashboards: {address}"),
        port=port,
        ip=ip,
        base_url=base_url,
        token=token,
        open_browser=not no_browser,
        pool=pool,
        verbose=verbose,
    )
