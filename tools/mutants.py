"""The mutants of mutate.py: a mistake each, and the tests that are to notice it."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """In ``file``, ``new`` in the place of ``old``, which stands there once; ``tests``: files, or tests by their id."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


POLICIES, RULES = "c4d/core/caching/policies.py", "c4d/core/caching/rules.py"
DIFFERENCES, FORECASTERS = "c4d/core/caching/finite_differences.py", "c4d/core/caching/forecasters.py"
BY_FEATURES, METHOD = "c4d/core/caching/feature_forecasters.py", "c4d/core/caching/method.py"
REGISTRY, GRAMMAR = "c4d/core/registry.py", "c4d/core/text/grammar.py"
RUNTIME, INTEGRATION, PARALLEL = "c4d/core/runtime", "c4d/core/integration", "c4d/parallel"
SESSION, FORWARD, STATE = f"{RUNTIME}/session.py", f"{RUNTIME}/forward.py", f"{RUNTIME}/state.py"
HISTORY, STEPS, BRANCHES = f"{RUNTIME}/history.py", f"{RUNTIME}/steps.py", f"{RUNTIME}/branches.py"
BAR, SIGNALS = f"{RUNTIME}/progress_bar.py", f"{RUNTIME}/signals.py"
ATTACH, HOOKS, BLOCKS = f"{INTEGRATION}/attach.py", f"{INTEGRATION}/hooks.py", f"{INTEGRATION}/blocks.py"
PADDING, OFFLOAD = f"{INTEGRATION}/padding.py", f"{INTEGRATION}/offload.py"
PATCH = f"{INTEGRATION}/processor_patch.py"

IN_POLICY, IN_FORECAST, IN_GRAMMAR = (
    "tests/core/test_policy.py",
    "tests/core/test_forecast.py",
    "tests/core/test_grammar.py",
)
IN_HISTORY, IN_WHY, IN_RUNS = "tests/core/test_history.py", "tests/seam/test_why.py", "tests/seam/test_runs.py"
IN_METHODS, IN_EXACT, IN_PIPELINES = (
    "tests/seam/test_methods.py",
    "tests/seam/test_exact.py",
    "tests/seam/test_pipelines.py",
)
IN_ISOLATION, IN_SHARED = "tests/seam/test_isolation.py", "tests/seam/test_shared.py"
IN_NEIGHBOURS, IN_COEXIST, IN_ATTENTION = (
    "tests/seam/test_neighbours.py",
    "tests/seam/test_coexist.py",
    "tests/seam/test_attention.py",
)
IN_KERNELS, IN_BACKENDS, IN_REFERENCE = (
    "tests/backends/test_attention.py",
    "tests/backends/test_registry.py",
    "tests/backends/test_reference.py",
)
IN_DEGREES, IN_PARTS = "tests/parallel/test_degrees.py", "tests/parallel/test_parts.py"
IN_OUTPUT, IN_BAD_INPUT, IN_OUTSIDE = "tests/cli/test_output.py", "tests/cli/test_bad_input.py", "tests/test_outside.py"

LOOPED = f"{IN_METHODS}::test_a_loop_may_change_its_latents_and_what_it_was_given_in_place"
SAME = f"{IN_EXACT}::test_reuse_equals_compute_on_the_same_input"
SHAPES = f"{IN_RUNS}::test_another_shape_within_a_run_begins_anew"
TABLE = f"{IN_METHODS}::test_taylorseer_is_the_published_table_of_differences"
LISTED = f"{IN_OUTSIDE}::test_they_are_listed_and_what_cannot_be_is_named"
STREAMED = f"{IN_COEXIST}::test_a_streamed_offload_prefetches_no_block_that_is_skipped"
RESUMED = f"{IN_OUTPUT}::test_a_prompt_file_is_resumed"

