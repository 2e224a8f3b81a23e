"""Draw what the zoo's vision transformer learns from: `python -m pairtune.zoo.picture_bank --packs P --data D --out B`.

Emoji (a class is what is meant, its drawings those of three vendors), icons (the same thing in thin, bold or filled
lines and by several designers), digits and letters in a hundred typefaces, half of them like handwriting, and the
characters of Omniglot's two small background sets by twenty people each. Of each class with enough drawings some are
held out, of the typefaces whole families.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pairtune.zoo.picture_packs import listed, members

SIDE = 40
KINDS = ("emoji", "icons", "glyphs", "omniglot")
CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghijlmnqrty"  # without small letters that are scaled capitals
_STYLES = ("latin-400-normal", "latin-700-normal", "latin-400-italic")
Drawing = tuple[str, bool, np.ndarray]  # class, held out, [SIDE, SIDE, 4] uint8: red, green, blue, opacity


def emoji(packs: Path) -> Iterator[Drawing]:
    """Emoji that at least two vendors draw, without flags, and without people made of several signs."""
    drawn: dict[str, list[np.ndarray]] = defaultdict(list)
    wanted = set()
    for pack in (pack for pack in listed() if pack.kind == "emoji"):
        files = members(packs, pack)
        if "emoji.json" in files:
            vendor = pack.short.rpartition("-")[2]
            sheet = Image.open(io.BytesIO(files[f"img/{vendor}/sheets-clean/64.png"])).convert("RGBA")
            for row in json.loads(files["emoji.json"]):
                code = row["unified"].lower()
                composed = row["category"] == "People & Body" and "-200d" in code
                if composed or row["category"] in ("Flags", "Component") or not row[f"has_img_{vendor}"]:
                    continue
                wanted.add(code)
                left, top = 66 * row["sheet_x"] + 1, 66 * row["sheet_y"] + 1
                drawn[code].append(_small(sheet.crop((left, top, left + 64, top + 64))))
        else:
            for code in sorted(wanted):
                if (name := f"assets/{code}.webp") in files:
                    drawn[code].append(_small(Image.open(io.BytesIO(files[name])).convert("RGBA")))
    for number, (code, found) in enumerate(sorted((c, f) for c, f in drawn.items() if len(f) > 1)):
        for i, picture in enumerate(found):
            yield code, len(found) > 2 and number % 9 == i, picture


def icons(packs: Path) -> Iterator[Drawing]:
    """Icons that are drawn at least twice: in another weight, filled, or by somebody else."""
    drawn: dict[str, list[np.ndarray]] = defaultdict(list)
    for pack in (pack for pack in listed() if pack.kind == "icons"):
        for font, codes in _icon_fonts(pack.short, members(packs, pack)):
            face = ImageFont.truetype(io.BytesIO(font), 56)
            for name, code in codes.items():
                if (picture := _glyph(face, chr(code))) is not None:
                    drawn[re.sub("-outline$", "", name)].append(picture)
    for number, (name, found) in enumerate(sorted((n, f) for n, f in drawn.items() if len(f) > 1)):
        for i, picture in enumerate(found):
            yield name, len(found) > 3 and number % 9 == i, picture


def _icon_fonts(short: str, files: dict[str, bytes]) -> Iterator[tuple[bytes, dict[str, int]]]:
    """(font file, its code points by name) of a package of icons."""
    if short == "font":
        text = files["scss/_variables.scss"].decode()
        codes = {name: int(code, 16) for name, code in re.findall(r'"([\w-]+)": ([0-9A-F]+)', text)}
        yield files["fonts/materialdesignicons-webfont.ttf"], codes
    elif short == "web":
        for style in ("regular", "thin", "light", "bold", "fill"):
            text = files[f"src/{style}/style.css"].decode()
            found = re.findall(r'\.ph-([\w-]+):before \{\s*content: "\\([0-9a-f]+)"', text)
            name = "Phosphor" if style == "regular" else f"Phosphor-{style.title()}"
            yield files[f"src/{style}/{name}.ttf"], {name: int(code, 16) for name, code in found}
    else:
        about = json.loads(files["metadata/icon-families.json"])
        for style, file in (("solid", "fa-solid-900"), ("regular", "fa-regular-400")):
            codes = {n: int(row["unicode"], 16) for n, row in about.items() if style in row["svgs"].get("classic", {})}
            yield files[f"webfonts/{file}.woff2"], codes


def glyphs(packs: Path) -> Iterator[Drawing]:
    """Digits and letters of every typeface; each tenth family is held out."""
    for number, pack in enumerate(pack for pack in listed() if pack.kind == "glyphs"):
        files = members(packs, pack)
        for style in _STYLES:
            font = files.get(f"files/{pack.short}-{style}.woff")
            if font is None:
                continue
            face = ImageFont.truetype(io.BytesIO(font), 56)
            found = {character: _glyph(face, character) for character in CHARACTERS}
            for character, picture in found.items():
                capital = found[character.upper()]
                if picture is None or (character.islower() and capital is not None and (picture == capital).all()):
                    continue
                yield character, number % 10 == 0, picture


def omniglot(data: Path) -> Iterator[Drawing]:
    """Omniglot's drawings; the last three drawers of twenty are held out. Alphabets of both sets count twice."""
    for i in (1, 2):
        with np.load(data / "omniglot_small" / f"background_small{i}.npz") as file:
            x, y = file["x"], file["y"]
        for label in np.unique(y):
            for drawer, drawing in enumerate(x[y == label]):
                yield f"{i}-{label}", drawer >= 17, _white(Image.fromarray(drawing).resize((SIDE, SIDE)))


