"""Finds faces in pixels with YuNet, including close-ups, upside-down and sideways faces, and panoramas. No Ray."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

# The detector sees a photo no larger than this, which a face of a twentieth of the side survives, and looks again at
# twice that before it says that there is no face.
LONGEST_SIDE = 640

# A face that the detector saw in fewer pixels across is looked at again, where it has REFINED of them. Of portraits at
# every size, the aligned pictures were off by 6.3, 3.3 and 2.4 of their 152 pixels at 20, 30 and 40 pixels across, by
# 2.1 from 50 to 80; after a second look at 80, 90 and 100 by 1.6, 2.1 and 2.6. (80: the tests' portrait is worse.)
SMALL = 40
REFINED = 90

# YuNet was trained on faces of up to 300 pixels, and gives larger ones a low score. Something large that scores HINT or
# more leads to looks at CLOSE: all of 866 faces from 300 pixels to 1.25 times the picture's width gave a box wider than
# 220 with such a score.
LARGE = 300
HINT = 0.3
CLOSE = (320, 160)
CLOSE_UP = 0.8  # least score of a face that was found there: in 0.1 % of pictures without faces one reached it

# A face that is upside-down or sideways is found, if at all, as an upright one with wrong landmarks. Its score is then
# less than UPRIGHT (99.6 % of 1,868 of 45 to 180 pixels across), as it is for 2 % of upright faces; or less than LITTLE
# where it has fewer than SMALL pixels across. Of fewer than BLURRED across, next to none is found. A turned part of the
# photo, in which it is upright and has SMALL pixels across, then gives it a higher score, or nearly so.
UPRIGHT, LITTLE, BLURRED = 0.91, 0.85, 24
NEARLY = 0.02
CHECKED = 8  # faces of a photo that are looked at so, the largest first
TURNED = 0.85  # least score of a face that is found by turning: hardly any picture without faces reached it
SIDEWAYS = 320  # pixels at most of the longest side, in which a photo without upright faces is seen after quarter turns

# A photo whose sides differ more than so many times is looked at in overlapping tiles of this shape. Beyond TILES of
# them, which a panorama of 33:1 has, they become longer.
PANORAMA = 3
TILES = 16

LEAST = 10  # pixels of a side; YuNet was trained on faces of as many

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV 5 warns of its own default at every detector

ROTATIONS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}


@dataclass(frozen=True)
class Face:
    """A face as it was found in a photo, in the photo's pixels."""

    box: tuple[float, float, float, float]
    """Left, top, width, height."""
    landmarks: np.ndarray
    """5×2 float64, in the order of LANDMARKS."""
    score: float
    """The detector's, in [0, 1]."""

    @property
    def area(self) -> float:
        return self.box[2] * self.box[3]

    @property
    def eyes(self) -> float:
        """The distance between them."""
        return float(np.linalg.norm(self.landmarks[1] - self.landmarks[0]))

    @property
    def tilt(self) -> float:
        """The angle of the line from the left eye to the right one, in degrees: 0 upright, 90 with the crown right."""
        across = self.landmarks[1] - self.landmarks[0]
        return float(np.degrees(np.arctan2(across[1], across[0])))

    @property
    def turns(self) -> int:
        """The quarter turns, counterclockwise, that bring it nearest to upright: 0 to 3."""
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
        """The same face in the whole photo, of which its own photo is the part that begins at `corner`."""
        left, top, width, height = self.box
        return Face(
            (left + float(corner[0]), top + float(corner[1]), width, height), self.landmarks + corner, self.score
        )

    def overlap(self, other: "Face") -> float:
        """Intersection over union of the boxes."""
        common = self._common(other)
        return common / (self.area + other.area - common)

    def inside(self, other: "Face") -> float:
        """The part of this face's box that lies in the other's."""
        return self._common(other) / self.area

    def _common(self, other: "Face") -> float:
        (a, b, c, d), (e, f, g, h) = self.box, other.box
        return max(0.0, min(a + c, e + g) - max(a, e)) * max(0.0, min(b + d, f + h) - max(b, f))

    def row(self) -> dict[str, Any]:
        """The face as the ledger and shards store it."""
        return {"detection": self.score, "box": list(self.box), "landmarks": self.landmarks.ravel().tolist()}


