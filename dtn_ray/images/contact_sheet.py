"""Images side by side, as in the paper's Fig. 2. Imports neither matplotlib nor torch, which load slowly."""

from collections.abc import Sequence

from PIL import Image

GAP = 4


def contact_sheet(pairs: Sequence[tuple[Image.Image, Image.Image]], columns: int = 8, size: int = 64) -> Image.Image:
    """Source and transferred image side by side, "input in odd columns; output in even columns" (Fig. 2).

    `columns` counts pairs; every image is drawn at `size`×`size` pixels. Raises ValueError for an empty list.
    """
    if not pairs:
        raise ValueError("a contact sheet needs at least one pair of images")
    columns = min(columns, len(pairs))
    rows = -(-len(pairs) // columns)
    pair = 2 * size + GAP
    sheet = Image.new("RGB", (columns * (pair + 2 * GAP) + GAP, rows * (size + GAP) + GAP), "white")
    for i, images in enumerate(pairs):
        left, top = GAP + (i % columns) * (pair + 2 * GAP), GAP + (i // columns) * (size + GAP)
        for j, image in enumerate(images):
            # Small images show their pixels; large ones are smoothed down.
            method = Image.Resampling.NEAREST if image.width < size else Image.Resampling.LANCZOS
            sheet.paste(image.convert("RGB").resize((size, size), method), (left + j * (size + GAP), top))
    return sheet
