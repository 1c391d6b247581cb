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


def of(file: str, *mistakes: tuple[str, ...]) -> tuple[Mutant, ...]:
    """Of mistakes in one file: name, old text, new text, and tests in the folder tests."""
    return tuple(
        Mutant(name, file, old, new, tuple(f"tests/{t}" for t in tests)) for name, old, new, *tests in mistakes
    )


MUTANTS = (
    *of(
        "c4d/core/caching/policies.py",
        (
            "interval: a step too late",
            "step.index - before >= self.interval",
            "step.index - before > self.interval",
            "core/test_policy.py",
        ),
        (
            "interval: a step of warm-up too many",
            "step.index < self.warmup",
            "step.index <= self.warmup",
            "core/test_policy.py",
        ),
        (
            "step mask: runs of more steps are taken",
            "if self.steps not in (None, step.total):",
            "if self.steps is not None and step.total < self.steps:",
            "core/test_policy.py::test_a_step_mask_for_so_many_steps_refuses_other_runs",
        ),
        (
            "step mask: the step after the last is in the run",
            "for index in self.computed if index >= total)",
            "for index in self.computed if index > total)",
            "core/test_policy.py::test_a_step_mask_tells_its_first_step_beyond_the_run",
        ),
        (
            "accumulate: reuses at the threshold",
            "acc is not None and acc < self.threshold",
            "acc is not None and acc <= self.threshold",
            "core/test_policy.py::test_accumulate_sums_until_the_threshold",
        ),
        (
            "accumulate: the sum goes on after a computed step",
            "else (COMPUTE, 0.0)",
            "else (COMPUTE, acc)",
            "core/test_policy.py",
        ),
        ("accumulate: the limit is looked for up to 1", "range(4001)", "range(1001)", "core/test_policy.py"),
        (
            "accumulate: beyond the limit nothing changes",
            "if ratio > self.limit:\n            return math.inf",
            "if ratio > self.limit:\n            return 0.0",
            "core/test_policy.py",
        ),
        (
            "accumulate: the sum may shrink",
            "max(0.0, self._polynomial(ratio)) if self.clamped else",
            "self._polynomial(ratio) if self.clamped else",
            "core/test_policy.py",
        ),
        (
            "threshold: computes at the threshold",
            "change is not None and change <= self.threshold",
            "change is not None and change < self.threshold",
            "core/test_policy.py",
        ),
        (
            "bounded: a step too few at the end",
            "edge = step.index < self.first or step.index >= step.total - self.last",
            "edge = step.index < self.first or step.index > step.total - self.last",
            "core/test_policy.py",
        ),
        ("bounded: a skip too many", "count >= most for most", "count > most for most", "core/test_policy.py"),
    ),
    *of(
        "c4d/core/caching/rules.py",
        (
            "rules: a method moved to the output is of residuals",
            "OutputRule(*parts, residual=False,",
            "OutputRule(*parts, residual=True,",
            "core/test_grammar.py::test_an_output_is_not_a_residual",
        ),
        (
            "rules: a method moved to modules drops no features",
            "drop_before=drop_before, leading=getattr",
            "leading=getattr",
            "core/test_grammar.py::test_a_method_that_is_moved_keeps_its_warm_up_guard",
        ),
        (
            "rules: a method moved to the blocks drops no features",
            "BlocksRule(*parts, residual=residual, drop_before=drop_before)",
            "BlocksRule(*parts, residual=residual)",
            "core/test_grammar.py::test_a_method_that_is_moved_keeps_its_warm_up_guard",
        ),
        (
            "rules: the output may measure inside",
            "for p in self.policy.signals if not p.outside):",
            "for p in self.policy.signals if p.outside and not p.outside):",
            "core/test_grammar.py::test_errors_name_the_value_and_the_way_out",
        ),
        (
            "rules: a rule for the whole forward beside others",
            "or (len(self.inner) > 1 and alone)",
            "",
            "core/test_grammar.py::test_overlapping_rules_are_refused",
        ),
    ),
    *of(
        "c4d/core/runtime/guidance.py",
        (
            "guidance: an answer of another step",
            "found is not None and found.step == step.index",
            "found is not None",
            "seam/test_guidance.py",
        ),
        (
            "guidance: what was answered may be changed by the pipeline",
            "x.detach().clone() for x in leaves",
            "x.detach() for x in leaves",
            "seam/test_guidance.py",
        ),
        (
            "guidance: the last answer of a run without guidance is kept",
            "if not last or step.index - self.used.get(key, -1) <= 1:",
            "if True:",
            "seam/test_guidance.py",
        ),
    ),
    *of(
        "c4d/core/runtime/forward.py",
        (
            "drafts: what was computed to verify goes on",
            "self.drafted = stack, [(x - given).detach() for x in found]\n        return out",
            "self.drafted = stack, [(x - given).detach() for x in found]\n        return computed",
            "seam/test_speca.py",
        ),
        (
            "drafts: a module that is computed to verify is stored",
            "        if self.verifying:\n            self.modules += 1\n            return original(*args, **kwargs)\n",
            "",
            "seam/test_speca.py",
        ),
        (
            "blocks: a turn keeps what is of other blocks",
            "if branch.ends not in (None, self.ends):",
            "if False:",
            "seam/test_delta_dit.py",
        ),
        (
            "blocks: a probe's own part is not taken back",
            "if not (isinstance(self.whole, BlocksRule) and self.whole.probe):",
            "if True:",
            "seam/test_dicache.py",
        ),
    ),
    *of(
        "c4d/core/caching/forecasters.py",
        (
            "mean velocity: one step too few",
            "while k < wanted and i - k - 1 in place:",
            "while k + 1 < wanted and i - k - 1 in place:",
            "core/test_forecast.py",
            "seam/test_methods.py::test_meancache_is_its_definition",
        ),
    ),
    *of(
        "c4d/core/caching/method.py",
        (
            "method: defaults are written, too",
            "if given.get(p.name, p.default) != p.default]",
            "if p.name in given]",
            "core/test_grammar.py::test_a_name_leaves_out_what_is_the_default",
        ),
    ),
    *of(
        "c4d/core/caching/finite_differences.py",
        (
            "ladder: the slope is over the mean gap",
            "gap, new = times[n] - times[n - 1],",
            "gap, new = (times[n] - times[0]) / n,",
            "core/test_forecast.py::test_each_rung_of_the_ladder_is_over_the_newest_gap",
        ),
        (
            "taylor: no factorial",
            "float(x**i / math.factorial(i))",
            "float(x**i)",
            "seam/test_methods.py::test_taylorseer_is_the_published_table_of_differences",
        ),
        (
            "smoothing: the exact anchor smooths the slope",
            'raw = 2 if self.anchor == "exact"',
            'raw = 1 if self.anchor == "exact"',
            "core/test_forecast.py::test_the_exact_anchor_smooths_the_second_difference_alone",
        ),
    ),
    *of(
        "c4d/core/caching/forecasters.py",
        (
            "newton: a product of one time alone",
            "product *= t - newest[k - 1]",
            "product *= t - newest[0]",
            "core/test_forecast.py::test_taylor_is_not_exact_on_a_quadratic_and_newton_is",
        ),
        (
            "foca: no fading",
            "else self.HORIZON**2 / x",
            "else self.HORIZON",
            "core/test_forecast.py::test_foca_is_the_published_recursion",
        ),
    ),
    *of(
        "c4d/core/caching/feature_forecasters.py",
        (
            "freqca: the slow part is forecast twice",
            "[a - b for a, b in zip(low, high, strict=True)]",
            "[a for a, _ in zip(low, high, strict=True)]",
            "seam/test_methods.py::test_freqca_holds_the_slow_part_and_extrapolates_the_rest",
        ),
        (
            "dmd: time is not counted in gaps",
            "ahead = (t - times[-1]) / (times[-1] - times[-2])",
            "ahead = t - times[-1]",
            "seam/test_methods.py::test_dynamic_modes_are_exact_on_a_sum_of_exponentials_where_taylor_is_not",
        ),
        (
            "dmd: an uneven gap is taken for an even one",
            "    return same + 1",
            "    return min(same + 2, len(times))",
            "core/test_forecast.py::test_times_are_evenly_spaced_as_far_as_their_gaps_are_the_last",
        ),
    ),
    *of(
        "c4d/core/registry.py",
        (
            "registry: an entry point takes a name of ours",
            "if name in self.own or name in found",
            "if name in found",
            "test_outside.py::test_they_are_listed_and_what_cannot_be_is_named",
        ),
        (
            "registry: one that cannot be loaded ends the program",
            "except (Exception, SystemExit) as error:",
            "except SystemExit as error:",
            "test_outside.py::test_they_are_listed_and_what_cannot_be_is_named",
        ),
    ),
    *of(
        "c4d/core/runtime/session.py",
        (
            "session: another shape goes on with what was stored",
            "                branch.reset(rules)\n            branch.signature, branch.last",
            "                branch.states or branch.reset(rules)\n            branch.signature, branch.last",
            "seam/test_runs.py::test_another_shape_within_a_run_begins_anew[text]",
            "seam/test_runs.py::test_another_shape_within_a_run_begins_anew[batch]",
        ),
        (
            "session: the run of a loop that ended stays",
            "if self._run is not None and self._run.loop is loop:",
            "if self._run is not None and self._run.loop is None:",
            "seam/test_shared.py::test_what_one_left_is_not_in_the_other[wan-stack-interrupted]",
        ),
    ),
    *of(
        "c4d/core/runtime/forward.py",
        (
            "forward: the feature is not relative to its base",
            "feature = x if base is None else (x - base).to(base.dtype)",
            "feature = x",
            "seam/test_exact.py::test_reuse_equals_compute_on_the_same_input[wan-t2v-stack]",
        ),
        (
            "forward: reuse without the base",
            "rule, None if base is None else [base], stream)[0]",
            "rule, None, stream)[0]",
            "seam/test_exact.py::test_reuse_equals_compute_on_the_same_input[wan-t2v-stack]",
        ),
        (
            "forward: a step too many is dropped",
            "if history.step < rule.drop_before:",
            "if history.step <= rule.drop_before:",
            "seam/test_methods.py::test_taylorseer_is_the_published_table_of_differences",
        ),
        (
            "forward: what ran twice in one is cached",
            "if history.step == now:",
            "if history.step > now:",
            "seam/test_runs.py::test_a_module_that_runs_twice_in_a_forward_cannot_be_cached",
        ),
        (
            "forward: latents are kept, not copied",
            "dict.fromkeys(wanted, joined(latents).clone())",
            "dict.fromkeys(wanted, joined(latents))",
            "seam/test_methods.py::test_a_loop_may_change_its_latents_and_what_it_was_given_in_place",
        ),
        (
            "forward: outputs are kept, not copied",
            "stored = [x.clone() for x in leaves]",
            "stored = list(leaves)",
            "seam/test_methods.py::test_a_loop_may_change_its_latents_and_what_it_was_given_in_place",
        ),
        (
            "forward: the image's tokens are not cut out of a joined sequence",
            "return self.base_of.image(self.base[stream], x.shape[1])",
            "return self.base[stream]",
            "seam/test_any.py::test_a_description_fits_its_model",
        ),
        (
            "forward: a base lies as in the blocks, not as at the exit",
            "if stream == STREAM and self.spec.at_exit is not None:",
            "if stream != STREAM and self.spec.at_exit is not None:",
            "seam/test_methods.py::test_how_tokens_lie_at_the_exit_changes_nothing",
        ),
        (
            "forward: interleaved blocks of the tail are passed over",
            "if self.action is REUSE and self.passed <= self._resumed():",
            "if self.action is REUSE:",
            "seam/test_any.py::test_a_description_fits_its_model[LatteTransformer3DModel]",
        ),
        (
            "forward: a spectrum over the wrong sides",
            "x.movedim(self.spec.channels, 1)",
            "x",
            "seam/test_methods.py::test_how_tokens_lie_at_the_exit_changes_nothing",
        ),
        (
            "forward: latents of several streams are matched in the wrong order",
            "zip(latents, shapes, strict=True)]",
            "zip(latents[::-1], shapes, strict=True)]",
            "seam/test_any.py::test_methods_at_the_output_run_on_it",
        ),
        (
            "forward: a loop that looks at the blocks counts",
            "self.blocks, self.passed = counts",
            "pass",
            "seam/test_families_images.py::test_a_loop_that_calls_no_block_does_not_count",
        ),
        (
            "forward: a forecast that is kept is handed out",
            "leaves = [x.clone() for x in leaves]",
            "leaves = list(leaves)",
            "seam/test_methods.py::test_a_loop_may_change_its_latents_and_what_it_was_given_in_place",
        ),
        (
            "forward: a change since a reused step",
            "if not signal.anchored or COMPUTE in self.actions:",
            "if signal is not None:",
            "seam/test_methods.py::test_decisions_are_those_of_the_pure_policy_and_a_second_run_equals_the_first[wan-t2v-first-block]",
            "seam/test_peers.py::test_first_block_equals_diffusers",
        ),
    ),
    *of(
        "c4d/core/runtime/state.py",
        (
            "state: the other branch is released a step early",
            "branch.last < done.last - 1",
            "branch.last < done.last",
            "seam/test_runs.py::test_a_skipped_branch_does_not_shift_the_other",
        ),
        (
            "state: a dtype is no part of a shape",
            "(x.shape, x.dtype, x.device)",
            "(x.shape, x.device)",
            "seam/test_runs.py::test_another_shape_within_a_run_begins_anew[dtype]",
        ),
        (
            "state: weights of another time are used again",
            "if t != self.weights_for:",
            "if t > self.weights_for:",
            "seam/test_methods.py::test_over_the_sigmas_of_a_scheduler",
            "seam/test_methods.py::test_over_sigma_a_line_in_sigma_is_exact_and_over_steps_it_is_not",
        ),
        (
            "state: weights are the same whatever was forecast",
            "history.times, history.predicted)",
            "history.times)",
            "core/test_history.py::test_weights_are_made_for_each_way_in_which_equal_times_came_about",
        ),
        (
            "state: large negative numbers fit any storage",
            "x.detach().abs().amax()",
            "x.detach().amax()",
            "core/test_history.py::test_what_a_storage_cannot_hold_is_noticed_on_both_sides_of_0",
        ),
    ),
    *of(
        "c4d/core/runtime/history.py",
        (
            "history: two entries of one time",
            "if self.times and self.times[-1] == time:",
            "if self.times and self.times[0] == time:",
            "core/test_history.py::test_a_time_that_is_there_already_takes_the_place_of_its_entry",
        ),
        ("history: an entry too many", "len(same) >= self._room", "len(same) > self._room", "core/test_history.py"),
        (
            "history: a slice keeps what it was cut from",
            "nbytes() > x.nbytes",
            "nbytes() < x.nbytes",
            "core/test_history.py",
        ),
        (
            "history: inner products of entries that are gone",
            "self.times, self.gram = (*self.times, time), {}",
            "self.times = (*self.times, time)",
            "seam/test_methods.py::test_dynamic_modes_are_exact_on_a_sum_of_exponentials_where_taylor_is_not",
        ),
    ),
    *of(
        "c4d/core/runtime/steps.py",
        (
            "steps: the first step of a cut run is off by one",
            "self._first = known - 1",
            "self._first = known",
            "seam/test_runs.py::test_strength_leaves_what_remains",
        ),
        (
            "steps: an index that went back opens no run",
            "is not self._timesteps or position(scheduler) < self._raw",
            "is not self._timesteps",
            "seam/test_runs.py::test_a_scheduler_whose_index_goes_back_begins_another_run",
        ),
    ),
    *of(
        "c4d/core/runtime/branches.py",
        (
            "branches: two calls of a step are one branch",
            "free = [label for label in likely if label not in self._taken]",
            "free = likely",
            "seam/test_isolation.py::test_texts_that_are_made_anew_tell_nothing[stack]",
            "seam/test_isolation.py::test_two_unnamed_calls_a_step_are_as_good_as_named_ones[wan-stack]",
        ),
        (
            "branches: two parts of one tensor are one",
            "bool(self.storage.cdata == other.storage.cdata) and self.view == other.view",
            "bool(self.storage.cdata == other.storage.cdata)",
            "seam/test_isolation.py::test_two_parts_of_one_tensor_are_two_texts",
        ),
    ),
    *of(
        "c4d/core/runtime/progress_bar.py",
        (
            "progress bar: one that somebody set is lost",
            'pipeline.__dict__["progress_bar"] = self._before',
            "pass",
            "seam/test_shared.py::test_a_progress_bar_that_somebody_set_comes_back",
        ),
        (
            "progress bar: a loop that is stopped does not end",
            "        finally:\n            self._session.end_loop(self)\n",
            "        finally:\n            pass\n",
            "seam/test_shared.py::test_a_loop_over_its_bar_that_is_left_early_has_ended",
        ),
    ),
    *of(
        "c4d/core/runtime/signals.py",
        (
            "signals: numbers of this rank alone",
            "rows = self._ranks.all_sum(partial, counts, failure is not None)",
            "rows = self._ranks.all_sum(partial, counts, failure is not None) and partial.tolist()",
            "parallel/test_parts.py::test_a_change_is_that_of_all_ranks",
        ),
        (
            "signals: the other ranks are not told of a failure",
            "self._ranks.all_sum(partial, counts, failure is not None)",
            "self._ranks.all_sum(partial, counts, False)",
            "parallel/test_parts.py::test_the_other_ranks_are_told_before_a_failure_is_raised",
        ),
        (
            "signals: a read of the host is not counted",
            "self.host_reads += 1",
            "self.host_reads += 0",
            "seam/test_exact.py::test_host_reads[wan-t2v-signal]",
        ),
    ),
    *of(
        "c4d/core/integration/attach.py",
        (
            "attach: a cache_context of the instance is lost",
            'self.transformer.__dict__["cache_context"] = self._context_before',
            "pass",
            "seam/test_exact.py::test_a_cache_context_that_somebody_set_comes_back",
        ),
        (
            "attach: modules that were exchanged are not hooked",
            "if held is not None and held._module is module:",
            "if held is not None:",
            "seam/test_coexist.py::test_a_module_exchanged_inside_is_cached_like_the_one_before",
        ),
        (
            "attach: what a reuse bypasses runs all the same",
            "filler(*args, **kwargs) if current.reuses(place) else",
            "filler(*args, **kwargs) if current is None else",
            "seam/test_exact.py::test_a_reused_step_costs_embedding_and_head_alone[flux-modules]",
        ),
    ),
    *of(
        "c4d/core/integration/hooks.py",
        (
            "hooks: layers stand as they come",
            "table.move_to_end(key, last=False)",
            "table.move_to_end(key)",
            "seam/test_neighbours.py::test_hooks_stand_in_their_order_whoever_comes_first",
        ),
        (
            "hooks: the cache stands before the hooks of others",
            "prepend=self._layer < Layer.CACHE,",
            "prepend=self._layer <= Layer.CACHE,",
            "seam/test_neighbours.py::test_hooks_stand_in_their_order_whoever_comes_first",
        ),
        (
            "hooks: the name of a branch stays after its block",
            "        finally:\n            self._session.name = self._outer",
            "        finally:\n            pass",
            "seam/test_neighbours.py::test_the_name_of_a_call_belongs_to_its_thread",
            "seam/test_runs.py::test_unnamed_calls_are_told_apart_by_their_place_in_the_step",
        ),
        (
            "hooks: a forward inside another's stays",
            "            chain[chain.index(self) - 1].before = self.before\n",
            "            pass\n",
            "seam/test_neighbours.py::test_of_two_forwards_on_a_module_either_may_go_first",
        ),
    ),
    *of(
        "c4d/core/integration/blocks.py",
        (
            "blocks: a saved model keeps the session's plan",
            'if k not in ("_plan", "_stack")}',
            'if k not in ("_stack",)}',
            "seam/test_exact.py::test_a_copy_or_a_saved_model_is_plain[wan-t2v-stack]",
        ),
        (
            "blocks: any list is taken for the blocks",
            "if type(blocks) is not nn.ModuleList:",
            "if not isinstance(blocks, nn.ModuleList):",
            "seam/test_pipelines.py::test_blocks_in_a_list_of_another_class_are_refused",
        ),
    ),
    *of(
        "c4d/core/integration/padding.py",
        (
            "padding: a text may become empty",
            "longest = max(*lengths, 1)",
            "longest = max(*lengths, 0)",
            "seam/test_attention.py::test_a_mask_without_any_text_leaves_one_token_of_padding_that_nobody_attends_to",
        ),
        (
            "padding: a mask that was written to is not read again",
            "if known is None or known[0] != mask._version:",
            "if known is None:",
            "seam/test_attention.py::test_a_mask_is_read_once_while_it_stays_as_it_is",
        ),
    ),
    *of(
        "c4d/core/integration/offload.py",
        (
            "offload: blocks are skipped while their order is learnt",
            'hook_of(transformer, "lazy_prefetch_group_offloading") is not None',
            'hook_of(transformer, "lazy_prefetch_group_offloading") is transformer',
            "seam/test_coexist.py::test_a_forward_in_which_a_streamed_offload_learns_its_order_is_computed",
        ),
        (
            "offload: prefetching stays led past the blocks",
            "            hook.next_group = group\n",
            "            pass\n",
            "seam/test_coexist.py::test_a_streamed_offload_prefetches_no_block_that_is_skipped[False-stack-block_level]",
        ),
    ),
    *of(
        "c4d/core/integration/processor_patch.py",
        (
            "attention: a processor that others set is replaced",
            'if module.__dict__.get("processor") is processor:',
            "if True:",
            "seam/test_attention.py::test_a_processor_that_others_set_meanwhile_stays",
        ),
        (
            "attention: text is cut for processors of others",
            "if not (self._left or self._exchanged):",
            "if not self._exchanged:",
            "seam/test_attention.py::test_beside_somebody_s_own_processor_text_keeps_its_padding",
        ),
        (
            "attention: a kernel is chosen for every forward",
            "if key not in self._chosen:",
            "if key not in {}:",
            "seam/test_attention.py::test_a_kernel_is_chosen_once",
        ),
    ),
    *of(
        "c4d/core/text/grammar.py",
        (
            "grammar: a site may be given twice",
            "where.count(site) > 1]",
            "where.count(site) > 2]",
            "core/test_grammar.py::test_errors_name_the_value_and_the_way_out",
        ),
        (
            "grammar: what is published wins over what is said",
            "{**_published(name, value), **values}",
            "{**values, **_published(name, value)}",
            "core/test_grammar.py::test_published_settings",
        ),
    ),
    *of(
        "c4d/backends/reference.py",
        (
            "reference: a query does not see itself",
            "[tile, None] < torch.arange(Sk",
            "[tile, None] <= torch.arange(Sk",
            "backends/test_attention.py::test_attention_and_its_lse_are_those_of_double_precision[cpu-math-torch.float32-causal]",
        ),
        (
            "reference: the first weight is always 1",
            "len(features) > 1 and weights[0] == 1.0:",
            "len(features) > 1:",
            "backends/test_reference.py",
        ),
    ),
    *of(
        "c4d/backends/cuda/attention.py",
        (
            "cuda: queries that see nothing stay as they come",
            "return out.masked_fill(~seen.transpose(1, 2), 0.0)",
            "return out.masked_fill(seen.transpose(1, 2) & False, 0.0)",
            "backends/test_attention.py::test_torch_may_choose_a_kernel_that_gives_blind_queries_a_mean",
        ),
    ),
    *of(
        "c4d/backends/kernels.py",
        (
            "kernels: auto takes a lossy one",
            'if kernel.lossy and name == "auto"',
            'if kernel.lossy and name == ""',
            "backends/test_attention.py::test_auto_never_takes_a_lossy_kernel",
        ),
    ),
    *of(
        "c4d/parallel/agree.py",
        (
            "agree: tokens that all ranks have count once",
            "wholes[0] * len(counts) / self._sequence",
            "wholes[0] * len(counts) / len(counts)",
            "parallel/test_parts.py::test_ranks_measure_all_of_one_whole",
        ),
        (
            "agree: inputs of one length are the same",
            "and all(close(a, b, NEAR) for a, b in zip(far, theirs, strict=True))",
            "and len(far) == len(theirs)",
            "parallel/test_parts.py::test_near",
        ),
    ),
    *of(
        "c4d/parallel/degrees.py",
        (
            "degrees: heads that do not divide are as good",
            "heads % d.ulysses == 0, d.ulysses)",
            "d.ulysses)",
            "parallel/test_degrees.py::test_choices",
        ),
    ),
    *of(
        "c4d/parallel/sharding.py",
        (
            "sharding: a part keeps the tokens of all ranks",
            "return mine.clone(memory_format=torch.contiguous_format)",
            "return mine",
            "parallel/test_parts.py::test_what_is_cut_is_all_there_once_and_filled_at_the_end",
        ),
    ),
    *of(
        "c4d/parallel/attention.py",
        (
            "parallel attention: a query that saw nothing is NaN",
            "floor = total.clamp_min(torch.finfo(total.dtype).min)",
            "floor = total",
            "parallel/test_parts.py::test_a_query_that_saw_nothing_stays_zero",
        ),
    ),
    *of(
        "c4d/pipelines/results.py",
        (
            "results: a file of the right size is whole",
            " and describe(folder / name) == said",
            "",
            "cli/test_output.py::test_a_prompt_file_is_resumed",
        ),
        (
            "results: another job's result counts as this one's",
            'elif not (names := differing(held := record["asked"], wanted)):',
            'elif not (names := differing(held := record["asked"], record["asked"])):',
            "cli/test_output.py::test_another_job_is_refused_before_anything_is_loaded",
        ),
    ),
    *of(
        "c4d/pipelines/output.py",
        (
            "output: half a file stays",
            "            temporary.unlink(missing_ok=True)",
            "            pass",
            "cli/test_output.py::test_a_file_is_written_whole_or_not_at_all",
        ),
    ),
    *of(
        "c4d/pipelines/settings.py",
        (
            "settings: compiling is timed",
            "return self.repeats > 1 or self.compile",
            "return self.repeats > 1",
            "cli/test_generate.py::test_compiling_is_said",
        ),
        (
            "settings: the uncached clip comes first",
            'return ("cached", "uncached", "fewer_steps") if',
            'return ("uncached", "cached", "fewer_steps") if',
            "cli/test_generate.py::test_a_comparison",
        ),
    ),
    *of(
        "c4d/cli/options.py",
        (
            "options: the file wins over the command line",
            "merged = {**filed, **flags}",
            "merged = {**flags, **filed}",
            "cli/test_bad_input.py::TestWhatIsNoMistake::test_the_last_of_an_option_given_twice_counts",
        ),
        (
            "options: a prompt beside the file's prompts",
            "            merged.pop(other, None)",
            "            merged.get(other, None)",
            "cli/test_generate.py::test_a_config_file_and_flags_over_it",
        ),
    ),
    *of(
        "c4d/core/caching/policies.py",
        (
            "interval: a last step too few",
            "forced = step.index < self.warmup or step.index >= step.total - self.last",
            "forced = step.index < self.warmup or step.index > step.total - self.last",
            "core/test_policy.py",
        ),
    ),
    *of(
        "c4d/core/runtime/session.py",
        (
            "session: the trace keeps a run too many",
            "self._trace[0].run <= self._run.number - self._traced_runs",
            "self._trace[0].run < self._run.number - self._traced_runs",
            "seam/test_enable.py::test_the_trace_is_of_the_last_runs",
        ),
        (
            "session: what a forward that raised left stays",
            "self._run.forget(self.method.rules)",
            "self._run.bytes()",
            "seam/test_enable.py::test_what_a_given_up_run_held_is_freed",
        ),
        (
            "session: an exchanged transformer runs",
            "if not any(module is each for each in ours):",
            "if not ours:",
            "seam/test_enable.py::test_a_transformer_exchanged_inside_is_told",
        ),
    ),
    *of(
        "c4d/core/runtime/acceleration.py",
        (
            "acceleration: what was enabled is still found",
            "transformer.__dict__.pop(ENABLED, None)",
            "transformer.__dict__.get(ENABLED, None)",
            "seam/test_enable.py::test_without_a_with",
        ),
        (
            "acceleration: the cache is entered first",
            "for part in (ranks, attention, cache) if part is not None",
            "for part in (ranks, cache) if part is not None",
            "seam/test_enable.py::test_one_context_is_its_parts",
        ),
    ),
    *of(
        "c4d/core/integration/attach.py",
        (
            "attach: cache-dit is not seen",
            'if transformer.__dict__.get("_is_cached"):',
            'if transformer.__dict__.get("_cached"):',
            "seam/test_enable.py::test_another_cache_is_refused_by_name",
        ),
    ),
    *of(
        "c4d/models/__init__.py",
        (
            "models: values of VACE are Wan's",
            "max(found, key=lambda pair: pair[0])",
            "min(found, key=lambda pair: pair[0])",
            "cli/test_catalogue.py::test_published_values_of_models_that_cannot_be_cached_are_marked",
        ),
    ),
    *of(
        "c4d/pipelines/results.py",
        (
            "results: the plain clip has the steps of the whole",
            'if name.startswith("fewer_steps") else {}',
            'if name.startswith("fewest_steps") else {}',
            "cli/test_generate.py::test_the_manifest_knows_how_many_steps_the_plain_clip_has",
        ),
    ),
    *of(
        "c4d/pipelines/output.py",
        (
            "output: the first numbered folder is the job's",
            "return found[max(mine)]",
            "return found[min(mine)]",
            "cli/test_generate.py::test_folders_are_numbered",
        ),
    ),
    *of(
        "c4d/parallel/launch.py",
        (
            "launch: a killed rank ends in its signal's number",
            "128 - codes[0]",
            "-codes[0]",
            "parallel/test_launch.py",
        ),
    ),
    *of(
        "c4d/core/caching/solver.py",
        (
            "solver: the latents of now are not scaled",
            "return [*w, c[3] * now / s + c[4], -c[3] * then / s]",
            "return [*w, c[3] / s + c[4], -c[3] * then / s]",
            "calibrate/test_solver.py",
        ),
        (
            "solver: an error is taken back at the same rate however long the step is",
            "part = h / (coordinate.tau(after) - now)\n    w = [0.0]",
            "part = 1.0\n    w = [0.0]",
            "calibrate/test_solver.py",
        ),
        (
            "solver: a run that begins later keeps the levels above",
            "inside = [n for n in self.computed if n <= levels[0]] if",
            "inside = [n for n in self.computed] if",
            "calibrate/test_solver.py",
        ),
        (
            "solver: behind the last point of a gap the first one's coefficients",
            "return points[min(after, len(points) - 1)][1]",
            "return points[0][1]",
            "calibrate/test_solver.py",
        ),
    ),
    *of(
        "c4d/calibrate/fit.py",
        (
            "fit: what was drawn to is no half slope",
            "torch.cat([prior[:free] + change,",
            "torch.cat([0 * prior[:free] + change,",
            "calibrate/test_fit.py",
        ),
        (
            "fit: an odd sample counts as much as it likes",
            "clamp_min(TINY).rsqrt()",
            "clamp_min(TINY)",
            "calibrate/test_fit.py",
        ),
        (
            "fit: every sample is learned from",
            "if rows is None or first + k in rows",
            "if rows is None or first + k >= 0",
            "calibrate/test_fit.py",
        ),
        (
            "fit: a computed step hands on what it returned",
            "if i not in computed or (i >= begun and len(anchors) > 1):",
            "if i not in computed:",
            "calibrate/test_fit.py",
        ),
        (
            "fit: of what another pass corrected the forecasts are made",
            "raw = before.raw.get(i, before.outputs[i])",
            "raw = before.outputs[i]",
            "calibrate/test_fit.py",
        ),
        (
            "fit: a computed step too many is taken from another pass",
            "return min(one ^ other, default=steps)",
            "return min(min(one ^ other, default=steps) + 1, steps)",
            "calibrate/test_fit.py",
        ),
    ),
    *of(
        "c4d/calibrate/lockstep.py",
        (
            "lockstep: the scheduler keeps the state of another sampling",
            "        _restore(scheduler, self.state)\n        scheduler",
            "        scheduler",
            "calibrate/test_fit.py",
        ),
    ),
    *of(
        "c4d/calibrate/sampler.py",
        (
            "sampler: noise in the steps is not noticed",
            "if not torch.equal(zeros, after(torch.zeros_like(like))):",
            "if False:",
            "calibrate/test_fit.py",
        ),
    ),
    *of(
        "c4d/calibrate/search.py",
        (
            "search: the worst sample does not count",
            "return float(logs.mean() + WORST * logs.max())",
            "return float(logs.mean() * 0.0)",
            "calibrate/test_fit.py",
        ),
        (
            "search: the ridge that suits worst",
            "drawn = min((fit,",
            "drawn = max((fit,",
            "calibrate/test_fit.py",
        ),
    ),
    *of(
        "c4d/calibrate/joint.py",
        (
            "joint: what models ask for is trusted whole",
            "a, b, c, d, e = (h + part * (m - h) for",
            "a, b, c, d, e = (h + (m - h) for",
            "calibrate/test_joint.py",
        ),
    ),
    *of(
        "c4d/calibrate/starts.py",
        (
            "starts: the end of the run is like its beginning",
            "least = torch.where(u < peak, self.first, self.last)",
            "least = torch.where(u < peak, self.first, self.first)",
            "calibrate/test_joint.py",
        ),
    ),
    *of(
        "c4d/calibrate/tune.py",
        (
            "tune: half of the samples teach the last fit",
            "track = fit.follow(computed)",
            "track = fit.follow(computed, rows=range(0, fit.count, 2))",
            "calibrate/test_tune.py",
        ),
        (
            "tune: the numbers between are not learned",
            "allowed = budget.share(count, between[place:], fewer=BETWEEN)",
            "allowed = Allowance(0)",
            "calibrate/test_tune.py",
        ),
    ),
    *of(
        "c4d/core/caching/profiles.py",
        (
            "profiles: whatever sampler one was made with",
            'each[1].about.get("scheduler") != sampler',
            "True",
            "calibrate/test_tune.py",
        ),
    ),
    *of(
        "c4d/core/caching/profile.py",
        (
            "profile: the next step is the one before",
            "after = times[-1], max((n for n in self.levels if n < times[-1])",
            "after = times[-1], max((n for n in self.levels if n > times[-1])",
            "calibrate/test_solver.py",
        ),
        (
            "profile: another configuration is no obstacle",
            "if ours[key] != theirs[key]:",
            "if False:",
            "calibrate/test_solver.py",
        ),
    ),
    *of(
        "c4d/core/runtime/choice.py",
        (
            "choice: few steps are cached too",
            "if steps is not None and steps < SHORT:",
            "if steps is not None and steps < 0:",
            "calibrate/test_tune.py",
        ),
        (
            "choice: the universal profile with any sampler",
            "if not any(cls.__name__ in MEASURED for cls in type(scheduler).__mro__):",
            "if False:",
            "calibrate/test_tune.py",
        ),
    ),
    *of(
        "c4d/pipelines/tuning.py",
        (
            "tuning: the most steps that are a little too slow",
            "return math.floor(steps / speedup + 1e-9)",
            "return math.ceil(steps / speedup)",
            "cli/test_tune.py",
        ),
    ),
    *of(
        "c4d/core/runtime/outputs.py",
        (
            "outputs: what is no tensor takes another place",
            "leaves.insert(i, other)",
            "leaves.append(other)",
            "seam/test_any.py",
        ),
    ),
    *of(
        "c4d/describe/check.py",
        (
            "check: an output that is far away passes",
            "if far > 1e-5:",
            "if far > 1e5:",
            "cli/test_check_model.py",
        ),
        (
            "check: long skips are not told",
            "sorted({1, length - 2}",
            "sorted({1}",
            "cli/test_check_model.py",
        ),
        (
            "check: lists that take turns are not told",
            "        if path not in described:",
            "        if path in described:",
            "cli/test_check_model.py",
        ),
        (
            "check: blocks are not counted",
            "if blocks != entered:",
            "if not blocks:",
            "cli/test_check_model.py",
        ),
    ),
    *of(
        "c4d/core/runtime/steps.py",
        (
            "steps: a loop that moved on without the scheduler is not noticed",
            "if not same or self._moved:",
            "if not same:",
            "seam/test_families_videos.py",
        ),
    ),
)
