"""Check a Gramine manifest against Gramine's schema, and for options that would weaken the enclave.

Sources: see `cloven.enclave.manifest`.
"""

from __future__ import annotations

import difflib
import json
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath

from cloven.enclave.sizes import LARGEST, SMALLEST, bytes_of, size_text
from cloven.errors import ClovenError

HELPERS = 3
"""The number of threads that Gramine itself may start."""


def parse_size(text: str) -> int:
    """Parse the size of an enclave, such as ``4G``; return bytes.

    Raises:
        ClovenError: if the size is not valid.
    """
    found = _enclave_size("the enclave size", text)
    if found:
        raise ClovenError(found)
    return bytes_of(text) or 0


Rule = Callable[[str, object], list[str]]
"""Returns a sentence for each problem of a key's value."""


def problems(manifest: Mapping[str, object]) -> list[str]:
    """Return a sentence for each problem of a manifest, rendered or not.

    Names, types and values must be valid for Gramine 1.7 to 1.9. Options that let the host control the enclave,
    EPID (its service has ended), and a size that does not fit PyTorch are problems as well.
    """
    found = _walked("", manifest)
    found += [f"{key} is missing: {why}" for key, why in REQUIRED.items() if _at(manifest, key) is None]
    return found + _together(manifest) + _overlaps(manifest)


def _walked(section: str, entries: Mapping[str, object]) -> list[str]:
    return [problem for name, value in entries.items() for problem in _entry(f"{section}{name}", value)]


def _entry(key: str, value: object) -> list[str]:
    if key.rpartition(".")[2].startswith("insecure__"):
        return [f"{key} is not allowed: {INSECURE.get(key, 'Gramine marks it as insecure')}; remove it"]
    if key in GONE:
        return [f"{key} was removed from Gramine; {GONE[key]}"]
    if key in RULES:
        return RULES[key](key, value)
    if key not in SECTIONS:
        near = difflib.get_close_matches(key, [*RULES, *SECTIONS], n=1)
        return [f"{key} is not an option of Gramine; {f'did you mean {near[0]}?' if near else 'remove it'}"]
    return _walked(f"{key}.", value) if isinstance(value, Mapping) else _wrong(key, value, "a table")


def _wrong(key: str, value: object, expected: str) -> list[str]:
    return [f"{key} is {json.dumps(value, default=str)}; expected {expected}"]


def _flag(key: str, value: object) -> list[str]:
    return [] if isinstance(value, bool) else _wrong(key, value, "true or false")


def _text(key: str, value: object) -> list[str]:
    return [] if isinstance(value, str) else _wrong(key, value, "a string")


def _anything(key: str, value: object) -> list[str]:  # noqa: ARG001 (the rules share one signature)
    return []


def _number(least: int) -> Rule:
    def rule(key: str, value: object) -> list[str]:
        right = isinstance(value, int) and not isinstance(value, bool) and value >= least
        return [] if right else _wrong(key, value, f"a whole number, {least} or more, without quotes")

    return rule


def _one_of(*values: str) -> Rule:
    def rule(key: str, value: object) -> list[str]:
        return [] if value in values else _wrong(key, value, " or ".join(map(json.dumps, values)))

    return rule


def _beginning(expected: str, *starts: str) -> Rule:
    # In an unrendered manifest, a placeholder can stand for any path.
    def rule(key: str, value: object) -> list[str]:
        return [] if isinstance(value, str) and value.startswith(starts) else _wrong(key, value, expected)

    return rule


def _list_of(rule: Rule) -> Rule:
    def check(key: str, value: object) -> list[str]:
        if not isinstance(value, list):
            return _wrong(key, value, "a list")
        return [problem for i, one in enumerate(value) for problem in rule(f"{key}[{i}]", one)]

    return check


