"""Faces: found in photos of any size and orientation, and brought to one place."""

import os

import cv2
import numpy as np
import pytest
import skimage
from files import encode
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images

from dtn_ray.convert import job as convert
from dtn_ray.convert.options import Conversion
from dtn_ray.errors import UserError
from dtn_ray.faces.align import TEMPLATE, align, similarity
from dtn_ray.faces.detect import Face
from dtn_ray.faces.find import FaceFinder, detector_file

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
    monkeypatch.setattr("dtn_ray.faces.find.YUNET_URL", "http://127.0.0.1:9/yunet.onnx")
    with pytest.raises(
        UserError, match=r"cannot be fetched from http://127\.0\.0\.1:9/.*: fetch it another way, and name"
    ):
        detector_file(None)
    monkeypatch.setattr("dtn_ray.faces.find.YUNET_URL", (tmp_path / "yunet.onnx").as_uri())
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


CLOSE_UP = (181, 70, 333, 285)  # of the portrait: the face and a little of the hat
FACE_ONLY = (190, 155, 325, 290)  # and cut by the frame on all sides


@pytest.fixture(scope="module")
def upright(finder, portrait) -> tuple[Face, np.ndarray]:
    """The portrait's face as found in the portrait itself, and its aligned picture."""
    (found,) = finder(encode(portrait))
    return found


@pytest.mark.parametrize("box", [CLOSE_UP, FACE_ONLY, (205, 165, 325, 285)])
@pytest.mark.parametrize("height", [200, 640, 1400, 3000])
def test_a_face_that_fills_the_photo_is_one_face(finder, portrait, upright, box, height: int) -> None:
    part = portrait.crop(box)
    scale = height / part.height
    photo = part.resize((round(scale * part.width), height), Image.Resampling.BICUBIC)
    ((face, _),) = finder(encode(photo, "jpeg", quality=90))
    expected = (upright[0].landmarks - box[:2]) * scale
    assert np.linalg.norm(face.landmarks - expected, axis=1).max() < 0.2 * upright[0].eyes * scale
    assert face.score > 0.85


def test_a_close_up_does_not_hide_who_stands_behind(finder, portrait, upright) -> None:
    photo = Image.new("RGB", (1500, 1500), "white")
    photo.paste(portrait.crop((120, 0, 400, 400)).resize((1120, 1500)), (0, 0))
    photo.paste(portrait.resize((341, 400)), (1140, 50))
    first, second = (face for face, _ in finder(encode(photo, "jpeg")))
    assert first.box[0] < 700 and second.box[0] > 1140


def turned_back(points: np.ndarray, turns: int, size: tuple[int, int]) -> np.ndarray:
    """Pixels N×2 of a picture turned counterclockwise, in the W×H picture that it was before."""
    x, y = points.T
    width, height = size[0] - 1, size[1] - 1
    return np.column_stack([(x, y), (width - y, x), (width - x, height - y), (y, height - x)][turns])


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("scale", [0.5, 1, 2.5, 4])
def test_a_turned_photo_gives_the_face_upright(finder, portrait, turns: int, scale: float) -> None:
    photo = portrait.resize((round(512 * scale), round(600 * scale)))
    ((reference, expected),) = finder(encode(photo, "jpeg", quality=95))
    ((face, pixels),) = finder(encode(photo.rotate(90 * turns, expand=True), "jpeg", quality=95))
    assert face.turns == (4 - turns) % 4, "turned back"
    landmarks = turned_back(face.landmarks, turns, photo.size)
    assert np.abs(landmarks - reference.landmarks).max() < 0.06 * reference.eyes
    left, top, width, height = face.box
    assert ((face.landmarks > [left, top]) & (face.landmarks < [left + width, top + height])).all()
    assert np.abs(pixels.astype(int) - expected).mean() < 15
    assert min(np.abs(way(pixels).astype(int) - expected).mean() for way in (np.flipud, np.rot90)) > 40


def test_a_turned_face_is_cut_from_the_whole_photo(finder, portrait) -> None:
    photo = Image.new("RGB", (2560, 2560), "white")
    photo.paste(portrait, (900, 800))
    ((reference, expected),) = finder(encode(photo, "jpeg", quality=95))
    ((face, pixels),) = finder(encode(photo.rotate(90), "jpeg", quality=95))
    landmarks = turned_back(face.landmarks, 1, photo.size)
    assert np.abs(landmarks - reference.landmarks).max() < 0.12 * reference.eyes
    sharpness, wanted = (np.abs(np.diff(each.astype(int), axis=1)).mean() for each in (pixels, expected))
    assert sharpness > 0.85 * wanted


def test_an_upside_down_face_beside_an_upright_one(finder, portrait) -> None:
    part, photo = portrait.crop((130, 60, 410, 340)), Image.new("RGB", (600, 300), "white")
    photo.paste(part, (10, 10))
    photo.paste(part.rotate(180), (310, 10))
    faces = sorted((face for face, _ in finder(encode(photo))), key=lambda face: face.box[0])
    assert [face.turns for face in faces] == [0, 2]
    np.testing.assert_allclose(faces[1].landmarks, [599, 299] - faces[0].landmarks, atol=10)


