"""Writes docs/reference/commands.md: every option of every job, read from the jobs' own dataclasses.

python docs/reference/make.py           `make reference` does the same
python docs/reference/make.py --check   only compares, and exits 1 when the page is stale

tests/system/test_docs.py fails while the page differs from what this script would write.
"""

import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, get_args, get_origin
from unittest import mock

import tyro

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/commands.md"
JOBS = (
    "train",
    "pretrain",
    "tune",
    "evaluate",
    "baseline",
    "experiment",
    "convert",
    "ingest",
    "make_emoji",
    "super_resolution",
    "demo",
    "demo_faces",
)
HEAD = """<!-- Written by `make reference` from the options' dataclasses. Do not edit: change the docstrings there. -->

# Commands and their options

Every option of every job, with its default. `python jobs/JOB.py --help` shows the same in a terminal. Arguments in
CAPITALS are required and come before the options. An option that is on or off has a form that starts with `--no-`.
Exit codes: [outcomes.md](outcomes.md). Files that jobs write: [files.md](files.md).
"""


class CommandLine(BaseException):
    """What a job hands to `tyro.cli`, caught before it is parsed."""

    def __init__(self, form: Any, default: Any, description: str) -> None:
        self.form, self.default, self.description = form, default, description


@dataclass(frozen=True)
class Option:
    flag: str
    values: str
    default: str
    meaning: str


def command_line(job: str) -> CommandLine:
    """The command line of jobs/<job>.py. Runs the script, up to the point where it would read its arguments."""

    def catch(form: Any, *, default: Any = None, description: str = "", **_: Any) -> None:
        raise CommandLine(form, default, description)

    script = ROOT / "jobs" / f"{job}.py"
    main = ModuleType("__main__")
    main.__file__ = str(script)
    sys.modules["__main__"] = main  # and it stays: tyro reads docstrings from the source of a dataclass's module
    with (
        mock.patch("tyro.cli", catch),
        mock.patch("dtn_ray.cli.run", lambda call: call()),
        mock.patch.object(sys, "argv", [str(script), "--help"]),
    ):
        try:
            exec(compile(script.read_text(), script, "exec"), main.__dict__)
        except CommandLine as caught:
            return caught
    raise SystemExit(f"error: {script} does not read its options by tyro.cli")


def variants(line: CommandLine) -> list[tuple[str, str, list[Option]]]:
    """Name, description and options of each subcommand; of a job without subcommands, one without a name."""
    if not (subcommands := [form for form in get_args(line.form) if get_origin(form) is Annotated]):
        return [("", "", options(line.form, line.default))]
    found = []
    for form in subcommands:
        config = next(each for each in form.__metadata__ if hasattr(each, "constructor_factory"))
        inner = get_args(form)[0]
        default = config.default if isinstance(config.default, inner) else None
        found.append((config.name, config.description or "", options(inner, default)))
    return found


def options(form: Any, default: Any) -> list[Option]:
    given = {} if default is None else {"default": default}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the only form in which tyro hands out what --help shows
        parser = tyro.extras.get_parser(form, **given)
    return [option(action) for action in parser._actions if action.dest != "help"]


def option(action: Any) -> Option:
    text = " ".join((action.help or "").split())
    meaning, default = text.removesuffix(" (required)"), "required"
    if found := re.fullmatch(r"(?s)(.*?) ?\((?:default|optional|repeatable): ?(.*)\)", text):
        meaning, default = found[1], "" if found[2] in ("", "None", "''") else found[2]
    values = "" if action.nargs == 0 or not action.option_strings else str(action.metavar or "")
    flags = [flag for flag in action.option_strings if not flag.startswith("--no-")]  # aliases, the shortest first
    flag = ", ".join(sorted(flags, key=len)) or str(action.metavar or action.dest).upper()
    default = {"False": "off", "True": "on"}.get(default, default) if action.nargs == 0 else default
    return Option(flag, values.replace("{None}|", ""), default, meaning)


def table(found: list[tuple[str, str, list[Option]]]) -> list[str]:
    """One row for each option; where subcommands differ, the default of most of them and then the others'."""
    rows: dict[str, dict[str, Option]] = {}
    for name, _, each in found:
        for one in each:
            rows.setdefault(one.flag, {})[name] = one
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for flag, by_name in rows.items():
        first = next(iter(by_name.values()))
        defaults = [one.default for one in by_name.values()]
        most = max(defaults, key=defaults.count)
        shown = [code(most)] + [f"{name}: {code(one.default)}" for name, one in by_name.items() if one.default != most]
        missing = [] if len(by_name) == len(found) else [f"only {', '.join(by_name)}"]
        default = "<br>".join(cell for cell in [*shown, *missing] if cell)
        lines.append(f"| {code(f'{flag} {first.values}'.strip())} | {default} | {escaped(first.meaning)} |")
    return lines


def code(text: str) -> str:
    if text == "required" or not text:
        return text
    return f"`{text}`".replace("|", "\\|")


def escaped(text: str) -> str:
    return re.sub(r"([|<*_])", r"\\\1", text)


def without(found: list[tuple[str, str, list[Option]]], known: list[tuple[str, str, list[Option]]]) -> Any:
    """Subcommands without the options that the subcommand of the same name has elsewhere, with the same default."""
    there = {name: set(each) for name, _, each in known}
    return [(name, text, [one for one in each if one not in there[name]]) for name, text, each in found]


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    trainings: list[tuple[str, str, list[Option]]] = []
    for job in JOBS:
        line = command_line(job)
        found = variants(line)
        trainings = found if job == "train" else trainings
        parts.append(f"\n## jobs/{job}.py\n\n```text\n{line.description.strip()}\n```\n")
        if job == "tune":
            found = without(found, trainings)
            parts.append(
                "All options of [jobs/train.py](#jobstrainpy), and these. Defaults that differ are listed here.\n"
            )
        alike = len({frozenset(one.flag for one in each) for _, _, each in found}) == 1
        shared = len(set.intersection(*({one.flag for one in each} for _, _, each in found)))
        if len(found) > 1:
            parts.append("| subcommand | |\n|---|---|")
            parts += [
                f"| `{name}` | {escaped(' '.join(text.split('python jobs')[0].split()))} |" for name, text, _ in found
            ]
            parts.append("")
        if alike or shared > 20:
            parts += table(found)
        else:
            for name, _, each in found:
                parts += [f"\n### {job}.py {name}\n", *table([("", "", each)])]
    return "\n".join(parts) + "\n"


def main() -> None:
    made = page()
    if sys.argv[1:] == ["--check"]:
        if PAGE.read_text() != made:
            sys.exit(f"error: {PAGE.relative_to(ROOT)} is stale: run `make reference`")
        return
    PAGE.write_text(made)
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
