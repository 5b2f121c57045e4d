"""The Gramine manifest of the trusted half: it parses, rendered or not, and problems are reported."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloven.enclave import sealed_folder
from cloven.enclave.manifest import Enclosed, Python, enclosed, runtime_files, template
from cloven.enclave.manifest_check import parse_size, problems
from cloven.enclave.sizes import enclave_size, size_text
from cloven.errors import ClovenError

GIB = 2**30
LIBRARIES = "/lib/x86_64-linux-gnu"


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    made = tmp_path / "sealed"
    made.mkdir()
    (made / sealed_folder.ABOUT).write_text(
        json.dumps({"format": sealed_folder.FORMAT, "id": "0" * 32, "enclave_bytes": 2**30})
    )
    for name in (sealed_folder.PLAN, sealed_folder.WEIGHTS):
        (made / name).write_bytes(b"ciphertext")
    return made


@pytest.fixture
def python(tmp_path: Path) -> Python:
    root = tmp_path / "env"
    (root / "site").mkdir(parents=True)
    (root / "python3").touch()
    return Python(root / "python", root / "python3", root, (root / "site",))


@pytest.fixture
def half(sealed: Path, python: Python) -> Enclosed:
    return enclosed(sealed, python, enclave_bytes=4 * GIB, words=["--threads", "2"], threads=2)


def rendered(text: str) -> dict[str, Any]:
    """Render a template as gramine-manifest does, with fixed values for Gramine's variables."""
    gramine = {"libos": "/opt/gramine/libsysdb.so", "runtimedir": lambda libc="glibc": f"/opt/gramine/{libc}"}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return tomllib.loads(environment.from_string(text).render(gramine=gramine, arch_libdir=LIBRARIES))


def wrong(key: str, value: Any) -> list[str]:
    """Return the problems of a valid manifest in which one entry is added or replaced."""
    manifest = right()
    *sections, name = key.split(".")
    place = manifest
    for section in sections:
        place = place.setdefault(section, {})
    place[name] = value
    return problems(manifest)


def right() -> dict[str, Any]:
    return {
        "libos": {"entrypoint": "/python"},
        "fs": {"mounts": [{"path": "/python", "uri": "file:python"}]},
        "sgx": {"enclave_size": "4G"},
    }


# --- the template -----------------------------------------------------------------------------------------------


def test_the_template_is_right_before_and_after_it_is_rendered(half: Enclosed) -> None:
    text = template(half)
    before, after = tomllib.loads(text), rendered(text)

    assert problems(before) == []
    assert problems(after) == []
    assert "{{" in json.dumps(before)
    assert "{{" not in json.dumps(after)
    assert {"path": LIBRARIES, "uri": f"file:{LIBRARIES}"} in after["fs"]["mounts"]
    assert f"file:/usr{LIBRARIES}/" in after["sgx"]["trusted_files"]


def test_it_runs_the_trusted_half_on_the_sealed_folder(half: Enclosed, python: Python, sealed: Path) -> None:
    made = tomllib.loads(template(half))

    assert made["libos"]["entrypoint"] == str(python.binary)
    assert made["loader"]["argv"] == [
        str(python.executable),
        "-m",
        "cloven.enclave.trusted",
        "/sealed",
        "--threads",
        "2",
    ]
    assert {"path": "/sealed", "uri": f"file:{sealed}"} in made["fs"]["mounts"]
    assert made["loader"]["env"]["OMP_NUM_THREADS"] == "2"
    assert (made["sgx"]["enclave_size"], made["sgx"]["debug"]) == ("4G", False)
    assert made["sgx"]["remote_attestation"] == "dcap"


def test_code_is_trusted_and_sealed_files_are_allowed(half: Enclosed, python: Python, sealed: Path) -> None:
    sgx = tomllib.loads(template(half))["sgx"]
    digest = hashlib.sha256((sealed / "sealed.json").read_bytes()).hexdigest()

    assert f"file:{python.binary}" in sgx["trusted_files"]
    assert f"file:{python.path[0]}/" in sgx["trusted_files"]
    assert {"uri": f"file:{sealed}/sealed.json", "sha256": digest} in sgx["trusted_files"]
    assert sgx["allowed_files"] == [f"file:{sealed}/{name}" for name in ("plan.sealed", "weights.sealed")]


