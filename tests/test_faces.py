"""Faces: found in photos of any size and orientation, and brought to one place."""

import numpy as np
import pytest
from files import encode
from PIL import Image

from dtn_ray.detector import Face
from dtn_ray.errors import UserError
from dtn_ray.faces import TEMPLATE, FaceFinder, align, detector_file, similarity

LANDMARKS = TEMPLATE * 128


def test_similarity_recovers_a_rotation_scale_and_shift() -> None:
    turn = 3 * np.array([[0.8, -0.6], [0.6, 0.8]])
    matrix = similarity(LANDMARKS, LANDMARKS @ turn.T + [5, -7])
    np.testing.assert_allclose(matrix, np.column_stack([turn, [5, -7]]), atol=1e-9)


@pytest.mark.parametrize(("scale", "turn", "corner"), [(1, 0, (60, 40)), (6, 0.5, (200, 90)), (0.5, -0.3, (50, 70))])
def test_landmarks_come_to_lie_on_the_template(scale: float, turn: float, corner: tuple[int, int]) -> None:
    rotation = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    landmarks = LANDMARKS @ rotation.T + corner
    height, width = 1200, 1300
    y, x = np.mgrid[:height, :width]
    photo = np.zeros((height, width, 3), np.uint8)
    for i, (left, top) in enumerate(landmarks):
        near = np.exp(-((x - left) ** 2 + (y - top) ** 2) / (2 * (3 * scale) ** 2))
        photo[..., i % 3] = np.maximum(photo[..., i % 3], (255 * near).astype(np.uint8))
    aligned = align(photo, landmarks, 152).astype(np.float64)
    for i, place in enumerate(TEMPLATE * 152 - 0.5):
        left, top = (place - 8).round().astype(int)
        spot = aligned[top : top + 17, left : left + 17, i % 3]
        found = np.array([(spot.sum(0) * np.arange(17)).sum(), (spot.sum(1) * np.arange(17)).sum()]) / spot.sum()
        np.testing.assert_allclose(found, place - (left, top), atol=0.4)


def test_a_face_at_the_edge_is_completed_by_mirroring() -> None:
    photo = np.full((90, 90, 3), 200, np.uint8)
    assert (align(photo, LANDMARKS * 2 - 100, 64) == 200).all()
    assert (align(photo, LANDMARKS + 300, 64) == 200).all()


def test_a_face_in_a_photo_of_another_size() -> None:
    face = Face((10, 20, 30, 40), LANDMARKS, 0.9).scaled(2)
    assert face.box == (20, 40, 60, 80) and face.eyes == pytest.approx(2 * 37.0135, abs=1e-3)
    np.testing.assert_allclose(face.landmarks[0], (LANDMARKS[0] + 0.5) * 2 - 0.5)
    assert face.overlap(face) == 1 and face.overlap(face.shifted(np.array([60, 0]))) == 0
    assert face.overlap(face.shifted(np.array([30, 0]))) == pytest.approx(1 / 3)


def test_the_detectors_file_is_checked(tmp_path, monkeypatch) -> None:
    with pytest.raises(UserError, match=r"--detector .*/yunet\.onnx: the face detector's file cannot be read"):
        detector_file(f"{tmp_path}/yunet.onnx")
    (tmp_path / "yunet.onnx").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"not the face detector YuNet \(SHA-256 [0-9a-f]{64}, expected"):
        detector_file(f"{tmp_path}/yunet.onnx")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("dtn_ray.faces.YUNET_URL", "http://127.0.0.1:9/yunet.onnx")
    with pytest.raises(
        UserError, match=r"cannot be fetched from http://127\.0\.0\.1:9/.*: fetch it otherwise, and name"
    ):
        detector_file(None)
    monkeypatch.setattr("dtn_ray.faces.YUNET_URL", (tmp_path / "yunet.onnx").as_uri())
    with pytest.raises(UserError, match="cannot be fetched"):
        detector_file(None)
    assert not list(tmp_path.glob("hub/checkpoints/*.onnx")), "nothing of another hash is kept"


@pytest.fixture(scope="module")
def finder(yunet) -> FaceFinder:
    return FaceFinder(yunet.read_bytes(), 50_000_000)


def test_a_portrait_has_one_face(finder, portrait) -> None:
    ((face, pixels),) = finder(encode(portrait, "jpeg"))
    assert pixels.shape == (152, 152, 3) and pixels.dtype == np.uint8
    assert face.score > 0.7
    (left, top), (right, bottom) = face.landmarks[0], face.landmarks[4]
    assert 200 < left < right < 330 and 150 < top < bottom < 300, "where the officer's face is"


@pytest.mark.parametrize("orientation", [3, 6, 8, 2])
def test_a_photo_is_turned_upright_first(finder, portrait, orientation: int) -> None:
    turned = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = portrait.transpose(turned.get(orientation, Image.Transpose.FLIP_LEFT_RIGHT))
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = finder(encode(portrait))
    ((face, pixels),) = finder(encode(stored, exif=exif.tobytes()))
    np.testing.assert_allclose(face.landmarks, upright[0][0].landmarks, atol=1e-3)
    assert (pixels == upright[0][1]).all()


def test_every_face_or_the_largest_and_none_too_small(yunet, finder, portrait) -> None:
    group = Image.new("RGB", (1500, 700), "white")
    for width, left in ((250, 20), (512, 400), (340, 1000)):
        group.paste(portrait.resize((width, width * 600 // 512)), (left, 40))
    content = encode(group, "jpeg", quality=95)
    found = [face for face, _ in finder(content)]
    assert len(found) == 3 and [face.area for face in found] == sorted((face.area for face in found), reverse=True)
    assert [face.box[0] // 500 for face in found] == [1, 2, 0]
    largest = FaceFinder(yunet.read_bytes(), 10**7, largest=True)
    assert [face.box for face, _ in largest(content)] == [found[0].box]
    wide = FaceFinder(yunet.read_bytes(), 10**7, min_face=round(found[1].box[2]) - 2)
    assert len(wide(content)) == 2
    assert finder(encode(Image.effect_noise((400, 300), 80))) == []


def test_a_small_face_of_a_large_photo_keeps_its_pixels(finder, portrait) -> None:
    large = Image.new("RGB", (6000, 4000), "white")
    large.paste(portrait, (3000, 1500))
    ((face, pixels),) = finder(encode(large, "jpeg", quality=98))
    ((near, expected),) = finder(encode(portrait))
    # What the detector sees of it at first is 20 pixels wide; there landmarks are off by up to 12 of the photo's.
    np.testing.assert_allclose(face.landmarks - [3000, 1500], near.landmarks, atol=8)
    sharpness, wanted = (np.abs(np.diff(each.astype(int), axis=1)).mean() for each in (pixels, expected))
    assert sharpness > 0.9 * wanted, "not enlarged from the reduced photo that it was found in"
