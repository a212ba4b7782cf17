"""House rules that a machine can check; CONTRIBUTING.md and docs/architecture.md say why.

Goal: a change that breaks a rule that matters is told so as advice, `path:line: rule`. Method: each
rule is a function from the project's files to messages; one test runs it over the project, another
over a small tree in which the rule is broken on purpose.

    python3 tests/rules_test.py      or      pytest tests/rules_test.py
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

Files = dict[str, str]  # path from the root -> text
Rule = Callable[[Files], Iterator[str]]

# Who may include whom. A folder may always include itself; what is not listed includes anything.
LAYERS = {
    "include": (),
    "compressors": ("include",),
    "fusion": ("include",),
    "ops": ("include", "compressors"),
    "runtime": ("include", "compressors", "fusion", "ops"),
    "frameworks": ("include", "compressors", "ops/cost_model.h", "ops/exchange_cost.h"),
    "launcher": (
        *("include", "compressors", "ops/descriptor.h"),
        *(f"ops/{name}.h" for name in ("auto_chain", "cost_model", "exchange_cost")),
        *(f"runtime/{name}.h" for name in ("store", "config", "clock", "log")),
        *("runtime/compression_settings.h", "runtime/quantity.h"),
    ),
    "examples": ("include",),
}

CODE = (".h", ".cc", ".cu", ".inc")


# Reading C++ without comments and text, so that a rule sees only code.

_TOKENS = re.compile(
    r'R"(?P<mark>[^(\s"]*)\(.*?\)(?P=mark)"'  # raw string
    r"|//[^\n]*|/\*.*?\*/"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'",  # but not the ' of 1'000
    re.DOTALL,
)
_INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def blank(found: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", found.group())


@cache
def code_lines(text: str) -> list[str]:
    """The lines of `text`, with comments, strings and characters blanked."""
    return _TOKENS.sub(blank, text).split("\n")


@cache
def includes(text: str) -> list[tuple[int, str, str]]:
    """(line number, '<' or '"', path) of every #include."""
    without_comments = re.sub(r"/\*.*?\*/|//[^\n]*", blank, text, flags=re.DOTALL)
    matches = (
        (number, _INCLUDE.match(line))
        for number, line in enumerate(without_comments.split("\n"), 1)
    )
    return [(number, found[1], found[2]) for number, found in matches if found]


def sources(files: Files, *endings: str) -> Iterator[tuple[str, str]]:
    return ((path, text) for path, text in files.items() if path.endswith(endings or CODE))


def top(path: str) -> str:
    return path.split("/")[0]


def resolve(files: Files, name: str) -> str:
    """The project's file that #include "name" means, or ''."""
    return next((path for path in (name, f"include/{name}") if path in files), "")


def forbid(
    files: Files, pattern: str, rule: str, exempt: tuple[str, ...] = (), endings: tuple = CODE
) -> Iterator[str]:
    """Advice for every code line that matches, outside the files and folders in `exempt`."""
    wanted = re.compile(pattern)
    for path, text in sources(files, *endings):
        if path.startswith(exempt):
            continue
        for number, line in enumerate(code_lines(text), 1):
            if wanted.search(line):
                yield f"{path}:{number}: {rule}"


# The rules.


def layering(files: Files) -> Iterator[str]:
    for path, text in sources(files):
        allowed = LAYERS.get(top(path))
        if allowed is None:
            continue
        for number, _, name in includes(text):
            target = resolve(files, name)
            if not target or top(target) == top(path):
                continue
            if top(target) not in allowed and target not in allowed:
                may = ", ".join(allowed) or "nothing of ours"
                yield f"{path}:{number}: {top(path)}/ may include {may}; not {target}"


def include_paths(files: Files) -> Iterator[str]:
    for path, text in sources(files):
        for number, quote, name in includes(text):
            ours = resolve(files, name)
            if ".." in name.split("/"):
                yield f'{path}:{number}: include from the repository root, never "../"'
            elif quote == '"' and not ours:
                yield f'{path}:{number}: "{name}" is no file of ours, as quotes and the root say'
            elif quote == "<" and ours:
                yield f'{path}:{number}: our own headers are included with quotes: "{name}"'