def test_one_folder_can_be_shared(sealed: Path, python: Python, tmp_path: Path) -> None:
    made = tomllib.loads(template(enclosed(sealed, python, enclave_bytes=GIB, shared=tmp_path / "out")))

    assert {"path": "/shared", "uri": f"file:{tmp_path}/out"} in made["fs"]["mounts"]
    assert f"file:{tmp_path}/out/" in made["sgx"]["allowed_files"]


def test_a_shared_folder_among_the_code_is_refused(sealed: Path, python: Python) -> None:
    with pytest.raises(ClovenError, match=r"site/out in sgx.allowed_files and .*site in sgx.trusted_files overlap"):
        template(enclosed(sealed, python, enclave_bytes=GIB, shared=python.path[0] / "out"))


def test_all_problems_come_at_once(half: Enclosed) -> None:
    bad = replace(
        half, enclave_bytes=5 * GIB, debug=True, max_threads=2, entrypoint="python", allowed=("/a\udcff",)
    )

    with pytest.raises(ClovenError) as caught:
        template(bad)

    words = ["UTF-8", "power of two", "sgx.debug is true", "sgx.max_threads is 2", "libos.entrypoint is"]
    assert all(any(word in problem for problem in caught.value.problems) for word in words)


def test_many_threads_get_more_slots(sealed: Path, python: Python) -> None:
    template(enclosed(sealed, python, enclave_bytes=GIB, threads=64))


def test_a_folder_that_is_not_sealed_is_refused(python: Python, tmp_path: Path) -> None:
    with pytest.raises(ClovenError, match="is not a sealed folder"):
        enclosed(tmp_path, python, enclave_bytes=GIB)


@pytest.mark.parametrize(
    "name",
    [
        'a "quoted" one',
        "back\\slash",
        "{{ 7 * 7 }}",
        "{% raw %}",
        "{# removed #}",
        "ünï/cødé 模型",
        "new\nline",
        "del\x7f",
    ],
)
def test_odd_paths_survive(half: Enclosed, name: str) -> None:
    survives(half, name)


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
def test_any_path_survives(name: str) -> None:
    survives(Enclosed("/p", ("/p",), {}, (), (), (), (), GIB), name)


def survives(half: Enclosed, name: str) -> None:
    path = f"/x/{name}"
    mounts = (("/y", path),)
    text = template(replace(half, argv=(path,), mounts=mounts, allowed=(path,), environment={name: path}))

    for made in (tomllib.loads(text), rendered(text)):
        assert made["loader"]["argv"] == [path]
        assert made["loader"]["env"][name] == path
        assert made["sgx"]["allowed_files"] == [f"file:{path}"]
        assert made["fs"]["mounts"][-1] == {"path": "/y", "uri": f"file:{path}"}


# --- the interpreter --------------------------------------------------------------------------------------------


def test_what_python_reads_is_listed_once_and_as_far_as_it_is_there(tmp_path: Path) -> None:
    library, site, binary = tmp_path / "lib", tmp_path / "lib" / "site", tmp_path / "bin"
    site.mkdir(parents=True)
    binary.touch()
    (tmp_path / "libpython.so").touch()
    path = (tmp_path / "python311.zip", library, site)

    made = runtime_files(Python(binary, binary, tmp_path, path, (tmp_path / "libpython.so",)))

    assert made == (binary, library, tmp_path / "libpython.so")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_this_interpreter_reads_nothing_else(sealed: Path) -> None:
    half = enclosed(sealed, Python.here(), enclave_bytes=GIB)
    code = (
        "import sys, ctypes, cloven.enclave.sealed_folder\n"
        "found = [getattr(m, '__file__', None) for m in sys.modules.values()]\n"
        "print(sys.prefix, *filter(None, found), sep='\\n')\n"
        "print(*(line.split()[-1] for line in open('/proc/self/maps') if '/' in line), sep='\\n')"
    )

    prefix, *files = run(half, ["-c", code]).stdout.splitlines()

    roots = [Path(path) for path in half.trusted]
    system = ("/lib", "/usr/lib")
    assert prefix == sys.prefix
    assert f"{Path(sealed_folder.__file__)}" in files
    assert [
        f for f in files if not f.startswith(system) and not any(Path(f).is_relative_to(r) for r in roots)
    ] == []


