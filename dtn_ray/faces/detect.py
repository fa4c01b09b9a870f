"""Finds faces in pixels with YuNet, including close-ups, upside-down and sideways faces, and panoramas."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

# A photo is searched at this size, at which faces of a twentieth of its side are still found. If no face is found, it
# is searched again at twice this size.
LONGEST_SIDE = 640

# A face that was detected at a width of fewer than SMALL pixels is detected again at a width of REFINED. Measured on
# portraits at every size, aligned pictures were off by 6.3, 3.3 and 2.4 of their 152 pixels at widths of 20, 30 and 40,
# and by 2.1 at 50 to 80. After a second detection at 80, 90 and 100 they were off by 1.6, 2.1 and 2.6 (but at 80 the
# portrait of the tests comes out worse).
SMALL = 40
REFINED = 90

# YuNet was trained on faces of up to 300 pixels, and gives larger faces a low score. A large box with a score of HINT
# or more therefore starts searches at the sizes in CLOSE: all of 866 faces from 300 pixels to 1.25 times the picture's
# width gave a box wider than 220 with such a score.
LARGE = 300
HINT = 0.3
CLOSE = (320, 160)
CLOSE_UP = 0.8  # least score of a face found in these searches; 0.1 % of pictures without faces reached it

# YuNet detects a face that is upside-down or sideways, if at all, as an upright face with wrong landmarks. Its score is
# then less than UPRIGHT (for 99.6 % of 1,868 such faces of 45 to 180 pixels width; also for 2 % of upright faces), or
# less than LITTLE if it is narrower than SMALL pixels. Hardly any narrower than BLURRED is found. If that part of the
# photo is rotated so that the face is upright, and scaled so that it is SMALL pixels wide, its score is higher, or
# nearly as high.
UPRIGHT, LITTLE, BLURRED = 0.91, 0.85, 24
NEARLY = 0.02
CHECKED = 8  # faces per photo that are checked in this way, the largest first
TURNED = 0.85  # least score of a face that is found by rotation; hardly any picture without faces reached it
SIDEWAYS = 320  # longest side, in pixels, at which a photo without upright faces is searched after quarter turns

# A photo with a larger ratio of its sides is searched in overlapping tiles of this ratio. There are at most TILES
# tiles; beyond a ratio of 33:1 they become longer.
PANORAMA = 3
TILES = 16

LEAST = 10  # least side of a photo, in pixels; YuNet was trained on faces of at least 10 pixels

cv2.utils.logging.setLogLevel(
    cv2.utils.logging.LOG_LEVEL_ERROR
)  # OpenCV 5 warns about its own default for every detector

ROTATIONS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}


@dataclass(frozen=True)
class Face:
    """A face as it was found in a photo, in the photo's pixels."""

    box: tuple[float, float, float, float]
    """Left, top, width, height."""
    landmarks: np.ndarray
    """5×2 float64, in the order of LANDMARKS."""
    score: float
    """The detector's score, in [0, 1]."""

    @property
    def area(self) -> float:
        return self.box[2] * self.box[3]

    @property
    def eyes(self) -> float:
        """The distance between the eyes."""
        return float(np.linalg.norm(self.landmarks[1] - self.landmarks[0]))

    @property
    def tilt(self) -> float:
        """The angle of the line from the left eye to the right one, in degrees: 0 upright, 90 with the crown right."""
        across = self.landmarks[1] - self.landmarks[0]
        return float(np.degrees(np.arctan2(across[1], across[0])))

    @property
    def turns(self) -> int:
        """The number of counterclockwise quarter turns after which the face is nearly upright: 0 to 3."""
        return round(self.tilt / 90) % 4

    @property
    def width(self) -> float:
        """Width of its box, in the direction of the eyes."""
        return self.box[3] if self.turns % 2 else self.box[2]

    def scaled(self, factor: float) -> "Face":
        """The same face in a photo of `factor` times the size."""
        left, top, width, height = (factor * value for value in self.box)
        return Face((left, top, width, height), factor * (self.landmarks + 0.5) - 0.5, self.score)

    def shifted(self, corner: np.ndarray) -> "Face":
        """The same face in the coordinates of a photo from which its picture was cut out at `corner`."""
        left, top, width, height = self.box
        return Face(
            (left + float(corner[0]), top + float(corner[1]), width, height), self.landmarks + corner, self.score
        )

    def overlap(self, other: "Face") -> float:
        """Intersection over union of the boxes."""
        common = self._common(other)
        return common / (self.area + other.area - common)

    def inside(self, other: "Face") -> float:
        """The fraction of this face's box that lies in the other's."""
        return self._common(other) / self.area

    def _common(self, other: "Face") -> float:
        (a, b, c, d), (e, f, g, h) = self.box, other.box
        return max(0.0, min(a + c, e + g) - max(a, e)) * max(0.0, min(b + d, f + h) - max(b, f))

    def row(self) -> dict[str, Any]:
        """The face as the ledger and shards store it."""
        return {"detection": self.score, "box": list(self.box), "landmarks": self.landmarks.ravel().tolist()}


