"""Writing files so that a crash, a kill or a full disk never leaves half of one behind."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlanet_lib.errors import UserError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path` (same suffix); it takes the place of `path` only if the block succeeds.

    The folder is made. The data reach the disk before the name does. An `OSError` (read-only folder, full disk)
    becomes a `UserError`; whatever the failure, the temporary file is removed and an older `path` stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    made = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = True
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if made:
            temporary.unlink(missing_ok=True)
