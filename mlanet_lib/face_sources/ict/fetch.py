"""Downloads of files that are not part of the project: pinned, checked against known hashes, kept in a cache."""

import os
from collections.abc import Mapping
from pathlib import Path

import pooch
from tqdm.auto import tqdm

from mlanet_lib.errors import UserError

# The hashes decide: files of another state are refused. The repository was USC-ICT/ICT-FaceKit before it moved.
ICT_COMMIT = "da5f95a607f5e6b37755b38d3385d7f2853732e5"
ICT_URL = f"https://raw.githubusercontent.com/ICT-VGL/ICT-FaceKit/{ICT_COMMIT}/FaceXModel/"


def ict_facekit() -> Path:
    """The folder with the published files of ICT-FaceKit's FaceXModel (160 files, 417 MB; MIT licence), in MLANET_CACHE
    or the user's cache. See `fetch`."""
    from mlanet_lib.face_sources.ict.facekit import hashes

    folder = Path(os.environ.get("MLANET_CACHE", pooch.os_cache("mlanet"))) / "ict_facekit"
    return fetch("ICT-FaceKit", ICT_URL, hashes(), folder)


def fetch(title: str, url: str, hashes: Mapping[str, str], folder: Path) -> Path:
    """Bring the files `url + name` into `folder`, with a progress bar; returns `folder`.

    hashes: name -> sha256. Files that are there and whole are not fetched again, so that an interrupted download goes
    on. A file that cannot be fetched or has another hash is a UserError, and is not kept.
    """
    pooch.get_logger().setLevel("WARNING")
    store = pooch.create(path=folder, base_url=url, registry={n: f"sha256:{h}" for n, h in hashes.items()})
    downloader = pooch.HTTPDownloader(timeout=30)
    with tqdm(sorted(hashes), desc=title, unit="file") as bar:
        for done, name in enumerate(bar):
            try:
                store.fetch(name, downloader=downloader)
            except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
                reason = "another file is there" if type(error) is ValueError else type(error).__name__
                raise UserError(
                    f"{title}: {url}{name} could not be fetched ({reason}); {done} of {len(hashes)} files are in "
                    f"{folder} and will not be fetched again. Without a network: --ict FOLDER|ARCHIVE"
                ) from error
    return folder