class Detector:
    """YuNet through OpenCV. `content` is its ONNX file, from `detector_file`. Each thread needs its own object.

    `threshold`: least score of a face, in [0, 1].
    """

    def __init__(self, content: bytes, threshold: float = 0.7) -> None:
        buffer, nothing = np.frombuffer(content, np.uint8), np.empty(0, np.uint8)
        least = min(threshold, HINT)
        self.network = cv2.FaceDetectorYN.create("onnx", buffer, nothing, (320, 320), least, 0.3, 200)
        self.threshold = threshold

    def __call__(self, pixels: np.ndarray) -> list[Face]:
        """The faces of a photo H×W×3 uint8 RGB, the largest first, in pixels of the photo as given.

        The landmarks of an upside-down or sideways face are at its actual eyes, nose and mouth. The whole photo is
        rotated to find such faces only if no face in it is upright. Raises ValueError if OpenCV fails.
        """
        if min(pixels.shape[:2]) < LEAST:
            return []
        faces = self._all(pixels)
        turned = [face for face in faces if face.turns]
        if not faces:
            turns = self._sideways(pixels)
        elif turned and all(face.turns or _doubtful(face) for face in faces):
            turns = max(turned, key=lambda face: face.score).turns
        else:
            turns = 0
        if turns:
            faces = _distinct(faces + self._all(pixels, turns))
        return sorted(faces, key=lambda face: -face.area)

    def refine(self, pixels: np.ndarray, face: Face) -> Face:
        """Detects a face again in the part of the photo around it, scaled to a size at which YuNet is more accurate."""
        found = self._around(pixels, face, REFINED, [face.turns], self.threshold)
        best = max(found, key=face.overlap, default=face)
        return best if face.overlap(best) > 0.3 else face

    def _all(self, pixels: np.ndarray, turns: int = 0) -> list[Face]:
        """The faces that are nearly upright after `turns` quarter turns of the photo, and maybe others."""
        tiles = list(_tiles(pixels))
        if len(tiles) == 1:
            return self._search(pixels, turns)
        return _distinct([face.shifted(corner) for tile, corner in tiles for face in self._search(tile, turns)])

    def _search(self, pixels: np.ndarray, turns: int) -> list[Face]:
        """The faces of a photo that is not a panorama; usually by one search."""
        longest = max(pixels.shape[:2])
        scale = min(1.0, LONGEST_SIDE / longest)
        seen = self._detect(pixels, scale, turns)
        faces = [face for face in seen if face.score >= self.threshold]
        if any(scale * face.width > LARGE for face in seen):
            faces = _distinct(faces + self._close(pixels, turns))
        if not faces and longest > LONGEST_SIDE:
            scale = min(1.0, 2 * LONGEST_SIDE / longest)
            faces = [face for face in self._detect(pixels, scale, turns) if face.score >= self.threshold]
        faces = [self.refine(pixels, face) if scale * face.width < SMALL else face for face in faces]
        return self._righted(pixels, faces)

    def _close(self, pixels: np.ndarray, turns: int) -> list[Face]:
        """Faces that fill much of the photo."""
        found, longest = list[Face](), max(pixels.shape[:2])
        for side in CLOSE:
            scale = min(1.0, side / longest)
            seen = [face for face in self._detect(pixels, scale, turns) if face.score >= self._at_least(CLOSE_UP)]
            found += [face for face in seen if 4 * face.width > longest]
            if found and all(scale * face.width < LARGE for face in found):
                break
        return found

    def _righted(self, pixels: np.ndarray, faces: list[Face]) -> list[Face]:
        """The faces; those that are detected better in a rotated part of the photo get the landmarks found there."""
        doubtful = sorted((face for face in faces if _doubtful(face)), key=lambda face: -face.area)[:CHECKED]
        righted = {id(face): self._right(pixels, face) for face in doubtful}
        if all(face is righted[id(face)] for face in doubtful):
            return faces
        return _distinct([righted.get(id(face), face) for face in faces])

    def _right(self, pixels: np.ndarray, face: Face) -> Face:
        least, others = max(self._at_least(TURNED), face.score - NEARLY), {0, 1, 2, 3} - {face.turns}
        seen = self._around(pixels, face, SMALL, others, least)
        turned = [each for each in seen if each.turns != face.turns and face.overlap(each) > 0.1]
        return self.refine(pixels, max(turned, key=lambda each: each.score)) if turned else face

    def _sideways(self, pixels: np.ndarray) -> int:
        """The number of quarter turns after which a photo without upright faces shows a face; 0 for none.

        Upside-down faces do not need this: nearly all of them are detected as upright faces, and corrected.
        """
        best = dict[int, float]()
        for tile, _ in _tiles(pixels):
            small = _Scaled.of(tile, min(1 / 3, SIDEWAYS / max(tile.shape[:2])))
            for turns in (1, 3):
                for face in self._see(small, turns):
                    if face.score >= self._at_least(TURNED) and face.turns == turns:
                        best[turns] = max(face.score, best.get(turns, 0.0))
        return max(best, key=lambda turns: best[turns], default=0)

    def _at_least(self, score: float) -> float:
        return max(score, self.threshold)

    def _around(self, pixels: np.ndarray, face: Face, across: int, turns: Iterable[int], least: float) -> list[Face]:
        """Searches the part of the photo around a face, scaled so that the face is `across` pixels wide.

        Returns all faces with a score of at least `least`, for each number of quarter turns in `turns`.
        """
        left, top, width, height = face.box
        side = max(width, height)
        x, y = max(0, round(left + width / 2 - side)), max(0, round(top + height / 2 - side))
        part = pixels[y : y + round(2 * side), x : x + round(2 * side)]
        if not part.size:
            return []
        corner, small = np.array([x, y]), _Scaled.of(part, min(1.0, across / face.width))
        seen = [each for number in turns for each in self._see(small, number)]
        return [each.shifted(corner) for each in seen if each.score >= least]

    def _detect(self, pixels: np.ndarray, scale: float, turns: int = 0) -> list[Face]:
        return self._see(_Scaled.of(pixels, scale), turns)

    def _see(self, small: "_Scaled", turns: int) -> list[Face]:
        """Detects faces in scaled pixels after counterclockwise quarter turns; in coordinates of the original photo.

        Results with a score below the threshold are not faces, but hints at close-ups.
        """
        height, width = small.pixels.shape[:2]
        try:
            turned = cv2.rotate(small.pixels, ROTATIONS[turns]) if turns else small.pixels
            self.network.setInputSize((turned.shape[1], turned.shape[0]))
            _, found = self.network.detect(cv2.cvtColor(turned, cv2.COLOR_RGB2BGR))
        except cv2.error as error:
            raise ValueError(f"the face detector fails on {width}×{height} pixels: {error.err}") from error
        if found is None:
            return []
        wide = found[:, 2] > LARGE  # only large boxes are useful as hints
        found = found[(found[:, 14] >= self.threshold) | wide].astype(np.float64)
        corners = np.stack([found[:, :2], found[:, :2] + found[:, 2:4]], axis=1)
        corners = _unturned(corners, turns, width, height) * small.factors
        landmarks = _unturned(found[:, 4:14].reshape(-1, 5, 2), turns, width, height) * small.factors
        boxes = np.hstack([corners.min(1), np.ptp(corners, axis=1)]).tolist()
        return [Face(tuple(box), *rest) for box, *rest in zip(boxes, landmarks, found[:, 14].tolist(), strict=True)]