def own_header_first(files: Files) -> Iterator[str]:
    for path, text in sources(files, ".cc", ".cu"):
        stem = path.rsplit(".", 1)[0]
        own = stem + ".h" if stem + ".h" in files else f"include/hora/{stem.split('/')[-1]}.h"
        if own not in files or path.startswith(("tests/", "benchmarks/", "examples/")):
            continue
        first = next(iter(includes(text)), None)
        if first is None or resolve(files, first[2]) != own:
            line = first[0] if first else 1
            yield f"{path}:{line}: include its own header first ({own}), which proves it complete"


def pragma_once(files: Files) -> Iterator[str]:
    for path, text in sources(files, ".h"):
        if "#pragma once" not in text:
            yield f"{path}:1: a header says #pragma once"


def environment(files: Files) -> Iterator[str]:
    return forbid(
        files,
        r"\b(secure_)?getenv\b|\benviron\b",
        "read the environment in runtime/config.cc only",
        ("runtime/config.cc", "tests/", "benchmarks/", "launcher/"),
    )


EXTENSION = ("native.cc", "calls.cc", "errors.cc", "membership.cc", "owner.h", "terms.h")


def exceptions(files: Files) -> Iterator[str]:
    return forbid(
        files,
        r"\bthrow\b",
        "return a Status; only the Python extension makes exceptions",
        ("tests/", *(f"frameworks/{name}" for name in EXTENSION)),
    )


def time(files: Files) -> Iterator[str]:
    return forbid(
        files,
        r"_clock::now\b|\bsleep_(for|until)\b|(?<!\w)::sleep\s*\(|\b(u|nano)sleep\b|\bclock_gettime\b",
        "take a Clock, and wait on a condition; only runtime/clock.cc asks the system",
        ("runtime/clock.cc", "tests/", "benchmarks/"),
    )


def memory(files: Files) -> Iterator[str]:
    # Allowed: placement new, operator new, `= delete`, and what a unique_ptr takes at once (the way
    # to a private constructor).
    allowed = re.compile(
        r"unique_ptr<[\w:]+>\s*\(\s*new\b|\bnew\s*\((?!\s*std::nothrow)"
        r"|\boperator\s+(new|delete)\b|=\s*delete\b|#\s*include\s*<new>"
    )
    for path, text in sources(files):
        code = allowed.sub(blank, "\n".join(code_lines(text)))
        for found in re.finditer(r"\b(new|delete)\b", code):
            number = code.count("\n", 0, found.start()) + 1
            yield f"{path}:{number}: no raw new or delete: a value, a unique_ptr, or a vector"


def feature_macros(files: Files) -> Iterator[str]:
    return forbid(
        files,
        r"^\s*#\s*(el)?if(def|ndef)?\b.*\bHORA_(HAVE|HAS|WITH)_",
        "a missing library chooses another source file in CMake, not an #if",
    )


def folder_names(files: Files) -> Iterator[str]:
    for path in files:
        for part in path.split("/")[:-1]:
            if part in ("util", "utils", "common", "misc", "core", "helpers"):
                yield f"{path}:1: a folder's name says what it holds; `{part}` does not"


def machine_paths(files: Files) -> Iterator[str]:
    # Put together here, so that this file does not break its own rule.
    paths = "|".join(
        f"/{name}/" for name in ("work", "root", "farm", "home/[a-z]+", "Users/[A-Za-z]+")
    )
    build = "|".join(f"/{name}" for name in ("opt/wheels", "tmp/venv", "tmp/b-"))
    hosts = "|".join(
        re.escape(".".join(name))
        for name in (
            *(("pypi", "org"), ("pythonhosted", "org"), ("download", "pytorch", "org")),
            *(("deb", "debian", "org"), ("archive", "ubuntu", "com")),
        )
    )
    wanted = re.compile(rf"(?<![\w.*}}-])({paths}|{build})|\b({hosts})\b")
    for path, text in files.items():
        for number, line in enumerate(text.split("\n"), 1):
            if wanted.search(line):
                yield f"{path}:{number}: no path of one machine, and no registry's host"


