"""Settings: YAML files, then flags, to one frozen dataclass per stage."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import jsonargparse
import yaml

from clinrep.file_access import FileAccess
from clinrep.settings_file import check_settings_file

# Settings that change how a run is carried out but never what it computes. A finished or
# stopped run may be continued with other values of these (DESIGN section 3).
FREE_SETTINGS = frozenset(
    {
        *("output_dir", "log_level", "show_progress", "num_workers", "memory_gb", "file_access"),
        *("save_steps", "keep_checkpoints", "peak_tflops", "report_to", "token_store_dir", "worker"),
    }
)

ConfigT = TypeVar("ConfigT")
ValueT = TypeVar("ValueT")


class InputError(ValueError):
    """Something the user can mend: a wrong setting, path, table or value. Ends with exit code 2."""


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Settings every stage has."""

    output_dir: str
    """Directory this run writes, by habit runs/<name>/<stage>."""
    modality: str = "ehr"
    """Kind of data: the name of a package folder that supplies this stage's functions."""
    seed: int = 42
    """Every random generator of the run derives from this number."""
    log_level: Literal["DEBUG", "INFO", "WARNING"] = "INFO"
    """Least severe message shown and written to run.log."""
    show_progress: bool = True
    """Show progress bars where the screen is a terminal."""
    file_access: FileAccess = "owner_and_group"
    """Who may open the files and folders written, as far as the umask of the shell lets them."""

    @property
    def run_dir(self) -> Path:
        """Directory of this process's run."""
        return Path(self.output_dir)

    @property
    def reads_changed_runs(self) -> bool:
        """Whether it may read finished runs that are no longer what their stage wrote."""
        return False

    @property
    def shared_folders(self) -> frozenset[str]:
        """Folders of `output_dir` that other processes may have made before this run begins there."""
        return frozenset()

    def explain_unsearchable(self) -> dict[str, str]:
        """Return setting or group -> why a search must not vary it."""
        one = "a search compares runs of one seed on one input, in one directory"
        return dict.fromkeys(("seed", "output_dir", "modality", "search"), one)

    def __post_init__(self) -> None:
        """Refuse a negative seed: numpy and torch generators take none."""
        require(self.seed >= 0, "seed", self.seed, "be 0 or more", "use 42")


def require(is_fine: bool, name: str, value: object, rule: str, remedy: str) -> None:
    """Raise a ValueError that names the setting, its value, the rule and the remedy."""
    if not is_fine:
        raise ValueError(f"{name} is {value!r} but must {rule}; {remedy}")