@dataclass(frozen=True)
class _Scaled:
    """A photo, or a part of one, scaled for the detector."""

    pixels: np.ndarray
    factors: np.ndarray
    """Factors from its coordinates to those of the photo: horizontal, vertical."""

    @classmethod
    def of(cls, pixels: np.ndarray, scale: float) -> "_Scaled":
        """Scales pixels. Raises ValueError if OpenCV fails."""
        halved, left = shrunk(pixels, scale, 0.5)
        height, width = (max(1, round(side * left)) for side in halved.shape[:2])
        try:
            small = halved if left == 1 else cv2.resize(halved, (width, height), interpolation=cv2.INTER_LINEAR)
        except cv2.error as error:
            raise ValueError(f"{halved.shape[1]}×{halved.shape[0]} pixels cannot be scaled: {error.err}") from error
        return cls(small, left / scale * np.array([halved.shape[1] / width, halved.shape[0] / height]))


def _unturned(points: np.ndarray, turns: int, width: int, height: int) -> np.ndarray:
    """Maps points …×2 of a picture that was rotated counterclockwise back to the original, of W×H pixels."""
    if not turns:
        return points
    x, y = points[..., 0], points[..., 1]
    back = {1: (width - y, x), 2: (width - x, height - y), 3: (y, height - x)}
    return np.stack(back[turns], axis=-1)