class Detector:
    """YuNet through OpenCV. `content` is its ONNX file, as `detector_file` gives it. One object serves one thread.

    `threshold`: least score of a face, in [0, 1].
    """

    def __init__(self, content: bytes, threshold: float = 0.7) -> None:
        buffer, nothing = np.frombuffer(content, np.uint8), np.empty(0, np.uint8)
        least = min(threshold, HINT)
        self.network = cv2.FaceDetectorYN.create("onnx", buffer, nothing, (320, 320), least, 0.3, 200)
        self.threshold = threshold

    def __call__(self, pixels: np.ndarray) -> list[Face]:
        """The faces of a photo H×W×3 uint8 RGB, the largest first, in pixels of the photo as it stands.

        A face upside-down or sideways has the landmarks of its own eyes, nose and mouth. The photo is turned to find
        such faces only if no face in it is upright. Raises ValueError where OpenCV fails.
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
        """The same face where the detector sees it better, in a part of the photo scaled to its liking."""
        found = self._around(pixels, face, REFINED, [face.turns], self.threshold)
        best = max(found, key=face.overlap, default=face)
        return best if face.overlap(best) > 0.3 else face

    def _all(self, pixels: np.ndarray, turns: int = 0) -> list[Face]:
        """The faces that are upright, or nearly so, after `turns` quarter turns of the photo; others may be found."""
        tiles = list(_tiles(pixels))
        if len(tiles) == 1:
            return self._search(pixels, turns)
        return _distinct([face.shifted(corner) for tile, corner in tiles for face in self._search(tile, turns)])

    def _search(self, pixels: np.ndarray, turns: int) -> list[Face]:
        """The faces of a photo that is no panorama: by default in one look."""
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
        """The same faces; one that a turned part of the photo shows better has the landmarks seen there."""
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
        """The quarter turns after which a face is seen in a photo without upright ones; 0 for none.

        Faces upside-down need no such look: nearly all of them are found as upright ones, and righted.
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
        """Faces of a score of `least` or more in the part of the photo around one, which comes `across` pixels wide.

        They are told once for each number of quarter turns after which they are seen.
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
        """What the detector sees in scaled pixels turned counterclockwise, told in those unturned, unscaled.

        Those of a score below the threshold are hints at close-ups, no faces.
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
        wide = found[:, 2] > LARGE  # hints are of no use else, and take time
        found = found[(found[:, 14] >= self.threshold) | wide].astype(np.float64)
        corners = np.stack([found[:, :2], found[:, :2] + found[:, 2:4]], axis=1)
        corners = _unturned(corners, turns, width, height) * small.factors
        landmarks = _unturned(found[:, 4:14].reshape(-1, 5, 2), turns, width, height) * small.factors
        boxes = np.hstack([corners.min(1), np.ptp(corners, axis=1)]).tolist()
        return [Face(tuple(box), *rest) for box, *rest in zip(boxes, landmarks, found[:, 14].tolist(), strict=True)]


@dataclass(frozen=True)
class _Scaled:
    """A photo or a part of one as the detector is shown it."""

    pixels: np.ndarray
    factors: np.ndarray
    """By which its places become those of the photo: across, down."""

    @classmethod
    def of(cls, pixels: np.ndarray, scale: float) -> "_Scaled":
        """Raises ValueError where OpenCV fails."""
        halved, left = shrunk(pixels, scale, 0.5)
        height, width = (max(1, round(side * left)) for side in halved.shape[:2])
        try:
            small = halved if left == 1 else cv2.resize(halved, (width, height), interpolation=cv2.INTER_LINEAR)
        except cv2.error as error:
            raise ValueError(f"{halved.shape[1]}×{halved.shape[0]} pixels cannot be scaled: {error.err}") from error
        return cls(small, left / scale * np.array([halved.shape[1] / width, halved.shape[0] / height]))


def _unturned(points: np.ndarray, turns: int, width: int, height: int) -> np.ndarray:
    """Points …×2 of a picture that was turned counterclockwise, where they were; it was W×H pixels before."""
    if not turns:
        return points
    x, y = points[..., 0], points[..., 1]
    back = {1: (width - y, x), 2: (width - x, height - y), 3: (y, height - x)}
    return np.stack(back[turns], axis=-1)


def _doubtful(face: Face) -> bool:
    """Whether a face may be another way up than its landmarks say."""
    if face.width >= SMALL:
        return face.score < UPRIGHT
    return face.width >= BLURRED and face.score < LITTLE


def _distinct(faces: list[Face]) -> list[Face]:
    """Each face once, as it was seen with the highest score; an eye that was taken for a face is none."""
    kept = list[Face]()
    for face in sorted(faces, key=lambda face: -face.score):
        if not any(face.overlap(each) > 0.3 or face.inside(each) > 0.7 for each in kept):
            kept.append(face)
    return kept


def _tiles(pixels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The photo whole; of a panorama the tiles, each with its left upper corner.

    Neighbours share a square, so that a face as large as the shorter side lies whole in one of them.
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
    """H×W×3 uint8 halved until `scale` is above `limit`, and the scale left. Of an odd side, the last pixel goes.

    With one linear step after it, this is seven times as fast as INTER_AREA in one, which takes half as long as the
    detector.
    """
    while scale <= limit and min(pixels.shape[:2]) > 1:
        height, width = (side // 2 for side in pixels.shape[:2])
        pixels = cv2.resize(pixels[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
        scale *= 2
    return pixels, scale
