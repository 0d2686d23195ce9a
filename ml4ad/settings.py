"""One typed settings object: environment, then a TOML file, then defaults.

Nothing is read on import.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)


def user_data_dir() -> Path:
    """Folder of this user's data: ``$XDG_DATA_HOME/ml4ad`` or ``~/.local/share/ml4ad``."""
    import os

    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "ml4ad"


def settings_file() -> Path:
    """TOML file that is read: ``$ML4AD_SETTINGS`` or ``$XDG_CONFIG_HOME/ml4ad/settings.toml``."""
    import os

    named = os.environ.get("ML4AD_SETTINGS")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "ml4ad" / "settings.toml"


class ClusterSettings(BaseModel):
    """One named Dask cluster: ``[clusters.<name>]`` of the TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str = Field("local", description="local, htcondor, slurm or kubernetes")
    workers: PositiveInt = Field(2, description="workers to ask for")
    options: dict[str, Any] = Field(
        default_factory=dict, description="what the cluster class of the library is given"
    )


class GroupSettings(BaseModel):
    """What members of an e-group may over REST: ``[api_oidc_groups.<name>]`` of the TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scope: Literal["read", "write", "admin"] = Field("read", description="what they may")
    workspaces: tuple[str, ...] = Field((), description="where; empty: everywhere")


class Settings(BaseSettings):
    """What can be set; each is also a variable ``ML4AD_<NAME>`` and a key of the TOML file."""

    model_config = SettingsConfigDict(env_prefix="ML4AD_", extra="forbid", frozen=True)

    database_url: str | None = Field(
        None, description="postgresql://user:password@host/name; without it an embedded server"
    )
    data_dir: Path = Field(
        default_factory=user_data_dir, description="where the embedded server and caches live"
    )
    embedded_idle_s: NonNegativeInt = Field(
        900, description="unused for so long, the embedded server stops (seconds; 0: never)"
    )
    memory_mb: PositiveInt = Field(
        256, description="contents held in memory at a time while a file is read, in MB"
    )
    scratch_dir: Path | None = Field(
        None, description="fast local folder to copy a file to before it is read; none: in place"
    )
    statement_timeout_s: PositiveInt = Field(
        30, description="longest time that a query with a user's pattern may take, in seconds"
    )

    oms_url: str | None = Field(
        None, description="OMS's API, such as https://cmsoms.cern.ch/agg/api/v1; without it offline"
    )
    oms_audience: str = Field("cmsoms-prod", description="application that a token for OMS names")
    runregistry_url: str | None = Field(
        None, description="Run Registry's API, such as https://cmsrunregistry.web.cern.ch/api"
    )
    runregistry_audience: str = Field(
        "cmsrunregistry-sso-proxy", description="application that a token for Run Registry names"
    )
    oidc_token_url: str = Field(
        "https://auth.cern.ch/auth/realms/cern/api-access/token",
        description="where tokens for OMS and Run Registry are had",
    )
    oidc_client_id: str | None = Field(
        None, description="registered application; without it no token is asked for"
    )
    oidc_client_secret: SecretStr | None = Field(None, description="secret of that application")
    service_timeout_s: PositiveFloat = Field(
        30, description="longest wait for an answer of OMS or Run Registry, in seconds"
    )

    api_requests_per_s: PositiveFloat = Field(
        100, description="requests to the REST interface of one key, in the long run, per second"
    )
    api_wrong_keys_per_minute: PositiveFloat = Field(
        60, description="wrong keys and tokens from one address that the REST interface looks at"
    )
    api_oidc_issuer: str | None = Field(
        None,
        description="login server whose bearer tokens REST takes, such as "
        "https://auth.cern.ch/auth/realms/cern; without it keys only",
    )
    api_oidc_audience: str | None = Field(
        None, description="application that a bearer token must name as its audience"
    )
    api_oidc_jwks_url: str | None = Field(
        None, description="where the login server's public keys are"
    )
    api_oidc_groups_claim: str = Field(
        "cern_roles", description="claim with the groups of a token; dots lead into others"
    )
    api_oidc_groups: dict[str, GroupSettings] = Field(
        default_factory=dict, description="what the members of each e-group may"
    )

    trusted_modules: list[str] = Field(
        default_factory=list, description="modules of your own that a saved detector may name"
    )

    cluster: str | None = Field(
        None, description="named cluster to work on; without it workers on this host"
    )
    workspace: str | None = Field(None, description="workspace to work in; without it all elements")
    clusters: dict[str, ClusterSettings] = Field(
        default_factory=dict, description="named Dask clusters"
    )

    @model_validator(mode="after")
    def _whole_oidc(self) -> Self:
        names = ("api_oidc_issuer", "api_oidc_audience", "api_oidc_jwks_url")
        lacking = [name for name in names if getattr(self, name) is None]
        if 0 < len(lacking) < len(names):
            raise ValueError(f"{' and '.join(lacking)} not given, want {', '.join(names)} or none")
        url = urlsplit(self.api_oidc_jwks_url or "https:")
        if url.scheme != "https" and url.hostname not in ("localhost", "127.0.0.1", "::1"):
            # Who can change the keys on their way can forge any token.
            raise ValueError(f"api_oidc_jwks_url {self.api_oidc_jwks_url!r}, want https://")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then the environment, then the TOML file."""
        del dotenv_settings, file_secret_settings
        toml = TomlConfigSettingsSource(settings_cls, toml_file=settings_file())
        return init_settings, env_settings, toml


def load() -> Settings:
    """Settings as the environment and the TOML file give them now.

    Raises ValueError (pydantic's, naming key and value) if one of them is not acceptable.
    """
    import os

    path = settings_file()
    try:
        found = path.stat()
        written: tuple[int, int] | None = (found.st_mtime_ns, found.st_size)
    except OSError:
        written = None
    home = ("HOME", "XDG_DATA_HOME")
    own = [(k, v) for k, v in os.environ.items() if k.upper().startswith("ML4AD_") or k in home]
    return _loaded(tuple(sorted(own)), path, written)


# Read anew takes milliseconds, and a server asks several times for every request.
@lru_cache(maxsize=16)
def _loaded(*_: object) -> Settings:
    return Settings()
