"""The man pages and the programs tell the same: every option, command, exit status, alarm, function and member stands in its page, and no
other. toll(3)'s example compiles."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from harness import BUILD, ROOT, run

PAGES = sorted((ROOT / "man").glob("*.[1-8]"))
PROGRAMS = {"tolld": "tolld.8", "tollctl": "tollctl.1", "tollsim": "tollsim.1"}
HEADER = re.sub(r"/\*.*?\*/", "", (ROOT / "client/toll.h").read_text(), flags=re.S)

Line = str
Item = tuple[str, list[Line]]  # what stands after .It, and its body, nested lists included


def page(name: str) -> list[Line]:
    return [line for line in (ROOT / "man" / name).read_text().splitlines() if not line.startswith('.\\"')]


def section(lines: list[Line], name: str) -> list[Line]:
    """From .Sh or .Ss to the next of its kind."""
    start = next(number for number, line in enumerate(lines) if line in (f".Sh {name}", f".Ss {name}"))
    ends = (".Sh",) if lines[start].startswith(".Sh") else (".Sh", ".Ss")
    length = next((number for number, line in enumerate(lines[start + 1:]) if line.startswith(ends)), len(lines))
    return lines[start + 1:start + 1 + length]


def items(lines: list[Line], macro: str) -> list[Item]:
    """All items that begin with the macro, at whatever depth."""
    found = []
    for number, line in enumerate(lines):
        if not line.startswith(f".It {macro} "):
            continue
        body, depth = [], 0
        for following in lines[number + 1:]:
            depth += following.startswith(".Bl") - following.startswith(".El")
            if depth < 0 or (depth == 0 and following.startswith(".It")):
                break
            body.append(following)
        found.append((line[len(f".It {macro} "):], body))
    return found


def flags(lines: list[Line]) -> set[str]:
    """Long options, in macros and in literal text."""
    text = "\n".join(lines)
    return set(re.findall(r"\\-([a-z][a-z-]+)", text)) | set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", text))


def help_of(program: str) -> str:
    return run([BUILD / program, "--help"]).stdout


# --- all pages ---

@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page_is_clean(path: Path) -> None:
    assert run(["mandoc", "-T", "lint", "-W", "warning", path], check=False).stdout == ""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page_refers_to_pages_that_are_there(path: Path) -> None:
    others = re.findall(r"^\.Xr (toll\S*) (\d)", path.read_text(), re.M)
    assert others and {f"{name}.{number}" for name, number in others} <= {each.name for each in PAGES}


# --- command lines ---

@pytest.mark.parametrize("program", PROGRAMS)
def test_options_are_those_of_help(program: str) -> None:
    known = flags(help_of(program).splitlines()) | {"help"}
    lines = page(PROGRAMS[program])
    explained = {match[1] for line in lines if (match := re.match(r"\.It Fl \\-([a-z-]+)", line))}
    used_by_commands = {flag for head, _ in items(lines, "Ic") for flag in flags([head])}
    assert len(known) > 5 and explained | used_by_commands == known
    assert flags(lines) == known


@pytest.mark.parametrize("program", ["tolld", "tollsim"])
def test_arguments_and_defaults_are_those_of_help(program: str) -> None:
    bodies = dict(items(page(PROGRAMS[program]), "Fl"))
    told = re.findall(r"^  --([a-z-]+)(?: ([A-Z]+))?  +(.*)", help_of(program), re.M)
    assert told
    for name, argument, meaning in told:
        body = bodies[f"\\-{name}" + (f" Ar {argument}" if argument else "")]
        for default in re.findall(r"\(default (\d+)", meaning):
            assert re.search(rf"^Default {default}\b", "\n".join(body), re.M), name


@pytest.mark.parametrize("program", ["tolld", "tollctl"])
def test_exit_statuses_are_those_of_help(program: str) -> None:
    told = re.search(r"Exit status: (.*?\.)\n", help_of(program), re.S)
    assert told
    known = set(re.findall(r"(?:^|[,;]\s)(\d+) (?=[a-z])", told[1]))
    assert "2" in known and {line[4:] for line in section(page(PROGRAMS[program]), "EXIT STATUS") if line.startswith(".It ")} == known


def test_commands_of_tollctl_are_those_of_help() -> None:
    told = re.search(r"\nCommands:\n(.*?)\n\n", help_of("tollctl"), re.S)
    assert told
    known = re.findall(r"^  ([a-z-]+(?: [a-z-]+)*)", told[1], re.M)
    assert "status" in known and "prices set" in known
    explained = [re.match(r"[a-z-]+(?: [a-z-]+)*", head) for head, _ in items(page("tollctl.1"), "Ic")]
    assert sorted(match[0] for match in explained if match) == sorted(known)


def test_each_command_of_tollctl_has_its_own_options() -> None:
    """Which command takes which option stands in the program's tables."""
    source = (ROOT / "daemon/tollctl.c").read_text()
    names = dict(re.findall(r'\[(\w+)\] = \{"([a-z-]+)", \w+,', source))
    known = {command: {names[option] for option in re.findall(r"TAKES\((\w+)\)", takes)}
             for command, takes in re.findall(r'\{"([a-z -]+)", ctl_\w+,\s*([^"]*?)\d+, \d+,\s*"', source)}
    told = {}
    for head, body in items(page("tollctl.1"), "Ic"):
        command = re.match(r"[a-z-]+(?: [a-z-]+)*", head)
        assert command
        told[command[0]] = flags([head, *(line for line in body if line.startswith(".It Fl "))])
        assert flags(body) <= told[command[0]]
    assert len(names) > 30 and told == known


