"""Checks filled-in files before anything is launched. Prints one line for each mistake; exits 2 if there is any.

python cluster/check.py cluster/gpu.yaml && ray up cluster/gpu.yaml

A cluster file of `ray up` is checked against Ray's schema, EC2's model and this machine (token, SSH). With your AWS
credentials it is also checked against the account: image, AMI, roles, zone, instance types, quotas, your permissions.
Nothing is launched or changed. All other files (cluster/kubernetes/*, cluster/schedule/*, cluster/iam/*) are checked
for placeholders.
"""

import argparse
import json
import logging
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.exceptions import BotoCoreError, ClientError
from botocore.validate import ParamValidator

from dtn_ray.text import display

PLACEHOLDERS = {
    "REGISTRY": "the registry of the image, as in 123456789012.dkr.ecr.us-west-2.amazonaws.com",
    "AMI_ID": "the ID of the machine image, as in ami-0123456789abcdef0",
    "HEAD_INSTANCE_PROFILE": "name of the instance profile with the head's role",
    "WORKER_INSTANCE_PROFILE": "name of the instance profile with the workers' role",
    "HEAD_ROLE": "name of the head's role",
    "WORKER_ROLE": "name of the workers' role",
    "ACCOUNT": "the AWS account's number",
    "ROLE": "name of the role with access to the buckets",
    "BUCKET": "the bucket's name",
    "HEAD": "the address of the cluster's head",
    "OPERATOR@EXAMPLE.ORG": "the address that receives a mail when a night fails",
}
LEFT = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, PLACEHOLDERS))})(?![\w-])")
TOKEN = "(umask 077; ray get-auth-token --generate >/dev/null) creates one"
DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")
YAML = (".yaml", ".yml")
WORLD = {"0.0.0.0/0", "::/0"}

# Service quotas on vCPUs by the family's first letters and the market.
QUOTAS = {
    ("g", "spot"): "L-3819A6DF",
    ("vt", "spot"): "L-3819A6DF",
    ("p", "spot"): "L-7212CCBC",
    ("g", "on demand"): "L-DB2E81BA",
    ("vt", "on demand"): "L-DB2E81BA",
    ("p", "on demand"): "L-417A185B",
    **{(family, "on demand"): "L-1216C47A" for family in "acdhimrtz"},
    **{(family, "spot"): "L-34B43A08" for family in "acdhimrtz"},
}


class Warn(str):
    """A problem that the user should know, but that does not make `ray up` fail."""


# Checks of the file itself


def placeholders(text: str) -> Iterator[str]:
    lines: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        code = re.split(r"(?:^|\s)#", line)[0]
        for name in dict.fromkeys(LEFT.findall(code)):
            lines.setdefault(name, []).append(str(number))
    for name, numbers in lines.items():
        at = f"line{'s' * (len(numbers) > 1)} {', '.join(numbers)}"
        yield f"{at}: {name} is a placeholder to replace: {PLACEHOLDERS[name]}"


def schema(config: dict[str, Any]) -> Iterator[str]:
    import jsonschema
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    for name in ("provider", "available_node_types", "head_node_type"):
        if not config.get(name):
            yield f"{name} is missing: see cluster/gpu.yaml"
            return
    own = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
    wrong = False
    for error in jsonschema.validators.validator_for(own)(own).iter_errors(config):
        wrong = True
        yield f"{error.json_path.removeprefix('$.')}: {error.message[:200]}"
    if wrong:
        return
    types = config["available_node_types"]
    if (head := config["head_node_type"]) not in types:
        yield f"head_node_type: {head} is not one of available_node_types: {', '.join(types)}"
        return
    logging.getLogger("ray.autoscaler").setLevel(logging.WARNING)  # below that it logs the defaults that it sets
    try:
        validate_config(prepare_config(config))
    except Exception as error:  # Ray's own checks raise errors of any type
        yield f"Ray rejects it: {_line(error)}"


def instances(config: dict[str, Any]) -> Iterator[str]:
    """Checks the node types against EC2's model."""
    shape = boto3.Session()._session.get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, node in config["available_node_types"].items():
        if not node["node_config"].get("InstanceType"):
            yield f"{name}: InstanceType is missing in its node_config"
        asked = {key: value for key, value in node["node_config"].items() if key != "SubnetIds"}
        report = ParamValidator().validate(asked | {"MinCount": 1, "MaxCount": 1}, shape)
        for line in report.generate_report().splitlines():
            yield f"{name}: EC2 rejects its node_config: {line.partition(', must be one of:')[0]}"
        if not re.fullmatch(r"ami-[0-9a-f]{8,17}", ami := node["node_config"].get("ImageId", "")):
            yield f"{name}: ImageId {ami!r} is not the ID of an AMI, as in ami-0123456789abcdef0"