def lookup(table: Mapping[str, ValueT], name: str, what: str) -> ValueT:
    """Return `table[name]`; an unknown name is an InputError that lists the known ones."""
    if name in table:
        return table[name]
    close = difflib.get_close_matches(name, list(table), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise InputError(f"unknown {what} {name!r}; known: {', '.join(sorted(table))}.{hint}")


def parse_config(config_class: type[ConfigT], argv: Sequence[str], prog: str, story: str) -> ConfigT:
    """Return the config of `--config` files and flags; later files win, flags win over files.

    Raises:
        InputError: an unknown key, a wrong type, a missing setting or a broken rule.
        SystemExit: after `--help` or `--print_config`.
    """
    jsonargparse.set_parsing_settings(
        docstring_parse_attribute_docstrings=True,
        # No value may name code but the groups of settings: to import a module, if only to refuse it, runs it.
        import_path_denylist=["*"],
        import_path_allowlist=[f"{group.__module__}.{group.__qualname__}" for group in _list_groups(config_class)],
    )
    try:
        for path in _flag_values(argv, "config"):
            check_settings_file(path)
    except ValueError as error:
        raise InputError(str(error)) from error
    parser = _build_parser(config_class, prog, story)  # type: ignore[arg-type]  # mypy doubts that a class has a hash
    try:
        namespace = parser.parse_args(_put_files_first(argv))
        _refuse_nulls(namespace.as_dict(), config_class)
        values = dict(parser.instantiate(namespace).items())
        values.pop("config", None)
        return config_class(**values)
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        raise InputError(_reword(" ".join(str(error).split()), config_class)) from error


@functools.lru_cache(maxsize=16)
def _build_parser(config_class: type[Any], prog: str, story: str) -> jsonargparse.ArgumentParser:
    """Return what reads the settings of a class; made once, for that takes as long as to read them."""
    parser = jsonargparse.ArgumentParser(
        prog=prog, description=story, allow_abbrev=False, exit_on_error=False, formatter_class=_HelpFormatter
    )
    parser.add_argument("--config", action="config", help="YAML file of settings; may be repeated.")
    parser.add_class_arguments(config_class)
    return parser


class _HelpFormatter(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a script's docstring."""


_UNION = re.compile(
    r"Does not validate .*?Subtypes: \[(.*?)\] Errors: - (.*) Given value type: \S+ \S+ Given value:(.*)"
)
_TYPES = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "list": "a list"}
_WORDINGS = (
    (
        r"Importing '([^']*)' is not allowed, denied by .*$",
        r"'\1' looks like the name of code, which no setting may be",
    ),
    (r'Parser key "[^"]*": Unable to load config .* - (?=Parser key "[^"]*": (?!Unable to load))', ""),
    (
        r"""Parser key "([^"]*)": Unable to load config (['"])(.*?)\2 - .*""",
        r'Parser key "\1": Expected settings, as --\1.NAME VALUE or {NAME: VALUE}. Got value: \3',
    ),
    (r"Expected dict\b", "Expected one value a name, as {NAME: VALUE}"),
    (r"(?:\ban? )?typing\.Literal\[(.*?)\]", r"one of \1"),
    (r"a list((?: or null)?)(?=\. Got value: (?!None$|null$)(\w[^\[\]{}:]*)$)", r"a list\1, as [\2]"),
    (r"\. Got value: Namespace\(.*$", ""),
    (r"(?<! or null)\. Got value: (None|null)$", ", got null"),
    (r"\. Got value: ([\[{].*)$", r", got \1"),
    (r"\. Got value: ?(.*)$", r", got '\1'"),
    (r'^Parser key "([^"]*)": ', r"--\1: "),
    (r'Parser key "([^"]*)": ', r"\1: "),
)


def _reword(message: str, config_class: type[Any]) -> str:
    """Return jsonargparse's message in words of this project, with the setting that was probably meant."""
    message = re.sub(r" Subclass types expect one of: .*?\(implicit class_path\)", "", message)
    message = re.sub(r"Problem with given class_path '[\w.]*?(\w+)': ", r"in an entry (\1): ", message)
    message = re.sub(r"(in an entry \(\w+\): )the following arguments are required:", r"\1missing", message)
    for name, group in _find_groups(config_class).items():
        keys = dataclasses.fields(group)
        known = ", ".join(key.name for key in keys)
        needed = ", ".join(f"{key.name}: ..." for key in keys if key.default is key.default_factory)  # neither given
        shown = f"{{{needed}}}" if needed else f"some of {{{known.replace(', ', ': ..., ')}: ...}}"
        message = re.sub(rf"(?<=\({name}\): )Option ('[^']*') is not accepted", rf"unknown \1; known: {known}", message)
        path = rf"(?<=\b{name}'>, <class 'NoneType'>\] Errors: - )Expected a dot import path string.*?(?= - | Given)"
        message = re.sub(path, f"Not a valid subclass of {name}", message)
        message = re.sub(rf"Not a valid subclass of {name}\b", f"in an entry ({name}): Expected {shown}", message)
    message = _UNION.sub(_reword_union, message)
    message = re.sub(r"(?:\ban? )?<class '(?:[\w.]*\.)?(\w+)'>", lambda kind: _TYPES.get(kind[1], kind[1]), message)
    for pattern, words in _WORDINGS:
        message = re.sub(pattern, words, message)
    stray = re.search(r"(?:Option|option) '([\w.]+)'|unrecognized arguments: --([\w.]+)", message)
    if stray:
        close = difflib.get_close_matches(stray[1] or stray[2], _list_keys(config_class), n=1)
        message += f"; did you mean {close[0]!r}?" if close else "; --help lists all settings (another stage's file?)"
    return message


def _reword_union(match: re.Match[str]) -> str:
    """Return what was expected instead of one error for each type that a setting may have."""
    kinds, errors, value = match[1], _UNION.sub(_reword_union, match[2]), match[3]
    rest = re.sub(r"(?:^| - )Expected (?:an? )?<class 'NoneType'>(?=$| - )", "", errors).removeprefix(" - ")
    if kinds.startswith("<class"):  # an optional group is no entry of a list
        rest = re.sub(r"^in an entry \(\w+\): ", "", rest)
    if not rest.startswith("Expected ") or ". Got value" in rest:
        return rest
    return re.sub(r" - Expected (?:an? )?", " or ", rest) + f"{' or null' * (rest != errors)}. Got value:{value}"


def _refuse_nulls(values: Mapping[str, Any], config_class: Any, prefix: str = "") -> None:
    """Refuse NaN, and null and what is no group where one must stand; jsonargparse lets them pass in files."""
    for name, hint in get_type_hints(config_class).items():
        value, key = values.get(name), f'Parser key "{prefix}{name}"'
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise ValueError(f"{key}: Unable to load config '{value}' - not a group")
            _refuse_nulls(value, hint, f"{prefix}{name}.")
        elif isinstance(value, float) and value != value:
            raise ValueError(f"{key}: Expected a number. Got value: nan")
        elif value is None and hint is not Any and type(None) not in get_args(hint):
            kind = hint if get_origin(hint) is Literal else get_origin(hint) or hint
            raise ValueError(f"{key}: Expected a {kind}. Got value: None")


def _find_groups(hint: Any) -> dict[str, Any]:
    """Return name -> class of every group of settings in a type."""
    groups = {hint.__name__: hint} if isinstance(hint, type) and dataclasses.is_dataclass(hint) else {}
    for part in get_type_hints(hint).values() if groups else get_args(hint):
        groups |= _find_groups(part)
    return groups


def _list_groups(hint: Any) -> list[Any]:
    """Return the class of a config and of every group of settings in it that a path can name."""
    return [group for group in _find_groups(hint).values() if "<locals>" not in group.__qualname__]


def _list_keys(config_class: Any) -> list[str]:
    """Return the names of all settings, with and without their groups."""
    keys = []
    for name, hint in get_type_hints(config_class).items():
        keys.append(name)
        for part in (hint, *get_args(hint)):
            if dataclasses.is_dataclass(part):
                nested = _list_keys(part)
                keys += [*nested, *(f"{name}.{key}" for key in nested)]
    return keys


def scan_setting(argv: Sequence[str], name: str, default: str) -> str:
    """Return one top-level string setting before the whole config can be parsed.

    The modality decides which config class a stage has, so it is read first, by the same rule:
    later files win over earlier ones, a flag over files.
    """
    value = default
    for path in _flag_values(argv, "config"):
        try:
            content = None if Path(path).is_fifo() else yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError):
            continue  # parse_config names the broken file
        if isinstance(content, dict):
            value = str(content.get(name, value))
    return [value, *_flag_values(argv, name)][-1]


def _put_files_first(argv: Sequence[str]) -> list[str]:
    """Return the words with every --config at the front: jsonargparse lets whatever stands later win."""
    files: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--config":
            value = next(words, None)
            if value is None:
                raise InputError("--config stands last, without a file; write --config FILE")
            files += [word, value]
        elif word.startswith("--config="):
            files.append(word)
        else:
            rest.append(word)
    return files + rest


def _flag_values(argv: Sequence[str], name: str) -> list[str]:
    """Return the values given to `--name VALUE` or `--name=VALUE`, in order."""
    flag, values = f"--{name}", []
    for index, word in enumerate(argv):
        if word == flag and index + 1 < len(argv):
            values.append(argv[index + 1])
        elif word.startswith(flag + "="):
            values.append(word[len(flag) + 1 :])
    return values


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return a frozen config as plain dictionaries and lists, complete with defaults."""
    return dataclasses.asdict(config)


def config_to_yaml(config: Any) -> str:
    """Return the YAML text that `--config` reads back to the same config."""
    return yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True, width=100)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as {'group.key': value}; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