def test_a_module_in_the_current_folder_is_not_run(sealed: Path, tmp_path: Path) -> None:
    (tmp_path / "intruder.py").write_text("print('inside')")
    half = enclosed(sealed, Python.here(), enclave_bytes=GIB)

    done = run(half, ["-m", "intruder"], tmp_path)

    assert "inside" not in done.stdout
    assert "No module named intruder" in done.stderr


def run(half: Enclosed, words: list[str], where: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Start the interpreter as Gramine does: the binary, with the given name and environment."""
    return subprocess.run(
        [half.argv[0], *words],
        executable=half.entrypoint,
        env=dict(half.environment),
        cwd=where or "/",
        capture_output=True,
        text=True,
        check=False,
    )


# --- sizes ------------------------------------------------------------------------------------------------------

AMOUNTS = st.integers(0, 2 * GIB)


@given(AMOUNTS, AMOUNTS)
@example(weights=7 * GIB // 4, value=0)
def test_an_enclave_is_a_power_of_two_and_holds_pytorch_and_weights_twice(weights: int, value: int) -> None:
    size = enclave_size(weights, value)

    assert size.bit_count() == 1
    assert GIB <= size <= 64 * GIB
    assert size >= GIB + 2 * weights + value
    assert parse_size(size_text(size)) == size


@given(AMOUNTS, AMOUNTS, st.integers(0, GIB), st.integers(0, GIB), st.integers(1, 2))
def test_more_never_makes_an_enclave_smaller(weights: int, value: int, more: int, larger: int, images: int) -> None:
    assert enclave_size(weights + more, value + larger, images=images + 1) >= enclave_size(
        weights, value, images=images
    )


def test_what_fits_no_enclave_is_refused() -> None:
    with pytest.raises(ClovenError, match=r"requires 401.0 GiB, .*expected at most 64G"):
        enclave_size(0, GIB, images=100)


@pytest.mark.parametrize(("text", "size"), [("1G", GIB), ("4G", 4 * GIB), ("2048M", 2 * GIB), ("64G", 64 * GIB)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["such as"]),
        ("G", ["such as"]),
        ("four", ["such as"]),
        ("4g", ["such as"]),
        ("4 G", ["such as"]),
        ("-4G", ["such as"]),
        ("4.5G", ["such as"]),
        ("0G", ["such as"]),
        ("4T", ["such as"]),
        ("٤G", ["such as"]),
        ("9" * 5000 + "G", ["such as"]),
        ("5G", ["4G or 8G"]),
        ("3000M", ["2G or 4G"]),
        ("512M", ["1G to 64G"]),
        ("128G", ["1G to 64G"]),
        ("100G", ["64G or 128G", "1G to 64G"]),
    ],
)
def test_all_problems_of_a_size_are_reported(text: str, words: list[str]) -> None:
    with pytest.raises(ClovenError) as caught:
        parse_size(text)

    assert len(caught.value.problems) == len(words)
    assert all(word in problem for word, problem in zip(words, caught.value.problems, strict=True))


# --- the rules --------------------------------------------------------------------------------------------------

EVERYTHING = """
loader.entrypoint = "file:libsysdb.so"
loader.argv = ["python", "-V"]
loader.env = { A = "1", B = { value = "2" } }
loader.log_level = "error"
loader.uid = 0
libos = { entrypoint = "/python", check_invalid_pointers = false }
fs.start_dir = "/tmp"
fs.root = { type = "chroot", uri = "file:root" }
fs.mounts = [
  { path = "/python", uri = "file:python" },
  { type = "chroot", path = "/dev/host-zero", uri = "dev:/dev/zero" },
  { type = "encrypted", path = "/secrets", uri = "file:secrets", key_name = "_sgx_mrenclave" },
  { type = "tmpfs", path = "/tmp", uri = "ignored" },
  { type = "untrusted_shm", path = "/shm", uri = "dev:/dev/shm" },
]
sys.stack.size = "2M"
sys.brk.max_size = "256K"
sys.fds.limit = 900
sys.allowed_ioctls = [{ request_code = 0x43218765 }, { request_code = 1, struct = "one" }]
sys.ioctl_structs.one = [{ size = 8, direction = "out" }]
sgx.enclave_size = "16G"
sgx.max_threads = 4
sgx.cpu_features = { avx = "required", pkru = "disabled" }
sgx.seal_key.flags_mask = "0xffffffffffffffff"
sgx.debug = true
sgx.enable_stats = true
sgx.profile = { enable = "main", mode = "aex", with_stack = true, frequency = 50 }
sgx.remote_attestation = "none"
sgx.allowed_files = ["file:out/"]
[[sgx.trusted_files]]
uri = "file:python"
sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""


def test_what_gramine_takes_is_taken() -> None:
    assert problems(tomllib.loads(EVERYTHING)) == []
    assert problems(right()) == []


@pytest.mark.parametrize("key", ["fs.mounts", "libos.entrypoint", "sgx.enclave_size"])
def test_what_is_needed_is_missed(key: str) -> None:
    manifest = right()
    section, name = key.split(".")
    del manifest[section][name]

    (problem,) = problems(manifest)
    assert problem.startswith(f"{key} is missing")


def test_an_empty_manifest_misses_all_of_it() -> None:
    assert len(problems({})) == 3


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("sgx.enclave_sze", "sgx.enclave_size"),
        ("enclave_size", "sgx.enclave_size"),
        ("sgx.trusted_file", "sgx.trusted_files"),
        ("loader.argvs", "loader.argv"),
        ("sgxx", "sgx"),
        ("sgx.cpu_features.avx2", "sgx.cpu_features.avx"),
        ("fs.mountings", "fs.mounts"),
    ],
)
def test_the_message_for_an_unknown_name_contains_the_nearest(key: str, near: str) -> None:
    (problem,) = wrong(key, "4G")

    assert problem == f"{key} is not an option of Gramine; did you mean {near}?"