MUTANTS = (
    # -- policies
    Mutant(
        "interval: a step too late",
        POLICIES,
        "step.index - last >= self.interval",
        "step.index - last > self.interval",
        (IN_POLICY,),
    ),
    Mutant(
        "interval: a step of warm-up too many",
        POLICIES,
        "step.index < self.warmup",
        "step.index <= self.warmup",
        (IN_POLICY,),
    ),
    Mutant(
        "step mask: runs of more steps are taken",
        POLICIES,
        "if self.steps not in (None, step.total):",
        "if self.steps is not None and step.total < self.steps:",
        (IN_POLICY,),
    ),
    Mutant(
        "step mask: the step after the last is in the run",
        POLICIES,
        "for index in self.computed if index >= total)",
        "for index in self.computed if index > total)",
        (IN_WHY,),
    ),
    Mutant(
        "accumulate: reuses at the threshold",
        POLICIES,
        "if acc < self.threshold else (COMPUTE, 0.0)",
        "if acc <= self.threshold else (COMPUTE, 0.0)",
        (IN_POLICY,),
    ),
    Mutant(
        "accumulate: the sum goes on after a computed step",
        POLICIES,
        "else (COMPUTE, 0.0)",
        "else (COMPUTE, acc)",
        (IN_POLICY,),
    ),
    Mutant("accumulate: the limit is looked for up to 1", POLICIES, "range(4001)", "range(1001)", (IN_POLICY,)),
    Mutant(
        "accumulate: beyond the limit nothing changes",
        POLICIES,
        "if ratio > self.limit:\n            return math.inf",
        "if ratio > self.limit:\n            return 0.0",
        (IN_POLICY,),
    ),
    Mutant(
        "accumulate: the sum may shrink",
        POLICIES,
        "max(0.0, self._polynomial(ratio)) if self.clamped else",
        "self._polynomial(ratio) if self.clamped else",
        (IN_POLICY,),
    ),
    Mutant(
        "threshold: computes at the threshold",
        POLICIES,
        "seen[self.signal].ratio <= self.threshold",
        "seen[self.signal].ratio < self.threshold",
        (IN_POLICY,),
    ),
    Mutant(
        "bounded: a step too few at the end",
        POLICIES,
        "step.index >= step.total - self.last",
        "step.index > step.total - self.last",
        (IN_POLICY,),
    ),
    Mutant("bounded: a skip too many", POLICIES, "skipped >= self.max_skips", "skipped > self.max_skips", (IN_POLICY,)),
    Mutant(
        "bounded: skips are counted over computed steps",
        POLICIES,
        "skipped + 1 if action is REUSE else 0",
        "skipped + 1 if action is REUSE else skipped",
        (IN_POLICY,),
    ),
    # -- rules and methods
    Mutant(
        "rules: a method moved to the output is of residuals",
        RULES,
        "OutputRule(*parts, residual=False,",
        "OutputRule(*parts, residual=True,",
        (IN_GRAMMAR,),
    ),
    Mutant(
        "rules: a method moved to modules drops no features",
        RULES,
        "ModuleRule(*parts, sites, drop_before=drop_before)",
        "ModuleRule(*parts, sites)",
        (IN_GRAMMAR,),
    ),
    Mutant(
        "rules: a method moved to the blocks drops no features",
        RULES,
        "BlocksRule(*parts, residual=residual, drop_before=drop_before)",
        "BlocksRule(*parts, residual=residual)",
        (IN_GRAMMAR,),
    ),
    Mutant(
        "rules: last blocks without a residual",
        RULES,
        "if last and not self.residual:",
        "if last < 0 and not self.residual:",
        (IN_GRAMMAR,),
    ),
    Mutant(
        "rules: the output may measure inside",
        RULES,
        "for p in self.policy.signals if not p.outside):",
        "for p in self.policy.signals if p.outside and not p.outside):",
        (IN_GRAMMAR,),
    ),
    Mutant(
        "rules: a rule for the whole forward beside others",
        RULES,
        "or (len(self.rules) > 1 and alone)",
        "",
        (IN_GRAMMAR,),
    ),
    Mutant(
        "method: defaults are written, too",
        METHOD,
        "if given.get(p.name, p.default) != p.default]",
        "if p.name in given]",
        (IN_GRAMMAR,),
    ),
    # -- forecasts
    Mutant(
        "ladder: the slope is over the mean gap",
        DIFFERENCES,
        "gap, new = times[n] - times[n - 1],",
        "gap, new = (times[n] - times[0]) / n,",
        (IN_FORECAST,),
    ),
    Mutant("taylor: no factorial", DIFFERENCES, "float(x**i / math.factorial(i))", "float(x**i)", (IN_FORECAST, TABLE)),
    Mutant("hermite: the recursion forgets n", DIFFERENCES, "- 2 * n * before", "- 2 * before", (IN_FORECAST,)),
    Mutant(
        "smoothing: the exact anchor smooths the slope",
        DIFFERENCES,
        'raw = 2 if self.anchor == "exact"',
        'raw = 1 if self.anchor == "exact"',
        (IN_FORECAST,),
    ),
    Mutant(
        "newton: a product of one time alone",
        FORECASTERS,
        "product *= t - newest[k - 1]",
        "product *= t - newest[0]",
        (IN_FORECAST,),
    ),
    Mutant("foca: no fading", FORECASTERS, "else self.HORIZON**2 / x", "else self.HORIZON", (IN_FORECAST,)),
    Mutant(
        "trend: weights that do not sum to 1",
        FORECASTERS,
        "(1.0 + self.weight, vectors[-1])",
        "(1.0, vectors[-1])",
        (IN_FORECAST,),
    ),
    Mutant(
        "freqca: the slow part is forecast twice",
        BY_FEATURES,
        "[a - b for a, b in zip(low, high, strict=True)]",
        "[a for a, _ in zip(low, high, strict=True)]",
        (f"{IN_METHODS}::test_freqca_holds_the_slow_part_and_extrapolates_the_rest",),
    ),
    Mutant(
        "dmd: time is not counted in gaps",
        BY_FEATURES,
        "ahead = (t - times[-1]) / (times[-1] - times[-2])",
        "ahead = t - times[-1]",
        (f"{IN_METHODS}::test_dynamic_modes_are_exact_on_a_sum_of_exponentials_where_taylor_is_not",),
    ),
    Mutant(
        "dmd: an uneven gap is taken for an even one",
        BY_FEATURES,
        "    return same + 1",
        "    return min(same + 2, len(times))",
        (f"{IN_METHODS}::test_dynamic_modes_are_exact_on_a_sum_of_exponentials_where_taylor_is_not",),
    ),
    # -- what others register
    Mutant(
        "registry: an entry point takes a name of ours",
        REGISTRY,
        "if name in self.own or name in found",
        "if name in found",
        (LISTED,),
    ),
    Mutant(
        "registry: one that cannot be loaded ends the program",
        REGISTRY,
        "except (Exception, SystemExit) as error:",
        "except SystemExit as error:",
        (LISTED,),
    ),
    # -- runs
    Mutant(
        "session: another shape goes on with what was stored",
        SESSION,
        "            branch.reset(rules)\n            branch.signature = signature",
        "            if not branch.states:\n                branch.reset(rules)\n            branch.signature = signature",
        (SHAPES,),
    ),
    Mutant(
        "session: a forward that raised leaves its features",
        SESSION,
        "            branch.reset(self.method.rules)\n",
        "",
        (f"{IN_RUNS}::test_a_forward_that_raises_leaves_nothing_behind",),
    ),
    Mutant(
        "session: the run of a loop that ended stays",
        SESSION,
        "if self._run is not None and self._run.loop is loop:",
        "if self._run is not None and self._run.loop is None:",
        (IN_SHARED,),
    ),
    Mutant(
        "session: a run begins where another has not ended",
        SESSION,
        "if new_run or self._run is None:",
        "if self._run is None:",
        (f"{IN_RUNS}::test_an_aborted_run_leaves_no_trace_in_the_next",),
    ),
    Mutant(
        "forward: the feature is not relative to its base",
        FORWARD,
        "feature = x if base is None else (x - base).to(base.dtype)",
        "feature = x",
        (SAME,),
    ),
    Mutant(
        "forward: reuse without the base",
        FORWARD,
        "rule, None if base is None else [base])[0]",
        "rule, None)[0]",
        (SAME,),
    ),
    Mutant(
        "forward: a step too many is dropped",
        FORWARD,
        "if history.step < rule.drop_before:",
        "if history.step <= rule.drop_before:",
        (TABLE,),
    ),
    Mutant(
        "forward: what ran twice in a pass is cached",
        FORWARD,
        "if history.step == now:",
        "if history.step > now:",
        (IN_RUNS,),
    ),
    Mutant(
        "forward: latents are kept, not copied",
        FORWARD,
        "dict.fromkeys(wanted, latents.clone())",
        "dict.fromkeys(wanted, latents)",
        (LOOPED,),
    ),
    Mutant(
        "forward: outputs are kept, not copied",
        FORWARD,
        "if residual else x.clone() for",
        "if residual else x for",
        (LOOPED,),
    ),
    Mutant(
        "forward: a forecast that is kept is handed out",
        FORWARD,
        "leaves = [x.clone() for x in leaves]",
        "leaves = list(leaves)",
        (LOOPED,),
    ),
    Mutant(
        "forward: a change since a reused step",
        FORWARD,
        "if not signal.anchored or COMPUTE in self.actions:",
        "if signal is not None:",
        (
            f"{IN_METHODS}::test_easycache_is_its_definition",
            "tests/seam/test_peers.py::test_first_block_equals_diffusers",
        ),
    ),
    Mutant(
        "forward: a measurement that is not finite decides",
        FORWARD,
        "if ready and not broken else",
        "if ready else",
        (f"{IN_RUNS}::test_a_non_finite_measurement_computes_and_is_counted",),
    ),
    Mutant(
        "state: the other branch is released a step early",
        STATE,
        "branch.last < done.last - 1",
        "branch.last < done.last",
        (
            f"{IN_RUNS}::test_every_pass_of_a_run_is_placed",
            f"{IN_METHODS}::test_decisions_are_those_of_the_pure_policy_and_a_second_run_equals_the_first",
        ),
    ),
    Mutant(
        "state: a dtype is no part of a shape", STATE, "(x.shape, x.dtype, x.device)", "(x.shape, x.device)", (SHAPES,)
    ),
    Mutant(
        "state: weights of another time are used again",
        STATE,
        "if t != self.weights_for:",
        "if t > self.weights_for:",
        (
            f"{IN_METHODS}::test_over_the_sigmas_of_a_scheduler",
            f"{IN_METHODS}::test_over_sigma_a_line_in_sigma_is_exact_and_over_steps_it_is_not",
        ),
    ),
    Mutant(
        "state: weights are the same whatever was forecast",
        STATE,
        "history.times, history.predicted)",
        "history.times)",
        (IN_RUNS, IN_METHODS),
    ),
    Mutant(
        "state: large negative numbers fit any storage",
        STATE,
        "x.detach().abs().amax()",
        "x.detach().amax()",
        (f"{IN_RUNS}::test_a_feature_that_its_storage_cannot_hold_is_an_error",),
    ),
    Mutant(
        "history: two entries of one time",
        HISTORY,
        "if self.times and self.times[-1] == time:",
        "if self.times and self.times[-1] is time:",
        (IN_HISTORY,),
    ),
    Mutant("history: an entry too many", HISTORY, "len(same) >= self._room", "len(same) > self._room", (IN_HISTORY,)),
    Mutant(
        "history: a slice keeps what it was cut from",
        HISTORY,
        "nbytes() > x.nbytes",
        "nbytes() < x.nbytes",
        (IN_HISTORY,),
    ),
    Mutant(
        "history: inner products of entries that are gone",
        HISTORY,
        "self.times, self.gram = (*self.times, time), {}",
        "self.times = (*self.times, time)",
        (f"{IN_METHODS}::test_dynamic_modes_are_exact_on_a_sum_of_exponentials_where_taylor_is_not",),
    ),
    Mutant(
        "steps: the first step of a cut run is off by one",
        STEPS,
        "self._first = known - 1",
        "self._first = known",
        (f"{IN_RUNS}::test_strength_leaves_what_remains",),
    ),
    Mutant(
        "steps: an index that went back opens no run",
        STEPS,
        "is not self._timesteps or position(scheduler) < self._raw",
        "is not self._timesteps",
        (IN_RUNS, IN_SHARED),
    ),
    Mutant(
        "steps: steps of Heun's method turn back",
        STEPS,
        "in enumerate(pairwise(values)) if before != after]",
        "in enumerate(pairwise(values))]",
        (f"{IN_RUNS}::test_one_begin_is_for_one_loop",),
    ),
    Mutant(
        "branches: two calls of a step are one branch",
        BRANCHES,
        "free = [label for label in likely if label not in self._taken]",
        "free = likely",
        (IN_ISOLATION,),
    ),
    Mutant(
        "branches: a tensor is known after its end",
        BRANCHES,
        "other is None or self.storage.expired() or other.storage.expired()",
        "other is None",
        (IN_ISOLATION,),
    ),
    Mutant(
        "progress bar: one that somebody set is lost",
        BAR,
        'pipeline.__dict__["progress_bar"] = self._before',
        "pass",
        (IN_SHARED, IN_NEIGHBOURS),
    ),
    Mutant(
        "progress bar: a loop that is stopped does not end",
        BAR,
        "        finally:\n            self._session.end_loop(self)\n",
        "        finally:\n            pass\n",
        (IN_SHARED, IN_NEIGHBOURS),
    ),
    Mutant(
        "signals: numbers of this rank alone",
        SIGNALS,
        "rows = self._ranks.sums(partial, counts, failure is not None)",
        "rows = self._ranks.sums(partial, counts, failure is not None) and partial.tolist()",
        (IN_PARTS,),
    ),
    Mutant(
        "signals: the other ranks are not told of a failure",
        SIGNALS,
        "self._ranks.sums(partial, counts, failure is not None)",
        "self._ranks.sums(partial, counts, False)",
        (IN_PARTS,),
    ),
    Mutant(
        "signals: a read of the host is not counted",
        SIGNALS,
        "self.host_reads += 1",
        "self.host_reads += 0",
        (f"{IN_EXACT}::test_host_reads",),
    ),
    # -- what hangs on a model
    Mutant(
        "attach: a cache_context of the instance is lost",
        ATTACH,
        'self.transformer.__dict__["cache_context"] = self._context_before',
        "pass",
        (f"{IN_EXACT}::test_a_cache_context_that_somebody_set_comes_back",),
    ),
    Mutant(
        "attach: modules that were exchanged are not hooked",
        ATTACH,
        "if held is not None and held._module is module:",
        "if held is not None:",
        (f"{IN_COEXIST}::test_lora",),
    ),
    Mutant(
        "attach: blocks that always run leave none to skip",
        ATTACH,
        "rule.first_blocks + rule.last_blocks >= there",
        "rule.first_blocks + rule.last_blocks > there",
        (f"{IN_METHODS}::test_head_and_tail_blocks_run_on_every_step", IN_PIPELINES),
    ),
    Mutant(
        "attach: what a reuse bypasses runs all the same",
        ATTACH,
        "filler(*args, **kwargs) if current.reuses(place) else",
        "filler(*args, **kwargs) if current is None else",
        (f"{IN_EXACT}::test_a_reused_step_costs_embedding_and_head_alone",),
    ),
    Mutant(
        "hooks: layers stand as they come",
        HOOKS,
        "table.move_to_end(key, last=False)",
        "table.move_to_end(key)",
        (f"{IN_NEIGHBOURS}::test_hooks_stand_in_their_order_whoever_comes_first",),
    ),
    Mutant(
        "hooks: the cache stands before the hooks of others",
        HOOKS,
        "prepend=self._layer < Layer.CACHE,",
        "prepend=self._layer <= Layer.CACHE,",
        (f"{IN_NEIGHBOURS}::test_hooks_stand_in_their_order_whoever_comes_first",),
    ),
    Mutant(
        "hooks: the name of a branch stays after its block",
        HOOKS,
        "        finally:\n            self._session.name = self._outer",
        "        finally:\n            pass",
        (IN_ISOLATION, f"{IN_NEIGHBOURS}::test_the_name_of_a_call_belongs_to_its_thread"),
    ),
    Mutant(
        "hooks: a forward inside another's stays",
        HOOKS,
        "            chain[chain.index(self) - 1].before = self.before\n",
        "            pass\n",
        (IN_COEXIST, IN_NEIGHBOURS),
    ),
    Mutant(
        "blocks: a saved model keeps the session's plan",
        BLOCKS,
        'if k not in ("_plan", "_stack")}',
        'if k not in ("_stack",)}',
        (f"{IN_EXACT}::test_a_copy_or_a_saved_model_is_plain",),
    ),
    Mutant(
        "blocks: any list is taken for the blocks",
        BLOCKS,
        "if type(blocks) is not nn.ModuleList:",
        "if not isinstance(blocks, nn.ModuleList):",
        (IN_PIPELINES,),
    ),
    Mutant(
        "padding: a text may become empty",
        PADDING,
        "longest = max(*lengths, 1)",
        "longest = max(*lengths, 0)",
        (f"{IN_ATTENTION}::test_a_mask_without_any_text_leaves_one_token_of_padding_that_nobody_attends_to",),
    ),
    Mutant(
        "padding: a mask that was written to is not read again",
        PADDING,
        "if known is None or known[0] != mask._version:",
        "if known is None:",
        (f"{IN_ATTENTION}::test_a_mask_is_read_once_while_it_stays_as_it_is",),
    ),
    Mutant(
        "offload: blocks are skipped while their order is learnt",
        OFFLOAD,
        'registry.get_hook("lazy_prefetch_group_offloading") is not None',
        'registry.get_hook("lazy_prefetch_group_offloading") is registry',
        (STREAMED,),
    ),
    Mutant(
        "offload: prefetching stays led past the blocks",
        OFFLOAD,
        "            hook.next_group = group\n",
        "            pass\n",
        (STREAMED,),
    ),
    Mutant(
        "attention: a processor that others set is replaced",
        PATCH,
        'if module.__dict__.get("processor") is processor:',
        "if True:",
        (f"{IN_ATTENTION}::test_a_processor_that_others_set_meanwhile_stays",),
    ),
    Mutant(
        "attention: text is cut for processors of others",
        PATCH,
        "if not (self._left or self._exchanged):",
        "if not self._exchanged:",
        (f"{IN_ATTENTION}::test_beside_somebody_s_own_processor_text_keeps_its_padding",),
    ),
    Mutant(
        "attention: a kernel is chosen for every forward",
        PATCH,
        "if key not in self._chosen:",
        "if key not in {}:",
        (f"{IN_ATTENTION}::test_a_kernel_is_chosen_once",),
    ),
    # -- methods as text
    Mutant(
        "grammar: a site may be given twice", GRAMMAR, "where.count(site) > 1]", "where.count(site) > 2]", (IN_GRAMMAR,)
    ),
    Mutant("grammar: 1_0 is a number", GRAMMAR, 'if "_" in text or not', "if not", (IN_GRAMMAR,)),
    Mutant(
        "grammar: what is published wins over what is said",
        GRAMMAR,
        "{**_published(name, value), **values}",
        "{**values, **_published(name, value)}",
        (IN_GRAMMAR,),
    ),
    # -- backends
    Mutant(
        "reference: a query does not see itself",
        "c4d/backends/reference.py",
        "[tile, None] < torch.arange(Sk",
        "[tile, None] <= torch.arange(Sk",
        (f"{IN_KERNELS}::test_attention_and_its_lse_are_those_of_double_precision",),
    ),
    Mutant(
        "reference: the first weight is always 1",
        "c4d/backends/reference.py",
        "len(features) > 1 and weights[0] == 1.0:",
        "len(features) > 1:",
        (IN_REFERENCE,),
    ),
    Mutant(
        "cuda: queries that see nothing stay as they come",
        "c4d/backends/cuda/attention.py",
        "return out.masked_fill(~seen.transpose(1, 2), 0.0)",
        "return out.masked_fill(seen.transpose(1, 2) & False, 0.0)",
        (f"{IN_KERNELS}::test_torch_may_choose_a_kernel_that_gives_blind_queries_a_mean",),
    ),
    Mutant(
        "kernels: auto takes a lossy one",
        "c4d/backends/kernels.py",
        'if kernel.lossy and name == "auto"',
        'if kernel.lossy and name == ""',
        (f"{IN_KERNELS}::test_auto_takes_the_best_exact_kernel_that_this_gpu_runs",),
    ),
    # -- several ranks
    Mutant(
        "agree: tokens that all ranks have count once",
        f"{PARALLEL}/agree.py",
        "wholes[0] * len(counts) / self._sequence",
        "wholes[0] * len(counts) / len(counts)",
        (IN_PARTS,),
    ),
    Mutant(
        "agree: inputs of one length are the same",
        f"{PARALLEL}/agree.py",
        "and all(close(a, b, NEAR) for a, b in zip(far, theirs, strict=True))",
        "and len(far) == len(theirs)",
        (IN_PARTS,),
    ),
    Mutant(
        "degrees: heads that do not divide are as good",
        f"{PARALLEL}/degrees.py",
        "heads % d.ulysses == 0, d.ulysses)",
        "d.ulysses)",
        (IN_DEGREES,),
    ),
    Mutant(
        "degrees: Ulysses goes over nodes",
        f"{PARALLEL}/degrees.py",
        "(d.cfg, d.ulysses <= node, ",
        "(d.cfg, ",
        (IN_DEGREES,),
    ),
    Mutant(
        "sharding: a part keeps the tokens of all ranks",
        f"{PARALLEL}/sharding.py",
        "return mine.clone(memory_format=torch.contiguous_format)",
        "return mine",
        (IN_PARTS,),
    ),
    Mutant(
        "sharding: the last rank has more tokens than there are",
        f"{PARALLEL}/sharding.py",
        "max(0, min(self.each, count - self._position * self.each))",
        "max(0, min(self.each, count))",
        (IN_PARTS,),
    ),
    Mutant(
        "parallel attention: a query that saw nothing is NaN",
        f"{PARALLEL}/attention.py",
        "floor = total.clamp_min(torch.finfo(total.dtype).min)",
        "floor = total",
        (IN_PARTS,),
    ),
    # -- jobs
    Mutant(
        "results: a file of the right size is whole",
        "c4d/pipelines/results.py",
        " and describe(folder / name) == said",
        "",
        (RESUMED,),
    ),
    Mutant(
        "results: another job's result counts as this one's",
        "c4d/pipelines/results.py",
        'elif record["asked"] == wanted:',
        'elif record["asked"].keys() == wanted.keys():',
        (f"{IN_OUTPUT}::test_another_job_is_refused_before_anything_is_loaded",),
    ),
    Mutant(
        "output: half a file stays",
        "c4d/pipelines/output.py",
        "            temporary.unlink(missing_ok=True)",
        "            pass",
        (f"{IN_OUTPUT}::test_a_file_is_written_whole_or_not_at_all",),
    ),
    Mutant(
        "settings: compiling is timed",
        "c4d/pipelines/settings.py",
        "return self.repeats > 1 or self.compile",
        "return self.repeats > 1",
        (IN_BAD_INPUT,),
    ),
    Mutant(
        "settings: the uncached clip comes first",
        "c4d/pipelines/settings.py",
        'return ("cached", "uncached", "fewer_steps") if',
        'return ("uncached", "cached", "fewer_steps") if',
        ("tests/cli/test_generate.py",),
    ),
    Mutant(
        "options: the file wins over the command line",
        "c4d/cli/options.py",
        "merged = {**filed, **flags}",
        "merged = {**flags, **filed}",
        (f"{IN_BAD_INPUT}::TestWhatIsNoMistake",),
    ),
    Mutant(
        "options: a prompt beside the file's prompts",
        "c4d/cli/options.py",
        "            merged.pop(other, None)",
        "            merged.get(other, None)",
        (f"{IN_BAD_INPUT}::TestWhatIsNoMistake",),
    ),
)
