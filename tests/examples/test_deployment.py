"""The manifests, the unit and the rules that operators start from: valid, and true to the programs they run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pydlb import diagnosis

EXAMPLES = Path(__file__).parents[2] / "examples"
KUBERNETES = EXAMPLES / "kubernetes"
KINDS = ["software", "pf", "vf"]
# What Kubernetes itself does not define.
FOREIGN = {"PodMonitor", "Kustomization"}


def load(name: str) -> Any:
    return yaml.safe_load((KUBERNETES / f"{name}.yaml").read_text())


def deployment(kind: str) -> Any:
    return load(f"deployment-{kind}")


def server(kind: str) -> Any:
    (container,) = deployment(kind)["spec"]["template"]["spec"]["containers"]
    return container


@pytest.mark.parametrize("path", sorted(KUBERNETES.glob("*.yaml")), ids=lambda path: path.stem)
def test_manifests_are_valid(path: Path) -> None:
    for manifest in yaml.safe_load_all(path.read_text()):
        if manifest["kind"] not in FOREIGN:
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_kustomization_names_what_is_there() -> None:
    resources = load("kustomization")["resources"]
    assert "deployment-software.yaml" in resources
    assert all((KUBERNETES / name).exists() for name in resources)


@pytest.mark.parametrize("kind", KINDS)
def test_probes_ask_what_the_server_answers(kind: str) -> None:
    container = server(kind)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe, path in {"startupProbe": "/ready", "readinessProbe": "/ready", "livenessProbe": "/alive"}.items():
        assert container[probe]["httpGet"] == {"path": path, "port": "metrics"}
    assert f"--metrics-port={ports['metrics']}" in container["args"]
    assert f"--port={ports['http']}" in container["args"]
    assert "--host=0.0.0.0" in container["args"]
    assert "--metrics-host=0.0.0.0" in container["args"]


@pytest.mark.parametrize("kind", KINDS)
def test_pods_have_the_time_that_draining_takes(kind: str) -> None:
    pod = deployment(kind)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    (grace,) = (int(text.removeprefix("--grace=")) for text in container["args"] if text.startswith("--grace="))
    assert pod["terminationGracePeriodSeconds"] >= waits + 5 + 1.5 * grace  # the backlog, then one grace and a half


@pytest.mark.parametrize("kind", KINDS)
def test_selectors_find_the_pods(kind: str) -> None:
    manifest = deployment(kind)
    labels = manifest["spec"]["template"]["metadata"]["labels"].items()
    assert manifest["spec"]["selector"]["matchLabels"].items() <= labels
    assert load("service")["spec"]["selector"].items() <= labels
    assert load("podmonitor")["spec"]["selector"]["matchLabels"].items() <= labels


def test_pods_that_differ_differ_in_their_device_only() -> None:
    for kind in ("pf", "vf"):
        container = server(kind)
        assert container["resources"]["limits"][f"dlb.intel.com/{kind}"] == "1"
        assert "--backend=device" in container["args"]
        (doctor,) = deployment(kind)["spec"]["template"]["spec"]["initContainers"]
        assert doctor["command"] == ["pydlb", "doctor"]
        assert doctor["resources"]["limits"][f"dlb.intel.com/{kind}"] == "1"
    one, other = ((KUBERNETES / f"deployment-{kind}.yaml").read_text() for kind in ("pf", "vf"))
    assert re.sub(r"\bpf\b", "vf", one).replace("physical", "virtual") == other
    assert "dlb.intel.com" not in (KUBERNETES / "deployment-software.yaml").read_text()


def test_services_and_monitors_name_ports_that_are_there() -> None:
    names = {port["name"] for port in server("software")["ports"]}
    assert load("service")["spec"]["ports"][0]["targetPort"] in names
    assert load("podmonitor")["spec"]["podMetricsEndpoints"][0]["port"] in names


def test_the_autoscaler_scales_what_is_there_by_a_metric_that_is_told() -> None:
    import pydlb
    from pydlb.metrics import families

    spec = load("hpa")["spec"]
    assert spec["scaleTargetRef"]["name"] == deployment("software")["metadata"]["name"]
    with pydlb.Balancer(0, backend="software") as balancer:
        told = {family.name for family in families(balancer.stats())}
    assert spec["metrics"][0]["pods"]["metric"]["name"] in told


@pytest.mark.parametrize("kind", KINDS)
def test_pods_have_no_privileges(kind: str) -> None:
    pod = deployment(kind)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def options_of_the_server() -> set[str]:
    told = subprocess.run(
        [sys.executable, EXAMPLES / "asyncio_acceptor.py", "--help"], capture_output=True, text=True, check=True
    )
    return set(re.findall(r"--[a-z-]+", told.stdout))


def test_the_server_knows_the_options_it_is_given() -> None:
    known = options_of_the_server()
    for kind in KINDS:
        assert {argument.partition("=")[0] for argument in server(kind)["args"]} <= known
    unit = (EXAMPLES / "host/pydlb-server.service").read_text()
    command = re.search(r"^ExecStart=(.*\\\n.*)$", unit, re.MULTILINE)
    assert command is not None
    assert set(re.findall(r"--[a-z-]+", command[1])) <= known


def test_the_image_has_what_the_manifests_run() -> None:
    text = (KUBERNETES / "Dockerfile").read_text()
    source = re.search(r"^COPY (\S+) /app/server.py$", text, re.MULTILINE)
    assert source is not None
    assert (EXAMPLES.parent / source[1]).exists()
    user = deployment("pf")["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
    assert f"USER {user}:{user}" in text


def test_the_unit_is_one(tmp_path: Path) -> None:
    text = (EXAMPLES / "host/pydlb-server.service").read_text()
    assert re.search(r"^DeviceAllow=char-dlb2 rw$", text, re.MULTILINE)
    verify = shutil.which("systemd-analyze")
    if verify is not None:  # what it says of programs that are not installed here is no fault of the unit
        unit = tmp_path / "pydlb-server.service"
        unit.write_text(
            text.replace("/opt/pydlb/bin/python", sys.executable).replace("/opt/pydlb/bin/pydlb", "/bin/true")
        )
        told = subprocess.run([verify, "verify", unit], capture_output=True, text=True)
        assert "pydlb-server" not in told.stderr, told.stderr


def test_doctor_recommends_the_rule_that_is_here() -> None:
    rule = (EXAMPLES / "host/70-dlb.rules").read_text().splitlines()[-1]
    assert any(rule in command for command in diagnosis._GRANT_TO_GROUP)


def test_the_migration_page_names_what_exists() -> None:
    page = EXAMPLES.parent / "docs/migrating-from-envoy.md"
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