def _table(rules: Mapping[str, Rule], needs: Sequence[str], what: str) -> Rule:
    def check(key: str, value: object) -> list[str]:
        if not isinstance(value, Mapping):
            return _wrong(key, value, f"a table: {what} has {', '.join(rules)}")
        found = [f"{key}.{n} is missing: {what} requires {', '.join(needs)}" for n in needs if n not in value]
        found += [f"{key}.{n} is unknown: {what} has {', '.join(rules)}" for n in value if n not in rules]
        return found + [p for n, rule in rules.items() if n in value for p in rule(f"{key}.{n}", value[n])]

    return check


_file = _beginning('a string that begins with "file:"', "file:")
_resource = _beginning('a string that begins with "file:" or "dev:"', "file:", "dev:")
_absolute = _beginning("an absolute path in the enclave", "/", "{{")


def _size(key: str, value: object) -> list[str]:
    right = isinstance(value, str) and bytes_of(value)
    return [] if right else _wrong(key, value, 'a size such as "4G": a number, then K, M or G')


def _enclave_size(key: str, value: object) -> list[str]:
    size = bytes_of(value) if isinstance(value, str) else None
    if size is None:
        return _size(key, value)
    found, below = [], 1 << (size.bit_length() - 1)
    if size != below:
        found.append(f"{key} is {value}; expected a power of two: {size_text(below)} or {size_text(2 * below)}")
    if not SMALLEST <= size <= LARGEST:
        found.append(f"{key} is {value}; expected {size_text(SMALLEST)} to {size_text(LARGEST)}")
    return found


def _sha256(key: str, value: object) -> list[str]:
    right = isinstance(value, str) and re.fullmatch("[0-9a-fA-F]{64}", value)
    return [] if right else _wrong(key, value, "a SHA-256 as 64 hexadecimal digits")


def _hashed(key: str, value: object) -> list[str]:
    if isinstance(value, str):
        return _file(key, value)
    found = _table({"uri": _file, "sha256": _sha256}, ["uri"], "a file with its hash")(key, value)
    match value:
        case {"uri": str(uri), "sha256": _} if not found and uri.endswith("/"):
            return [f"{key} has a sha256, but is a folder, {uri}: list its files one by one, or remove the sha256"]
    return found


def _mount(key: str, value: object, own: Mapping[str, Rule]) -> list[str]:
    kind = value.get("type", "chroot") if isinstance(value, Mapping) else "chroot"
    if not isinstance(kind, str) or kind not in MOUNTS:
        return _wrong(f"{key}.type", kind, " or ".join(map(json.dumps, MOUNTS)))
    needs = [*own, *MOUNTS[kind]]
    # Gramine ignores the uri of a tmpfs.
    rules = {"type": _text, **own, "uri": _text if kind == "tmpfs" else _resource}
    if kind == "encrypted":
        rules["key_name"] = _text
    return _table(rules, needs, f"a mount of type {kind}")(key, value)


def _mounted(key: str, value: object) -> list[str]:
    if isinstance(value, Mapping) and value.get("path") == "/":
        return [f'{key}.path is "/"; set the root in fs.root rather than in fs.mounts']
    return _mount(key, value, {"path": _absolute})


def _root(key: str, value: object) -> list[str]:
    return _mount(key, value, {})


def _environment(key: str, value: object) -> list[str]:
    if not isinstance(value, Mapping):
        return _wrong(key, value, "a table of variables")
    return [problem for name, one in value.items() for problem in _variable(f"{key}.{name}", one)]


def _variable(key: str, value: object) -> list[str]:
    if isinstance(value, Mapping) and "passthrough" in value:
        return [f"{key} is passed through, so the host could choose it; set its value"]
    if isinstance(value, Mapping):
        return _table({"value": _text}, ["value"], "a variable")(key, value)
    return _text(key, value)


MOUNTS: Mapping[str, Sequence[str]] = {
    "chroot": ["uri"],
    "encrypted": ["uri", "key_name"],
    "tmpfs": [],
    "untrusted_shm": ["uri"],
}
"""The required entries of each type of mount."""

