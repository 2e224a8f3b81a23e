"""The drawings of the zoo's vision transformer: what is taken from a pack, what is left out, which archives count."""

import hashlib
import io
import json
import re
import tarfile

import numpy as np
import pytest
from PIL import Image, ImageFont

from pairtune.zoo import picture_bank, picture_packs
from pairtune.zoo.picture_packs import Pack


def archive(folder, kind, package, files):
    """A pack with these files, in the folder."""
    pack = Pack(kind, package, "1", "MIT", "", "somebody")
    with tarfile.open(folder / pack.file, "w:gz") as made:
        for name, content in files.items():
            about = tarfile.TarInfo(f"package/{name}")
            about.size = len(content)
            made.addfile(about, io.BytesIO(content))
    return Pack(kind, package, "1", "MIT", hashlib.sha256((folder / pack.file).read_bytes()).hexdigest(), "somebody")


def written(picture, kind):
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


ROWS = [
    ("1F600", "Smileys & Emotion"),
    ("1F6FC", "Activities"),
    ("1F1EA", "Flags"),
    ("1F468-200D-1F33E", "People & Body"),
]


@pytest.fixture
def packs(tmp_path, monkeypatch):
    """Three vendors' emoji, a font of icons and two typefaces."""
    made = []
    for vendor, colour in (("google", (255, 0, 0, 255)), ("twitter", (0, 255, 0, 255))):
        sheet = Image.new("RGBA", (66 * 4, 66))
        rows = []
        for at, (code, category) in enumerate(ROWS):
            sheet.paste(colour, (66 * at + 1, 1, 66 * at + 65, 65))
            # only one of the two has drawn the roller skate
            there = {f"has_img_{vendor}": code != "1F6FC" or vendor == "google"}
            rows.append({"unified": code, "category": category, "sheet_x": at, "sheet_y": 0, **there})
        files = {"emoji.json": json.dumps(rows).encode(), f"img/{vendor}/sheets-clean/64.png": written(sheet, "PNG")}
        made.append(archive(tmp_path, "emoji", f"emoji-datasource-{vendor}", files))
    smiley = written(Image.new("RGBA", (64, 64), (0, 0, 255, 255)), "WEBP")
    made.append(archive(tmp_path, "emoji", "@x/fluent", {"assets/1f600.webp": smiley, "assets/1f1ea.webp": smiley}))
    font = ImageFont.load_default(12).path.getvalue()
    names = b'$mdi-icons: (\n  "aye": 41,\n  "bee": 42,\n  "bee-outline": 44\n);'
    files = {"scss/_variables.scss": names, "fonts/materialdesignicons-webfont.ttf": font}
    made.append(archive(tmp_path, "icons", "@mdi/font", files))
    for name in ("held", "plain"):
        files = {f"files/{name}-latin-400-normal.woff": font}
        made.append(archive(tmp_path, "glyphs", f"@fontsource/{name}", files))
    monkeypatch.setattr(picture_bank, "listed", lambda: made)
    (tmp_path / "omniglot_small").mkdir()
    for i in (1, 2):
        x, y = np.full((40, 28, 28), 255, np.uint8), np.repeat([0, 1], 20)
        np.savez(tmp_path / "omniglot_small" / f"background_small{i}.npz", x=x, y=y)
    return tmp_path


def test_emoji_are_those_of_two_vendors_without_flags_and_composed_people(packs):
    found = list(picture_bank.emoji(packs))
    assert [(name, held) for name, held, _ in found] == [("1f600", True), ("1f600", False), ("1f600", False)]
    assert [picture[20, 20].tolist() for *_, picture in found] == [[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255]]


def test_an_icon_is_one_thing_in_all_its_lines(packs):
    assert [name for name, *_ in picture_bank.icons(packs)] == ["bee", "bee"]  # one drawing alone teaches no likeness


def test_a_glyph_fills_the_picture_and_stays_inside(packs):
    drawn = list(picture_bank.glyphs(packs))
    assert [held for _, held, _ in drawn] == [True] * 52 + [False] * 52
    found = {name: picture for name, _, picture in drawn}
    assert set(found) == set(picture_bank.CHARACTERS)
    for name, picture in found.items():
        inked = picture[..., 3] > 60
        rows, columns = (np.flatnonzero(inked.any(axis)) for axis in (1, 0))
        assert max(np.ptp(rows), np.ptp(columns)) >= 27, name
        assert not inked[:1].any() and not inked[-1:].any() and not inked[:, :1].any() and not inked[:, -1:].any()


def test_a_bank_is_what_pictures_are_drawn_from(packs):
    from pairtune.zoo.image_source import Pictures

    about = picture_bank.make(packs, packs, packs / "bank")
    assert about["omniglot"] == {"classes": 4, "drawings": 80, "held": 12}
    source = Pictures(packs / "bank", seed=0)
    assert source.classes == 1 + 1 + len(picture_bank.CHARACTERS) + 4
    assert source.about["kinds"] == about and set(source.kinds[source.batch(0, 64)[1]]) == {0, 1, 2, 3}


def test_another_archive_than_the_listed_one_is_refused(packs):
    pack = picture_bank.listed()[0]
    (packs / pack.file).write_bytes((packs / pack.file).read_bytes() + b"x")
    with pytest.raises(SystemExit, match="has sha256 .* remove it and fetch it again"):
        picture_packs.members(packs, pack)
    (packs / pack.file).unlink()
    with pytest.raises(SystemExit, match=r"is missing: python -m pairtune\.zoo\.picture_packs"):
        picture_packs.members(packs, pack)


def test_every_listed_pack_is_free_and_fixed():
    found = picture_packs.listed()
    assert len({pack.file for pack in found}) == len(found) > 100
    assert {pack.licence for pack in found} <= {"Apache-2.0", "CC-BY-4.0", "MIT", "OFL-1.1"}
    assert all(re.fullmatch("[0-9a-f]{64}", pack.sha256) and pack.origin for pack in found)
    assert {pack.kind for pack in found} | {"omniglot"} == set(picture_bank.KINDS)
