"""Looks at the files of docker/ without running them: what is written twice agrees, and what must hold for every
service holds. Ends with 1 and a line for each problem."""

import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker" / "compose.yaml"
PROFILES = {"embedded", "production"}
# Their start writes beside the program.
WRITABLE = {"kafka-1", "kafka-2", "kafka-3"}
# Ends by itself, so nobody asks how it is.
ENDS = {"topics"}

problems = []
checked = 0


def want(holds, text):
    global checked
    checked += 1
    if not holds:
        problems.append(text)


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def check_service(name, service, services):
    want(set(service.get("profiles", [])) and set(service["profiles"]) <= PROFILES, f"{name}: wanted a profile")
    want(service.get("cap_drop") == ["ALL"] and "cap_add" not in service, f"{name}: wanted no capability")
    want("no-new-privileges:true" in service.get("security_opt", []), f"{name}: wanted no-new-privileges")
    want(not service.get("privileged"), f"{name}: wanted no privileges")
    want("ports" not in service and service.get("network_mode") != "host", f"{name}: wanted no published port")
    want("mem_limit" in service and "pids_limit" in service, f"{name}: wanted limits of memory and of processes")
    want(name in WRITABLE or service.get("read_only") is True, f"{name}: wanted a read-only root file system")
    want(service.get("restart") == ("no" if name in ENDS else "unless-stopped"), f"{name}: wanted a restart policy")
    has_check = "test" in service.get("healthcheck", {})
    want(has_check != (name in ENDS), f"{name}: wanted a health check, or none where it ends by itself")
    for other, how in service.get("depends_on", {}).items():
        wanted = "service_completed_successfully" if other in ENDS else "service_healthy"
        want(other in services and services[other]["profiles"] == service["profiles"], f"{name}: waits for {other}")
        want(how.get("condition") == wanted, f"{name}: wanted to wait until {other} is there ({wanted})")
    for key, value in service.get("environment", {}).items():
        if "PASSWORD" in key:
            want(re.fullmatch(r"\$\{[A-Z_]+:-\}", str(value)), f"{name}: {key}: wanted it from the environment")


def check_compose():
    compose = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    services = compose["services"]
    for name, service in services.items():
        check_service(name, service, services)
    mounted = {mount.split(":")[0] for service in services.values() for mount in service.get("volumes", [])}
    want(mounted == set(compose["volumes"]), f"volumes: {sorted(mounted ^ set(compose['volumes']))}")
    brokers = services["horizons-jobs"]["environment"]["HORIZONS_KAFKA_BOOTSTRAP"]
    for broker in brokers.split(","):
        want(broker.split(":")[0] in services, f"HORIZONS_KAFKA_BOOTSTRAP: there is no service for {broker}")
    # Variables of the compose file itself; one that began with HORIZONS_ would be refused as an unknown key.
    example = set(re.findall(r"^#?([A-Z_]+)=", read("docker/env.example"), re.MULTILINE))
    named = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", COMPOSE.read_text(encoding="utf-8")))
    want(example == named, f"docker/env.example and the compose file differ in {sorted(example ^ named)}")
    want(not any(name.startswith("HORIZONS_") for name in named), f"{named}: wanted other names")


def check_keys():
    known = set(re.findall(r"`(HORIZONS_[A-Z_]+)`", read("docs/configuration.md")))
    for path in ["docker/compose.yaml", "docker/Dockerfile"]:
        for name in set(re.findall(r"\bHORIZONS_[A-Z_]+\b", read(path))):
            want(name in known, f"{path}: {name} is no key")


def check_dockerfile():
    dockerfile = read("docker/Dockerfile")
    cargo = read("Cargo.toml")
    version = re.search(r'^version = "(.+)"', cargo, re.MULTILINE).group(1)
    want(f"ARG VERSION={version}\n" in dockerfile, f"docker/Dockerfile: wanted `ARG VERSION={version}`")
    least = re.search(r'^rust-version = "(.+)"', cargo, re.MULTILINE).group(1)
    built_with = re.search(r"rust:(\d+\.\d+)-", dockerfile).group(1)
    pinned = ROOT / "rust-toolchain.toml"
    if pinned.exists():
        channel = re.search(r'channel = "(\d+\.\d+)', pinned.read_text(encoding="utf-8")).group(1)
        want(built_with == channel, f"docker/Dockerfile: wanted Rust {channel}, got {built_with}")
    want([int(part) for part in built_with.split(".")] >= [int(part) for part in least.split(".")], "Rust is too old")
    for name in re.findall(r"KAFKA_IMAGE:-apache/kafka:(\S+?)\}", COMPOSE.read_text(encoding="utf-8")):
        want(f"<version>{name}</version>" in read("tests/services/pom.xml"), f"Kafka {name} is not what tests run on")


def check_context():
    lines = [line for line in read(".dockerignore").splitlines() if line and not line.startswith("#")]
    want(lines[0] == "*" and all(line.startswith("!") for line in lines[1:]), ".dockerignore: wanted a list of what goes in")
    for line in lines[1:]:
        want((ROOT / line[1:]).exists(), f".dockerignore: there is no {line[1:]}")


check_compose()
check_keys()
check_dockerfile()
check_context()
for problem in problems:
    print(f"error: {problem}", file=sys.stderr)
print(f"{checked} statements about docker/ hold" if not problems else f"{len(problems)} of {checked} do not hold")
sys.exit(1 if problems or checked < 80 else 0)