KINDS: Sequence[tuple[Rule, str]] = [
    (_flag, "libos.check_invalid_pointers sgx.debug sgx.edmm_enable sgx.enable_stats sgx.preheat_enclave"),
    (_flag, "sgx.profile.with_stack sgx.use_exinfo sgx.vtune_profile sys.enable_extra_runtime_domain_names_conf"),
    (_flag, "sys.disallow_subprocesses sys.enable_sigterm_injection sys.experimental__enable_flock"),
    (_number(0), "loader.gid loader.uid sgx.isvprodid sgx.isvsvn"),
    (_number(1), "sgx.profile.frequency sys.fds.limit"),
    (_number(HELPERS + 1), "sgx.max_threads"),
    (_size, "sgx.trusted_files_cache_size sys.brk.max_size sys.stack.size"),
    (_enclave_size, "sgx.enclave_size"),
    (_text, "fs.start_dir loader.log_file sgx.seal_key.flags_mask sgx.seal_key.misc_mask sgx.seal_key.xfrm_mask"),
    (_absolute, "libos.entrypoint"),
    (_file, "loader.argv_src_file loader.env_src_file"),
    (_hashed, "loader.entrypoint"),
    (_environment, "loader.env"),
    (_root, "fs.root"),
    (_list_of(_mounted), "fs.mounts"),
    (_list_of(_text), "loader.argv"),
    (_list_of(_file), "sgx.allowed_files"),
    (_list_of(_hashed), "sgx.trusted_files"),
    (
        _list_of(_table({"request_code": _number(0), "struct": _text}, ["request_code"], "an ioctl")),
        "sys.allowed_ioctls",
    ),
    (_list_of(_table({"name": _text, "return": _anything}, ["name"], "a call")), "sys.debug__mock_syscalls"),
    (_anything, "sys.ioctl_structs"),
    (_one_of("none", "error", "warning", "debug", "trace", "all"), "loader.log_level"),
    (_one_of("none", "dcap"), "sgx.remote_attestation"),
    (_one_of("strict", "allow_all_but_log"), "sgx.file_check_policy"),
    (
        _one_of("unspecified", "disabled", "required"),
        "sgx.cpu_features.amx sgx.cpu_features.avx sgx.cpu_features.avx512",
    ),
    (_one_of("disabled", "required"), "sgx.cpu_features.mpx sgx.cpu_features.pkru"),
    (_one_of("none", "main", "all"), "sgx.profile.enable"),
    (_one_of("aex", "ocall_inner", "ocall_outer"), "sgx.profile.mode"),
]
RULES = {key: rule for rule, keys in KINDS for key in keys.split()}
"""Every option of Gramine 1.7 to 1.9 except those that it marks as insecure."""
SECTIONS = {key[: dot.start()] for key in RULES for dot in re.finditer(r"\.", key)}

REQUIRED = {
    "fs.mounts": "without it, the enclave sees no file of the host; list folders with path and uri",
    "libos.entrypoint": "it names the program to run; give the program's path inside the enclave",
    "sgx.enclave_size": "Gramine's default of 256M is too small for PyTorch; give a power of two such as 4G",
}

INSECURE = {
    "fs.insecure__keys": "anyone can read a key in a manifest",
    "loader.insecure__disable_aslr": "attackers would know every address",
    "loader.insecure__use_cmdline_argv": "the host could choose the arguments; use loader.argv",
    "loader.insecure__use_host_env": "the host could choose the environment, and so which code is loaded",
    "sgx.insecure__allow_memfaults_without_exinfo": "the host could fake memory faults",
    "sgx.insecure__rpc_thread_num": "it exposes the enclave to CVE-2022-21233 and CVE-2022-21166",
    "sys.insecure__allow_eventfd": "the host would control the counters",
}

