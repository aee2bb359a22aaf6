"""What we rely on in the installed vLLM and cannot run without a GPU: a change of it fails here with a sentence."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

vllm = pytest.importorskip("vllm", reason="vLLM is an extra")


def source(target: Any) -> str:
    return inspect.getsource(target)


def parameters(target: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(target).parameters)


def require(found: bool, sentence: str) -> None:
    assert found, f"vLLM {vllm.__version__} {sentence}: adapt sampling/vllm, then this test."


def test_the_engine_takes_our_arguments():
    from vllm.engine.arg_utils import EngineArgs

    ours = {
        "model",
        "load_format",
        "skip_tokenizer_init",
        "generation_config",
        "dtype",
        "max_model_len",
        "max_num_seqs",
        "enforce_eager",
        "enable_prefix_caching",
        "logprobs_mode",
        "disable_log_stats",
        "kv_cache_memory_bytes",
        "gpu_memory_utilization",
        "distributed_executor_backend",
        "trust_remote_code",
        "enable_sleep_mode",
        "seed",
        "enable_lora",
        "max_loras",
        "max_lora_rank",
        "lora_target_modules",
    }
    missing = ours - parameters(EngineArgs)
    require(not missing, f"no longer takes the engine arguments {sorted(missing)}")


def test_requests_take_our_arguments():
    from vllm import LLM, SamplingParams

    ours = {"n", "temperature", "top_p", "top_k", "max_tokens", "stop_token_ids", "ignore_eos", "logprobs"}
    ours |= {"prompt_logprobs", "flat_logprobs", "detokenize", "seed"}
    missing = ours - parameters(SamplingParams)
    require(not missing, f"no longer takes the sampling parameters {sorted(missing)}")
    annotation = str(inspect.signature(LLM.enqueue).parameters["sampling_params"].annotation)
    require("Sequence[" in annotation, "no longer takes parameters per request")


def test_weights_are_reloaded_from_an_iterator():
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner as NewRunner
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    for runner in (GPUModelRunner, NewRunner):
        require("weights_iterator" in parameters(runner.reload_weights), "reloads weights in another way")


def test_the_newer_model_runner_draws_numpy_seeds_for_requests_without_one():
    from vllm.v1.worker.gpu.sample.states import SamplingStates

    text = source(SamplingStates.add_request)
    require("np.random.randint" in text and "seed is None" in text, "draws the seeds of requests in another way")
    require("seeds.np[req_idx] = seed" in text.replace("self.", ""), "does not use the seeds of requests")


def test_the_config_tells_which_model_runner_is_in_use():
    from vllm.config import VllmConfig

    require(isinstance(VllmConfig.use_v2_model_runner, property), "no longer tells the model runner in use")


def test_the_seeds_of_a_group_are_consecutive():
    from vllm.v1.engine.parallel_sampling import ParentRequest

    text = source(ParentRequest._get_child_sampling_params)
    require("seed = seed + index" in text, "derives the seeds of a group's members in another way")


def test_one_process_runs_on_gpu_zero_unless_the_executor_says_other():
    from vllm.v1.executor.abstract import Executor
    from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher, UniProcExecutor

    text = source(UniProcExecutor._distributed_args)
    require("return distributed_init_method, 0, local_rank" in text, "passes the device's index in another way")
    require("_distributed_args()" in source(UniProcExecutor._init_executor), "no longer asks for the device's index")
    require("isinstance(distributed_executor_backend, type)" in source(Executor.get_class), "refuses executor classes")
    text = source(ExecutorWithExternalLauncher._distributed_args)
    require('os.environ["LOCAL_RANK"]' in text and 'os.environ["RANK"]' in text, "reads the rank from elsewhere")


def test_sleep_and_waking_up():
    from vllm import LLM

    require("level" in parameters(LLM.sleep), "sleeps in another way")
    require("tags" in parameters(LLM.wake_up), "wakes up in another way")
    require("Level 1: Offload model weights" in str(LLM.sleep.__doc__), "has other levels of sleep")


def test_the_prefix_cache_reports_whether_it_was_reset():
    from vllm import LLM

    require(inspect.signature(LLM.reset_prefix_cache).return_annotation in (bool, "bool"), "does not say if it did")


def test_weight_transfer_has_the_stateful_interface():
    """Not used yet: the native way to hand weights over between processes, which has changed three times."""
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    require(hasattr(WeightTransferTrainerFactory, "trainer_init"), "transfers weights in another way")


def test_experts_are_not_prepacked_when_they_are_reloaded():
    """Why `prepack_experts` exists: once vLLM does it, calling it again would pack twice."""
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod

    text = source(UnquantizedFusedMoEMethod._setup_kernel)
    guarded = text.partition("if not is_weight_update:")[2]
    require("fused_experts.process_weights_after_loading(layer)" in guarded, "prepacks reloaded experts in another way")


def test_compiled_models_are_cached_by_their_path():
    """Why the configuration's folder keeps its name."""
    text = (Path(vllm.__file__).parent / "config" / "model.py").read_text()
    ignored = text.partition("def compute_hash")[2].partition("}")[0]
    require('"model"' not in ignored, "no longer keys its compile cache by the model's path")


def test_servers_take_our_requests():
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest, CompletionResponseChoice

    ours = {"model", "prompt", "n", "temperature", "top_p", "top_k", "max_tokens", "stop_token_ids", "ignore_eos"}
    ours |= {"logprobs", "return_token_ids", "seed", "prompt_logprobs"}
    missing = ours - CompletionRequest.model_fields.keys()
    require(not missing, f"servers no longer take {sorted(missing)}")
    answered = {"index", "token_ids", "logprobs", "finish_reason", "prompt_logprobs"}
    missing = answered - CompletionResponseChoice.model_fields.keys()
    require(not missing, f"servers no longer answer with {sorted(missing)}")


def test_servers_reload_weights_from_a_folder():
    from vllm.entrypoints.serve.dev.cache import api_router as cache
    from vllm.entrypoints.serve.dev.rpc import api_router as rpc
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    for place, path in ((rpc, "/collective_rpc"), (cache, "/reset_prefix_cache")):
        require(path in {route.path for route in place.router.routes}, f"servers have no {path}")
    require("weights_path" in parameters(GPUModelRunner.reload_weights), "reloads weights from elsewhere")