def test_a_group_that_is_upside_down_or_sideways(finder, portrait) -> None:
    group = Image.new("RGB", (1200, 500), "white")
    for width, left in ((250, 20), (330, 400), (300, 850)):
        group.paste(portrait.resize((width, width * 600 // 512)), (left, 40))
    expected = [face for face, _ in finder(encode(group))]
    assert len(expected) == 3
    for turns in (1, 2, 3):
        found = [face for face, _ in finder(encode(group.rotate(90 * turns, expand=True)))]
        assert len(found) == 3
        for face, wanted in zip(found, expected, strict=True):
            landmarks = turned_back(face.landmarks, turns, group.size)
            np.testing.assert_allclose(landmarks, wanted.landmarks, atol=5)


@pytest.mark.parametrize("angle", [-40, -20, 20, 40])
def test_a_tilted_face_is_not_turned(finder, portrait, upright, angle: int) -> None:
    photo = portrait.rotate(angle, Image.Resampling.BICUBIC, fillcolor="gray")
    ((face, _),) = finder(encode(photo))
    assert face.turns == 0 and 10 < np.sign(-angle) * face.tilt < 50
    turn, centre = np.radians(angle), np.array([255.5, 299.5])
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    expected = (upright[0].landmarks - centre) @ matrix.T + centre
    assert np.linalg.norm(face.landmarks - expected, axis=1).max() < 0.45 * upright[0].eyes


def test_the_least_width_of_a_face_is_across_its_eyes(yunet, portrait, upright) -> None:
    least = round(upright[0].box[2]) + 15  # between its width and its height
    assert upright[0].box[2] + 14 < least < upright[0].box[3] - 14
    finder = FaceFinder(yunet.read_bytes(), 10**7, min_face=least)
    assert finder(encode(portrait)) == [] and finder(encode(portrait.rotate(90, expand=True))) == []


@pytest.mark.parametrize("tall", [False, True])
@pytest.mark.parametrize(("long", "short"), [(12000, 800), (4000, 1000)])
def test_faces_of_a_panorama(finder, portrait, upright, long: int, short: int, tall: bool) -> None:
    size = (short, long) if tall else (long, short)
    photo = Image.new("RGB", size, "lightgray")
    scales, places = (0.3, 0.5, 0.95), [round(long * each) for each in (0.05, 0.4, 0.82)]
    for scale, place in zip(scales, places, strict=True):
        side = round(scale * short)
        photo.paste(portrait.resize((side * 512 // 600, side)), (0, place) if tall else (place, 0))
    faces = [face for face, _ in finder(encode(photo, "jpeg"))]
    assert len(faces) == 3
    for face, scale, place in zip(faces, reversed(scales), reversed(places), strict=True):
        landmarks = face.landmarks - ((0, place) if tall else (place, 0))
        expected = upright[0].landmarks * scale * short / 600
        assert np.abs(landmarks - expected).max() < 0.2 * upright[0].eyes * scale * short / 600


def test_pictures_without_faces_have_none(finder) -> None:
    folder = os.path.join(os.path.dirname(skimage.__file__), "data")
    names = ("brick", "cell", "coffee", "grass", "gravel", "horse", "ihc", "moon", "page")  # YuNet sees some in coins
    pictures = [Image.open(f"{folder}/{name}.png").convert("RGB") for name in names]
    pictures += map(Image.fromarray, load_sample_images().images)
    for picture in pictures:
        scaled = picture.resize((700, round(700 * picture.height / picture.width)))
        assert finder(encode(scaled)) == [] and finder(encode(scaled.rotate(90, expand=True))) == []


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (9, 700), (1, 5000), (5000, 1), (20000, 12), (33, 31)])
def test_tiny_and_narrow_pictures_have_no_face(finder, size: tuple[int, int]) -> None:
    assert finder(encode(Image.effect_noise(size, 80))) == []


def test_grey_dark_and_mirrored_photos(finder, portrait, upright) -> None:
    photos = (ImageOps.grayscale(portrait), ImageEnhance.Brightness(portrait).enhance(0.12), ImageOps.mirror(portrait))
    for i, photo in enumerate(photos):
        ((face, _),) = finder(encode(photo))
        expected = upright[0].landmarks
        if i == 2:
            expected = ([511, 0] + expected * [-1, 1])[[1, 0, 2, 4, 3]]
        np.testing.assert_allclose(face.landmarks, expected, atol=8)


def test_where_opencv_fails_the_photo_is_told(yunet, portrait) -> None:
    finder = FaceFinder(yunet.read_bytes(), 10**7)

    class Broken:
        def setInputSize(self, size: tuple[int, int]) -> None:
            raise cv2.error("no memory")

    finder._own.network = Broken()
    with pytest.raises(ValueError, match="the face detector fails on 512×600 pixels"):
        finder(encode(portrait))


def test_the_contact_sheet_of_a_conversion_shows_turned_faces_upright(finder, portrait, upright) -> None:
    content = encode(portrait.resize((1536, 1800)).rotate(90, expand=True), "jpeg")
    ((face, _),) = finder(content)
    job = Conversion(checkpoint="", source="", out="")
    shown = convert._before(job, content, {"faces": [face.row()]})
    expected = Image.fromarray(upright[1]).resize(shown.size, Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(shown, int) - np.asarray(expected, int)).mean() < 25
