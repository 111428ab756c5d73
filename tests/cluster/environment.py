"""A container's command, environment and volumes, as a local process gets them."""

from __future__ import annotations

import base64
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from .kinds import Object, dig
from .objects import Store
from .quantities import parse


@dataclass
class Image:
    """What an image holds here: the interpreter that ``python`` means, and its environment."""

    python: str = sys.executable
    env: dict[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ("python",)


class ConfigError(Exception):
    """A container that cannot be created yet: CreateContainerConfigError."""


def command_of(container: Object, image: Image, env: dict[str, str], paths: dict[str, str]) -> list[str]:
    line = [*(container.get("command") or image.entrypoint), *(container.get("args") or [])]
    line = [_relocate(_expand(str(each), env), paths) for each in line]
    if Path(line[0]).name in ("python", "python3"):
        line[0] = image.python
    return line


def environment_of(
    store: Store, pod: Object, container: Object, image: Image, home: Path, paths: dict[str, str]
) -> dict[str, str]:
    """The whole environment of the process: the image's and the pod's, nothing of the test's.

    :raises ConfigError: a Secret or ConfigMap it names is missing.
    """
    binaries = f"{Path(image.python).parent}:/usr/local/bin:/usr/bin:/bin"
    env = {"PATH": binaries, "HOME": str(home), "HOSTNAME": pod["metadata"]["name"], **image.env}
    if "/tmp" in {mount["mountPath"] for mount in container.get("volumeMounts") or []}:
        env["TMPDIR"] = paths["/tmp"]
    named: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        for key, value in _bundle(store, pod, source).items():
            named[source.get("prefix", "") + key] = value
    for variable in container.get("env") or []:
        if "valueFrom" not in variable:
            named[variable["name"]] = _expand(variable.get("value") or "", named)
        elif (value := _value_from(store, pod, container, variable["valueFrom"])) is not None:
            named[variable["name"]] = value
    env |= {key: _relocate(value, paths) for key, value in named.items()}
    if env.get("TMPDIR") == "/tmp" and "/tmp" in paths:
        env["TMPDIR"] = paths["/tmp"]
    return env


def mount(store: Store, pod: Object, container: Object, home: Path) -> dict[str, str]:
    """A local directory for each mountPath. There are no mount namespaces, so commands and environment
    name the directory instead; ``/tmp`` is left out of them, as every path of a test begins so.

    :raises ConfigError: a Secret or ConfigMap volume is missing.
    """
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or []}
    paths = {}
    for each in container.get("volumeMounts") or []:
        volume = volumes[each["name"]]
        place = home / "volumes" / each["name"]
        if "hostPath" in volume:
            place = Path(volume["hostPath"]["path"])
        elif "persistentVolumeClaim" in volume:
            place = home.parent / f"claim-{volume['persistentVolumeClaim']['claimName']}"
        elif "secret" in volume or "configMap" in volume:
            of, key = ("secret", "secretName") if "secret" in volume else ("configMap", "name")
            reference = {"name": volume[of][key], "optional": volume[of].get("optional")}
            place.mkdir(parents=True, exist_ok=True)
            for name, text in _bundle(store, pod, {f"{of}Ref": reference}).items():
                (place / name).write_text(text)
        place.mkdir(parents=True, exist_ok=True)
        paths[each["mountPath"].rstrip("/") or "/"] = str(place / each.get("subPath", ""))
    return paths


def _expand(text: str, env: dict[str, str]) -> str:
    """``$(NAME)`` where NAME is known; ``$$(NAME)`` escapes."""
    found = re.sub(r"(?<!\$)\$\((\w+)\)", lambda match: env.get(match[1], match[0]), text)
    return found.replace("$$(", "$(")


def _relocate(text: str, paths: dict[str, str]) -> str:
    for path, place in paths.items():
        if path not in (place, "/tmp", "/"):
            text = re.sub(rf"(?<![\w./-]){re.escape(path)}(?![\w.-])", lambda _, to=place: to, text)
    return text


def _bundle(store: Store, pod: Object, source: Object) -> dict[str, str]:
    """Every value of the Secret or ConfigMap that ``secretRef`` or ``configMapRef`` names."""
    secret = "secretRef" in source
    reference = source["secretRef" if secret else "configMapRef"]
    namespace = pod["metadata"]["namespace"]
    found = store.find("secrets" if secret else "configmaps", namespace, reference["name"])
    if found is None:
        if reference.get("optional"):
            return {}
        raise ConfigError(f'{"secret" if secret else "configmap"} "{reference["name"]}" not found')
    data = found.get("data") or {}
    return {key: base64.b64decode(text).decode() for key, text in data.items()} if secret else data


def _value_from(store: Store, pod: Object, container: Object, source: Object) -> str | None:
    for kind, shown in (("secret", "Secret"), ("configMap", "ConfigMap")):
        if f"{kind}KeyRef" in source:
            reference = source[f"{kind}KeyRef"]
            values = _bundle(store, pod, {f"{kind}Ref": reference})
            if reference["key"] not in values and not reference.get("optional"):
                where = f"{shown} {pod['metadata']['namespace']}/{reference['name']}"
                raise ConfigError(f"couldn't find key {reference['key']} in {where}")
            return values.get(reference["key"])
    if "resourceFieldRef" in source:
        reference = source["resourceFieldRef"]
        value = parse(dig(container, f"resources.{reference['resource']}", "0"))
        return str(-(-value // parse(reference.get("divisor") or "1")))
    path = source["fieldRef"]["fieldPath"]
    if match := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
        return (pod["metadata"].get(match[1]) or {}).get(match[2], "")
    return str(dig(pod, path, ""))