def test_alarms_are_those_of_the_daemon() -> None:
    known = re.findall(r"^    X\((\w+), [A-Z]+,", (ROOT / "daemon/alarm.h").read_text(), re.M)
    assert known and [head for head, _ in items(section(page("tolld.8"), "DIAGNOSTICS"), "Li")] == known


# --- tolld.conf(5) ---

Option = tuple[str, str, str, str, str]  # default, range, choices, environment variable, "Reload" or "Restart"


def options_of_help() -> dict[str, Option]:
    found: dict[str, Option] = {}
    for part in re.split(r"^\[", help_of("tolld").partition("Options of the configuration file:\n")[2], flags=re.M)[1:]:
        name, _, rest = part.partition("]\n")
        for key, default, doc in re.findall(r"^  (\w+) = (.*)\n      (.*)", rest, re.M):
            bounds = re.search(r"; (\d\S*) to (\d\S*?)(?= \(|$)", doc)
            choices = re.sub(r" \(.*", "", doc).rpartition(": ")[2]
            variable = re.search(r"\(environment: (\w+)\)", doc)
            found[f"{name}.{key}"] = (default, f"{bounds[1]} to {bounds[2]}" if bounds else "",
                                      choices if default in choices.split(", ") else "", variable[1] if variable else "",
                                      "Reload" if "(reloadable)" in doc else "Restart")
    return found


def options_of_page() -> dict[str, Option]:
    found: dict[str, Option] = {}
    lines = page("tolld.conf.5")
    for name in re.findall(r"^\.Ss \[(\w+)\]", "\n".join(lines), re.M):
        for head, body in items(section(lines, f"[{name}]"), "Cm"):
            if "=" not in head:
                continue  # an item of a list within
            key, _, default = head.partition(" =")
            facts = " ".join(body[:body.index(".Pp")])
            bounds = re.search(r", (\d\S* to \d\S*)\. ", facts)
            choices = re.search(r"One of (.*?)\. ", facts)
            variable = re.search(r"^\.Ev (\w+)", "\n".join(body), re.M)
            found[f"{name}.{key}"] = (default.strip(), bounds[1] if bounds else "", choices[1] if choices else "",
                                      variable[1] if variable else "", facts.split()[-1].rstrip("."))
    return found


def test_configuration_is_what_the_daemon_takes() -> None:
    known = options_of_help()
    assert len(known) > 30 and known["journal.ack"] == ("sync", "", "sync, write, commit", "", "Restart")
    assert known["batch.age"] == ("100ms", "0 to 1m", "", "", "Reload") and known["database.url"][3] == "DATABASE_URL"
    assert options_of_page() == known


@pytest.mark.parametrize("name", ["tolld.conf.5", "tolld.8"])
def test_environment_is_what_the_daemon_reads(name: str) -> None:
    known = {variable for *_, variable, _ in options_of_help().values() if variable}
    assert {head for head, _ in items(section(page(name), "ENVIRONMENT"), "Ev")} == known


# --- toll(3) ---

def prototypes_of_header() -> dict[str, tuple[str, list[str]]]:
    found = re.findall(r"TOLL_API ([^;(]*?) ?(toll_\w+)\(([^;]*?)\)(?: __attribute__\(\(\w+\)\))?;", re.sub(r"\s+", " ", HEADER))
    return {name: (result.strip(), [argument.strip() for argument in arguments.split(",")]) for result, name, arguments in found}


def test_functions_are_those_of_the_header() -> None:
    known = prototypes_of_header()
    assert len(known) == HEADER.count("\nTOLL_API ") > 10
    told, result = {}, ""
    for line in section(page("toll.3"), "SYNOPSIS"):
        macro, *words = shlex.split(line)
        if macro == ".Ft":
            result = " ".join(words)
        elif macro == ".Fn":
            told[words[0]] = (result, words[1:])
    assert told == known
    assert {line.split()[1] for line in section(page("toll.3"), "NAME") if line.startswith(".Nm ")} == set(known)


def test_members_and_constants_are_those_of_the_header() -> None:
    bodies = dict(re.findall(r"struct (toll_\w+) \{(.*?)\};", HEADER, re.S))
    known = {name for body in bodies.values() for name in re.findall(r"(\w+)(?:\[\d+\])?\s*[,;]", body)}
    text = "\n".join(page("toll.3"))
    told = {name for line in re.findall(r"^\.(?:It )?Va (.*)", text, re.M) for name in re.findall(r"\b[a-z]\w+", line)}
    assert len(known) > 40 and told - {"errno"} == known
    assert set(re.findall(r"^\.Vt struct (\w+)", text, re.M)) == set(bodies)
    assert set(re.findall(r"^\.It Dv (\w+)", text, re.M)) == set(re.findall(r"\b(TOLL_CREDIT_\w+) =", HEADER))


def test_example_compiles(tmp_path: Path) -> None:
    example = re.search(r"^\.Bd -literal\n(.*?)^\.Ed", "\n".join(section(page("toll.3"), "EXAMPLES")) + "\n", re.S | re.M)
    assert example
    source = tmp_path / "example.c"
    source.write_text(example[1].replace("\\e", "\\"))
    run(["cc", "-std=c11", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{ROOT / 'client'}", source])