def regions(config: dict[str, Any]) -> Iterator[str]:
    """Checks that all settings name the same region and the same registry."""
    region = config["provider"].get("region", "")
    if not region:
        yield "provider.region is missing, as in us-west-2"
        return
    for zone in zones(config):
        if not re.fullmatch(rf"{re.escape(region)}(-[a-z]+-\d)?[a-z]", zone):
            yield f"zone {zone} is not in region {region}: set zones as in {region}a"
    docker = config.get("docker", {})
    for option in docker.get("run_options", []):
        if (told := re.search(r"AWS_DEFAULT_REGION=(\S*)", option)) and told[1] != region:
            yield f"region-in-containers is {told[1]}, but region is {region}: set both to the same region"
    registry = docker.get("image", "").partition("/")[0]
    for command in config.get("initialization_commands", []):
        if login := re.search(r"get-login-password --region (\S+) .*--password-stdin (\S+)", command):
            if login[2] != registry:
                yield f"login goes to {login[2]}, but the image is in {registry}: use the same registry"
            if (own := ecr(registry)) and own[1] != login[1]:
                yield f"login is for region {login[1]}, but the registry is in {own[1]}: set --region {own[1]}"


# Checks of this machine


def tools(config: dict[str, Any]) -> Iterator[str]:
    for tool in ("ssh", "rsync"):
        if not shutil.which(tool):
            yield f"{tool} is not installed here, and `ray up` needs it: apt-get install openssh-client rsync"


def files(config: dict[str, Any]) -> Iterator[str]:
    for remote, local in config.get("file_mounts", {}).items():
        path = Path(local).expanduser()
        token = path.name == "auth_token"
        if not path.exists():
            yield f"{local}, for {remote}, does not exist" + (f": {TOKEN}" if token else "")
        elif token and not path.read_text().strip():
            yield f"{local} is empty: remove it; {TOKEN}"
        elif token and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield Warn(f"{local} can be read by others on this machine: chmod 600 {local}")
    key = config.get("auth", {}).get("ssh_private_key")
    if key and not Path(key).expanduser().exists():
        yield f"auth.ssh_private_key: {key} does not exist"


# Checks of the AWS account


