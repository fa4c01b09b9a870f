"""Faces in photos: found, and brought to the one place in a square picture that f, g and D know them in. No Ray.

Sec. 5.2 centres and scales emoji by their irides and nose tip; photos are aligned to the same five points.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dtn_ray.errors import UserError

SIZE = 152  # pixels of an aligned face (Sec. 5.2)
LANDMARKS = ("left eye", "right eye", "nose tip", "left corner of the mouth", "right corner of the mouth")

# Where they come to lie, as fractions of the picture's side; left is the viewer's.
TEMPLATE = np.array([(46, 63), (83, 62), (65, 84), (50, 94), (79, 94)], np.float64) / 128

# The detector sees a photo no larger than this, which a face of a twentieth of the side survives, and looks again at
# twice that before it says that there is no face.
LONGEST_SIDE = 640

YUNET = "ebafce4e3c118d6554634be5c27ab333b4c047a9a8c3faf1d7cf93101c22f0f0"


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


class Detector:
    """YuNet (Wu et al. 2023) through OpenCV. One object serves one thread.

    `model` is its file, face_detection_yunet_2023mar.onnx of OpenCV's model zoo (MIT licence). Raises UserError where
    it is missing or another file.
    """

    def __init__(self, model: str, threshold: float = 0.7) -> None:
        try:
            digest = hashlib.sha256(Path(model).read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"{model}: the face detector's file cannot be read ({error})") from error
        if digest != YUNET:
            raise UserError(f"{model}: not the face detector YuNet (SHA-256 {digest}, expected {YUNET})")
        self.network = cv2.FaceDetectorYN.create(model, "", (320, 320), threshold, 0.3, 200)

    def __call__(self, photo: np.ndarray) -> list[Face]:
        """The faces of a photo H×W×3 uint8 RGB, the largest first."""
        longest = max(photo.shape[:2])
        for side in (LONGEST_SIDE, 2 * LONGEST_SIDE):
            faces = self._detect(photo, min(1.0, side / longest))
            if faces or longest <= side:
                break
        return sorted(faces, key=lambda face: -face.area)

    def _detect(self, photo: np.ndarray, scale: float) -> list[Face]:
        height, width = (max(1, round(side * scale)) for side in photo.shape[:2])
        small = photo if scale == 1 else cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
        self.network.setInputSize((width, height))
        _, found = self.network.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        factors = np.array([photo.shape[1] / width, photo.shape[0] / height])
        faces = list[Face]()
        for row in found if found is not None else ():
            box = row[:4].reshape(2, 2) * factors
            landmarks = row[4:14].astype(np.float64).reshape(5, 2) * factors
            faces.append(Face(tuple(map(float, box.ravel())), landmarks, float(row[14])))  # type: ignore[arg-type]
        return faces


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation, scale and shift that bring points N×2 nearest to `target` N×2, by least squares: 2×3 float64.

    In complex numbers it is target ≈ a·point + b, and a line through points needs no more.
    """
    z, w = points @ (1, 1j), target @ (1, 1j)
    centred = z - z.mean()
    a = np.vdot(centred, w - w.mean()) / np.vdot(centred, centred).real
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align(photo: np.ndarray, landmarks: np.ndarray, size: int = SIZE) -> np.ndarray:
    """The face with these landmarks (5×2, pixels of the photo) at TEMPLATE: `size`×`size`×3 uint8 of H×W×3 uint8.

    Beyond the photo's edge the picture is mirrored.
    """
    # Pixel i covers [i, i + 1): its centre is at i + 0.5 in the template's fractions.
    matrix = similarity(landmarks + 0.5, TEMPLATE * size)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 1:  # or pixels between the samples would be skipped
        height, width = (max(1, round(side * scale)) for side in photo.shape[:2])
        factors = np.array([width / photo.shape[1], height / photo.shape[0]])
        photo = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
        matrix = similarity((landmarks + 0.5) * factors, TEMPLATE * size)
    matrix[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5
    return cv2.warpAffine(photo, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
