"""Output keys: the source's name where that is safe, and never the same for two sources."""

import itertools
import posixpath

import pytest

from dtn_ray.bulk.keys import MAX_KEY, MAX_NAME, output_key


@pytest.mark.parametrize(
    ("key", "output"),
    [
        ("a.png", "a.png.png"),
        ("a.jpg", "a.jpg.png"),
        ("a/b c/d+e=f&g?h#i.jpg", "a/b c/d+e=f&g?h#i.jpg.png"),
        ("фото/été/😀.jpg", "фото/été/😀.jpg.png"),
        ("a%2Fb.jpg", "a%252Fb.jpg.png"),
        ("../../x.jpg", "%2E%2E/%2E%2E/x.jpg.png"),
        ("a/./b.jpg", "a/%2E/b.jpg.png"),
        ("/etc/x.jpg", "%2F/etc/x.jpg.png"),
        ("a//b.jpg", "a/%2F/b.jpg.png"),
        ("a\\..\\b.jpg", "a%5C..%5Cb.jpg.png"),
        ("a\n\0.jpg", "a%0A%00.jpg.png"),
        ("album.PNG/a.png", "album.PNG%2F/a.png.png"),
        ("half \ud800.jpg", "half %ED%A0%80.jpg.png"),
        ("..", "...png"),
        ("", ".png"),
    ],
)
def test_output_keys(key, output):
    assert output_key(key) == output


@pytest.mark.parametrize("key", ["a" * 227, "é" * 114, "d/" * 400, "x" * 300 + "/a", "/".join(["y" * 200] * 5)])
def test_keys_that_are_too_long_go_by_their_digest(key):
    output = output_key(key)
    assert output.startswith("%long/") and len(output) == len("%long/.png") + 64
    assert output != output_key(key + "b")


def test_no_output_is_unsafe_and_no_two_are_the_same():
    pieces = ["", ".", "..", "a", "a.png", ".png", "%", "%2F", "%2E", "%25", "%long", "\\", "\0", "ü", " ", "b" * 240]
    keys = ["/".join(parts) for length in (1, 2, 3) for parts in itertools.product(pieces, repeat=length)]
    outputs = [output_key(key) for key in keys]
    assert len(set(outputs)) == len(set(keys))
    for output in outputs:
        assert posixpath.normpath(output) == output and not output.startswith(("/", "../"))
        assert len(output.encode()) <= MAX_KEY
        assert max(len(component.encode()) for component in output.split("/")) <= MAX_NAME


def test_no_output_is_a_folder_of_another():
    keys = ["x.png", "x.png/a", "x.png.png/a", "x.PNG/b", "x", "x/y", "x.png%2F", "x.png%2F/y"]
    outputs = {output_key(key) for key in keys}
    folders = {posixpath.dirname(output) for output in outputs}
    assert not outputs & folders