class Account:
    """The AWS account of this shell's credentials."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Raises BotoCoreError or ClientError if there are no credentials, or AWS rejects them."""
        provider = config["provider"]
        self.config = config
        self.types = config["available_node_types"]
        self.nodes = {name: node["node_config"] for name, node in self.types.items()}
        self.session = boto3.Session(region_name=provider["region"], **provider.get("aws_credentials", {}))
        self.ec2 = self.session.client("ec2")
        self.session.client("sts").get_caller_identity()
        self.known: dict[str, dict[str, Any]] = {}  # instance types, once described

    def checks(self) -> dict[str, Callable[[], Iterator[str]]]:
        """The checks by subject, in the order in which they must run."""
        return {
            "zone": self.zones,
            "instance types": self.instance_types,
            "AMI": self.amis,
            "instance profiles": self.profiles,
            "image": self.image,
            "subnets": self.subnets,
            "security group": self.security_group,
            "quotas": self.quotas,
        }

    def zones(self) -> Iterator[str]:
        if named := zones(self.config):
            found = self.ec2.describe_availability_zones(ZoneNames=named)["AvailabilityZones"]
            states = {zone["ZoneName"]: zone["State"] for zone in found}
            for zone in named:
                if (state := states.get(zone, "not there")) != "available":
                    yield f"zone {zone} is {state}: choose another"

    def instance_types(self) -> Iterator[str]:
        wanted = sorted({node["InstanceType"] for node in self.nodes.values()})
        described = self.ec2.describe_instance_types(InstanceTypes=wanted)["InstanceTypes"]
        self.known = {each["InstanceType"]: each for each in described}
        for name, node in self.types.items():
            kind = self.known[node["node_config"]["InstanceType"]]
            gpus = sum(each["Count"] for each in kind.get("GpuInfo", {}).get("Gpus", []))
            for resource, there in {"CPU": kind["VCpuInfo"]["DefaultVCpus"], "GPU": gpus}.items():
                if (told := node.get("resources", {}).get(resource, there)) != there:
                    kind_name = kind["InstanceType"]
                    yield f"{name}: resources say {told} {resource}, but {kind_name} has {there}: set {there}"
        if named := zones(self.config):
            filters = [{"Name": "location", "Values": named}, {"Name": "instance-type", "Values": wanted}]
            pages = self.ec2.get_paginator("describe_instance_type_offerings").paginate(
                LocationType="availability-zone", Filters=filters
            )
            offered = {each["InstanceType"] for page in pages for each in page["InstanceTypeOfferings"]}
            for kind in wanted:
                if kind not in offered:
                    yield f"{kind} is not offered in {', '.join(named)}: choose another type or zone"

    def amis(self) -> Iterator[str]:
        for name, node in self.nodes.items():
            found = self.ec2.describe_images(ImageIds=[node["ImageId"]])["Images"]
            if not found:
                yield f"{name}: {node['ImageId']} is not in this region, or not for this account"
                continue
            (ami,) = found
            if ami["State"] != "available":
                yield f"{name}: {node['ImageId']} is {ami['State']}"
            kind = self.known.get(node["InstanceType"], {})
            runs = kind.get("ProcessorInfo", {}).get("SupportedArchitectures", [ami["Architecture"]])
            if ami["Architecture"] not in runs:
                yield f"{name}: {node['ImageId']} is for {ami['Architecture']}, {node['InstanceType']} is {runs[0]}"
            disks = {disk["DeviceName"]: disk.get("Ebs", {}) for disk in node.get("BlockDeviceMappings", [])}
            root = ami["RootDeviceName"]
            if disks and root not in disks:
                yield f"{name}: the AMI's disk is {root}, but BlockDeviceMappings name {', '.join(disks)}: set {root}"
            for own in ami["BlockDeviceMappings"]:
                least = own.get("Ebs", {}).get("VolumeSize", 0)
                if own["DeviceName"] == root and least > disks.get(root, {}).get("VolumeSize", least):
                    yield f"{name}: the AMI needs a disk of {least} GB: set `disk` to at least that"

    def profiles(self) -> Iterator[str]:
        iam = self.session.client("iam")
        for name in dict.fromkeys(node.get("IamInstanceProfile", {}).get("Name") for node in self.nodes.values()):
            if name and not iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]:
                yield f"instance profile {name} has no role: aws iam add-role-to-instance-profile"

    def image(self) -> Iterator[str]:
        registry, _, rest = self.config.get("docker", {}).get("image", "").partition("/")
        if own := ecr(registry):
            repository, _, tag = rest.partition(":")
            self.session.client("ecr", region_name=own[1]).describe_images(
                registryId=own[0], repositoryName=repository, imageIds=[{"imageTag": tag or "latest"}]
            )
        yield from ()

    def subnets(self) -> Iterator[str]:
        if all("SubnetIds" in node or "NetworkInterfaces" in node for node in self.nodes.values()):
            return
        named = zones(self.config)
        filters = [{"Name": "availability-zone", "Values": named}] if named else []
        found = self.ec2.describe_subnets(Filters=filters)["Subnets"]
        inside = self.config["provider"].get("use_internal_ips", False)
        usable = [each for each in found if each["State"] == "available" and (inside or each["MapPublicIpOnLaunch"])]
        for zone in named:
            if zone not in {each["AvailabilityZone"] for each in usable}:
                yield f"zone {zone} has no subnet that gives nodes a public address: make one, or choose another zone"

    def security_group(self) -> Iterator[str]:
        own = {each for node in self.nodes.values() for each in node.get("SecurityGroupIds", [])}
        by_default = f"ray-autoscaler-{self.config['cluster_name']}"
        made = self.config["provider"].get("security_group", {}).get("GroupName", by_default)
        filters = {"Name": "group-id", "Values": sorted(own)} if own else {"Name": "group-name", "Values": [made]}
        groups = self.ec2.describe_security_groups(Filters=[filters])["SecurityGroups"]
        groups = [group for group in groups if group["IpPermissions"]]
        if not groups and not own:
            yield Warn(
                f"Ray will create the security group {made}, with port 22 open to the whole internet: create it "
                "yourself first, for your own addresses only (docs/how-to/cluster.md)"
            )
        within = [
            pair["GroupId"]
            for group in groups
            for rule in group["IpPermissions"]
            if rule["IpProtocol"] == "-1"
            for pair in rule["UserIdGroupPairs"]
        ]
        for group in groups:
            if len(groups) == 1 and group["GroupId"] not in within:
                yield f"{group['GroupName']}: its nodes cannot reach each other: allow all traffic from itself"
            for rule in group["IpPermissions"]:
                ranges = {each["CidrIp"] for each in rule["IpRanges"]}
                ranges |= {each["CidrIpv6"] for each in rule.get("Ipv6Ranges", [])}
                if ranges & WORLD:
                    ports = f"port {rule['FromPort']}" if rule.get("FromPort", -1) >= 0 else "every port"
                    yield Warn(f"{group['GroupName']}: {ports} is open to the whole internet (docs/how-to/cluster.md)")

    def quotas(self) -> Iterator[str]:
        client = self.session.client("service-quotas")
        for name, node in self.nodes.items():
            kind = self.known.get(node["InstanceType"])
            market = node.get("InstanceMarketOptions", {}).get("MarketType", "on demand")
            family = re.match(r"vt|.", node["InstanceType"])
            code = QUOTAS.get((family[0] if family else "", market))
            if not kind or not code:
                continue
            each = kind["VCpuInfo"]["DefaultVCpus"]
            there = client.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"]
            is_head = name == self.config["head_node_type"]
            most = 1 if is_head else self.types[name].get("max_workers", self.config.get("max_workers", 0))
            if there < each * most:
                line = (
                    f"{name}: the account's quota {code} is {there:.0f} vCPUs ({market}), enough for "
                    f"{there // each:.0f} of {most} {node['InstanceType']}: ask AWS for {each * most}"
                )
                yield line if is_head else Warn(line)

    def rights(self) -> Iterator[str]:
        """Checks whether this shell's user may start the head, by a dry run that starts nothing."""
        head = {key: value for key, value in self.nodes[self.config["head_node_type"]].items() if key != "SubnetIds"}
        tags = [{"Key": "ray-cluster-name", "Value": self.config["cluster_name"]}]
        specified = [{"ResourceType": "instance", "Tags": tags}]
        try:
            self.ec2.run_instances(**head | {"TagSpecifications": specified}, MinCount=1, MaxCount=1, DryRun=True)
        except ClientError as error:
            if error.response["Error"]["Code"] == "DryRunOperation":
                return
            raise
        yield from ()