GONE = {
    "fs.experimental__enable_sysfs_topology": "it is always on: remove it",
    "fs.mount": "use a list of tables, fs.mounts",
    "loader.argv0_override": "use loader.argv",
    "loader.pal_internal_mem_size": "it is no longer needed: remove it",
    "loader.preload": "use loader.entrypoint.uri",
    "sgx.nonpie_binary": "it is no longer needed: remove it",
    "sgx.protected_files": "use a mount of type encrypted in fs.mounts",
    "sgx.ra_client_linkable": "it belongs to EPID, whose service has ended: use dcap",
    "sgx.ra_client_spid": "it belongs to EPID, whose service has ended: use dcap",
    "sgx.require_amx": "use sgx.cpu_features.amx",
    "sgx.require_avx": "use sgx.cpu_features.avx",
    "sgx.require_avx512": "use sgx.cpu_features.avx512",
    "sgx.require_exinfo": "use sgx.use_exinfo",
    "sgx.require_mpx": "use sgx.cpu_features.mpx",
    "sgx.require_pkru": "use sgx.cpu_features.pkru",
    "sgx.thread_num": "use sgx.max_threads",
}


def _at(manifest: Mapping[str, object], key: str) -> object:
    """Return the value at a dotted key of a manifest, or None."""
    found: object = manifest
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _together(manifest: Mapping[str, object]) -> list[str]:
    """Return the problems of combinations of valid options."""

    def has(key: str, *values: object) -> bool:
        found = _at(manifest, key)
        return found in values if values else found is not None

    attested = has("sgx.remote_attestation", "dcap")
    looks = any(
        has(f"sgx.{name}", True, "main", "all") for name in ("enable_stats", "vtune_profile", "profile.enable")
    )
    tells = has("loader.log_level", "warning", "debug", "trace", "all")
    rules = [
        (
            attested and has("sgx.debug", True),
            "sgx.debug is true and sgx.remote_attestation is on: the host can inspect a debug enclave and read a "
            "released key; set one of them to false or none",
        ),
        (
            attested and tells,
            "loader.log_level reveals to the host what happens inside, and sgx.remote_attestation is on; expected "
            "error",
        ),
        (
            has("sgx.file_check_policy", "allow_all_but_log"),
            "sgx.file_check_policy is allow_all_but_log, so the host could replace any file; expected strict",
        ),
        (
            has("sgx.preheat_enclave", True) and has("sgx.edmm_enable", True),
            "sgx.preheat_enclave and sgx.edmm_enable are both true; Gramine allows only one of them",
        ),
        (
            looks and not has("sgx.debug", True),
            "sgx.enable_stats, sgx.vtune_profile and sgx.profile require a debug enclave; remove them",
        ),
        (
            has("loader.argv") and has("loader.argv_src_file"),
            "loader.argv and loader.argv_src_file are both given; Gramine allows only one of them",
        ),
    ]
    return [sentence for wrong, sentence in rules if wrong] + _too_many(manifest)


def _too_many(manifest: Mapping[str, object]) -> list[str]:
    threads, slots = str(_at(manifest, "loader.env.OMP_NUM_THREADS")), _at(manifest, "sgx.max_threads")
    if not threads.isdecimal() or not isinstance(slots, int) or int(threads) + HELPERS <= slots:
        return []
    return [
        f"OMP_NUM_THREADS is {threads}, but sgx.max_threads is {slots}; expected {int(threads) + HELPERS} or more, "
        "since Gramine starts threads of its own"
    ]


def _overlaps(manifest: Mapping[str, object]) -> list[str]:
    trusted, allowed = (_paths(_at(manifest, f"sgx.{kind}_files")) for kind in ("trusted", "allowed"))
    return [
        f"{one} in sgx.allowed_files and {other} in sgx.trusted_files overlap: a file is either hashed or under "
        "the host's control; separate them"
        for one in allowed
        for other in trusted
        if one.is_relative_to(other) or other.is_relative_to(one)
    ]


def _paths(files: object) -> list[PurePosixPath]:
    entries = files if isinstance(files, list) else []
    uris = [entry.get("uri") if isinstance(entry, Mapping) else entry for entry in entries]
    return [PurePosixPath(posixpath.normpath(u[5:])) for u in uris if isinstance(u, str) and u.startswith("file:")]
