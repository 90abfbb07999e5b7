from __future__ import annotations

from PIL import Image

from panodetr.data.show import lay_out


def test_a_long_caption_ends_where_its_image_does() -> None:
    pictures = [Image.new("RGB", (40, 30), "red"), Image.new("RGB", (40, 30), "blue")]
    sheet = lay_out([[("a name " * 20, pictures[0]), ("", pictures[1])]])
    above = sheet.height - 30
    assert len(sheet.crop((0, 0, 40, above)).getcolors() or ()) > 1
    assert sheet.crop((40, 0, sheet.width, above)).getcolors() == [
        ((sheet.width - 40) * above, (255, 255, 255))
    ]