def headers_compile_alone(files: Files, root: Path = ROOT) -> Iterator[str]:
    """Each header as the only #include of a source; those that a source of ours includes first are
    left to the build. Remembers, by content, which were fine."""
    compiler = shutil.which("g++")
    built = {
        resolve(files, includes(text)[0][2]) for _, text in sources(files, ".cc") if includes(text)
    }
    headers = [path for path, _ in sources(files, ".h") if path not in built]
    if compiler is None or not headers:
        return
    memory_path = root / "build" / "rules" / "headers.json"
    try:
        remembered = set(json.loads(memory_path.read_text()))
    except (OSError, ValueError):
        remembered = set()
    keys = {path: content_key(files, path) for path in headers}
    to_check = [path for path in headers if keys[path] not in remembered]
    with ThreadPoolExecutor(2) as pool:
        checked = pool.map(lambda path: compile_alone(compiler, root, path, files), to_check)
        bad = {path: text for path, text in zip(to_check, checked, strict=True) if text}
    memory_path.parent.mkdir(parents=True, exist_ok=True)
    memory_path.write_text(json.dumps(sorted(keys[path] for path in headers if path not in bad)))
    for path, problem in bad.items():
        yield f"{path}:1: a header compiles alone (a fragment is named .inc): {problem}"


def content_key(files: Files, header: str) -> str:
    """Names the contents of a header and of all of ours that it includes."""
    seen, queue = set(), [header]
    while queue:
        path = queue.pop()
        if path and path not in seen:
            seen.add(path)
            queue += [resolve(files, name) for _, _, name in includes(files[path])]
    contents = hashlib.sha256()
    for path in sorted(seen):
        contents.update(f"{path}\0{files[path]}\0".encode())
    return contents.hexdigest()


def compile_alone(compiler: str, root: Path, header: str, files: Files) -> str:
    """The compiler's first complaint, or ''. What lacks a third party's header is not judged."""
    result = subprocess.run(
        [
            *(compiler, "-std=c++20", "-fsyntax-only", "-w"),
            *("-DFMT_HEADER_ONLY=1", f"-I{root / 'include'}", f"-I{root}", "-x", "c++", "-"),
        ],
        input=f'#include "{header.removeprefix("include/")}"\n',
        **{"capture_output": True, "text": True, "cwd": root},
    )
    if result.returncode == 0:
        return ""
    complaint = re.search(r"(?:fatal )?error: (.*)", result.stderr)
    absent = re.search(r"fatal error: (\S+): No such file", result.stderr)
    if absent and absent[1] not in files and top(absent[1]) not in {top(path) for path in files}:
        return ""
    return complaint[1] if complaint else result.stderr[:200]


# Each rule with a tree that breaks it: {path: text}, and where the advice must point.
BROKEN: list[tuple[Rule, Files, str]] = [
    (
        layering,
        {"ops/a.h": '\n#include "runtime/b.h"\n', "runtime/b.h": "", "runtime/c.h": '"ops/a.h"'},
        "ops/a.h:2",
    ),
    (layering, {"launcher/a.cc": '#include "runtime/b.h"', "runtime/b.h": ""}, "launcher/a.cc:1"),
    (
        layering,
        {"compressors/a.h": '#include "ops/b.h"', "ops/b.h": '#include "compressors/a.h"'},
        "compressors/a.h:1",
    ),
    (include_paths, {"ops/a.h": '#include "../ops/b.h"'}, "ops/a.h:1"),
    (include_paths, {"ops/a.h": '#include "b.h"', "ops/b.h": ""}, "ops/a.h:1"),
    (include_paths, {"ops/a.h": "#include <hora/b.h>", "include/hora/b.h": ""}, "ops/a.h:1"),
    (
        own_header_first,
        {"ops/a.cc": '#include <vector>\n#include "ops/a.h"', "ops/a.h": ""},
        "ops/a.cc:1",
    ),
    (
        own_header_first,
        {
            "runtime/a.cc": '// why\n#include "runtime/b.h"',
            "include/hora/a.h": "",
            "runtime/b.h": "",
        },
        "runtime/a.cc:2",
    ),
    (pragma_once, {"ops/a.h": "int f();"}, "ops/a.h:1"),
    (environment, {"ops/a.cc": '/* getenv */\nauto x = std::getenv("X");'}, "ops/a.cc:2"),
    (exceptions, {"frameworks/c_api.cc": "// throw\nthrow 1;"}, "frameworks/c_api.cc:2"),
    (time, {"ops/a.cc": "auto t = std::chrono::steady_clock::now();"}, "ops/a.cc:1"),
    (time, {"ops/a.cc": "\n\nstd::this_thread::sleep_for(1s);"}, "ops/a.cc:3"),
    (memory, {"ops/a.cc": "A(const A&) = delete;\nauto* a = new A;"}, "ops/a.cc:2"),
    (memory, {"ops/a.cc": "new (place) A;\ndelete a;"}, "ops/a.cc:2"),
    (memory, {"ops/a.cc": "new (std::nothrow) A;"}, "ops/a.cc:1"),
    (feature_macros, {"ops/a.cc": "#if HORA_HAVE_MPI"}, "ops/a.cc:1"),
    (folder_names, {"ops/utils/a.cc": ""}, "ops/utils/a.cc:1"),
    (machine_paths, {"a.md": "see\n/" + "work/x"}, "a.md:2"),
    (machine_paths, {"a.md": "https://" + "pypi" + ".org/simple"}, "a.md:1"),
    (headers_compile_alone, {"ops/a.h": "std::vector<int> f();"}, "ops/a.h:1"),
]

