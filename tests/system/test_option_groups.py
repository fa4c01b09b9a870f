"""Command lines in groups: what help lists where, and what a job is made of."""

import re
from dataclasses import dataclass, field
from typing import Annotated

import pytest
import tyro

from dtn_ray.option_groups import Form, Group, parse_one_of


@dataclass(frozen=True)
class Jitter:
    angle: float = 0.0
    """Degrees."""


@dataclass(frozen=True)
class Loss:
    alpha: float = 15.0
    """Weight of L_CONST,
    on as many lines as it needs."""
    secret: int = 7
    """Not an option here."""
    jitter: Jitter = field(default_factory=Jitter)
    """Random rotation."""


@dataclass(frozen=True)
class Base:
    workers: Annotated[int, Group("resource")] = 1
    """Of a base class."""


@dataclass(frozen=True)
class Job(Base):
    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PATH")] = "here"
    """What to read."""
    loss: Annotated[Loss, Group("loss")] = field(default_factory=Loss)
    name: Annotated[str | None, tyro.conf.arg(aliases=["--label"])] = None
    """A name."""


@dataclass(frozen=True)
class Needy:
    loss: Annotated[Loss, Group("loss")]
    size: Annotated[int, Group("data")]
    """Pixels; has no default."""


FORM = Form(Job, first=("alpha", "name"), hidden={Loss: {"secret"}})


def help_of(capsys, form, arguments=("--help",)):
    with pytest.raises(SystemExit) as stopped:
        form.parse("About it.", [*arguments])
    assert stopped.value.code in (0, None)
    found = re.split(r"\n ([\w ]+?) +\n -+ +\n", capsys.readouterr().out)
    return {title: " ".join(text.split()) for title, text in zip(found[1::2], found[2::2], strict=True)}


def test_help_lists_the_first_options_first_and_the_others_by_group(capsys):
    boxes = help_of(capsys, FORM)
    assert list(boxes) == ["positional arguments", "options", "resource options", "jitter options"]
    assert boxes["options"].index("--alpha") < boxes["options"].index("--name")
    assert "--label" in boxes["options"] and "--workers" in boxes["resource options"]
    assert "PATH" in boxes["positional arguments"]


def test_help_shows_docstrings_without_their_line_breaks_and_the_defaults(capsys):
    boxes = help_of(capsys, FORM)
    assert "Weight of L_CONST, on as many lines as it needs. (default: 15.0)" in boxes["options"]
    assert "--jitter.angle FLOAT Degrees." in boxes["jitter options"]
    assert "Of a base class. (default: 1)" in boxes["resource options"]


def test_a_command_line_makes_the_job(capsys):
    arguments = ["there", "--alpha", "3", "--jitter.angle", "5", "--workers", "2", "--label", "a"]
    assert FORM.parse(None, arguments) == Job(2, "there", Loss(3.0, 7, Jitter(5.0)), "a")
    assert FORM.parse(None, []) == Job()


def test_values_of_a_given_job_are_the_defaults_also_of_what_is_no_option():
    default = Job(4, "elsewhere", Loss(1.0, 9, Jitter(2.0)), "b")
    form = Form(Job, hidden={Loss: {"secret"}}, default=default)
    assert form.parse(None, []) == default
    assert form.parse(None, ["--alpha", "3"]) == Job(4, "elsewhere", Loss(3.0, 9, Jitter(2.0)), "b")


def test_a_hidden_field_is_no_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        FORM.parse(None, ["--secret", "3"])
    assert stopped.value.code == 2 and "--secret" in capsys.readouterr().err


def test_an_option_without_a_default_is_required_in_its_group(capsys):
    form = Form(Needy)
    assert form.parse(None, ["--size", "3"]) == Needy(Loss(), 3)
    with pytest.raises(SystemExit) as stopped:
        form.parse(None, [])
    assert stopped.value.code == 2 and "--size" in capsys.readouterr().err


def test_subcommands_make_their_jobs(capsys):
    forms = {"job": FORM, "small": Form(Job, default=Job(8)), "needy": Form(Needy)}
    descriptions = {"job": "A job.", "small": "A small one.", "needy": None}
    assert parse_one_of(forms, descriptions, None, ["small", "--alpha", "2"]) == Job(8, "here", Loss(2.0))
    assert parse_one_of(forms, descriptions, None, ["needy", "--size", "4"]) == Needy(Loss(), 4)
    with pytest.raises(SystemExit):
        parse_one_of(forms, descriptions, "What they do.", ["--help"])
    out = capsys.readouterr().out
    assert "What they do." in out and "A small one." in out
