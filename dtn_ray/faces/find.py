"""Finds and aligns the faces of a photo, and provides the detector's file."""

import hashlib
import os
import threading
from pathlib import Path

import cv2
import numpy as np

from dtn_ray import storage
from dtn_ray.errors import UserError
from dtn_ray.faces.align import SIZE, TEMPLATE_EYES, align
from dtn_ray.faces.detect import LONGEST_SIDE, SMALL, Detector, Face
from dtn_ray.images.decode import decoded

# YuNet (Wu et al. 2023), MIT licence, face_detection_yunet_2023mar.onnx of OpenCV's model zoo.
YUNET = "ebafce4e3c118d6554634be5c27ab333b4c047a9a8c3faf1d7cf93101c22f0f0"
YUNET_URL = (
    "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet/"
    "face_detection_yunet_2023mar.onnx"
)


def detector_file(uri: str | None) -> bytes:
    """YuNet's ONNX file: from a path or URI, or otherwise downloaded once into torch.hub's cache folder.

    Its SHA-256 is always checked. Raises UserError if it is missing, cannot be downloaded or is another file.
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
    from torch import hub  # takes seconds to import, and is seldom needed

    path = Path(hub.get_dir(), "checkpoints", "face_detection_yunet_2023mar.onnx")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            hub.download_url_to_file(YUNET_URL, os.fspath(path), hash_prefix=YUNET, progress=False)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"the face detector cannot be fetched from {YUNET_URL} ({error}): fetch it another way, and name the "
                "file with --detector"
            ) from error
    return os.fspath(path)


class FaceFinder:
    """Finds and aligns the faces of photos; safe to use from many threads.

    `detector` is YuNet's file. Faces with a score below `confidence` (in [0, 1]), or narrower than `min_face` pixels of
    the photo, are ignored; with `largest`, all but the largest are.
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
        cv2.setNumThreads(1)  # there are many calling threads already

    def __call__(self, content: bytes) -> list[tuple[Face, np.ndarray]]:
        """The faces of an encoded photo, the largest first, each with its picture `size`×`size`×3 uint8, RGB.

        Coordinates are in pixels of the upright photo. Raises ValueError as `images.photo` does.
        """
        with decoded(content, self.max_pixels, 2 * LONGEST_SIDE) as (pixels, scale):
            found = [face for face in self._own(pixels) if face.width * scale >= self.min_face]
            found = found[:1] if self.largest else found
            small = TEMPLATE_EYES * self.size
            if scale == 1 or all(face.eyes >= small for face in found):
                return [(face.scaled(scale), align(pixels, face.landmarks, self.size)) for face in found]
        with decoded(content, self.max_pixels) as (pixels, left):  # again, at a higher resolution
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
