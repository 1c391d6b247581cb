"""Workflows call what can be run here, make dist finds what is wrong, and the package says what it is."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

import pytest
import yaml

import c4d
from tools import dist

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def steps(workflow, kind):
    """(job, value) of every step of a kind, with each value of the job's matrix in its place."""
    for name, job in workflow["jobs"].items():
        matrix = job.get("strategy", {}).get("matrix", {})
        for step in job["steps"]:
            for key, values in (matrix or {"": [""]}).items():
                for value in values if kind in step else ():
                    yield name, step[kind].replace(f"${{{{ matrix.{key} }}}}", str(value))


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_command_of_a_workflow_can_be_run_here(name):
    ran = [run for _, run in steps(WORKFLOWS[name], "run")]
    for run in ran:
        program, target, *variables = *run.split(maxsplit=2), *[""] * (2 - len(run.split(maxsplit=2)))
        if program == "make":
            assert target in TARGETS and set(variables) <= {'TAG="$TAG"', ""}
        else:
            assert os.access(ROOT / program, os.X_OK) and not target
    assert ran and all(re.search(r"@[\w./]+$", uses) for _, uses in steps(WORKFLOWS[name], "uses"))


def test_a_tag_alone_publishes_what_was_built_and_tried():
    publishing = {
        name: [job for job, uses in steps(each, "uses") if "pypi-publish" in uses] for name, each in WORKFLOWS.items()
    }
    assert {name: jobs for name, jobs in publishing.items() if jobs} == {"release.yml": ["publish"]}
    release = WORKFLOWS["release.yml"]
    assert release[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads "on" as true
    publish = release["jobs"]["publish"]
    assert publish["needs"] == "dist" and publish["permissions"] == {"id-token": "write"}
    (making,) = [step for step in release["jobs"]["dist"]["steps"] if step.get("run") == 'make dist TAG="$TAG"']
    assert making["env"] == {"TAG": "${{ github.ref_name }}"}  # as it stands, a line of the shell would be what it says
    assert all(each["permissions"] == {"contents": "read"} for each in WORKFLOWS.values())


def test_a_tag_has_to_be_that_of_the_version_and_its_changes():
    tag, changes = f"v{c4d.__version__}", f"# Changes\n\n## {c4d.__version__}\n"
    dist.check_tag(tag, changes)
    with pytest.raises(dist.DistError, match=r"the tag is 'v9\.9', and the version is"):
        dist.check_tag("v9.9", changes)
    with pytest.raises(dist.DistError, match="has no heading"):
        dist.check_tag(tag, "# Changes\n\n## Unreleased\n")


def test_a_wheel_that_lacks_a_file_or_has_another_is_told(tmp_path):
    for name in (*dist.NEEDED, "c4d/more.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")

    def wheel(*names):
        with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
            for name in (*dist.NEEDED, f"c4d-{c4d.__version__}.dist-info/METADATA", *names):
                archive.writestr(name, "")
        return tmp_path / "a.whl"

    dist.check_wheel(wheel("c4d/more.json"), tmp_path)
    with pytest.raises(dist.DistError, match=r"lacks \['c4d/more.json'\], and has nothing besides"):
        dist.check_wheel(wheel(), tmp_path)
    with pytest.raises(dist.DistError, match=r"lacks nothing, and has \['tests/x.py'\] besides"):
        dist.check_wheel(wheel("c4d/more.json", "tests/x.py"), tmp_path)


def test_an_sdist_is_the_checkout(tmp_path):
    (tmp_path / "PKG-INFO").write_text("")
    (tmp_path / "a.py").write_text("")
    dist.check_sdist(tmp_path, ["a.py"])
    with pytest.raises(dist.DistError, match=r"lacks \['b.py'\], and has \['a.py'\] that git does not know"):
        dist.check_sdist(tmp_path, ["b.py"])


def test_forms_ask_for_something():
    forms = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*_*.yml"))]
    forms.append(yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/fault.yml").read_text()))
    for form in forms:
        assert form["name"] and form["description"] and any(part.get("validations") for part in form["body"])


def test_metadata_say_what_is_known():
    text = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{c4d.__version__}"' in text and "[project.urls]" not in text  # no public address is known yet
    ran = set(re.findall(r"\| (3\.\d+) \|", (ROOT / "docs/support.md").read_text()))
    assert set(re.findall(r"Python :: (3\.\d+)", text)) == ran