def test_a_name_like_no_other_is_refused() -> None:
    assert wrong("zzz", 1) == ["zzz is not an option of Gramine; remove it"]


@pytest.mark.parametrize(
    ("key", "value", "said", "expected"),
    [
        ("sgx", 3, "sgx is 3", "a table"),
        ("sgx.debug", "false", 'sgx.debug is "false"', "true or false"),
        ("sgx.debug", 0, "sgx.debug is 0", "true or false"),
        ("sgx.max_threads", "32", 'sgx.max_threads is "32"', "4 or more, without quotes"),
        ("sgx.max_threads", 3, "sgx.max_threads is 3", "4 or more"),
        ("loader.uid", True, "loader.uid is true", "a whole number"),
        ("loader.uid", -1, "loader.uid is -1", "0 or more"),
        ("sgx.enclave_size", 4294967296, "sgx.enclave_size is 4294967296", '"4G"'),
        ("sgx.enclave_size", "3G", "sgx.enclave_size is 3G", "2G or 4G"),
        ("sgx.enclave_size", "256M", "sgx.enclave_size is 256M", "1G to 64G"),
        ("sys.stack.size", 8, "sys.stack.size is 8", '"4G"'),
        ("sgx.remote_attestation", "epid", 'is "epid"', '"none" or "dcap"'),
        ("sgx.remote_attestation", True, "is true", '"none" or "dcap"'),
        ("sgx.cpu_features.mpx", "unspecified", 'is "unspecified"', '"disabled" or "required"'),
        ("loader.log_level", "info", 'is "info"', '"error"'),
        ("loader.argv", "python", 'loader.argv is "python"', "a list"),
        ("loader.argv", ["python", 3], "loader.argv[1] is 3", "a string"),
        ("loader.env", ["A"], 'loader.env is ["A"]', "a table of variables"),
        ("loader.env", {"A": 1}, "loader.env.A is 1", "a string"),
        ("loader.env", {"A": {"value": 1}}, "loader.env.A.value is 1", "a string"),
        ("loader.env", {"A": {"val": "1"}}, "loader.env.A.value is missing", "value"),
        ("loader.env", {"A": {"passthrough": True}}, "loader.env.A is passed through", "set its value"),
        ("loader.entrypoint", "libsysdb.so", 'is "libsysdb.so"', '"file:"'),
        ("loader.entrypoint", {"sha256": "0" * 64}, "loader.entrypoint.uri is missing", "uri"),
        ("libos.entrypoint", "python", 'is "python"', "an absolute path"),
        ("fs.mounts", {"lib": {}}, 'fs.mounts is {"lib": {}}', "a list"),
        ("fs.mounts", ["file:/usr"], 'fs.mounts[0] is "file:/usr"', "a table"),
        ("fs.mounts", [{"uri": "file:/usr"}], "fs.mounts[0].path is missing", "path, uri"),
        ("fs.mounts", [{"path": "/usr"}], "fs.mounts[0].uri is missing", "path, uri"),
        ("fs.mounts", [{"path": "usr", "uri": "file:/usr"}], 'fs.mounts[0].path is "usr"', "an absolute path"),
        ("fs.mounts", [{"path": "/usr", "uri": "/usr"}], 'fs.mounts[0].uri is "/usr"', '"file:" or "dev:"'),
        ("fs.mounts", [{"path": "/", "uri": "file:/"}], 'fs.mounts[0].path is "/"', "fs.root"),
        ("fs.mounts", [{"path": "/a", "uri": "file:a", "mode": 7}], "[0].mode is unknown", "type, path, uri"),
        ("fs.mounts", [{"type": "nfs", "path": "/a", "uri": "file:a"}], 'fs.mounts[0].type is "nfs"', '"chroot"'),
        ("fs.mounts", [{"type": [], "path": "/a", "uri": "file:a"}], "fs.mounts[0].type is []", '"chroot"'),
        ("fs.mounts", [{"type": "encrypted", "path": "/a", "uri": "file:a"}], "key_name is missing", "key_name"),
        ("fs.mounts", [{"path": "/a", "uri": "file:a", "key_name": "k"}], "key_name is unknown", "type chroot"),
        ("fs.root", {"type": "encrypted", "uri": "file:a"}, "fs.root.key_name is missing", "key_name"),
        ("fs.root", {"type": "tmpfs", "path": "/"}, "fs.root.path is unknown", "type tmpfs"),
        ("sgx.allowed_files", ["out"], 'sgx.allowed_files[0] is "out"', '"file:"'),
        ("sgx.allowed_files", [{"uri": "file:out"}], "sgx.allowed_files[0] is", '"file:"'),
        ("sgx.trusted_files", {"lib": "file:a"}, "sgx.trusted_files is", "a list"),
        ("sgx.trusted_files", ["https://a"], 'sgx.trusted_files[0] is "https://a"', '"file:"'),
        ("sgx.trusted_files", [7], "sgx.trusted_files[0] is 7", "uri, sha256"),
        ("sgx.trusted_files", [{"uri": "file:a", "sha256": "12"}], 'sha256 is "12"', "64 hexadecimal digits"),
        ("sgx.trusted_files", [{"uri": "file:a/", "sha256": "0" * 64}], "but is a folder, file:a/", "one by one"),
        ("sgx.trusted_files", [{"uri": "file:a", "md5": "0"}], "md5 is unknown", "uri, sha256"),
        ("sys.allowed_ioctls", [{"struct": "a"}], "sys.allowed_ioctls[0].request_code is missing", "request_code"),
    ],
)
def test_the_message_for_a_wrong_value_names_the_expected(key: str, value: Any, said: str, expected: str) -> None:
    found = [problem for problem in wrong(key, value) if said in problem]

    assert len(found) == 1
    assert expected in found[0].partition(said)[2]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("loader.insecure__use_cmdline_argv", True, "loader.argv"),
        ("loader.insecure__use_host_env", False, "environment"),
        ("loader.insecure__disable_aslr", True, "address"),
        ("fs.insecure__keys", {"default": "0" * 32}, "read"),
        ("sgx.insecure__rpc_thread_num", 4, "CVE-2022-21233"),
        ("sgx.insecure__allow_memfaults_without_exinfo", True, "memory"),
        ("sys.insecure__allow_eventfd", True, "counters"),
        ("libos.insecure__something_new", True, "Gramine marks it as insecure"),
    ],
)
def test_insecure_options_are_refused_with_a_reason(key: str, value: Any, reason: str) -> None:
    (problem,) = wrong(key, value)

    assert problem.startswith(f"{key} is not allowed: ")
    assert reason in problem


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("sgx.thread_num", "sgx.max_threads"),
        ("sgx.require_avx512", "sgx.cpu_features.avx512"),
        ("sgx.require_exinfo", "sgx.use_exinfo"),
        ("loader.preload", "loader.entrypoint.uri"),
        ("fs.mount", "fs.mounts"),
        ("sgx.protected_files", "encrypted"),
        ("sgx.ra_client_spid", "dcap"),
    ],
)
def test_the_message_for_an_old_name_contains_the_new_one(key: str, instead: str) -> None:
    (problem,) = wrong(key, {"lib": {"type": "chroot"}})

    assert problem.startswith(f"{key} was removed from Gramine; ")
    assert instead in problem


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ('sgx.debug = true\nsgx.remote_attestation = "dcap"', "the host can inspect a debug enclave"),
        ('loader.log_level = "trace"\nsgx.remote_attestation = "dcap"', "reveals to the host what happens"),
        ('sgx.file_check_policy = "allow_all_but_log"', "expected strict"),
        ("sgx.preheat_enclave = true\nsgx.edmm_enable = true", "allows only one of them"),
        ("sgx.enable_stats = true", "require a debug enclave"),
        ("sgx.vtune_profile = true\nsgx.debug = false", "require a debug enclave"),
        ('sgx.profile.enable = "all"', "require a debug enclave"),
        ('loader.argv = ["a"]\nloader.argv_src_file = "file:words"', "allows only one of them"),
        ('loader.env.OMP_NUM_THREADS = "6"\nsgx.max_threads = 8', "expected 9 or more"),
        ('sgx.trusted_files = ["file:a/"]\nsgx.allowed_files = ["file:a/b"]', "overlap"),
        ('sgx.trusted_files = ["file:a/b"]\nsgx.allowed_files = ["file:./a/"]', "overlap"),
        ('sgx.trusted_files = [{ uri = "file:/c/../a" }]\nsgx.allowed_files = ["file:/a"]', "overlap"),
    ],
)
def test_options_that_do_not_go_together_are_refused(entries: str, words: str) -> None:
    found = problems(tomllib.loads(MINIMAL + entries))

    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    "entries",
    [
        'sgx.debug = false\nsgx.remote_attestation = "dcap"\nloader.log_level = "error"',
        'sgx.debug = true\nloader.log_level = "all"',
        "sgx.preheat_enclave = true",
        'loader.env.OMP_NUM_THREADS = "5"\nsgx.max_threads = 8',
        'sgx.trusted_files = ["file:a"]\nsgx.allowed_files = ["file:ab", "file:b/a"]',
    ],
)
def test_options_that_go_together_are_taken(entries: str) -> None:
    assert problems(tomllib.loads(MINIMAL + entries)) == []


MINIMAL = """
libos.entrypoint = "/python"
fs.mounts = [{ path = "/python", uri = "file:python" }]
sgx.enclave_size = "4G"
"""
