"""`tokenferry.toml` and the environment: every setting of both halves.

Both halves read the same file. It holds no secret, only references to secrets (`{ env = "NAME" }` or
`{ file = "PATH" }`), so a producer may read all of it. Nothing here can follow a reference to an endpoint key.

Environment variables override the file: `TOKENFERRY_BROKER__URL`, `TOKENFERRY_STORE__URL`, ... (two underscores
between section and setting). Relative paths count from the folder of the file.
"""

from tokenferry.configuration.effective import effective
from tokenferry.configuration.loading import Configuration, load, load_here, load_to_look
from tokenferry.configuration.platforms import LimitSettings, Platform
from tokenferry.configuration.sections import (
    Broker,
    InvalidConfiguration,
    KeySettings,
    OutboxSettings,
    ProducerSettings,
    SecretReference,
    Section,
    StoreSettings,
    Worker,
)

__all__ = [
    "Broker",
    "Configuration",
    "InvalidConfiguration",
    "KeySettings",
    "LimitSettings",
    "OutboxSettings",
    "Platform",
    "ProducerSettings",
    "SecretReference",
    "Section",
    "StoreSettings",
    "Worker",
    "effective",
    "load",
    "load_here",
    "load_to_look",
]
