"""What README and docs say can be typed."""

import re
from pathlib import Path

import click
import pytest

from ml4ad.cli import COMMANDS, group

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TYPED = re.compile(r"^(?: {4}|\$ )(?:\.venv/bin/)?ml4ad (\S+)(.*)$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_and_options_on_the_page_exist(page):
    for name, rest in TYPED.findall(page.read_text()):
        assert name in COMMANDS or name.startswith("-"), f"{page.name}: ml4ad {name}"
        command = group.get_command(click.Context(group), name)
        if command is None or isinstance(command, click.Group):
            continue
        known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        for option in re.findall(r"(?<!\S)(--[a-z][a-z-]*)", rest.split("#")[0]):
            assert option in known | {"--help"}, f"{page.name}: ml4ad {name} {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_helps_with_an_example(name):
    command = group.get_command(click.Context(group), name)
    text = command.get_help(click.Context(command, info_name=name))
    commands = command.commands.values() if isinstance(command, click.Group) else []
    texts = [text, *(each.get_help(click.Context(each)) for each in commands)]
    assert any(f"ml4ad {name}" in each for each in texts), name