def _doubtful(face: Face) -> bool:
    """Whether a face's score is so low that its landmarks may have the wrong orientation."""
    if face.width >= SMALL:
        return face.score < UPRIGHT
    return face.width >= BLURRED and face.score < LITTLE


def _distinct(faces: list[Face]) -> list[Face]:
    """Removes duplicates, keeping the highest score, and small boxes inside others, such as an eye taken for a face."""
    kept = list[Face]()
    for face in sorted(faces, key=lambda face: -face.score):
        if not any(face.overlap(each) > 0.3 or face.inside(each) > 0.7 for each in kept):
            kept.append(face)
    return kept


def _tiles(pixels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The whole photo; or the tiles of a panorama, each with its upper left corner.

    Neighbouring tiles overlap by a square, so that a face as large as the shorter side is complete in one of them.
    """
    long, short = max(pixels.shape[:2]), min(pixels.shape[:2])
    if long <= PANORAMA * short:
        yield pixels, np.zeros(2)
        return
    count = min(TILES, -(-(long - short) // ((PANORAMA - 1) * short)))
    length = -(-(long + (count - 1) * short) // count)
    for start in np.linspace(0, long - length, count).astype(int):
        if pixels.shape[0] > pixels.shape[1]:
            yield pixels[start : start + length], np.array([0, start])
        else:
            yield pixels[:, start : start + length], np.array([start, 0])


def shrunk(pixels: np.ndarray, scale: float, limit: float) -> tuple[np.ndarray, float]:
    """Halves H×W×3 uint8 until the remaining `scale` is above `limit`; returns pixels and remaining scale. An odd last
    row or column is dropped.

    Followed by one linear step, this is seven times as fast as a single INTER_AREA, which takes half as long as the
    detector.
    """
    while scale <= limit and min(pixels.shape[:2]) > 1:
        height, width = (side // 2 for side in pixels.shape[:2])
        pixels = cv2.resize(pixels[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
        scale *= 2
    return pixels, scale
