from pathlib import Path

import pytest
from pydantic import ValidationError

from ml4ad import settings


@pytest.fixture
def toml(tmp_path, monkeypatch):
    path = tmp_path / "settings.toml"
    monkeypatch.setenv("ML4AD_SETTINGS", str(path))
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(f"ML4AD_{name.upper()}", raising=False)
    return path


def test_the_environment_goes_before_the_file_and_the_file_before_the_default(toml, monkeypatch):
    assert settings.load().memory_mb == 256
    toml.write_text('memory_mb = 64\n[clusters.farm]\nkind = "slurm"\noptions = {cores = 4}\n')
    assert settings.load().memory_mb == 64
    assert settings.load().clusters["farm"].options == {"cores": 4}
    monkeypatch.setenv("ML4AD_MEMORY_MB", "32")
    assert settings.load().memory_mb == 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory_mb = 0", "memory_mb"),
        ("memroy_mb = 5", "memroy_mb"),
        ("[clusters.farm]\nkidn = 'slurm'", "kidn"),
    ],
)
def test_what_is_no_setting_is_refused_by_name(toml, text, message):
    toml.write_text(text)
    with pytest.raises(ValidationError, match=message):
        settings.load()


def test_every_setting_is_in_the_documentation():
    text = (Path(__file__).parents[1] / "docs" / "settings.md").read_text()
    missing = [name for name in settings.Settings.model_fields if f"`{name}`" not in text]
    assert not missing
