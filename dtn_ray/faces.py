"""Faces in photos: found, and brought to the one place in a square picture that f, g and D know them in. No Ray.

Sec. 5.2 centres and scales emoji by their irides and nose tip; photos are aligned to the same five points.
"""

import hashlib
import os
import threading
from pathlib import Path

import cv2
import numpy as np

from dtn_ray import storage
from dtn_ray.detector import LONGEST_SIDE, SMALL, Detector, Face, shrunk
from dtn_ray.errors import UserError
from dtn_ray.images import decoded

SIZE = 152  # pixels of an aligned face (Sec. 5.2)
LANDMARKS = ("left eye", "right eye", "nose tip", "left corner of the mouth", "right corner of the mouth")

# Where they come to lie, as fractions of the picture's side; left is the viewer's.
TEMPLATE = np.array([(46, 63), (83, 62), (65, 84), (50, 94), (79, 94)], np.float64) / 128
TEMPLATE_EYES = 37 / 128  # their distance

# YuNet (Wu et al. 2023), MIT licence, face_detection_yunet_2023mar.onnx of OpenCV's model zoo.
YUNET = "ebafce4e3c118d6554634be5c27ab333b4c047a9a8c3faf1d7cf93101c22f0f0"
YUNET_URL = (
    "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet/"
    "face_detection_yunet_2023mar.onnx"
)

# Up to this scale a photo is halved before a face is cut out of it: at 0.41 the picture comes as near to that of
# eightfold supersampling so as without (36 dB), at 0.37 nearer (38 to 36), at 0.46 less near (33 to 36).
HALVED = 0.42


def detector_file(uri: str | None) -> bytes:
    """YuNet's ONNX file: from a path or URI, or, without one, fetched once into torch.hub's cache folder.

    Its SHA-256 is checked in any case. Raises UserError where it is missing, cannot be fetched or is another file.
    """
    if uri is None:
        uri = _fetched()
    try:
        content = storage.read_bytes(uri)
    except OSError as error:
        raise UserError(f"--detector {uri}: the face detector's file cannot be read ({error})") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != YUNET:
        raise UserError(f"--detector {uri}: not the face detector YuNet (SHA-256 {digest}, expected {YUNET})")
    return content


def _fetched() -> str:
    from torch import hub  # seconds to import, and seldom needed

    path = Path(hub.get_dir(), "checkpoints", "face_detection_yunet_2023mar.onnx")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            hub.download_url_to_file(YUNET_URL, os.fspath(path), hash_prefix=YUNET, progress=False)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"the face detector cannot be fetched from {YUNET_URL} ({error}): fetch it otherwise, and name the "
                "file with --detector"
            ) from error
    return os.fspath(path)


class FaceFinder:
    """The faces of photos, aligned; serves many threads.

    `detector` is YuNet's file. A face of less `confidence` (in [0, 1]), or narrower than `min_face` pixels of the
    photo, counts as none; with `largest`, so do all but the largest.
    """

    def __init__(
        self,
        detector: bytes,
        max_pixels: int,
        *,
        size: int = SIZE,
        largest: bool = False,
        confidence: float = 0.7,
        min_face: int = 24,
    ) -> None:
        self.detector, self.max_pixels, self.size = detector, max_pixels, size
        self.largest, self.confidence, self.min_face = largest, confidence, min_face
        self.threads = threading.local()
        cv2.setNumThreads(1)  # the threads that call are many already

    def __call__(self, content: bytes) -> list[tuple[Face, np.ndarray]]:
        """Faces of an encoded photo, the largest first, each with its picture `size`×`size`×3 uint8, RGB.

        Faces are told in pixels of the upright photo. Raises ValueError as `images.photo` does.
        """
        with decoded(content, self.max_pixels, 2 * LONGEST_SIDE) as (pixels, scale):
            found = [face for face in self._own(pixels) if face.width * scale >= self.min_face]
            found = found[:1] if self.largest else found
            small = TEMPLATE_EYES * self.size
            if scale == 1 or all(face.eyes >= small for face in found):
                return [(face.scaled(scale), align(pixels, face.landmarks, self.size)) for face in found]
        with decoded(content, self.max_pixels) as (pixels, left):  # which has more pixels of them
            larger = [face.scaled(scale / left) for face in found]
            seen = [
                self._own.refine(pixels, now) if face.width < SMALL else now
                for face, now in zip(found, larger, strict=True)
            ]
            return [(face.scaled(left), align(pixels, face.landmarks, self.size)) for face in seen]

    @property
    def _own(self) -> Detector:
        """This thread's detector."""
        if not hasattr(self.threads, "detector"):
            self.threads.detector = Detector(self.detector, self.confidence)
        return self.threads.detector


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation, scale and shift that bring points N×2 nearest to `target` N×2, by least squares: 2×3 float64.

    In complex numbers it is target ≈ a·point + b, and a line through points needs no more.
    """
    z, w = points @ (1, 1j), target @ (1, 1j)
    centred = z - z.mean()
    a = np.vdot(centred, w - w.mean()) / np.vdot(centred, centred).real
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align(pixels: np.ndarray, landmarks: np.ndarray, size: int = SIZE) -> np.ndarray:
    """The face with these landmarks (5×2, pixels of the photo) at TEMPLATE: `size`×`size`×3 uint8 of H×W×3 uint8.

    Beyond the photo's edge the picture is mirrored.
    """
    # Pixel i covers [i, i + 1): its centre is at i + 0.5 in the template's fractions.
    points, target = landmarks + 0.5, TEMPLATE * size
    matrix = similarity(points, target)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale <= HALVED:  # or pixels between the samples would be skipped
        pixels, corner = _around(pixels, matrix, size)
        pixels, left = shrunk(pixels, scale, HALVED)
        matrix = similarity((points - corner) * scale / left, target)
    matrix[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5
    return cv2.warpAffine(pixels, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _around(pixels: np.ndarray, matrix: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of a photo that `matrix` brings into the square, with a margin, and its left upper corner."""
    corners = np.array([(0, 0, 1), (size, 0, 1), (0, size, 1), (size, size, 1)]) @ cv2.invertAffineTransform(matrix).T
    margin = np.ptp(corners, axis=0).max() / 8
    low = np.floor(corners.min(0) - margin).clip(0).astype(int)
    high = np.ceil(corners.max(0) + margin).clip(1).astype(int)
    low = np.minimum(low, [pixels.shape[1] - 1, pixels.shape[0] - 1])  # of a face outside, the edge
    return pixels[low[1] : max(high[1], low[1] + 1), low[0] : max(high[0], low[0] + 1)], low