# What looks broken and is not.
FINE: list[tuple[Rule, Files]] = [
    (layering, {"runtime/a.h": '#include "ops/b.h"', "ops/b.h": ""}),
    (layering, {"launcher/a.cc": '#include "runtime/store.h"', "runtime/store.h": ""}),
    (layering, {"tests/ops/a.cc": '#include "runtime/b.h"', "runtime/b.h": ""}),
    (environment, {"runtime/config.cc": 'getenv("X")', "ops/a.cc": 'f("getenv"); // getenv'}),
    (exceptions, {"frameworks/native.cc": "throw 1;", "ops/a.cc": "x = R\"(throw)\"; y = '\\'';"}),
    (memory, {"ops/a.cc": "new (&place) A; void operator delete(void*); A() = delete;"}),
    (memory, {"ops/a.cc": "#include <new>\nreturn std::unique_ptr<A>(\n    new A(1));"}),
    (time, {"runtime/clock.cc": "steady_clock::now()", "ops/a.cc": "int asleep(int);"}),
    (machine_paths, {"a.md": "the framework/ folder; https://example.org/" + "work/x"}),
    (headers_compile_alone, {"ops/a.h": "#include <vector>\nstd::vector<int> f();"}),
    (headers_compile_alone, {"ops/a.h": "Built a;", "ops/a.cc": '#include "ops/a.h"'}),
]

RULES = list(dict.fromkeys(rule for rule, _, _ in BROKEN))


@cache
def project() -> tuple[tuple[str, str], ...]:
    """Every text file that is the project's own."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        **{"cwd": ROOT, "capture_output": True, "text": True},
    )
    names = listed.stdout.split("\n") if listed.returncode == 0 else every_file()
    read = []
    for name in sorted(set(names)):
        try:
            read.append((name, (ROOT / name).read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError):
            continue  # removed, a folder, or not text
    return tuple(read)


def every_file() -> list[str]:
    """For a copy without git."""
    hidden = {".git", ".venv", "build", "__pycache__"}
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
    return [str(path) for path in paths if not hidden & set(path.parts)]


def advice(rule: Rule) -> list[str]:
    return list(rule(dict(project())))


def apply_to_tree(rule: Rule, files: Files) -> list[str]:
    if rule is not headers_compile_alone:
        return list(rule(files))
    with tempfile.TemporaryDirectory() as folder:
        for path, text in files.items():
            (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / path).write_text(text)
        return list(rule(files, Path(folder)))


def pytest_generate_tests(metafunc):
    names = metafunc.fixturenames
    if "broken" in names:
        ids = [f"{rule.__name__}-{where}" for rule, _, where in BROKEN]
        metafunc.parametrize("broken", BROKEN, ids=ids)
    elif "fine" in names:
        ids = [f"{rule.__name__}-{'-'.join(files)}" for rule, files in FINE]
        metafunc.parametrize("fine", FINE, ids=ids)
    elif "rule" in names:
        metafunc.parametrize("rule", RULES, ids=[rule.__name__ for rule in RULES])


def test_the_project_keeps(rule):
    found = advice(rule)
    assert not found, "\n" + "\n".join(found)


def test_a_broken_rule_is_found_and_located(broken):
    rule, files, where = broken
    found = apply_to_tree(rule, files)
    assert [line.split(": ")[0] for line in found] == [where]


def test_what_is_allowed_is_left_alone(fine):
    rule, files = fine
    assert apply_to_tree(rule, files) == []


def main() -> int:
    found = [line for rule in RULES for line in advice(rule)]
    print("\n".join(found) or f"{len(RULES)} rules, {len(project())} files: nothing to say")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
