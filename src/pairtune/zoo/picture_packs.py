"""The free drawings that the zoo's vision transformer learns from: `python -m pairtune.zoo.picture_packs FOLDER`.

Emoji, icons and typefaces, as packages of npm's registry: which ones, of which version, under which licence and with
which checksum is said in `picture_packs.csv`. The command fetches what is not in the folder yet (about 230 MB).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pack:
    """A package: what is taken from it (`kind`), its licence (that of the drawings), and whose drawings they are."""

    kind: str
    package: str
    version: str
    licence: str
    sha256: str
    origin: str

    @property
    def short(self) -> str:
        """The package's name without its owner's."""
        return self.package.rpartition("/")[2]

    @property
    def file(self) -> str:
        """Name of its archive."""
        return f"{self.short}-{self.version}.tgz"


def listed() -> list[Pack]:
    """Every pack, in a fixed order."""
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        return [Pack(**row) for row in csv.DictReader(file)]


def members(folder: Path, pack: Pack) -> dict[str, bytes]:
    """The files of a fetched pack, by path."""
    with tarfile.open(checked(folder, pack)) as archive:
        found = {}
        for member in archive:
            opened = archive.extractfile(member)
            if opened is not None:
                found[member.name.partition("/")[2]] = opened.read()
    return found


def checked(folder: Path, pack: Pack) -> Path:
    """The pack's archive; SystemExit where it is not there or another than it should be."""
    path = folder / pack.file
    if not path.is_file():
        raise SystemExit(f"{path} is missing: python -m pairtune.zoo.picture_packs {folder}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != pack.sha256:
        raise SystemExit(f"{path} has sha256 {found}, not {pack.sha256}: remove it and fetch it again")
    return path


def fetch(folder: Path) -> None:
    """Fill the folder from npm's registry; every archive's checksum is compared."""
    folder.mkdir(parents=True, exist_ok=True)
    for pack in listed():
        path = folder / pack.file
        if not path.is_file():
            print(f"{pack.package} {pack.version} ({pack.licence})", flush=True)
            part = path.with_suffix(".part")
            urllib.request.urlretrieve(f"https://registry.npmjs.org/{pack.package}/-/{pack.file}", part)
            part.rename(path)
        checked(folder, pack)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the archives are kept")
    fetch(parser.parse_args().folder)


if __name__ == "__main__":
    main()