def zones(config: dict[str, Any]) -> list[str]:
    return [zone.strip() for zone in (config["provider"].get("availability_zone") or "").split(",") if zone.strip()]


def ecr(registry: str) -> tuple[str, str] | None:
    """Account and region of a registry of Amazon's."""
    found = re.fullmatch(r"(\d{12})\.dkr\.ecr\.([\w-]+)\.amazonaws\.com(\.cn)?", registry)
    return (found[1], found[2]) if found else None


def of_account(config: dict[str, Any]) -> Iterator[str]:
    try:
        account = Account(config)
    except (BotoCoreError, ClientError) as error:
        yield (f"AWS rejects the credentials of this shell, which `ray up` needs ({_line(error)}); --offline skips it")
        return
    wrong = False
    for about, check in account.checks().items():
        for line in _asked(about, check):
            wrong |= not isinstance(line, Warn)
            yield line
    if not wrong:
        yield from _asked("your permissions", account.rights, denied=True)


def _asked(about: str, check: Callable[[], Iterator[str]], denied: bool = False) -> Iterator[str]:
    """The findings of a check. `denied`: a refusal by AWS is itself a finding; otherwise it only prevents the check."""
    try:
        yield from check()
    except ClientError as error:
        if not denied and error.response["Error"]["Code"] in DENIED:
            yield Warn(f"{about}: not checked, because AWS denies you the request ({_line(error)})")
        else:
            yield f"{about}: {_line(error)}"
    except BotoCoreError as error:
        yield Warn(f"{about}: not checked ({_line(error)})")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


# All together


def check(path: Path, offline: bool) -> Iterator[str]:
    """The mistakes in a file. Mistakes that only follow from earlier ones are omitted."""
    try:
        text = path.read_text()
        config = yaml.safe_load(text) if path.suffix in YAML else None
    except (OSError, UnicodeDecodeError) as error:
        yield f"cannot be read: {_line(error)}"
        return
    except yaml.YAMLError as error:
        yield f"is not YAML: {_line(error)}"
        return
    left = list(placeholders(text))
    yield from left
    if path.suffix not in YAML:
        return
    if not isinstance(config, dict):
        yield "is empty, or does not hold named settings: see cluster/gpu.yaml"
        return
    if "kind" in config:  # of Kubernetes
        return
    wrong = list(schema(config))
    yield from wrong
    if wrong:
        return
    yield from tools(config)
    yield from files(config)
    if left or config["provider"].get("type") != "aws":
        return
    wrong = [*instances(config), *regions(config)]
    yield from wrong
    if not wrong and not offline:
        yield from of_account(config)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path)
    parser.add_argument("--offline", action="store_true", help="send no request to AWS")
    job = parser.parse_args(arguments)
    errors = 0
    for path in job.files:
        for line in check(path, job.offline):
            kind = "warning" if isinstance(line, Warn) else "error"
            errors += kind == "error"
            print(display.line(f"{kind}: {path}: {line}"), file=sys.stderr)
    if not errors:
        print(f"no mistakes found in {', '.join(map(str, job.files))}")
    return 2 if errors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
