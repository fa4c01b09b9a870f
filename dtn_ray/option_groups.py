"""Command lines from dataclasses, with the options in groups: the most used first, then the rest by subject.

tyro groups options by the dataclass that holds them, and prefixes their names with the group's. A job's dataclasses
follow the code instead, and its options have no prefix. So tyro is given a form: a dataclass made here, with the most
used options at its top level and one dataclass inside for each group. Its values then fill the job's own dataclasses.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, make_dataclass
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

import docstring_parser
import tyro

T = TypeVar("T")
Hidden = Mapping[type, Collection[str]]


@dataclass(frozen=True)
class Group:
    """Marks, inside `Annotated`, the title under which help lists an option, or all options of a nested dataclass."""

    title: str


@dataclass(frozen=True)
class _Option:
    """A field of a job's dataclasses that is an option of its command line."""

    path: tuple[str, ...]
    """From the job: names of the nested dataclasses, and of the field."""
    hint: Any
    group: str
    """Empty for the options that come first, and for positional arguments."""
    default: Field


class Form(Generic[T]):
    """The command line of a job: `kind` is a dataclass for tyro, and `read` makes the job from an instance of it.

    `first`: names of the options that help lists before all groups. `hidden`: by dataclass, fields that are no options;
    they keep the values of `default`. `default`: an instance of the job whose values are the options' defaults.
    """

    def __init__(
        self, job: type[T], first: Collection[str] = (), hidden: Hidden | None = None, default: T | None = None
    ) -> None:
        self.job, self.base = job, default
        self.options = list(_options(job, first, hidden or {}))
        groups: dict[str, list[_Option]] = {}
        for option in sorted(self.options, key=lambda each: _rank(each, first)):
            groups.setdefault(option.group, []).append(option)
        members: list[Any] = [_member(option) for option in groups.pop("", [])]
        for title, options in groups.items():
            inner = make_dataclass(title, [_member(option) for option in options], frozen=True, kw_only=True)
            name = _attribute(title)
            required = any(each.default.default is each.default.default_factory is MISSING for each in options)
            member: Any = field() if required else field(default_factory=inner)
            members.append((name, Annotated[inner, tyro.conf.arg(name=title)], member))
        self.kind = make_dataclass(job.__name__, members, frozen=True, kw_only=True)
        self.given = {} if default is None else {"default": self._filled(default)}

    def parse(self, description: str | None, arguments: list[str] | None = None) -> T:
        """The job that a command line describes, by default this process's."""
        return self.read(tyro.cli(self.kind, args=arguments, description=description, **self.given))

    def read(self, value: Any) -> T:
        """The job that an instance of `kind` describes."""
        found = {
            option.path: getattr(getattr(value, _attribute(option.group)) if option.group else value, option.path[-1])
            for option in self.options
        }
        return _built(self.job, found, self.base, ())

    def _filled(self, job: T) -> Any:
        values: dict[str, Any] = {}
        for option in self.options:
            value: Any = job
            for name in option.path:
                value = getattr(value, name)
            values.setdefault(option.group, {})[option.path[-1]] = value
        top = values.pop("", {})
        kinds = get_type_hints(self.kind)
        return self.kind(
            **top, **{_attribute(title): kinds[_attribute(title)](**inner) for title, inner in values.items()}
        )


def parse(job: type[T], description: str | None, first: Collection[str] = ()) -> T:
    """The job that this process's command line describes."""
    return Form(job, first).parse(description)


def parse_one_of(
    forms: Mapping[str, Form[Any]],
    descriptions: Mapping[str, str | None],
    description: str | None,
    arguments: list[str],
) -> Any:
    """The job that a command line with subcommands describes; `forms` and `descriptions` by the subcommands' names."""
    kinds = []
    for name, form in forms.items():
        subcommand = tyro.conf.subcommand(name, description=descriptions[name], **form.given)
        kinds.append(Annotated[form.kind, subcommand])  # type: ignore[name-defined]
    subcommands: Any = Union[tuple(kinds)]  # noqa: UP007
    value = tyro.cli(subcommands, args=arguments, description=description)
    return next(form for form in forms.values() if isinstance(value, form.kind)).read(value)


def _options(
    cls: type, first: Collection[str], hidden: Hidden, path: tuple[str, ...] = (), group: str = "more"
) -> Iterator[_Option]:
    helps = {each.arg_name: each.description for base in reversed(cls.__mro__[:-1]) for each in _docs(base)}
    hints = get_type_hints(cls, include_extras=True)
    for each in fields(cls):
        if each.name in hidden.get(cls, ()):
            continue
        hint = hints[each.name]
        kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        own = next((note.title for note in notes if isinstance(note, Group)), None)
        if is_dataclass(kind) and own is not None:
            yield from _options(kind, first, hidden, (*path, each.name), own)  # type: ignore[arg-type]
            continue
        text = " ".join((helps.get(each.name) or "").split())
        told = Annotated[hint, tyro.conf.arg(prefix_name=False, help=text)]  # type: ignore[valid-type]
        at_top = each.name in first or any(note is tyro.conf.Positional for note in notes)
        yield _Option((*path, each.name), told, "" if at_top else own or group, each)


def _docs(cls: type) -> list[docstring_parser.DocstringParam]:
    return docstring_parser.parse_from_object(cls).params if is_dataclass(cls) else []


def _rank(option: _Option, first: Collection[str]) -> int:
    name = option.path[-1]
    return list(first).index(name) + 1 if name in first else len(first) + 1 if option.group else 0


def _attribute(title: str) -> str:
    return "group_" + title.replace(" ", "_")


def _member(option: _Option) -> tuple[str, Any, Any]:
    default = option.default
    return (
        option.path[-1],
        option.hint,
        field(default=default.default, default_factory=default.default_factory),  # type: ignore[call-overload]
    )


def _built(cls: type[T], values: Mapping[tuple[str, ...], Any], base: Any, path: tuple[str, ...]) -> T:
    """An instance of a dataclass of the options' values; what is no option comes from `base`, or is the default."""
    found = {}
    for each in fields(cls):  # type: ignore[arg-type]
        here = (*path, each.name)
        inner = None if base is None else getattr(base, each.name)
        if here in values:
            found[each.name] = values[here]
        elif any(other[: len(here)] == here for other in values):
            kind = get_type_hints(cls)[each.name]
            found[each.name] = _built(kind, values, inner, here)
        elif base is not None:
            found[each.name] = inner
    return cls(**found)