def _glyph(face: ImageFont.FreeTypeFont, character: str) -> np.ndarray | None:
    """The character as large as the picture allows; None where the font draws nothing."""
    left, top, right, bottom = (round(value) for value in face.getbbox(character))
    if right <= left or bottom <= top:
        return None
    side = max(right - left, bottom - top)
    mask = Image.new("L", (side, side))
    at = ((side - (right - left)) // 2 - left, (side - (bottom - top)) // 2 - top)
    ImageDraw.Draw(mask).text(at, character, fill=255, font=face)
    inner = Image.new("L", (SIDE, SIDE))
    inner.paste(mask.resize((SIDE - 4, SIDE - 4), Image.Resampling.LANCZOS), (2, 2))
    return _white(inner)


def _white(mask: Image.Image) -> np.ndarray:
    """White, as opaque as the mask is light."""
    return np.dstack([np.full((SIDE, SIDE, 3), 255, np.uint8), np.asarray(mask)])


def _small(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def make(packs: Path, data: Path, out: Path) -> dict[str, dict[str, int]]:
    """Write `pictures.npy` [n, 40, 40, 4] uint8 and `index.npz`: `label` [n], `held` [n], `kind` [classes].

    Classes are numbered kind by kind. Returns how many classes, drawings and held-out drawings each kind has.
    """
    drawings, labels, held, kinds, about = [], [], [], [], {}
    for kind, source, folder in zip(KINDS, (emoji, icons, glyphs, omniglot), (packs, packs, packs, data), strict=True):
        before, names = len(drawings), {}
        for name, apart, picture in source(folder):
            labels.append(len(kinds) + names.setdefault(name, len(names)))
            held.append(apart)
            drawings.append(picture)
        kinds += [KINDS.index(kind)] * len(names)
        about[kind] = {"classes": len(names), "drawings": len(drawings) - before, "held": sum(held[before:])}
    out.mkdir(parents=True, exist_ok=True)
    pictures = np.stack(drawings)
    np.save(out / "pictures.npy", pictures)
    np.savez(out / "index.npz", label=np.array(labels), held=np.array(held), kind=np.array(kinds))
    text = json.dumps({"kinds": about, "sha256": hashlib.sha256(pictures.tobytes()).hexdigest()}, indent=1)
    (out / "about.json").write_text(text + "\n", encoding="utf-8")
    return about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=Path, required=True, help="folder that `picture_packs` filled")
    parser.add_argument("--data", type=Path, required=True, help="the data folder (PAIRTUNE_DATA)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the drawings, about 250 MB")
    args = parser.parse_args()
    for kind, row in make(args.packs, args.data, args.out).items():
        print(f"{kind:10}{row['classes']:>7,} classes{row['drawings']:>8,} drawings, {row['held']:,} of them held out")


if __name__ == "__main__":
    main()
