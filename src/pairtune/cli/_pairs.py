"""Verbs that take pairs, or a base and checkpoints tuned from it: what was named; and a page that is written whole."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pairtune.errors import InputError

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair

log = logging.getLogger("pairtune")


def named(what: list[str]) -> dict[str, str]:
    """Short names that differ → what was typed."""
    twice = next((one for i, one in enumerate(what) if one.rstrip("/") in {x.rstrip("/") for x in what[:i]}), None)
    if twice is not None:
        raise InputError(f"{twice} is named twice")
    short = [one.rstrip("/").rpartition("/")[2] or one for one in what]
    return {name if short.count(name) == 1 else one: one for name, one in zip(short, what, strict=True)}


def base_of(names: dict[str, str], base: str | None) -> tuple[str | None, dict[str, str]]:
    """The base and the variants: with full checkpoints and no --base, what comes first is the base."""
    if base is not None:
        return base, names
    whole = {name: source for name, source in names.items() if _is_whole(source)}
    if not whole:
        return None, names
    first, *rest = names
    if first not in whole:
        one = next(iter(whole))
        raise InputError(f"{whole[one]} is a full checkpoint; name its base first (BASE FINETUNED), or with --base")
    if not rest:
        raise InputError(
            f"{names[first]} is a full checkpoint, not a pair; name a base and what was tuned from it: BASE FINETUNED"
        )
    return names[first], {name: names[name] for name in rest}


def _is_whole(source: str) -> bool:
    """Whether this is a model of its own rather than a pair or an adapter."""
    from pairtune.pair import hub
    from pairtune.pair.card import CARD_FILE

    if source.startswith("zoo:"):
        return True
    folder = hub.local_folder(source)
    if any((folder / name).exists() for name in (CARD_FILE, hub.ADAPTER_FILE)):
        return False
    if not (folder / "config.json").exists():
        raise InputError(
            f"{source}: neither a pair, nor an adapter, nor a model (no pair.json, adapter_config.json or config.json)"
        )
    return True


def opened(what: str, base: str | None = None, onto: bool = False, device: str | None = None) -> Pair:
    """A pair, or a base without a delta, by its name.

    Args:
        base: the base, where the pair does not name it; a full checkpoint then is tuned from it.
    """
    from pairtune.pair.base import Base
    from pairtune.pair.pair import Pair

    if base is None and _is_whole(what):
        return Pair(Base.load(what, device=device))
    return Pair.load(what, base, onto=onto, device=device)


def check_place(html: Path) -> None:
    """Raise `InputError` where no page can be written."""
    if html.is_dir() or not html.parent.is_dir():
        what = "is a folder" if html.is_dir() else f"cannot be written: there is no folder {html.parent}"
        raise InputError(f"{html} {what}; give the name of a file, like report.html")


def write_page(html: Path, page: str) -> None:
    """Write a page, whole or not at all."""
    from pairtune.pair.disk import hidden_beside

    place = hidden_beside(html, "partial")
    try:
        place.write_text(page, encoding="utf-8")
        place.replace(html)
    finally:
        place.unlink(missing_ok=True)
    log.info("wrote %s (%d kB)", html, html.stat().st_size // 1000)
