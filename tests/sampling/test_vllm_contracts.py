"""What we rely on in the installed vLLM and cannot run without a GPU: a change of it fails here with a sentence."""

import dataclasses
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


def fields(target: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(target)}


def test_weight_transfer_is_opened_as_we_open_it():
    """`vllm_transfer`: what needs a GPU is held against the signatures, what does not runs in `test_transfer`."""
    from vllm.distributed.weight_transfer import HTTPVLLMWeightSyncClient, WeightTransferTrainerFactory, base
    from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo, IPCTrainerWeightTransferEngine
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

    ours = {"rank", "packed", "packed_buffer_size_bytes"}
    group = {"master_address", "master_port", "world_size"}
    for info, name, wanted in ((NCCLTrainerInitInfo, "nccl", ours | group), (IPCTrainerInitInfo, "ipc", ours)):
        require(info.backend == name, f"calls {name} otherwise")
        missing = wanted - fields(info)
        require(not missing, f"opens {name} without {sorted(missing)}")
    opened = {"init_info", "client", "source"}
    require(opened == parameters(WeightTransferTrainerFactory.trainer_init), "opens a transfer with other arguments")
    for engine in (NCCLTrainerWeightTransferEngine, IPCTrainerWeightTransferEngine):
        require(parameters(engine.send_weights) == {"self"}, f"{engine.__name__} sends with other arguments")
    require(fields(base.ParamMeta) == {"name", "dtype", "shape"}, "describes weights otherwise")
    require(base.WeightSource.__abstractmethods__ == {"metadata", "__iter__"}, "reads weights otherwise")
    require(parameters(HTTPVLLMWeightSyncClient._post) == {"self", "path", "json"}, "requests in another way")
    for name in ("init_weight_transfer_engine", "start_weight_update", "update_weights", "finish_weight_update"):
        require("self._post(" in source(getattr(HTTPVLLMWeightSyncClient, name)), f"does not request {name} by _post")


def test_a_broadcast_that_waits_can_be_given_up():
    """Why `destroy` frees a trainer whose server has died."""
    from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerWeightTransferEngine

    require("ncclCommAbort" in source(PyNcclCommunicator.destroy), "ends communicators without aborting them")
    require("if self.disabled:" in source(PyNcclCommunicator.broadcast), "broadcasts with ended communicators")
    text = source(NCCLTrainerWeightTransferEngine)
    require("engine.model_update_group = open_trainer_endpoint(init_info)" in text, "keeps its communicator elsewhere")


def test_cuda_ipc_is_sent_by_all_ranks_and_a_piece_at_a_time():
    """Why the other ranks follow with an engine of their own, why errors are kept, and why the largest tensor fits."""
    from vllm.distributed.weight_transfer import ipc_engine
    from vllm.distributed.weight_transfer.packed_tensor import packed_ipc_producer

    engine = ipc_engine.IPCTrainerWeightTransferEngine
    require("torch.distributed.all_gather_object(" in source(engine._all_gather_and_merge_handles), "gathers otherwise")
    require(
        "self._all_gather_and_merge_handles(" in source(engine._send_packed), "does not gather each piece's handles"
    )
    require("if flat.numel() > buffer_size_bytes:" in source(packed_ipc_producer), "splits tensors otherwise")
    require("VLLM_ALLOW_INSECURE_SERIALIZATION" in source(ipc_engine), "needs another permission to unpickle")


def test_servers_take_our_requests_about_weights():
    from vllm.entrypoints.serve.dev.server_info.api_router import router as info
    from vllm.entrypoints.serve.instrumentator.basic import router as basic

    try:
        from vllm.entrypoints.rl.online import api_router
    except ImportError:  # vLLM 0.31 and older
        from vllm.entrypoints.serve.dev.rlhf import api_router
    ours = {"init_weight_transfer_engine", "start_weight_update", "update_weights", "finish_weight_update"}
    ours |= {"update_weight_version", "weight_info", "get_world_size", "server_info", "version"}
    paths = {route.path.strip("/") for router in (api_router.router, info, basic) for route in router.routes}
    require(ours <= paths, f"servers have no {sorted(ours - paths)}")
    text = source(api_router)
    for name in ("init_info", "update_info", "new_version", "weight_version", "world_size"):
        require(f"{name}" in text, f"servers do not know {name}")
    require('"json"' in source(info.routes[0].endpoint), "does not tell a server's configuration as JSON")


def test_servers_are_started_for_a_transfer():
    from vllm.config import VllmConfig
    from vllm.config.weight_transfer import WeightTransferConfig
    from vllm.engine.arg_utils import EngineArgs

    require("weight_transfer_config" in parameters(EngineArgs), "takes no --weight-transfer-config")
    require({"weight_transfer_config"} <= fields(VllmConfig), "keeps the configuration of the transfer elsewhere")
    require({"backend"} <= fields(WeightTransferConfig), "names the transfer otherwise")


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
