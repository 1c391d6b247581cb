# make demo: install, generate one clip uncached and cached with the bundled model, leave video and report in out/demo
# make studio: install, and serve pages in a browser at http://127.0.0.1:7860 (docs/studio.md); clips in out. gradio wants
#   an older pillow than the tests have, and brings pandas: they are in an environment of their own, behind which .venv stands
# make test-studio: all tests of the studio, with gradio and in a real Chromium (part of make nightly; make test has those
#   that need neither). 390 MB, and it needs Debian's chromium (apt-get install chromium; C4D_CHROMIUM names another)
# make test: install, then the linters and the CPU suite; of products of methods and models a sample, of tests of many
#   methods or models some (tests/sampled.py)
# make nightly: the same with the whole products, long soaks, and make parity's tests
# make parity: methods against other libraries' implementations of them
# make test-old: tests of models, methods, pipelines and the command line with the minor releases before the newest; with
#   others: rm -rf .venv-old; make test-old OLD=torch==2.14.1 DEPENDENCIES=
# make test-ascend: only what runs the real torch_npu over a simulated NPU (part of make test, which skips it loudly where
#   it cannot run; here it has to)
# make test-comfyui: nodes in ComfyUI's own engine (part of make nightly, which skips it loudly where that cannot be had;
#   here it has to)
# make mutants: small mistakes in a copy of the code, one at a time; each has to make a test fail (tools/mutants.py)
# make site: install, and build the documentation site in out/site, strictly (tools/site; part of make nightly)
# make bench: install the other systems too, and measure: isolation, ranks, step cost, equal schedules, fidelity (see docs/measurements/README.md)
# make dist: sdist and wheel in dist/, checked, the wheel tried in an empty environment outside of the checkout; of a
#   release: make dist TAG=v0.1.0
# make test-int8: int8 weights with torchao (part of make nightly). In a folder of its own: where it is installed,
#   diffusers imports it with every pipeline, slowly and with remarks on stderr
PYTHON ?= python3
export OMP_WAIT_POLICY ?= passive
export TOKENIZERS_PARALLELISM ?= false
RUN = .venv/bin/python
STUDIO = .venv-studio/bin/python
# Newer builds of torch bring gigabytes of CUDA libraries onto CPU machines.
DEPENDENCIES = --no-deps
TORCH = 'torch<2.14'
TAG =
OLD = diffusers==0.41.0 transformers==5.23.0

.PHONY: demo studio test nightly parity test-old test-ascend test-comfyui test-int8 test-studio lint mutants site bench dist clean

.venv/installed: pyproject.toml
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q --disable-pip-version-check -e '.[test,eval]' $(TORCH)
	touch $@

demo: .venv/installed
	$(RUN) launch/infer.py --config launch/demo.yaml

.venv-studio/installed: .venv/installed
	test -x $(STUDIO) || $(RUN) -m venv .venv-studio
	$(RUN) -c "import sysconfig; print(sysconfig.get_path('purelib'))" > $$($(STUDIO) -c "import sysconfig; print(sysconfig.get_path('purelib'))")/beside.pth
	$(STUDIO) -m pip install -q --disable-pip-version-check -e '.[studio]'
	touch $@

studio: .venv-studio/installed
	$(STUDIO) -m c4d studio

.venv-studio/playwright: .venv-studio/installed
	$(STUDIO) -m pip install -q --disable-pip-version-check 'playwright>=1.50'
	touch $@

test-studio: export C4D_REQUIRE_BROWSER = 1
test-studio: .venv-studio/playwright
	$(STUDIO) -m pytest -m "" tests/studio

test: .venv/installed lint
	$(RUN) -m tests.ascend.install
	$(RUN) -m tests.xfuser.install
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

nightly: .venv/installed lint
	$(RUN) -m tests.ascend.install
	$(RUN) -m tests.xfuser.install
	$(RUN) -m tests.comfyui.install
	$(RUN) -m tests.sglang.install
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m ""
	$(MAKE) test-int8
	$(MAKE) test-studio
	$(MAKE) site

test-int8: .venv/installed
	$(RUN) -m pip install -q --disable-pip-version-check --no-deps --upgrade --target .venv-torchao 'torchao>=0.18'
	PYTHONPATH=.venv-torchao $(RUN) -m pytest -m "" tests/seam/test_memory_modes.py -k int8

parity: .venv/installed
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m parity

.venv-old/installed: Makefile
	$(RUN) -m pip install -q --disable-pip-version-check $(DEPENDENCIES) --upgrade --target .venv-old $(OLD)
	touch $@

test-old: export PYTHONPATH = $(CURDIR)/.venv-old
test-old: .venv/installed .venv-old/installed
	$(RUN) -c "import diffusers, torch, transformers as t; print(diffusers.__version__, t.__version__, torch.__version__)"
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/seam tests/cli tests/test_docs.py

test-ascend: export C4D_REQUIRE_SIMULATION = 1
test-ascend: .venv/installed
	$(RUN) -m pip install -q --disable-pip-version-check torch==2.13.0
	$(RUN) -m tests.ascend.install
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "" -rs tests/ascend tests/backends/test_ascend_arguments.py tests/backends/test_ascend_installed.py

test-comfyui: export C4D_REQUIRE_COMFYUI = 1
test-comfyui: .venv/installed
	$(RUN) -m tests.comfyui.install
	$(RUN) -m pytest -m "" tests/comfyui

lint: .venv/installed
	.venv/bin/ruff check c4d launch tools bench integrations tests examples
	.venv/bin/ruff format --check c4d launch tools bench integrations tests examples
	$(RUN) -m mypy

mutants: export OMP_NUM_THREADS = 1
mutants: .venv/installed
	$(RUN) tools/mutate.py

.venv/docs: .venv/installed
	$(RUN) -m pip install -q --disable-pip-version-check -e '.[docs]'
	touch $@

site: .venv/docs
	rm -rf out/site
	$(RUN) -m tools.site out/site

.venv/bench: .venv/installed
	$(RUN) -m pip install -q --disable-pip-version-check -e '.[bench]'
	touch $@

bench: .venv/bench
	$(RUN) -m bench.peers.isolation
	$(RUN) -m bench.peers.ranks
	$(RUN) -m bench.step_cost
	$(RUN) -m bench.peers.equal
	$(RUN) -m bench.fidelity

.venv/release: .venv/installed
	$(RUN) -m pip install -q --disable-pip-version-check -e '.[release]'
	touch $@

dist: .venv/release
	$(RUN) -m tools.dist --tag '$(TAG)' --torch $(TORCH)

clean:
	rm -rf out build dist .mypy_cache .ruff_cache .pytest_cache
